"""How far the two sides of an equality are apart: `(left, right) -> scalar`, for one example, summed over its entries.

The sum (not the mean) over entries is what the releases of MeanFlow and of self-distillation use, so the small
constants below are theirs. Those with constants are made by a function: `adaptive(power=0.75)` is a distance.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax.lax import stop_gradient
from jaxtyping import Array, Float

from flowcore.checks import check
from flowcore.path import Point

Distance = Callable[[Array, Array], Array]


def squared(left: Point, right: Point) -> Float[Array, ""]:
    """|left - right|^2."""
    return jnp.sum((left - right) ** 2)


def pseudo_huber(scale: float) -> Distance:
    """sqrt(|left - right|^2 + c^2) - c on the whole vector. Reference: Song & Dhariwal 2024 (iCT), eq. 11.

    Raises ValueError for a negative c."""
    check("scale of pseudo_huber", scale, least=0)
    return lambda left, right: jnp.sqrt(squared(left, right) + scale**2) - scale


def cauchy(scale: float) -> Distance:
    """log(1 + |left - right|^2 / c^2), as robust as a heavy tail. Reference: Lee et al. 2025, "Decoupled MeanFlow".

    Raises ValueError for a c that is not above 0."""
    check("scale of cauchy", scale, above=0)
    return lambda left, right: jnp.log1p(squared(left, right) / scale**2)


def adaptive(power: float = 1.0, offset: float = 1e-2) -> Distance:
    """l / sg[(l + e)^p], l = |left - right|^2: bounds the gradient; at p = 1 the value is close to 1 whatever l is.

    Reference: Geng et al. 2025, section 4.3 (their p and c). Raises ValueError for an offset that is not above 0.
    """
    check("power of adaptive", power)
    check("offset of adaptive", offset, above=0)

    def distance(left, right):
        loss = squared(left, right)
        return loss / stop_gradient((loss + offset) ** power)

    return distance


def directed(left: Point, right: Point) -> Float[Array, ""]:
    """|left - right|^2 + 1 - cos(left, right): velocities should also point the same way.

    Reference: Peng et al. 2025, "Flow-Anchored Consistency Models", the flow-matching loss of the release.
    """
    norms = jnp.maximum(jnp.sum(left**2), 1e-16) * jnp.maximum(jnp.sum(right**2), 1e-16)
    return squared(left, right) + 1 - jnp.sum(left * right) / jnp.sqrt(norms)


def per_entry(distance: Distance) -> Distance:
    """The distance with the mean over entries in place of the sum, for releases that take means."""
    return lambda left, right: distance(left / left.size**0.5, right / right.size**0.5)


def perceptual(features: Callable[[Array], Array]) -> Distance:
    """|features(left) - features(right)|^2, for sides that are images. Reference: Zhang et al. 2018 (LPIPS)."""
    return lambda left, right: squared(features(left), features(right))
