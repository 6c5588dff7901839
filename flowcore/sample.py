"""From noise to data (or back): `sampler(model, x, times) -> x` at the last time, for one example.

`times` is (steps + 1,), falling from 1 to 0 to generate (`flowcore.times.equal_steps(n)`), rising to invert.
"""

import equinox as eqx
import jax
from jaxtyping import Array, Float

from flowcore.path import Point
from flowcore.times import equal_steps


def jump(model, x: Point, times: Float[Array, " times"]) -> Point:
    """One jump of the flow map per interval: x <- F(x, s, t). Exact for the exact map, whatever the times.

    With `flowcore.TangentMap` these are Euler steps, with `flowcore.OdeMap` the ODE's solution.
    Reference: Geng et al. 2025, algorithm 2; Boffi et al. 2025, eq. 7.
    """
    intervals = (times[:-1], times[1:])
    return jax.lax.scan(lambda x, interval: (model(x, *interval), None), x, intervals)[0]


@eqx.filter_jit
def generate(model, noise: Float[Array, "batch *shape"], steps: int, sampler=jump) -> Float[Array, "batch *shape"]:
    """Carry a batch of noise to data in `steps` equal steps: like `noise`."""
    return jax.vmap(lambda x: sampler(model, x, equal_steps(steps)))(noise)
