"""Laws in the plane: equal Gaussians on a circle, whose map is known, and a checkerboard, whose map is not."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from flowcore.checks import check
from flowcore.exact.gaussian import check_spread
from flowcore.maps import AbstractFlowMap, OdeMap


class MixtureMap(AbstractFlowMap):
    """The flow map of data sum_k w_k N(means_k, std^2 I): closed-form velocity, map by an ODE solve at `tolerance`.

    `means` has shape (modes, dim), `std` is a scalar, the weights are equal. Raises ValueError for means of another
    shape, and for a std or a tolerance that is not above 0.
    """

    means: Float[Array, "modes dim"] = eqx.field(converter=jnp.asarray)
    std: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    tolerance: float = eqx.field(static=True, default=1e-6)

    def __check_init__(self):
        if self.means.ndim != 2 or 0 in self.means.shape:
            raise ValueError(f"means of a MixtureMap must be of shape (modes, dim), not {self.means.shape}")
        check_spread("MixtureMap", self.std)
        check("tolerance of a MixtureMap", self.tolerance, above=0)

    def velocity(self, x, t):
        variance = (1 - t) ** 2 * self.std**2 + t**2
        from_mode = x[None] - (1 - t) * self.means
        weights = jax.nn.softmax(-jnp.sum(from_mode**2, axis=1) / (2 * variance))
        # the same slope (dS/dt) / S as for one Gaussian, around each mode
        of_mode = (t - (1 - t) * self.std**2) / variance * from_mode - self.means
        return weights @ of_mode

    def average_velocity(self, x, s, t):
        return OdeMap(self.velocity, self.tolerance).average_velocity(x, s, t)

    def of_components(self, components: Int[Array | np.ndarray, " some"]) -> "MixtureMap":
        """The law of these modes alone, e.g. of a class."""
        return MixtureMap(self.means[components], self.std, self.tolerance)

    def centre(self, x: Float[Array, " dim"]) -> Float[Array, " dim"]:
        """The nearest mode: the centre of the likeliest component of a datum."""
        return self.means[jnp.argmin(jnp.sum((x[None] - self.means) ** 2, axis=1))]

    def sample(self, key: PRNGKeyArray) -> Float[Array, " dim"]:
        """One datum, shape (dim,)."""
        key_mode, key_noise = jax.random.split(key)
        mode = jax.random.randint(key_mode, (), 0, self.means.shape[0])
        return self.means[mode] + self.std * jax.random.normal(key_noise, self.means.shape[1:], self.means.dtype)


def ring(modes: int = 8, radius: float = 1.4, std: float = 0.12, tolerance: float = 1e-6) -> MixtureMap:
    """The standard 2-D task of every replication: equal Gaussians on a circle. Raises ValueError for no modes."""
    check("modes of a ring", modes, least=1, whole=True)
    check("radius of a ring", radius, least=0)
    angle = 2 * jnp.pi * jnp.arange(modes, dtype=float) / modes
    return MixtureMap(radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1), std, tolerance)


def checkerboard(key: PRNGKeyArray, squares: int = 4) -> Float[Array, "2"]:
    """One point, uniform on every second of squares x squares cells of [-1, 1]^2: a toy whose map is not known.

    Reference: the 2-D benchmark of Boffi et al. 2025, section 4. Raises ValueError for fewer than two squares, and for
    an odd number of them, of which every second does not tile.
    """
    check("squares of a checkerboard", squares, least=2, whole=True)
    if squares % 2:
        raise ValueError(f"squares of a checkerboard must be even, not {squares}")
    key_cell, key_place = jax.random.split(key)
    cell = jax.random.randint(key_cell, (), 0, squares * squares // 2)
    row, column = cell // (squares // 2), cell % (squares // 2)
    corner = jnp.stack([2 * column + row % 2, row]).astype(float)
    return 2 * (corner + jax.random.uniform(key_place, (2,))) / squares - 1
