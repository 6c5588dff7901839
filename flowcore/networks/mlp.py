"""A residual MLP on the flattened example: for points in the plane, coordinates and small images."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from flowcore.networks.layers import (
    Condition,
    Linear,
    perceptron,
    refuse_other_condition,
    refuse_sizes,
    source_and_gap,
    time_features,
    zero_init,
)
from flowcore.path import Point, Time


class ResidualMLP(eqx.Module):
    """An MLP on the flattened example: `depth` residual blocks of `width` units, each shifted by the two times.

    For points in the plane (width 128) and for 8x8 images (width 256), where it trains in a minute on two cores. With
    `conditions` it takes that many numbers of order one beside the times, e.g. the scale of its teacher's guidance.
    Raises ValueError for sizes that cannot be, and when it is asked for an example or a condition of another size.
    """

    into: Linear
    times: eqx.nn.Sequential
    blocks: list
    out: Linear
    clock: Callable = eqx.field(static=True)
    octaves: int = eqx.field(static=True)
    size: int = eqx.field(static=True)
    conditions: int = eqx.field(static=True)

    def __init__(
        self,
        size: int,
        width: int = 128,
        depth: int = 2,
        *,
        clock: Callable = source_and_gap,
        octaves: int = 3,
        conditions: int = 0,
        key: PRNGKeyArray,
    ):
        refuse_sizes(size=size, width=width, octaves=octaves, depth=depth, conditions=conditions)
        keys = jax.random.split(key, depth + 3)
        self.into = Linear(size, width, key=keys[0])
        self.times = perceptron(4 * octaves + conditions, width, width, key=keys[1])
        self.blocks = [Linear(width, width, key=k) for k in keys[3:]]
        self.out = zero_init(Linear(width, size, key=keys[2]))
        self.clock, self.octaves = clock, octaves
        self.size, self.conditions = size, conditions

    def __call__(self, x: Point, s: Time, t: Time, condition: Condition = None) -> Point:
        if x.size != self.size:
            raise ValueError(
                f"this network takes examples of {self.size} numbers, not of shape {x.shape}: make it for these data "
                "(a batch goes through jax.vmap)"
            )
        refuse_other_condition(condition, self.conditions)
        clock = self.clock(jnp.asarray(s, x.dtype), jnp.asarray(t, x.dtype))
        embedding = self.times(time_features(clock, self.octaves, condition))
        hidden = self.into(x.ravel())
        for block in self.blocks:
            hidden = hidden + block(jax.nn.silu(hidden + embedding))
        return self.out(jax.nn.silu(hidden)).reshape(x.shape)
