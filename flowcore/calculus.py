r"""Derivatives of a map f(x, s, t) along the path: each costs one JVP, and returns `(value, derivative)`.

    d_dt(f)       d f/dt                       x and s held still
    d_ds(f)       d f/ds                       x and t held still
    along(v)(f)   d f/ds + (grad_x f) v        x moves with velocity v while s runs: the tangent (v, 1, 0)

All three transform a function, as `jax.grad` does: `d_dt(model)(x, s, t)`. The value comes from the same forward pass
as the derivative, so the pair costs two forward passes, and stopping the gradient of the derivative alone makes its
reverse pass free. `difference_*` are their central-difference twins, for checks and for backbones without a JVP.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from flowcore.path import Point

Map = Callable[..., Array]
Derivative = Callable[..., tuple[Array, Array]]


def d_dt(f: Map) -> Derivative:
    """(f, df/dt) at (x, s, t): the derivative in the target time. `f` is any map; x any shape, times scalar."""

    def value_and_derivative(x: Point, s, t):
        t = jnp.asarray(t, x.dtype)
        return jax.jvp(lambda t: f(x, s, t), (t,), (jnp.ones_like(t),))

    return value_and_derivative


def d_ds(f: Map) -> Derivative:
    """(f, df/ds) at (x, s, t): the partial derivative in the source time, the point held still."""

    def value_and_derivative(x: Point, s, t):
        s = jnp.asarray(s, x.dtype)
        return jax.jvp(lambda s: f(x, s, t), (s,), (jnp.ones_like(s),))

    return value_and_derivative


def along(v: Float[Array, "*shape"]) -> Callable[[Map], Derivative]:
    """Derivative following a particle with velocity `v` (like x): (f, df/ds + (grad_x f) v), one JVP.

    Reference: Geng et al. 2025, "Mean Flows for One-step Generative Modeling", eq. 8 (their arguments are z, r, t).
    """

    def transform(f: Map) -> Derivative:
        def value_and_derivative(x: Point, s, t):
            s = jnp.asarray(s, x.dtype)
            return jax.jvp(lambda x, s: f(x, s, t), (x, s), (v, jnp.ones_like(s)))

        return value_and_derivative

    return transform


def stop_gradients(tree):
    """The same tree (a map, a network, None) with the gradient of its floating-point arrays stopped."""
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf, tree)


def difference_dt(f: Map, step: float) -> Derivative:
    """Central-difference twin of `d_dt`, error O(step^2) plus rounding O(1e-7 / step) in float32."""
    return lambda x, s, t: (f(x, s, t), (f(x, s, t + step) - f(x, s, t - step)) / (2 * step))


def difference_ds(f: Map, step: float) -> Derivative:
    """Central-difference twin of `d_ds`."""
    return lambda x, s, t: (f(x, s, t), (f(x, s + step, t) - f(x, s - step, t)) / (2 * step))


def difference_along(v: Float[Array, "*shape"], step: float) -> Callable[[Map], Derivative]:
    """Central-difference twin of `along`: the particle moves by +-step v while the source time moves by +-step."""

    def transform(f: Map) -> Derivative:
        return lambda x, s, t: (
            f(x, s, t),
            (f(x + step * v, s + step, t) - f(x - step * v, s - step, t)) / (2 * step),
        )

    return transform
