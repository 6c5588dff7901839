r"""A law that lives near a subspace: a mixture in few coordinates, and one isotropic Gaussian in all other directions.

x0 = U z + tau n, the columns of U orthonormal, z of the core law, n standard normal orthogonal to U. Velocity, map,
score and density all split into the core's at U^T x and the Gaussian's at the rest x - U U^T x.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from flowcore.exact.gaussian import GaussianMap
from flowcore.exact.mixture import GaussianMixtureMap
from flowcore.maps import AbstractFlowMap


class SubspaceMap(AbstractFlowMap):
    """The flow map of x0 = axes z + std n; `shape` is that of an example, whose entries the rows of `axes` are."""

    core: GaussianMixtureMap
    axes: Float[Array, "entries dim"]
    std: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    shape: tuple[int, ...] = eqx.field(static=True)

    def average_velocity(self, x, s, t):
        return self.split(x, self.core.average_velocity, self.rest.average_velocity, s, t)

    def velocity(self, x, t):
        return self.split(x, self.core.velocity, self.rest.velocity, t)

    def score(self, x: Float[Array, "*shape"], t) -> Float[Array, "*shape"]:
        """grad log p_t(x)."""
        return self.split(x, self.core.score, lambda rest, t: -rest / self.rest.spread(t) ** 2, t)

    def log_density(self, x: Float[Array, "*shape"], t=0.0) -> Float[Array, ""]:
        """log p_t(x), in nats."""
        z = self.axes.T @ x.ravel()
        rest = x.ravel() - self.axes @ z
        count = rest.shape[0] - z.shape[0]
        variance = self.rest.spread(t) ** 2
        of_rest = -jnp.sum(rest**2) / (2 * variance) - count / 2 * jnp.log(2 * math.pi * variance)
        return self.core.log_density(z, t) + of_rest

    def of_components(self, components: Int[Array | np.ndarray, " some"]) -> "SubspaceMap":
        """The law of these components of the core alone, e.g. of a class."""
        return SubspaceMap(self.core.of_components(components), self.axes, self.std, self.shape)

    def component(self, x: Float[Array, "*shape"]):
        """The likeliest component of a datum."""
        return self.core.component(self.axes.T @ x.ravel())

    def centre(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The mean of the likeliest component of a datum."""
        return (self.axes @ self.core.means[self.component(x)]).reshape(x.shape)

    def sample(self, key: PRNGKeyArray) -> Float[Array, "*shape"]:
        """One datum."""
        key_core, key_rest = jax.random.split(key)
        noise = jax.random.normal(key_rest, self.axes.shape[:1], self.axes.dtype)
        rest = noise - self.axes @ (self.axes.T @ noise)
        return (self.axes @ self.core.sample(key_core) + self.std * rest).reshape(self.shape)

    @property
    def rest(self) -> GaussianMap:
        """The law orthogonal to the subspace."""
        return GaussianMap(jnp.zeros((), self.axes.dtype), self.std)

    def split(self, x, of_core, of_rest, *times) -> Float[Array, "*shape"]:
        """axes of_core(U^T x) + of_rest(x - U U^T x)."""
        z = self.axes.T @ x.ravel()
        rest = x.ravel() - self.axes @ z
        return (self.axes @ of_core(z, *times) + of_rest(rest, *times)).reshape(x.shape)
