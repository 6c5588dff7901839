r"""The flow map of one Gaussian, in closed form.

For data N(m, c^2) the path has the marginals N((1-t) m, S(t)^2), S(t)^2 = (1-t)^2 c^2 + t^2, and the map is

    F(x, s, t) = (1-t) m + (x - (1-s) m) S(t) / S(s) .
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from flowcore.checks import check
from flowcore.maps import AbstractFlowMap


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


def check_spread(owner: str, std: Array) -> None:
    """Raise ValueError unless it is one number above 0: at 0 the data are points and the map has no inverse."""
    if std.ndim:
        raise ValueError(f"std of a {owner} must be one number, not an array of shape {std.shape}")
    check(f"std of a {owner}", std, above=0)
