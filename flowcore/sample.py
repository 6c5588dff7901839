"""From noise to data (or back): `sampler(model, x, times, key=...) -> x` at the last time, for one example.

`times` is (steps + 1,), falling from 1 to 0 to generate (`equal_steps(n)`), rising to invert. All samplers have one
signature; those that add no noise ignore the key.

    jump            x <- F(x, s, t)                               the deterministic sampler of a flow map
    consistency()   x <- noise the datum F(x, s, 0) up to t       of a map that was learned at t = 0 only
    gamma(g)        x <- jump below t, then some noise up to t    between them: 0 is jump, 1 is consistency
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from flowcore.checks import check
from flowcore.path import Point, renoise

Times = Float[Array, " times"]


def equal_steps(n: int) -> Float[Array, " times"]:
    """The times 1, 1 - 1/n, ..., 0 of an n-step sampler: shape (n + 1,). Raises ValueError for no steps."""
    check("steps", n, least=1, whole=True)
    return jnp.linspace(1.0, 0.0, n + 1)


def jump(model, x: Point, times: Times, key: PRNGKeyArray | None = None) -> Point:
    """One jump of the flow map per interval: x <- F(x, s, t). Exact for the exact map, whatever the times.

    With `flowcore.TangentMap` these are Euler steps, with `flowcore.OdeMap` the ODE's solution.
    Reference: Geng et al. 2025, algorithm 2; Boffi et al. 2025, eq. 7.
    """
    intervals = (times[:-1], times[1:])
    return jax.lax.scan(lambda x, interval: (model(x, *interval), None), x, intervals)[0]


def trajectory(model, x: Point, times: Times, key: PRNGKeyArray | None = None) -> Float[Array, "times ..."]:
    """The points that `jump` passes, x itself first: (steps + 1, *shape). `OdeMap.trajectory` has them of one solve.

    Called as a sampler is, but none for `generate`, which asks for the last point alone."""

    def step(x, interval):
        x = model(x, *interval)
        return x, x

    _, passed = jax.lax.scan(step, x, (times[:-1], times[1:]))
    return jnp.concatenate([x[None], passed])


def consistency(end: float = 0.0) -> Callable:
    """To `end` and, before every further step, back up by fresh noise: what the map does at other targets is not asked.

    With `end` 0 the sampler of the paper; with `end` = 0.002 / 1.002 (sigma_min) that of the released code.
    Reference: Song et al. 2023, "Consistency Models", algorithm 1; `stochastic_iterative_sampler` of the release.
    Raises ValueError for an end outside of [0, 1).
    """
    check("end of consistency", end, least=0, below=1)

    def sampler(model, x: Point, times: Times, key: PRNGKeyArray) -> Point:
        return stochastic(model, x, times, lambda t: jnp.full_like(t, end), key)

    return sampler


def gamma(share: float) -> Callable:
    """To the time of sigma' = sqrt(1 - share^2) sigma_t, then share * sigma_t of fresh noise: sigma_t again.

    Reference: Kim et al. 2024, "Consistency Trajectory Models", algorithm 3 (their gamma is `share`). Raises ValueError
    for a share outside of [0, 1].
    """
    check("share of gamma", share, least=0, most=1)
    scale = (1 - share**2) ** 0.5

    def below(t):
        # sigma' / (1 + sigma') in t: at share 0 it is t itself, where through sigma and back it may be above t
        return scale * t / (1 - t + scale * t)

    def sampler(model, x: Point, times: Times, key: PRNGKeyArray) -> Point:
        return stochastic(model, x, times, below, key)

    return sampler


def stochastic(model, x: Point, times: Times, below: Callable, key: PRNGKeyArray) -> Point:
    """Jump to `below(t)` in place of t, then noise up to t; the last time is reached by the jump alone."""

    def step(x, interval):
        s, t, key = interval
        low = below(t)
        return renoise(model(x, s, low), low, t, jax.random.normal(key, x.shape, x.dtype)), None

    inner = (times[:-2], times[1:-1], jax.random.split(key, times.shape[0] - 2))
    x, _ = jax.lax.scan(step, x, inner)
    return model(x, times[-2], below(times[-1]))


@eqx.filter_jit
def generate(
    model,
    noise: Float[Array, "batch *shape"],
    steps: int,
    sampler=jump,
    *,
    key: PRNGKeyArray | None = None,
    conditions: Float[Array, "batch ..."] | None = None,
) -> Float[Array, "batch *shape"]:
    """Carry a batch of noise to data in `steps` equal steps: like `noise`. `key` is for samplers that add noise,
    `conditions` (one per row) for a model that takes one. Raises ValueError for no steps, and for a sampler that
    returns more than the last point."""
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}: with none the noise would come back as samples")
    keys = None if key is None else jax.random.split(key, noise.shape[0])

    def carry(x, key, condition):
        conditioned = model if condition is None else model.condition_on(condition)
        made = sampler(conditioned, x, equal_steps(steps), key)
        if made.shape != x.shape:
            raise ValueError(f"a sampler returns a point {x.shape}, not {made.shape}: for all points vmap `trajectory`")
        return made

    return jax.vmap(carry)(noise, keys, conditions)
