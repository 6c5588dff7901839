"""Flow maps: F(x, s, t) carries a point from noise level s to noise level t along the probability-flow ODE.

    F(x, s, t) = x + (t - s) V(x, s, t),        V(x, t, t) = v(x, t),        F(x, s, s) = x by construction.

V is the average velocity of the jump and the primitive of every class here, because it stays finite at s = t; what a
network predicts (V itself, the endpoint, the denoised field) is only a choice of coordinates. Generation runs from
s to t < s. Everything is for a single example: `jax.vmap` it over a batch.
"""

import abc
from typing import Any

import equinox as eqx

from flowcore.path import Point, Time


class AbstractFlowMap(eqx.Module):
    """Anything that carries x from time s to time t. A subclass says what its V and its v are; the rest is final."""

    @abc.abstractmethod
    def average_velocity(self, x: Point, s: Time, t: Time) -> Point:
        """V(x, s, t), like x, finite at s = t."""

    @abc.abstractmethod
    def velocity(self, x: Point, t: Time) -> Point:
        """v(x, t) = V(x, t, t), like x: the instantaneous velocity, towards more noise."""

    def __call__(self, x: Point, s: Time, t: Time) -> Point:
        """F(x, s, t) = x + (t - s) V(x, s, t)."""
        return x + (t - s) * self.average_velocity(x, s, t)

    def denoise(self, x: Point, t: Time) -> Point:
        """E[x0 | x_t = x] = x - t v(x, t)."""
        return x - t * self.velocity(x, t)

    def condition_on(self, condition) -> "AbstractFlowMap":
        """The flow map under that condition."""
        return ConditionedMap(self, condition)


class ConditionedMap(AbstractFlowMap):
    """A map that takes a condition after its times, bound to one: made by `map.condition_on(condition)`. Asked under
    another, it is the same map under that one."""

    map: AbstractFlowMap
    condition: Any

    def condition_on(self, condition):
        return ConditionedMap(self.map, condition)

    def average_velocity(self, x, s, t):
        return self.map.average_velocity(x, s, t, self.condition)

    def velocity(self, x, t):
        return self.map.velocity(x, t, self.condition)


class WithAuxiliary(AbstractFlowMap):
    """A map and a second network that is trained beside it and follows it: the map is `map`, the other `auxiliary`.

    Under a condition both are."""

    map: AbstractFlowMap
    auxiliary: AbstractFlowMap

    @property
    def condition(self):
        return self.map.condition

    def condition_on(self, condition):
        return WithAuxiliary(self.map.condition_on(condition), self.auxiliary.condition_on(condition))

    def average_velocity(self, x, s, t):
        return self.map.average_velocity(x, s, t)

    def velocity(self, x, t):
        return self.map.velocity(x, t)
