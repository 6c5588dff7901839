"""Seconds, and what is made of them.

A machine drifts: another process wakes, a processor cools. So nothing is compared across runs: what is to be compared
is timed in turn, round after round, and the number is the median over the rounds of the ratio within a round, beside
the smallest and the largest.
"""

import statistics
import time
from collections.abc import Callable

import jax


def summary(values) -> dict[str, float]:
    """The median over the rounds, the smallest and the largest, and how many there were."""
    low, high = min(values), max(values)
    return {"median": statistics.median(values), "low": low, "high": high, "rounds": len(values)}


def ratio(above: list[float], below: list[float]) -> dict[str, float]:
    """The summary of above / below, round by round."""
    return summary([a / b for a, b in zip(above, below, strict=True)])


def in_turn(measured: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, per round. Each is called once before, to compile."""
    for seconds in measured.values():
        seconds()
    found = [{name: seconds() for name, seconds in measured.items()} for _ in range(rounds)]
    return {name: [each[name] for each in found] for name in measured}


def elapsed(call: Callable, *arguments) -> float:
    """Seconds until what the call returns is there."""
    start = time.perf_counter()
    jax.block_until_ready(call(*arguments))
    return time.perf_counter() - start
