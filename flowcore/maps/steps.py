"""Flow maps made of a velocity by a fixed number of steps: Euler, Heun in two clocks, and several jumps as one."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from flowcore.checks import check
from flowcore.maps.flow_map import AbstractFlowMap

Velocity = Callable[[Any, Any], Any]  # v(x, t) -> like x


class TangentMap(AbstractFlowMap):
    """One Euler step: V(x, s, t) = v(x, s). The best a velocity can do in one step, and what a flow map improves on."""

    field: Velocity

    def average_velocity(self, x, s, t):
        return self.field(x, s)

    def velocity(self, x, t):
        return self.field(x, t)


class HeunMap(AbstractFlowMap):
    """One Heun step (the trapezoid rule) in our time t: two velocities, error O((t-s)^3)."""

    field: Velocity

    def average_velocity(self, x, s, t):
        first = self.field(x, s)
        return (first + self.field(x + (t - s) * first, t)) / 2

    def velocity(self, x, t):
        return self.field(x, t)


class EdmHeunMap(AbstractFlowMap):
    """One Heun step in sigma = t / (1 - t), which is another step than one in t; needs s < 1.

    An Euler step is the same in both clocks, Heun's second half is not: in our time it is the trapezoid with weights
    2 - q and q, q = (1-t) / (1-s). Reference: Karras et al. 2022 (EDM), algorithm 1.
    """

    field: Velocity

    def average_velocity(self, x, s, t):
        first = self.field(x, s)
        second = self.field(x + (t - s) * first, t)
        q = (1 - t) / (1 - s)
        return ((2 - q) * first + q * second) / 2

    def velocity(self, x, t):
        return self.field(x, t)


class RepeatedMap(AbstractFlowMap):
    """`count` equal jumps of another map as one, whose V is the mean of theirs: with `HeunMap`, a finer solver."""

    jump: AbstractFlowMap
    count: int = eqx.field(static=True)

    def __check_init__(self):
        check("count of a RepeatedMap", self.count, least=1, whole=True)

    def average_velocity(self, x, s, t):
        total, gap = jnp.zeros_like(x), (t - s) / self.count
        for i in range(self.count):
            V = self.jump.average_velocity(x, s + i * gap, s + (i + 1) * gap)
            x, total = x + gap * V, total + V
        return total / self.count

    def velocity(self, x, t):
        return self.jump.velocity(x, t)
