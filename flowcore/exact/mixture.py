r"""A mixture of Gaussians with full covariances: everything that a replication may ask of a law, in closed form.

Component k has the weight pi_k, the mean m_k and the covariance Q_k diag(lam_k) Q_k^T. On the path x_t = a x0 + t eps,
a = 1 - t, all is elementwise in a component's own axes, without an inverse and without a division by t or by a:

    p_k = Q_k^T (x - a m_k)           s_k = a^2 lam_k + t^2           c_k = (t - a lam_k) / s_k
    w   = softmax(log pi_k - 1/2 sum_i (p_ki^2 / s_ki + log s_ki))                        the posterior of the component
    v   = sum_k w_k u_k,   u_k = Q_k (c_k p_k) - m_k                  score = sum_k w_k g_k,   g_k = -Q_k (p_k / s_k)

The posterior of x0, a tilt by a linear or quadratic reward and the law given a linear observation are mixtures again,
so they are asked the same questions. Only the map itself is no closed form: it is one ODE solve at `tolerance`.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from flowcore.checks import check
from flowcore.maps import AbstractFlowMap, OdeMap
from flowcore.path import Time

Point = Float[Array, " dim"]


class GaussianMixtureMap(AbstractFlowMap):
    """The flow map of data sum_k w_k N(means_k, axes_k diag(variances_k) axes_k^T).

    `log_weights` are normalised, the columns of `axes` orthonormal, `variances` >= 0. For one point x of shape (dim,).

    A variance of 0 makes its component a point in that direction. At t = 0, and there alone, such a law has no density:
    `velocity`, `denoise`, `divergence`, `score` and `log_density` are NaN at every x, and the solver of a map that
    starts or ends there raises. All else is finite: `posterior`, `component` and `centre` take a point to be as wide as
    a datum is rounded.
    Raises ValueError for other shapes, a negative variance (where known), and a tolerance that is not above 0.
    """

    log_weights: Float[Array, " modes"]
    means: Float[Array, "modes dim"]
    axes: Float[Array, "modes dim dim"]
    variances: Float[Array, "modes dim"]
    tolerance: float = eqx.field(static=True, default=1e-5)

    def __check_init__(self):
        shape = jnp.shape(self.means)
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"means of a GaussianMixtureMap must be of shape (modes, dim), not {shape}")
        of_others = {"log_weights": shape[:1], "axes": (*shape, shape[1]), "variances": shape}
        for name, expected in of_others.items():
            if (found := jnp.shape(getattr(self, name))) != expected:
                raise ValueError(f"{name} of a GaussianMixtureMap must be of shape {expected}, not {found}")
        if not isinstance(self.variances, jax.core.Tracer):
            check("a variance of a GaussianMixtureMap", np.min(np.asarray(self.variances)), least=0)
        check("tolerance of a GaussianMixtureMap", self.tolerance, above=0)

    def velocity(self, x, t):
        t = jnp.asarray(t, x.dtype)
        p, s, weights = self.parts(x, t)
        slopes = (t - (1 - t) * self.variances) / s
        return weights @ (self.from_axes(slopes * p) - self.means)

    def average_velocity(self, x, s, t):
        return OdeMap(self.velocity, self.tolerance).average_velocity(x, s, t)

    def score(self, x: Point, t: Time) -> Point:
        """grad log p_t(x)."""
        p, s, weights = self.parts(x, t)
        return -weights @ self.from_axes(p / s)

    def log_density(self, x: Point, t: Time = 0.0) -> Float[Array, ""]:
        """log p_t(x), in nats."""
        p, s = self.in_axes(x, t)
        return jax.nn.logsumexp(self.log_joint(p, s)) - x.shape[0] / 2 * math.log(2 * math.pi)

    def divergence(self, x: Point, t: Time) -> Float[Array, ""]:
        """div v(x, t): minus the rate of log p along the path."""
        t = jnp.asarray(t, x.dtype)
        p, s, weights = self.parts(x, t)
        slopes, g = (t - (1 - t) * self.variances) / s, -self.from_axes(p / s)
        u = self.from_axes(slopes * p) - self.means
        spread = jnp.sum((g - (weights @ g)[None]) * (u - (weights @ u)[None]), axis=1)
        return weights @ (jnp.sum(slopes, axis=1) + spread)

    def posterior(self, x: Point, t: Time) -> "GaussianMixtureMap":
        """The law of x0 given x_t = x: the data themselves at t = 1, the point x at t = 0."""
        t = jnp.asarray(t, x.dtype)
        p, s = self.in_axes(x, t)
        spread = self.spread(s)
        means = self.means + self.from_axes(jnp.where(s > 0, (1 - t) * self.variances / spread, 1) * p)
        log_weights = jax.nn.log_softmax(self.log_joint(p, spread))
        return self.replaced(log_weights, means, self.axes, jnp.square(t) * self.variances / spread)

    def tilted(
        self, linear: Point, root: Float[Array, "rows dim"] | None = None
    ) -> tuple["GaussianMixtureMap", Float[Array, ""]]:
        """(the law proportional to p(x) e^r(x), log Z) for the reward r(x) = linear . x - |root x|^2 / 2.

        log Z = log E e^r. No derivative in `root` (JAX has none of a full singular value decomposition)."""
        roots = self.axes * jnp.sqrt(self.variances)[:, None]
        if root is None:
            shifts = jnp.einsum("kij,i->kj", roots, linear)
            means = self.means + jnp.einsum("kij,kj->ki", roots, shifts)
            log_z = self.means @ linear + jnp.sum(shifts**2, axis=1) / 2
            axes, variances = self.axes, self.variances
        else:
            _, stretch, right = singular_values(jnp.einsum("qi,kij->kqj", root, roots))
            roots = jnp.einsum("kij,kjl->kil", roots, right) / jnp.sqrt(1 + stretch**2)[:, None]
            seen = self.means @ root.T
            shifts = jnp.einsum("kij,ki->kj", roots, linear[None] - seen @ root)
            means = self.means + jnp.einsum("kij,kj->ki", roots, shifts)
            log_z = self.means @ linear - jnp.sum(seen**2, axis=1) / 2
            log_z = log_z + jnp.sum(shifts**2, axis=1) / 2 - jnp.sum(jnp.log1p(stretch**2), axis=1) / 2
            axes, variances = axes_of(roots)
        log_joint = self.log_weights + log_z
        return self.replaced(jax.nn.log_softmax(log_joint), means, axes, variances), jax.nn.logsumexp(log_joint)

    def observed(
        self, matrix: Float[Array, "rows dim"], y: Float[Array, " rows"], std: Time
    ) -> tuple["GaussianMixtureMap", Float[Array, ""]]:
        """(the law of x0 given y = matrix x0 + std n, log p(y)), n standard normal.

        The tilt by the same likelihood, written so that a small `std` cancels nothing. Raises ValueError for a std
        that is not above 0, where it is known."""
        check("std of an observation", std, above=0)
        roots = self.axes * jnp.sqrt(self.variances)[:, None]
        left, stretch, right = singular_values(jnp.einsum("qi,kij->kqj", matrix, roots) / std)
        surprise = jnp.einsum("kqr,kq->kr", left, (y[None] - self.means @ matrix.T) / std)
        rows, dim = matrix.shape
        missing = rows - min(rows, dim)
        of_rows = jnp.pad(stretch, ((0, 0), (0, missing)))[:, :rows]  # the singular value of each direction of y
        roots = jnp.einsum("kij,kjl->kil", roots, right) / jnp.sqrt(1 + stretch**2)[:, None]
        gain = (of_rows / jnp.sqrt(1 + of_rows**2) * surprise)[:, :dim]
        gain = jnp.pad(gain, ((0, 0), (0, dim - gain.shape[1])))
        means = self.means + jnp.einsum("kij,kj->ki", roots, gain)
        evidence = -jnp.sum(surprise**2 / (1 + of_rows**2) + jnp.log1p(of_rows**2), axis=1) / 2
        log_joint = self.log_weights + evidence
        constant = rows * (jnp.log(jnp.asarray(std)) + math.log(2 * math.pi) / 2)
        posterior = self.replaced(jax.nn.log_softmax(log_joint), means, *axes_of(roots))
        return posterior, jax.nn.logsumexp(log_joint) - constant

    def of_components(self, components: Int[Array | np.ndarray, " some"]) -> "GaussianMixtureMap":
        """The law of these components alone, e.g. of a class."""
        chosen = self.log_weights[components]
        weights = chosen - jax.nn.logsumexp(chosen)
        return self.replaced(weights, self.means[components], self.axes[components], self.variances[components])

    def marginal(self, dim: int) -> "GaussianMixtureMap":
        """The law of the first `dim` coordinates; on the host, in float64."""
        if not 1 <= dim <= self.means.shape[1]:
            raise ValueError(f"a marginal has 1 to {self.means.shape[1]} coordinates, not {dim}")
        axes, variances = np.asarray(self.axes, np.float64), np.asarray(self.variances, np.float64)
        blocks = np.einsum("kil,kl,kjl->kij", axes[:, :dim], variances, axes[:, :dim])
        variances, axes = np.linalg.eigh(blocks)
        like = self.means.dtype
        return self.replaced(
            self.log_weights,
            self.means[:, :dim],
            jnp.asarray(axes, like),
            jnp.asarray(np.maximum(variances, 0), like),
        )

    def sharpened(self, factor: float) -> "GaussianMixtureMap":
        """All variances times `factor`: below 1 the modes are sharper and the paths bend more. Raises ValueError for a
        factor that is not above 0, where it is known."""
        check("factor of sharpened variances", factor, above=0)
        return self.replaced(self.log_weights, self.means, self.axes, factor * self.variances)

    def component(self, x: Point) -> Int[Array, ""]:
        """The likeliest component of a datum."""
        p, s = self.in_axes(x, 0.0)
        return jnp.argmax(self.log_joint(p, self.spread(s)))

    def centre(self, x: Point) -> Point:
        """The mean of the likeliest component of a datum."""
        return self.means[self.component(x)]

    @property
    def mean(self) -> Point:
        """Of the law."""
        return jnp.exp(self.log_weights) @ self.means

    @property
    def covariance(self) -> Float[Array, "dim dim"]:
        """Of the law."""
        within = jnp.einsum("k,kil,kl,kjl->ij", jnp.exp(self.log_weights), self.axes, self.variances, self.axes)
        apart = self.means - self.mean[None]
        return within + jnp.einsum("k,ki,kj->ij", jnp.exp(self.log_weights), apart, apart)

    def sample(self, key: PRNGKeyArray) -> Point:
        """One datum, shape (dim,)."""
        key_mode, key_noise = jax.random.split(key)
        mode = jax.random.categorical(key_mode, self.log_weights)
        noise = jax.random.normal(key_noise, self.means.shape[1:], self.means.dtype)
        return self.means[mode] + self.axes[mode] @ (jnp.sqrt(self.variances[mode]) * noise)

    # --- what all of these share -----------------------------------------------------------------------------------

    def in_axes(self, x: Point, t: Time) -> tuple[Float[Array, "modes dim"], Float[Array, "modes dim"]]:
        """(p, s): x in each component's axes, about its mean at time t, and the variances there."""
        t = jnp.asarray(t, x.dtype)
        p = jnp.einsum("kij,ki->kj", self.axes, x[None] - (1 - t) * self.means)
        return p, (1 - t) ** 2 * self.variances + t**2

    def spread(self, s: Float[Array, "modes dim"]) -> Float[Array, "modes dim"]:
        """s, and where it is 0 the square of what rounds in a datum: it belongs to the point that it lies on."""
        size = jnp.max(jnp.abs(self.means)) + jnp.sqrt(jnp.max(self.variances))
        limits = jnp.finfo(s.dtype)
        rounding = jnp.square(4 * s.shape[1] * float(limits.eps) * size)
        return jnp.where(s > 0, s, jax.lax.stop_gradient(jnp.maximum(rounding, float(limits.tiny))))

    def from_axes(self, p: Float[Array, "modes dim"]) -> Float[Array, "modes dim"]:
        """Back to the coordinates of x."""
        return jnp.einsum("kij,kj->ki", self.axes, p)

    def log_joint(self, p, s) -> Float[Array, " modes"]:
        """log of weight times density, without the constant."""
        return self.log_weights - jnp.sum(p**2 / s + jnp.log(s), axis=1) / 2

    def parts(self, x: Point, t: Time) -> tuple:
        """(p, s, posterior weights of the components)."""
        p, s = self.in_axes(x, t)
        return p, s, jax.nn.softmax(self.log_joint(p, s))

    def replaced(self, log_weights, means, axes, variances) -> "GaussianMixtureMap":
        """Another law, solved at the same tolerance."""
        return GaussianMixtureMap(log_weights, means, axes, variances, self.tolerance)


def singular_values(matrices: Float[Array, "modes rows dim"]) -> tuple[Array, Array, Array]:
    """(W, S, Y) of W S Y^T for each: W and Y square, S padded by 0 to the number of columns."""
    left, stretch, right = jnp.linalg.svd(matrices, full_matrices=True)
    missing = matrices.shape[2] - stretch.shape[1]
    return left, jnp.pad(stretch, ((0, 0), (0, missing))), jnp.swapaxes(right, 1, 2)


def axes_of(roots: Float[Array, "modes dim dim"]) -> tuple[Float[Array, "modes dim dim"], Float[Array, "modes dim"]]:
    """(axes, variances) of the covariances roots roots^T."""
    axes, stretch, _ = jnp.linalg.svd(roots)
    return axes, stretch**2


def value(law: GaussianMixtureMap, tilted: GaussianMixtureMap, log_z: Time, x: Point, t: Time) -> Float[Array, ""]:
    """V_t(x) = log E[e^r | x_t = x] for the tilt of the law by r: log Z + log p*_t(x) - log p_t(x)."""
    return log_z + tilted.log_density(x, t) - law.log_density(x, t)
