"""Every measure against a value known from elsewhere."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import gaussian

from flowcore import AverageVelocityMap, TangentMap, metrics

KEYS = jax.random.split(jax.random.key(0), 6)


def normals(key, n, dim=2):
    return jax.random.normal(key, (n, dim))


def test_endpoint_error_of_a_shift_is_its_length():
    x = normals(KEYS[0], 10)
    assert metrics.endpoint_error(x + jnp.array([[3.0, 4.0]]), x) == pytest.approx(5)


def test_endpoint_error_is_root_mean_square_over_rows_not_a_mean():
    assert metrics.endpoint_error(jnp.array([[1.0], [7.0]]), jnp.zeros((2, 1))) == pytest.approx(5)


def test_the_median_is_that_of_the_rows_whose_rms_the_error_is():
    samples = jnp.array([[3.0, 4.0], [0.0, 1.0], [0.0, 2.0]])
    assert metrics.endpoint_median(samples, jnp.zeros((3, 2))) == pytest.approx(2)
    assert metrics.endpoint_median(jnp.ones((3, 2, 2, 4)), jnp.zeros((3, 2, 2, 4))) == pytest.approx(4)


def test_endpoint_error_sums_over_the_entries_of_an_image():
    assert metrics.endpoint_error(jnp.ones((3, 2, 2, 4)), jnp.zeros((3, 2, 2, 4))) == pytest.approx(4)


def test_energy_distance_of_two_points_is_twice_their_distance():
    assert metrics.energy_distance(jnp.zeros((4, 2)), jnp.full((3, 2), 2.0)) == pytest.approx(2 * 8**0.5)


def test_energy_distance_by_hand():
    """a = {0, 1}, b = {3, 5}: 2 * mean(3, 5, 2, 4) - 1 - 2, without the pairs of a point with itself."""
    assert metrics.energy_distance(jnp.array([[0.0], [1.0]]), jnp.array([[3.0], [5.0]])) == pytest.approx(4)


def test_energy_distance_of_two_gaussians():
    """E|N(m, v)| in closed form, for N(0, 1) and N(1.5, 1) in one dimension."""

    def mean_absolute(m, v):
        return math.sqrt(2 * v / math.pi) * math.exp(-(m**2) / (2 * v)) + m * math.erf(m / math.sqrt(2 * v))

    expected = 2 * mean_absolute(1.5, 2) - 2 * mean_absolute(0, 2)
    measured = metrics.energy_distance(normals(KEYS[0], 2000, 1), 1.5 + normals(KEYS[1], 2000, 1))
    assert measured == pytest.approx(expected, rel=0.1)


def test_energy_distance_of_equal_laws_is_zero_on_average():
    """Unbiased: with the pairs of a point with itself it would be 0.35 too large at ten points."""
    pairs = jax.random.normal(KEYS[2], (1000, 2, 10, 2))
    values = jax.vmap(metrics.pairwise_energy)(pairs[:, 0], pairs[:, 1])
    assert abs(jnp.mean(values)) < 4 * jnp.std(values) / 1000**0.5


def test_sliced_wasserstein_in_one_dimension_is_the_shift():
    a = normals(KEYS[0], 50, 1)
    assert metrics.sliced_wasserstein(a, a[::-1] - 0.7, key=KEYS[1]) == pytest.approx(0.7)


@pytest.mark.parametrize("dim", [2, 16])
def test_sliced_wasserstein_of_a_shift_is_its_length_over_root_dim(dim):
    a = normals(KEYS[0], 20, dim)
    measured = metrics.sliced_wasserstein(a, a.at[:, 0].add(2.0), projections=20_000, key=KEYS[1])
    assert measured == pytest.approx(2 / dim**0.5, rel=0.03)


def test_sliced_wasserstein_does_not_see_the_order_of_the_rows():
    a = normals(KEYS[0], 50)
    assert metrics.sliced_wasserstein(a, jax.random.permutation(KEYS[1], a), key=KEYS[2]) < 1e-12


def test_sliced_wasserstein_needs_as_many_of_each():
    with pytest.raises(ValueError, match="give as many of each, not 5 and 6"):
        metrics.sliced_wasserstein(normals(KEYS[0], 5), normals(KEYS[1], 6), key=KEYS[2])


def cloud(mean, covariance):
    """Points whose sample mean and sample covariance are exactly these."""
    x = np.random.default_rng(0).normal(size=(50, len(mean)))
    x = x - x.mean(axis=0)
    white = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T
    return jnp.asarray(white @ np.linalg.cholesky(np.array(covariance)).T + np.array(mean))


def test_frechet_distance_of_two_gaussians():
    """|m - n|^2 + tr A + tr B - 2 tr (AB)^(1/2); in two dimensions tr X^(1/2) = sqrt(tr X + 2 sqrt(det X))."""
    a, b = np.array([[2.0, 0.6], [0.6, 1.0]]), np.array([[1.0, -0.4], [-0.4, 3.0]])  # they do not commute
    root = math.sqrt(np.trace(a @ b) + 2 * math.sqrt(np.linalg.det(a @ b)))
    expected = (1 + 4) + np.trace(a) + np.trace(b) - 2 * root
    assert metrics.frechet_distance(cloud([0.0, 0.0], a), cloud([1.0, 2.0], b)) == pytest.approx(expected)


def test_frechet_distance_of_a_cloud_to_itself_is_zero_even_when_it_is_flat():
    flat = jnp.concatenate([normals(KEYS[0], 30), jnp.zeros((30, 2))], axis=1)
    assert metrics.frechet_distance(flat, flat) == pytest.approx(0, abs=1e-7)


def data(n=500):
    return jax.vmap(gaussian().sample)(jax.random.split(KEYS[3], n))


def test_the_exact_map_has_no_residuals():
    exact = gaussian()
    residuals = metrics.residuals(exact, exact.velocity, data(), key=KEYS[4])
    assert list(residuals) == ["lagrangian_residual", "eulerian_residual", "compositional_residual"]
    assert max(residuals.values()) < 1e-12


def test_one_euler_step_breaks_all_three_rules():
    exact = gaussian()
    assert min(metrics.residuals(TangentMap(exact.velocity), exact.velocity, data(), key=KEYS[4]).values()) > 0.02


def test_a_map_that_stays_put_composes_but_ignores_the_velocity():
    """F = x: dF/dt - v and dF/ds + v are -v and v, here of length 2 sqrt 2."""
    still = AverageVelocityMap(lambda x, s, t: jnp.zeros_like(x))
    residuals = metrics.residuals(still, lambda x, t: 2 * jnp.ones_like(x), data(), key=KEYS[4])
    assert residuals["compositional_residual"] == 0
    assert residuals["lagrangian_residual"] == pytest.approx(8**0.5)
    assert residuals["eulerian_residual"] == pytest.approx(8**0.5)


def test_the_residuals_hold_the_velocity_at_the_right_end():
    """The Lagrangian rule asks at the target time, the Eulerian one at the source: s is 2/3 on average, t 1/3."""
    still = AverageVelocityMap(lambda x, s, t: jnp.zeros_like(x))
    residuals = metrics.residuals(still, lambda x, t: t * jnp.ones_like(x), data(20_000), key=KEYS[4])
    assert residuals["lagrangian_residual"] == pytest.approx((2 / 6) ** 0.5, rel=0.03)  # E t^2 = 1/6, two entries
    assert residuals["eulerian_residual"] == pytest.approx((2 / 2) ** 0.5, rel=0.03)  # E s^2 = 1/2


def test_the_histogram_divergence_of_a_half_filled_square_is_one_bit():
    """Real points fill half of what the samples fill, at twice the density: KL = log 2."""
    samples = jax.random.uniform(jax.random.key(0), (200_000, 2), minval=-1.0, maxval=1.0)
    real = samples.at[:, 0].set(jnp.abs(samples[:, 0]))
    assert metrics.histogram_kl(samples, real, bins=20, limit=1.0) == pytest.approx(0.693, abs=0.01)
    assert metrics.histogram_kl(samples, samples, bins=20, limit=1.0) == pytest.approx(0.0, abs=1e-9)


def test_samples_outside_the_histogram_are_lost_mass():
    real = jax.random.uniform(jax.random.key(0), (20_000, 2), minval=-1.0, maxval=1.0)
    half_outside = real.at[::2].add(10.0)
    assert metrics.histogram_kl(half_outside, real, bins=10, limit=1.0) == pytest.approx(0.693, abs=0.05)
