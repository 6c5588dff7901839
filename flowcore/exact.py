r"""Flow maps that are known: the ground truth of every test, and the reference of every replication on the mixture.

For Gaussian data N(m, c^2) the path has the marginals N((1-t) m, S(t)^2), S(t)^2 = (1-t)^2 c^2 + t^2, and the map is

    F(x, s, t) = (1-t) m + (x - (1-s) m) S(t) / S(s) .

For a mixture of Gaussians the velocity is a responsibility-weighted mean of such velocities, also in closed form; its
map is one tight ODE solve.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from flowcore.checks import check
from flowcore.maps import AbstractFlowMap, OdeMap


class GaussianMap(AbstractFlowMap):
    """The flow map of data N(mean, std^2 I), in closed form. `mean` is like x, or a scalar; `std` a scalar.

    Raises ValueError for a std that is not above 0."""

    mean: Float[Array, "*shape"] = eqx.field(converter=jnp.asarray)
    std: Float[Array, ""] = eqx.field(converter=jnp.asarray)

    def __check_init__(self):
        check_spread("GaussianMap", self.std)

    def spread(self, t) -> Array:
        """S(t): the standard deviation of x_t."""
        return jnp.sqrt((1 - t) ** 2 * self.std**2 + t**2)

    def average_velocity(self, x, s, t):
        # (S(t) - S(s)) / (t - s), written as a difference of squares so that s = t is not 0/0
        slope = (s + t - (2 - s - t) * self.std**2) / (self.spread(s) + self.spread(t))
        return (x - (1 - s) * self.mean) * slope / self.spread(s) - self.mean

    def velocity(self, x, t):
        return self.average_velocity(x, t, t)

    def sample(self, key: PRNGKeyArray) -> Float[Array, "*shape"]:
        """One datum, like `mean`."""
        return self.mean + self.std * jax.random.normal(key, self.mean.shape, self.mean.dtype)


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

    def sample(self, key: PRNGKeyArray) -> Float[Array, " dim"]:
        """One datum, shape (dim,)."""
        key_mode, key_noise = jax.random.split(key)
        mode = jax.random.randint(key_mode, (), 0, self.means.shape[0])
        return self.means[mode] + self.std * jax.random.normal(key_noise, self.means.shape[1:], self.means.dtype)


def check_spread(owner: str, std: Array) -> None:
    """Raise ValueError unless it is one number above 0: at 0 the data are points and the map has no inverse."""
    if std.ndim:
        raise ValueError(f"std of a {owner} must be one number, not an array of shape {std.shape}")
    check(f"std of a {owner}", std, above=0)


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
