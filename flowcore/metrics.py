"""What is measured: distances between samples, and how far a map is from obeying the three consistency rules."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from flowcore.calculus import along, d_dt
from flowcore.checks import check
from flowcore.path import interpolate

Batch = Float[Array, "n *shape"]


def rms(difference: Batch) -> Float[Array, ""]:
    """Root over the rows' mean squared Euclidean norm (summed over a row's entries)."""
    return jnp.sqrt(jnp.mean(jnp.sum(difference.reshape(difference.shape[0], -1) ** 2, axis=1)))


def check_space(name: str, a: Array, b: Array) -> None:
    if a.shape[1:] != b.shape[1:]:
        raise ValueError(f"{name} compares points of one space, not of shape {a.shape[1:]} and {b.shape[1:]}")


def endpoint_error(samples: Batch, reference: Batch) -> float:
    """RMS Euclidean distance between what a sampler and the reference map make of the same noise; units of the data.

    Raises ValueError for two batches of different shapes, which belong to different noise."""
    check_rows("endpoint_error", samples, reference)
    return float(rms(samples - reference))


def endpoint_median(samples: Batch, reference: Batch) -> float:
    """Median over the rows of the distance whose RMS is `endpoint_error`: the RMS is carried by the few rows that end
    in another mode. Units of the data; raises ValueError as that does."""
    check_rows("endpoint_median", samples, reference)
    gaps = (samples - reference).reshape(samples.shape[0], -1)
    return float(jnp.median(jnp.linalg.norm(gaps, axis=1)))


def check_rows(name: str, samples: Array, reference: Array) -> None:
    if samples.shape != reference.shape:
        raise ValueError(f"{name} compares row by row: {samples.shape} and {reference.shape} are not of one noise")


def mean_distance(a: Float[Array, "n dim"], b: Float[Array, "m dim"]) -> Float[Array, "n m"]:
    squared = jnp.sum(a**2, axis=1)[:, None] + jnp.sum(b**2, axis=1)[None] - jnp.matmul(2 * a, b.T, precision="highest")
    return jnp.sqrt(jnp.maximum(squared, 0))


@jax.jit
def pairwise_energy(a, b):
    n, m = a.shape[0], b.shape[0]
    within_a = jnp.sum(mean_distance(a, a)) / (n * (n - 1))
    within_b = jnp.sum(mean_distance(b, b)) / (m * (m - 1))
    return 2 * jnp.mean(mean_distance(a, b)) - within_a - within_b


def energy_distance(a: Batch, b: Float[Array, "m *shape"]) -> float:
    """2 E|a-b| - E|a-a'| - E|b-b'|, unbiased, so it may be slightly negative; 0 for equal laws; units of the data.

    Reference: Szekely & Rizzo 2013, "Energy statistics". Raises ValueError for a cloud of one point, and
    for points of different shapes.
    """
    check_space("energy_distance", a, b)
    if min(a.shape[0], b.shape[0]) < 2:
        raise ValueError(f"energy_distance needs two points of each law, not {a.shape[0]} and {b.shape[0]}")
    return float(pairwise_energy(a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1)))


def sliced_wasserstein(a: Batch, b: Float[Array, "m *shape"], *, projections: int = 128, key: PRNGKeyArray) -> float:
    """Root mean over random directions of the squared 1-D Wasserstein-2 distance.

    Raises ValueError for another number of a than of b, for points of different shapes, and for no projections."""
    check("projections", projections, least=1, whole=True)
    check_space("sliced_wasserstein", a, b)
    if a.shape[0] != b.shape[0]:
        raise ValueError(f"sliced_wasserstein sorts and pairs: give as many of each, not {a.shape[0]} and {b.shape[0]}")
    a, b = a.reshape(a.shape[0], -1), b.reshape(b.shape[0], -1)
    directions = jax.random.normal(key, (a.shape[1], projections), a.dtype)
    directions = directions / jnp.linalg.norm(directions, axis=0)[None]
    gap = jnp.sort(a @ directions, axis=0) - jnp.sort(b @ directions, axis=0)
    return float(jnp.sqrt(jnp.mean(gap**2)))


def histogram_kl(
    samples: Float[Array, "n 2"], real: Float[Array, "m 2"], *, bins: int = 50, limit: float = 1.1
) -> float:
    """KL(real || samples) of two clouds in the plane, on a histogram of bins x bins cells over [-limit, limit]^2.

    Both histograms are smoothed by half a count per cell, so an empty cell is finite; samples outside are lost mass.
    Reference: the metric of Boffi et al. 2025, table 1 (their direction and smoothing are not stated).
    Raises ValueError for no bins, and for a limit that is not above 0.
    """
    check("bins", bins, least=1, whole=True)
    check("limit", limit, above=0)
    edges = np.linspace(-limit, limit, bins + 1)

    def density(cloud):
        counts = np.histogram2d(*np.asarray(cloud, np.float64).T, bins=(edges, edges))[0] + 0.5
        return counts / (len(cloud) + counts.size / 2)

    p, q = density(real), density(samples)
    return float(np.sum(p * np.log(p / q)))


@eqx.filter_jit
def rms_residuals(model, v, x0, key):
    n = x0.shape[0]
    key_times, key_between, key_noise = jax.random.split(key, 3)
    first, second = jax.random.uniform(key_times, (2 * n,)).reshape(2, n)
    s, t = jnp.maximum(first, second), jnp.minimum(first, second)
    u = t + (s - t) * jax.random.uniform(key_between, (n,))
    noise = jax.random.normal(key_noise, x0.shape, x0.dtype)

    def row(x0, eps, s, u, t):
        x = interpolate(x0, eps, s)
        end, end_dt = d_dt(model)(x, s, t)
        _, end_ds = along(v(x, s))(model)(x, s, t)
        return end_dt - v(end, t), end_ds, model(model(x, s, u), u, t) - end

    return [rms(r) for r in jax.vmap(row)(x0, noise, s, u, t)]


def residuals(model, v, x0: Batch, *, key: PRNGKeyArray) -> dict[str, float]:
    """RMS violation of the three consistency rules at uniform times t <= u <= s and points of the path from `x0`.

    `lagrangian_residual` dF/dt - v(F, t), `eulerian_residual` dF/ds + (grad_x F) v and `compositional_residual`
    F(F(x,s,u),u,t) - F(x,s,t); `v(x, t)` is the velocity to be held against (the exact one, or a teacher's).
    """
    names = ("lagrangian_residual", "eulerian_residual", "compositional_residual")
    return dict(zip(names, map(float, rms_residuals(model, v, x0, key)), strict=True))


def frechet_distance(a: Float[Array, "n features"], b: Float[Array, "m features"]) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) of the two feature clouds' Gaussians.

    Reference: Heusel et al. 2017; theirs are Inception features, ours those of `flowcore.tasks.teachers.classifier`.
    Raises ValueError for a cloud of one point, which has no covariance, and for different numbers of features.
    """
    check_space("frechet_distance", a, b)
    if min(a.shape[0], b.shape[0]) < 2:
        raise ValueError(f"frechet_distance needs two points of each cloud, not {a.shape[0]} and {b.shape[0]}")
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root_a = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.linalg.eigvalsh(root_a @ cov_b @ root_a)
    gap = a.mean(axis=0) - b.mean(axis=0)
    return float(gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(np.maximum(cross, 0)).sum())
