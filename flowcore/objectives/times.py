r"""Laws of the times at which an equality is asked for.

A law is `law(key, n, progress) -> (s, t)`: n rows, s the source and t the target, arrays (n,) in [0, 1]; a law for the
compositional rule returns (s, u, t) with u in between. `progress` in [0, 1] is the share of training that is done: only
curricula read it: a number, or `curriculum(progress)`, which is one. A marginal is a law of one time,
`marginal(key, n) -> (n,)`. Whatever makes a law raises ValueError for a number that no such law has.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flowcore.checks import check
from flowcore.objectives.schedules import Curriculum, Levels, value_at

Marginal = Callable[..., Float[Array, " n"]]
Law = Callable[..., tuple[Float[Array, " n"], ...]]


def uniform(key, n):
    """U[0, 1]."""
    return jax.random.uniform(key, (n,))


def logit_normal(mean: float, std: float) -> Marginal:
    """sigmoid(N(mean, std^2)); the same law as log-normal sigma in EDM. Reference: Esser et al. 2024, eq. 19."""
    check("mean of logit_normal", mean)
    check("std of logit_normal", std, above=0)
    return lambda key, n: jax.nn.sigmoid(mean + std * jax.random.normal(key, (n,)))


def arctan(mean: float = -0.8, std: float = 1.6) -> Marginal:
    """2/pi arctan(exp N(mean, std^2)). Reference: Lu & Song 2024, section 4.1, as Peng et al. 2025 (FACM) use it."""
    check("mean of arctan", mean)
    check("std of arctan", std, above=0)
    return lambda key, n: 2 / jnp.pi * jnp.arctan(jnp.exp(mean + std * jax.random.normal(key, (n,))))


def diagonal(marginal: Marginal = uniform) -> Law:
    """s = t: where the map is a velocity."""

    def law(key, n, progress):
        s = marginal(key, n)
        return s, s

    return law


def ordered(marginal: Marginal = uniform) -> Law:
    """Two independent draws, the larger the source: with `uniform`, the uniform law on the triangle s >= t.

    Reference: Geng et al. 2025, section 4.3; Boffi et al. 2025, algorithm 1.
    """

    def law(key, n, progress):
        first, second = marginal(key, 2 * n).reshape(2, n)
        return jnp.maximum(first, second), jnp.minimum(first, second)

    return law


def partly_diagonal(law: Law, share: float) -> Law:
    """The given law, but in the first round(share n) rows t is moved to s. Reference: Geng et al. 2025, table 1a."""
    check("share of partly_diagonal", share, least=0, most=1)

    def mixed(key, n, progress):
        s, t = law(key, n, progress)
        return s, jnp.where(jnp.arange(n) < round(share * n), s, t)

    return mixed


def to_data(marginal: Marginal = uniform, end: float = 0.0) -> Law:
    """Every jump ends at `end`, the data: what consistency models learn."""
    check("end of to_data", end, least=0, most=1)

    def law(key, n, progress):
        s = marginal(key, n)
        return s, jnp.full_like(s, end)

    return law


def gap_first(marginal: Marginal, place: Callable | None = None) -> Law:
    """First the length of the jump, then its target among the times where it fits: t in [0, 1 - gap], s = t + gap.

    `place(share, longest)` maps a uniform share to a time up to `longest`; by default evenly.
    Reference: Sabour et al. 2025, "Align Your Flow"; Zhou et al. 2025, "Terminal Velocity Matching" (their gap law).
    """

    def law(key, n, progress):
        key_gap, key_target = jax.random.split(key)
        gap, share = marginal(key_gap, n), jax.random.uniform(key_target, (n,))
        t = share * (1 - gap) if place is None else place(share, 1 - gap)
        return jnp.minimum(t + gap, 1.0), t

    return law


def truncated_logit_normal(mean: float, std: float) -> Callable:
    """A place for `gap_first`: the quantile at `share` of the logit-normal law given that it is below `longest`."""
    check("mean of truncated_logit_normal", mean)
    check("std of truncated_logit_normal", std, above=0)

    def place(share, longest):
        below = jax.scipy.special.ndtr((jax.scipy.special.logit(longest) - mean) / std)
        return jax.nn.sigmoid(mean + std * jax.scipy.special.ndtri(share * below))

    return place


def from_source(s: float, marginal: Marginal = uniform) -> Law:
    """Every jump starts at s (1: from pure noise), its target is a share of the way down: t = s * marginal."""
    check("s of from_source", s, above=0, most=1)

    def law(key, n, progress):
        t = s * marginal(key, n)
        return jnp.full_like(t, s), t

    return law


def correction(marginal: Marginal) -> Law:
    """(1, u, 0): the whole jump, and the time at which its end is looked at again under noise."""

    def law(key, n, progress):
        u = marginal(key, n)
        return jnp.ones_like(u), u, jnp.zeros_like(u)

    return law


def chords(levels: Levels, steps: int) -> Law:
    """(s, u, t): s the top of the grid of `steps` intervals, (u, t) one of them, downwards, or the last one upwards.

    Reference: Tee et al. 2024, "Physics Informed Distillation", as released: the derivative at a point of the grid is
    the chord to the next point, at the last point that to the one before.
    """
    check("steps of chords", steps, least=1, whole=True)

    def law(key, n, progress):
        below = jax.random.randint(key, (n,), 0, steps + 1)  # how many levels u is above the lowest
        u, t = below / steps, jnp.where(below == 0, 1, below - 1) / steps
        return jnp.full(n, levels(1.0)), levels(u), levels(t)

    return law


def either_way(marginal: Marginal = uniform) -> Law:
    """Two independent draws, unsorted: jumps towards the data and towards the noise, as flow map matching needs.

    Reference: Boffi, Albergo & Vanden-Eijnden 2024, "Flow map matching".
    """

    def law(key, n, progress):
        s, t = marginal(key, 2 * n).reshape(2, n)
        return s, t

    return law


def within(law: Law, gap: float) -> Law:
    """The given law with every jump shortened to at most `gap`, by moving the target: its share of the longest jump
    that fits is kept. Reference: the window |s - t| <= gap of Boffi, Albergo & Vanden-Eijnden 2024.
    """
    check("gap of within", gap, above=0)

    def short(key, n, progress):
        s, t = law(key, n, progress)
        longest = jnp.where(t < s, s, 1 - s)  # the jump to the end of time, in the direction of t
        return s, s + jnp.minimum(1.0, gap / longest) * (t - s)

    return short


def split(law: Law, share: Marginal | None = None) -> Law:
    """(s, u, t) from a law of (s, t): u lies at a random share of the way, or half way when `share` is None.

    Reference: Boffi et al. 2025 (PSD-U and PSD-M).
    """

    def three(key, n, progress):
        key_pair, key_share = jax.random.split(key)
        s, t = law(key_pair, n, progress)
        return s, s + (t - s) * (0.5 if share is None else share(key_share, n)), t

    return three


def dyadic(levels: int = 7) -> Law:
    """(s, u, t): a jump of length 2^-n, n uniform in 0..levels-1, between multiples of its length, split half way.

    Reference: Frans et al. 2024, "One Step Diffusion via Shortcut Models", algorithm 1 (their shortest step, 2^-levels,
    is only ever half of a jump; the release deals the levels out evenly over the rows in place of drawing them).
    """
    check("levels of dyadic", levels, least=1, whole=True)

    def law(key, n, progress):
        key_level, key_place = jax.random.split(key)
        count = jnp.exp2(
            jax.random.randint(key_level, (n,), 0, levels).astype(float)
        )  # jumps of this length from 1 to 0
        below = jnp.floor(jax.random.uniform(key_place, (n,)) * count)  # of which this many are below t
        return (below + 1) / count, (below + 0.5) / count, below / count

    return law


def shrinking_step(law: Law, share: Curriculum) -> Law:
    """(s, u, t) from a law of (s, t): u lies this share (a curriculum) of the way from s to t.

    Reference: Luo et al. 2026, "SoFlow" (r is the share, l is u).
    """
    check("share of shrinking_step", share, least=0, most=1)

    def three(key, n, progress):
        s, t = law(key, n, progress)
        return s, s + (t - s) * value_at(share, progress), t

    return three


def easy_consistency(marginal: Marginal, stage: Curriculum, base: float = 2.0, excess: float = 8.0) -> Law:
    """(s, u, 0): u at the share max(0, 1 - base^-(stage + 1) n) of s in sigma, n = 1 + excess sigmoid(-sigma_s).

    At stage 0 u = 0 below sigma = ln 7, where it is denoising; every stage (a curriculum) divides the step by `base`.
    Reference: Geng et al. 2024, "Consistency Models Made Easy" (ECT), `t_to_r` of the release.
    """
    check("stage of easy_consistency", stage, least=0)
    check("base of easy_consistency", base, above=1)
    check("excess of easy_consistency", excess, least=0)

    def law(key, n, progress):
        s = marginal(key, n)
        longest = 1 + excess * jax.nn.sigmoid(-s / (1 - s))
        share = jnp.maximum(0.0, 1 - base ** -(value_at(stage, progress) + 1.0) * longest)
        return s, share * s / (1 - s + share * s), jnp.zeros_like(s)

    return law


def neighbours(levels: Levels, steps: Curriculum, end: float = 0.0) -> Law:
    """(s, u, end): s uniform on the upper ends of the `steps` (a curriculum) intervals of a grid, u the point below it.

    `levels` places the grid: share 0 is its lowest time and share 1 its highest.
    Reference: Song et al. 2023, "Consistency Models", algorithms 2 and 3 (n uniform, t_{n+1} is s and t_n is u).
    """
    check("steps of neighbours", steps, least=1)
    check("end of neighbours", end, least=0, most=1)

    def law(key, n, progress):
        count = value_at(steps, progress)
        # in [1, count]: floor of a uniform number, because the count may change from step to step
        upper = 1 + jnp.floor(jax.random.uniform(key, (n,)) * count).clip(max=count - 1)
        return levels(upper / count), levels((upper - 1) / count), jnp.full(n, end)

    return law


def given(*times) -> Law:
    """Every row at these times, the source first: each a number, or an array with one for each row."""
    for time in times:
        check("a time of given", time, least=0, most=1)
    return lambda key, n, progress: tuple(jnp.broadcast_to(time, (n,)) for time in times)
