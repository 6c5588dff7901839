"""Flow maps made of a velocity by an adaptive ODE solve: the exact map of a field, and that of a guided teacher."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flowcore.checks import check, check_ordered
from flowcore.maps.flow_map import AbstractFlowMap
from flowcore.maps.steps import Velocity
from flowcore.path import Point, Time

WITH_SCALE = "give the scale alone, or (scale, condition of the strong map, condition of the weak one)"


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
