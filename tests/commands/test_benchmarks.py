"""Every measurement in tiny: that its numbers are numbers. Whether a goal is met is the record's to say."""

import math
import time

import jax
import pytest

from commands import benchmarks
from commands.benchmarks import peer, processes, timing, train_step
from commands.benchmarks.measurements import MEASUREMENTS
from flowcore import Objective, methods, training

TINY = {
    "wide_steps": {"rounds": 1, "length": 1},
    "overhead": {"rounds": 2, "length": 2},
    "dealing": {"rounds": 2, "length": 2},
    "sampling": {"rounds": 2, "batch": 4},
    "attention": {"rounds": 1, "tokens": (16, 32)},
    "utilisation": {"rounds": 1, "length": 1, "side": 64},
}
SLOW = {  # minutes, of compiling or in processes of their own
    "steps": {"rounds": 1, "length": 1},
    "compilation": {"rounds": 1},
    "scaling": {"length": 1, "counts": (1, 2)},
    "peers": {"rounds": 1, "length": 1, "batches": 4},
}
SUMMARY = {"median", "low", "high", "rounds"}


def leaves(found):
    """The summaries and the plain numbers."""
    if isinstance(found, dict) and set(found) != SUMMARY:
        return [leaf for value in found.values() for leaf in leaves(value)]
    return [found]


def refuse_odd(found, *, signed=False):
    """Every number is finite, positive unless `signed`, and lies in its spread."""
    assert leaves(found)
    for leaf in leaves(found):
        if isinstance(leaf, dict):
            assert leaf["low"] <= leaf["median"] <= leaf["high"] and leaf["rounds"] >= 1
            leaf = leaf["low"]
        assert math.isfinite(leaf) and (signed or leaf > 0 or isinstance(leaf, bool))


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """And as the trainer is tested, for optax promotes."""
    monkeypatch.setattr(train_step, "WIDE", {"width": 16, "depth": 1})
    monkeypatch.setattr(train_step, "BATCH", 8)
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_every_measurement_is_tried_here():
    assert set(TINY) | set(SLOW) == set(MEASUREMENTS)
    assert tuple(MEASUREMENTS) == benchmarks.NAMES


@pytest.mark.parametrize("name", TINY)
def test_a_measurement_is_made_of_numbers(name):
    refuse_odd(MEASUREMENTS[name](**TINY[name]), signed=name == "overhead")


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_a_long_measurement_is_made_of_numbers(name):
    if name == "peers" and not (peer.PEER / "bin" / "python").exists():
        pytest.skip("ci/replicate bench peers makes the environment of the peer")
    refuse_odd(MEASUREMENTS[name](**SLOW[name]))


def test_what_is_compared_is_timed_in_turn_and_once_before():
    called = []

    def timed(name):
        return lambda: called.append(name) or float(len(called))

    seconds = timing.in_turn({"a": timed("a"), "b": timed("b")}, rounds=3)
    assert called == ["a", "b"] * 4
    assert seconds == {"a": [3, 5, 7], "b": [4, 6, 8]}


def test_a_drift_that_hits_both_alike_leaves_the_ratio():
    drift = [1.0, 5.0, 0.2]
    found = timing.ratio([2 * each for each in drift], drift)
    assert found == {"median": 2, "low": 2, "high": 2, "rounds": 3}


def test_mean_flow_costs_a_third_more_flops_than_flow_matching():
    """4 forward passes over 3, on a network where products dominate."""
    wide = train_step.network(width=256)
    costs = [
        train_step.step_flops(Objective(f()), wide) for f in (methods.flow_matching_terms, methods.mean_flow_terms)
    ]
    assert costs[1] / costs[0] == pytest.approx(4 / 3, abs=0.05)


def test_the_bare_chunk_is_the_chunk_that_fit_runs(monkeypatch):
    """Else the overhead would be the difference of two programs."""
    seen = []
    run = training.loop.run_chunk
    monkeypatch.setattr(training.loop, "run_chunk", lambda *given: seen.append(given) or run(*given))
    arguments, settings = train_step.training_run(Objective(methods.mean_flow_terms()), 2)
    list(training.fit(*arguments, **settings))
    monkeypatch.undo()
    (given,) = seen
    bare = train_step.chunk_arguments(*arguments, settings, 2)
    assert len(bare) == len(given)
    assert [type(each) for each in bare] == [type(each) for each in given]
    assert [each for each in bare if isinstance(each, float | int)] == [
        each for each in given if isinstance(each, float | int)
    ]


def test_a_process_that_fails_says_so_in_one_line():
    with pytest.raises(RuntimeError, match="a process of the benchmark failed: ValueError: no"):
        processes.process("raise ValueError('no')")


def test_a_peer_that_is_missing_names_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(peer, "PEER", tmp_path)
    with pytest.raises(FileNotFoundError, match="ci/replicate bench peers makes it"), peer.peer():
        pass


def test_seconds_are_those_until_the_answer_is_there():
    class Late:
        def block_until_ready(self):
            time.sleep(0.05)

    assert timing.elapsed(Late) > 0.05
