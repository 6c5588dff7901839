r"""The straight path between data and noise, and its dictionaries to the other conventions.

    x_t = (1 - t) x0 + t eps,        t = 0 data,   t = 1 noise,        dx_t/dt = eps - x0 .

This is the only file that knows the convention. The other families run along the same curve in other clocks and
units, so every one of them is an exact change of variables; `*_to_linear` and `linear_to_*` are inverses.

Reference: Lipman et al. 2023, "Flow Matching for Generative Modeling", eq. 22 (sigma_min = 0, time reversed);
Karras et al. 2022 (EDM); Lu & Song 2024 (TrigFlow); Song et al. 2021 (VP).
"""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

Time = Float[ArrayLike, ""]
Point = Float[Array, "*shape"]


def interpolate(x0: Point, eps: Point, t: Time) -> Point:
    """x_t = (1 - t) x0 + t eps: the point at noise level t in [0, 1] between one datum and one noise."""
    return (1 - t) * x0 + t * eps


def conditional_velocity(x0: Point, eps: Point) -> Point:
    """dx_t/dt = eps - x0: the velocity of one path; its mean over the paths through x_t is the velocity v(x_t, t)."""
    return eps - x0


def renoise(x: Point, s: Time, t: Time, eps: Point) -> Point:
    """Carry x from level s up to t >= s with the fresh noise eps, so that x_s of the path becomes x_t of the path.

    The data keep their share 1 - t and the noises add in variance, t^2 = ((1-t) s / (1-s))^2 + added^2; s < 1.
    """
    scale = (1 - t) / (1 - s)
    # the difference of squares in factors: at t = s it is 0, not rounding, whose square root is seen
    added = jnp.sqrt(jnp.asarray((t - s) / (1 - s) * (t + scale * s), x.dtype))
    return scale * x + added * eps


def linear_to_edm(x: Point, t: Time) -> tuple[Point, Time]:
    """(x0 + sigma eps, sigma) with sigma = t / (1 - t) >= 0, infinite at t = 1. Reference: Karras et al. 2022."""
    return x / (1 - t), t / (1 - t)


def edm_to_linear(x: Point, sigma: Time) -> tuple[Point, Time]:
    """(x_t, t) with t = sigma / (1 + sigma), for x = x0 + sigma eps and sigma >= 0."""
    return x / (1 + sigma), sigma / (1 + sigma)


def linear_to_trigflow(x: Point, t: Time, std: float) -> tuple[Point, Time]:
    """(cos(a) x0 + sin(a) z, a), z = std eps, at the angle a in [0, pi/2]; std is that of the data.

    Reference: Lu & Song 2024, "Simplifying, Stabilizing and Scaling Continuous-Time Consistency Models", section 3.
    """
    angle = jnp.arctan2(jnp.asarray(t), std * (1 - jnp.asarray(t)))
    return x * (jnp.cos(angle) + jnp.sin(angle) * std), angle


def trigflow_to_linear(x: Point, angle: Time, std: float) -> tuple[Point, Time]:
    """(x_t, t) for x = cos(a) x0 + sin(a) z, z = std eps: the inverse of `linear_to_trigflow`."""
    scale = jnp.cos(angle) + jnp.sin(angle) * std
    return x / scale, jnp.sin(angle) * std / scale


def velocity_to_edm(V: Point, x: Point, t: Time, std: float) -> Point:
    """What an EDM network outputs where an average velocity to the data is V: x - t V = c_skip x~ + c_out output.

    Finite for 0 <= t < 1. Reference: Karras et al. 2022, table 1 (c_skip and c_out with sigma_data = std).
    """
    noisy, sigma = linear_to_edm(x, t)
    norm = jnp.sqrt(sigma**2 + std**2)
    # (x - t V - c_skip x~) / c_out with the common factor sigma taken out, so that the data end is not 0/0
    return (noisy * (sigma - std**2) / ((1 + sigma) * norm**2) - V / (1 + sigma)) * norm / std


def edm_to_velocity(output: Point, x: Point, t: Time, std: float) -> Point:
    """V from the output of an EDM network: the inverse of `velocity_to_edm`."""
    noisy, sigma = linear_to_edm(x, t)
    norm = jnp.sqrt(sigma**2 + std**2)
    return noisy * (sigma - std**2) / norm**2 - (1 + sigma) * output * std / norm


def velocity_to_trigflow(V: Point, x: Point, t: Time, std: float) -> Point:
    """What a TrigFlow network outputs: x - t V = cos(a) x_a - sin(a) std output, x_a the point at angle a.

    Reference: Lu & Song 2024, eq. 4 (their F).
    """
    _, angle = linear_to_trigflow(x, t, std)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return (cos - sin / std) * x + V / (cos + std * sin)


def trigflow_to_velocity(output: Point, x: Point, t: Time, std: float) -> Point:
    """V from the output of a TrigFlow network: the inverse of `velocity_to_trigflow`."""
    _, angle = linear_to_trigflow(x, t, std)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return (output - (cos - sin / std) * x) * (cos + std * sin)


def linear_to_vp(x: Point, t: Time) -> tuple[Point, Time, Time]:
    """(alpha x0 + sigma eps, alpha, sigma) with alpha^2 + sigma^2 = 1. Reference: Song et al. 2021, eq. 11."""
    norm = jnp.sqrt((1 - t) ** 2 + t**2)
    return x / norm, (1 - t) / norm, t / norm


def vp_to_linear(x: Point, alpha: Time, sigma: Time) -> tuple[Point, Time]:
    """(x_t, t) with t = sigma / (alpha + sigma), for x = alpha x0 + sigma eps."""
    return x / (alpha + sigma), sigma / (alpha + sigma)
