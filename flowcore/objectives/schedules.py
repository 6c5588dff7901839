"""Grids of times, and curricula: what changes while training goes on.

A grid places a share in [0, 1] at a time, share 0 the lowest. A curriculum is a number, or `curriculum(progress)`,
which is one; `progress` in [0, 1] is the share of training that is done.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from flowcore.checks import check

Levels = Callable[..., Float[Array, " n"]]
Curriculum = float | int | Array | Callable[..., float | Array]

# --- grids: share in [0, 1] -> time ----------------------------------------------------------------------------------


def even(share):
    """The time is the share: equal steps on our path, from 0 to 1."""
    return share


def karras(share, low: float = 0.002, high: float = 80.0, rho: float = 7.0):
    """sigma^(1/rho) is even between `low` and `high`, at time sigma / (1 + sigma).

    Reference: Karras et al. 2022 (EDM), eq. 5. Raises ValueError unless 0 < low < high and rho > 0.
    """
    check("low of karras", low, above=0)
    check("high of karras", high, above=low)
    check("rho of karras", rho, above=0)
    sigma = (low ** (1 / rho) + share * (high ** (1 / rho) - low ** (1 / rho))) ** rho
    return sigma / (1 + sigma)


# --- curricula: progress in [0, 1] -> a number -----------------------------------------------------------------------


def value_at(curriculum: Curriculum, progress) -> float | int | Array:
    """The curriculum's number at this progress; a plain number is a curriculum that never changes."""
    return curriculum(progress) if callable(curriculum) else curriculum


def exponential(first: float, last: float) -> Curriculum:
    """first (last / first)^progress. Reference: Luo et al. 2026, "SoFlow" (released schedule of r).

    Raises ValueError for a number that is not above 0."""
    check("first of exponential", first, above=0)
    check("last of exponential", last, above=0)
    return lambda progress: first * (last / first) ** progress


def linear_warmup(last: float, until: float = 1.0) -> Curriculum:
    """From 0 to `last`, evenly, while the progress is below `until`; then `last`.

    Raises ValueError for an `until` outside of (0, 1]."""
    check("last of linear_warmup", last)
    check("until of linear_warmup", until, above=0, most=1)
    return lambda progress: last * jnp.minimum(progress / until, 1.0)


def consistency_intervals(first: int = 2, last: int = 150) -> Curriculum:
    """The number of intervals of CT's grid, its N(k) - 1 with s0 = first, s1 = last: the square grows linearly.

    Reference: Song et al. 2023, "Consistency Models", appendix C, as released. Raises ValueError unless
    1 <= first <= last.
    """
    check("first of consistency_intervals", first, least=1)
    check("last of consistency_intervals", last, least=first)

    def intervals(progress):
        return jnp.ceil(jnp.sqrt(progress * ((last + 1) ** 2 - first**2) + first**2) - 1).clip(min=1)

    return intervals


def improved_consistency_intervals(first: int = 10, last: int = 1280) -> Curriculum:
    """The number of intervals of iCT's grid, its N(k) - 1: doubled in stages of equal length, from first to last.

    Reference: Song & Dhariwal 2024, "Improved Techniques for Training Consistency Models", section 3.5. Raises
    ValueError unless 1 <= first <= last.
    """
    check("first of improved_consistency_intervals", first, least=1)
    check("last of improved_consistency_intervals", last, least=first)
    stages = int(math.log2(last // first)) + 1
    return lambda progress: jnp.minimum(first * 2.0 ** jnp.floor(progress * stages), last)


def consistency_decay(intervals: Curriculum, first: int = 2, decay: float = 0.9) -> Curriculum:
    """The decay of CT's target on a grid of that many intervals, its mu(k) = decay^(first / intervals).

    Reference: Song et al. 2023, "Consistency Models", appendix C, as released. Raises ValueError for fewer than one
    interval, a negative `first` and a decay outside of (0, 1].
    """
    check("intervals of consistency_decay", intervals, least=1)
    check("first of consistency_decay", first, least=0)
    check("decay of consistency_decay", decay, above=0, most=1)
    return lambda progress: decay ** (first / value_at(intervals, progress))
