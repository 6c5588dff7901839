r"""Flow maps: F(x, s, t) carries a point from noise level s to noise level t along the probability-flow ODE.

    F(x, s, t) = x + (t - s) V(x, s, t),        V(x, t, t) = v(x, t),        F(x, s, s) = x by construction.

V is the average velocity of the jump and the primitive of every class here, because it stays finite at s = t; what a
network predicts (V itself, the endpoint, the denoised field) is only a choice of coordinates. Generation runs from
s to t < s. Everything is for a single example: `jax.vmap` it over a batch.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flowcore.checks import check, check_ordered
from flowcore.path import Point, Time

Velocity = Callable[[Any, Any], Any]  # v(x, t) -> like x
WITH_SCALE = "give the scale alone, or (scale, condition of the strong map, condition of the weak one)"


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


class AverageVelocityMap(AbstractFlowMap):
    """The network predicts V, maybe under a condition. Reference: Geng et al. 2025, eq. 3; Boffi et al. 2025, eq. 9."""

    net: Callable

    def average_velocity(self, x, s, t, *condition):
        return self.net(x, s, t, *condition)

    def velocity(self, x, t, *condition):
        return self.net(x, t, t, *condition)


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


class EndpointMap(AbstractFlowMap):
    """The network predicts the endpoint of a full jump: F = (1 - (s-t)) x + (s-t) net, so V = x - net.

    The boundary F(x, s, s) = x is exact and nothing is singular. Reference: the released code of Boffi, Albergo &
    Vanden-Eijnden 2024, "Flow map matching" (their time runs backwards).
    """

    net: Callable

    def average_velocity(self, x, s, t):
        return x - self.net(x, s, t)

    def velocity(self, x, t):
        return x - self.net(x, t, t)


class DenoisedMap(AbstractFlowMap):
    """The network predicts the denoised field x - s V, an image without noise, so V = (x - net) / max(s, floor).

    The division is singular at the data end, hence the floor. Reference: Lu et al. 2026, "One-step Latent-free Image
    Generation with Pixel Mean Flows" (floor 0.05 in the released code).
    """

    net: Callable
    floor: float = eqx.field(static=True, default=0.05)

    def __check_init__(self):
        check("floor of a DenoisedMap", self.floor, above=0, most=1)

    def average_velocity(self, x, s, t):
        return (x - self.net(x, s, t)) / jnp.maximum(jnp.asarray(s, x.dtype), self.floor)

    def velocity(self, x, t):
        return self.average_velocity(x, t, t)


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


def in_float32(tree):
    """The same map or network with all that rounds to bfloat16 replaced by its twin in float32: whatever has a method
    `in_float32` that returns it (`flowcore.networks.precision`)."""
    rounds = lambda node: hasattr(node, "in_float32")  # noqa: E731
    return jax.tree.map(lambda node: node.in_float32() if rounds(node) else node, tree, is_leaf=rounds)


class OdeMap(AbstractFlowMap):
    r"""The flow map of any velocity field, by an adaptive ODE solve: the teacher's or the exact map.

    What is integrated is the displacement per unit of t - s, over the share r in [0, 1] of the jump,

        dW/dr = v(x + (t - s) W, s + r (t - s)),    W = 0 at r = 0,    V = W at r = 1,

    which needs no division by t - s and gives v(x, s) at s = t. Differentiable in forward mode (`jax.jvp`) only.
    `tolerance` is both rtol and atol of the solver (Dopri8), in units of x. A network in bfloat16 is integrated in
    float32, because a solver that adapts its steps would take rounding for curvature; `velocity` stays in bfloat16.
    Raises ValueError for a tolerance that is not above 0.
    """

    field: Velocity
    tolerance: float = eqx.field(static=True, default=1e-6)

    def __check_init__(self):
        check("tolerance of an OdeMap", self.tolerance, above=0)

    def average_velocity(self, x, s, t):
        s, t = jnp.asarray(s, x.dtype), jnp.asarray(t, x.dtype)
        field = in_float32(self.field)

        def travelled(r, displacement, _):
            r = jnp.asarray(r, x.dtype)
            return field(x + (t - s) * displacement, s + r * (t - s))

        return self.solve(travelled, jnp.zeros_like(x)).ys[0]

    def velocity(self, x, t):
        return self.field(x, t)

    def trajectory(self, x: Point, times: Float[Array, " n"]) -> Float[Array, "n ..."]:
        """Where the path through x at `times[0]` is at each of the times, in one solve.

        They rise or fall, or are all one, and then all points are x; known times that turn raise ValueError."""
        check_ordered("times of a trajectory", times)
        times = jnp.asarray(times, x.dtype)
        first, span, field = times[0], times[-1] - times[0], in_float32(self.field)

        def moving(r, x_t, _):
            return span * field(x_t, first + jnp.asarray(r, x.dtype) * span)

        return self.solve(moving, x, (times - first) / jnp.where(span == 0, 1, span)).ys

    def solve(self, derivative: Callable, start: Point, shares=None):
        """diffrax's solution of dy/dr = derivative(r, y, _) for r from 0 to 1, at the end or at the given shares."""
        import diffrax  # here: it takes as long to import as JAX, and most of this package does without

        return diffrax.diffeqsolve(
            diffrax.ODETerm(derivative),
            diffrax.Dopri8(),
            t0=0.0,
            t1=1.0,
            dt0=None,
            y0=start,
            stepsize_controller=diffrax.PIDController(rtol=self.tolerance, atol=self.tolerance),
            adjoint=diffrax.ForwardMode(),
            max_steps=10_000,
            saveat=diffrax.SaveAt(t1=True) if shares is None else diffrax.SaveAt(ts=shares),
        )


class GuidedMap(AbstractFlowMap):
    """A teacher pushed away from a weaker one: v = v_weak + scale (v_strong - v_weak), its map by an ODE solve.

    With an unconditional model as the weak one this is classifier-free guidance, with an undertrained one autoguidance.
    Its condition is the scale, `guided.condition_on(2.0)`; by hand also the scale and what the two maps are asked
    under, `guided.condition_on((2.0, label, no_label))`.
    Reference: Ho & Salimans 2022; Karras et al. 2024, "Guiding a Diffusion Model with a Bad Version of Itself", eq. 3.
    Raises ValueError for a condition that is neither.
    """

    strong: AbstractFlowMap
    weak: AbstractFlowMap
    scale: Time = 1.0
    tolerance: float = eqx.field(static=True, default=1e-6)

    def __check_init__(self):
        check("tolerance of a GuidedMap", self.tolerance, above=0)
        check("scale of a GuidedMap", self.scale)
        if jnp.ndim(self.scale):
            shape = jnp.shape(self.scale)
            raise ValueError(f"scale of a GuidedMap must be one number, not an array of shape {shape}: {WITH_SCALE}")

    def condition_on(self, condition):
        if not isinstance(condition, tuple):
            return GuidedMap(self.strong, self.weak, condition, self.tolerance)
        if len(condition) != 3:
            raise ValueError(f"a condition of a GuidedMap must not be a tuple of {len(condition)}: {WITH_SCALE}")
        scale, of_strong, of_weak = condition
        return GuidedMap(self.strong.condition_on(of_strong), self.weak.condition_on(of_weak), scale, self.tolerance)

    def average_velocity(self, x, s, t):
        return OdeMap(self.velocity, self.tolerance).average_velocity(x, s, t)

    def velocity(self, x, t):
        weak = self.weak.velocity(x, t)
        return weak + self.scale * (self.strong.velocity(x, t) - weak)


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
