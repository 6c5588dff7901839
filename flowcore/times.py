r"""Laws of the times at which an equality is asked for.

A law is `law(key, n, progress) -> (s, t)`: n rows, s the source and t the target, arrays (n,) in [0, 1]; a law for the
compositional rule returns (s, u, t) with u in between. `progress` in [0, 1] is the share of training that is done: only
curricula read it. A marginal is a law of one time, `marginal(key, n) -> (n,)`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Marginal = Callable[..., Float[Array, " n"]]
Law = Callable[..., tuple[Float[Array, " n"], ...]]


def uniform(key, n):
    """U[0, 1]."""
    return jax.random.uniform(key, (n,))


def logit_normal(mean: float, std: float) -> Marginal:
    """sigmoid(N(mean, std^2)); the same law as log-normal sigma in EDM. Reference: Esser et al. 2024, eq. 19."""
    return lambda key, n: jax.nn.sigmoid(mean + std * jax.random.normal(key, (n,)))


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

    def mixed(key, n, progress):
        s, t = law(key, n, progress)
        return s, jnp.where(jnp.arange(n) < round(share * n), s, t)

    return mixed


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


def equal_steps(n: int) -> Float[Array, " times"]:
    """The times 1, 1 - 1/n, ..., 0 of an n-step sampler: shape (n + 1,)."""
    return jnp.linspace(1.0, 0.0, n + 1)
