"""The ground truth of every other test, held against definitions that share no code with it."""

import jax
import jax.numpy as jnp
import pytest
from jax.scipy.stats import norm
from problems import gaussian

from flowcore import GaussianMap, MixtureMap, OdeMap, checkerboard, metrics, ring, sample
from flowcore.calculus import along, d_dt

X = jnp.array([0.7, -0.4])
PAIRS = jnp.array([(1.0, 0.0), (0.9, 0.2), (0.5, 0.4), (0.1, 0.0), (0.2, 0.9)])


def at_pairs(function):
    """function(s, t) at all the pairs of times, in one compiled call."""
    return jax.jit(jax.vmap(function))(*PAIRS.T)


def mixture(tolerance=1e-10):
    return MixtureMap(jnp.array([[1.0, 0.0], [-0.5, 0.8], [0.2, -1.0]]), 0.3, tolerance)


MAPS = {"gaussian": (gaussian(), 1e-10), "mixture": (mixture(), 1e-7)}  # a solve's derivatives are looser than it
maps = pytest.mark.parametrize("name", MAPS)


def test_the_gaussian_map_is_the_solution_of_its_ode():
    solved = OdeMap(gaussian().velocity, 1e-10)
    assert jnp.max(jnp.abs(at_pairs(lambda s, t: gaussian()(X, s, t) - solved(X, s, t)))) < 1e-9


@maps
def test_lagrangian_residual(name):
    """dF/dt = v(F, t)."""
    flow_map, tolerance = MAPS[name]

    def residual(s, t):
        end, slope = d_dt(flow_map)(X, s, t)
        return slope - flow_map.velocity(end, t)

    assert jnp.max(jnp.abs(at_pairs(residual))) < tolerance


@maps
def test_eulerian_residual(name):
    """dF/ds + (grad_x F) v = 0."""
    flow_map, tolerance = MAPS[name]
    drift = at_pairs(lambda s, t: along(flow_map.velocity(X, s))(flow_map)(X, s, t)[1])
    assert jnp.max(jnp.abs(drift)) < tolerance


@maps
def test_semigroup_residual(name):
    """F(F(x, s, u), u, t) = F(x, s, t)."""
    flow_map, tolerance = MAPS[name]

    def residual(s, t):
        u = 0.7 * s + 0.3 * t
        return flow_map(flow_map(X, s, u), u, t) - flow_map(X, s, t)

    assert jnp.max(jnp.abs(at_pairs(residual))) < tolerance


@maps
def test_a_flow_map_is_undone_by_its_reverse(name):
    flow_map, tolerance = MAPS[name]
    assert jnp.max(jnp.abs(at_pairs(lambda s, t: flow_map(flow_map(X, s, t), t, s) - X))) < tolerance


def test_the_gaussian_map_of_noise_is_the_datum_of_the_same_quantile():
    eps = jax.random.normal(jax.random.key(0), (50, 2))
    exact = gaussian()
    mapped = sample.generate(exact, eps, 1)
    assert jnp.allclose(mapped, exact.mean[None] + 0.6 * eps, atol=1e-12)


@pytest.mark.parametrize("t", [0.05, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("x", [-1.5, 0.1, 0.9])
def test_the_mixtures_velocity_is_the_conditional_expectation(x, t):
    """v(x, t) = E[eps - x0 | x_t = x] = E[(x - x0) / t | x_t = x], by quadrature over x0."""
    means, std = jnp.array([[-1.0], [0.6]]), 0.35
    grid = jnp.linspace(-6.0, 6.0, 20_001)
    prior = norm.pdf(grid, means[0, 0], std) + norm.pdf(grid, means[1, 0], std)
    posterior = prior * norm.pdf(x, (1 - t) * grid, t)
    expected = jnp.sum(posterior * (x - grid) / t) / jnp.sum(posterior)
    assert MixtureMap(means, std).velocity(jnp.array([x]), t)[0] == pytest.approx(float(expected), rel=1e-9)


def test_in_one_dimension_the_mixtures_map_keeps_quantiles():
    """The flow is monotone there, so P(x_s < x) = P(x_t < F(x, s, t))."""
    means, std = jnp.array([[-1.0], [0.6]]), 0.35

    def quantile(x, t):
        spread = jnp.sqrt((1 - t) ** 2 * std**2 + t**2)
        return jnp.mean(norm.cdf((x - (1 - t) * means[:, 0]) / spread))

    flow_map = MixtureMap(means, std, 1e-10)
    for x in (-1.5, 0.1, 0.9):
        moved = at_pairs(lambda s, t, x=x: quantile(flow_map(jnp.array([x]), s, t)[0], t) - quantile(x, s))
        assert jnp.max(jnp.abs(moved)) < 1e-8


def test_a_mixture_of_one_mode_is_the_gaussian():
    exact = gaussian()
    one = MixtureMap(exact.mean[None], exact.std, 1e-10)
    assert jnp.allclose(one.velocity(X, 0.3), exact.velocity(X, 0.3), rtol=1e-13)
    assert jnp.max(jnp.abs(at_pairs(lambda s, t: one(X, s, t) - exact(X, s, t)))) < 1e-8


@maps
@pytest.mark.parametrize("t", [0.0, 1.0])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_velocity_is_finite_at_both_ends_even_far_out(name, t, scale):
    assert jnp.all(jnp.isfinite(MAPS[name][0].velocity(scale * X, t)))


@maps
def test_at_pure_noise_the_velocity_points_away_from_the_mean(name):
    """At t = 1 nothing is known of x0: v = x - E[x0]."""
    flow_map = MAPS[name][0]
    mean = flow_map.mean if name == "gaussian" else jnp.mean(flow_map.means, axis=0)
    assert jnp.allclose(flow_map.velocity(X, 1.0), X - mean, rtol=1e-12)


@maps
def test_at_the_data_the_velocity_points_away_from_them(name):
    """At t = 0 x0 is known and eps is not: v = -x."""
    assert jnp.allclose(MAPS[name][0].velocity(X, 0.0), -X, rtol=1e-12)


@maps
def test_samples_have_the_moments_of_the_data(name):
    flow_map, n = MAPS[name][0], 40_000
    drawn = jax.vmap(flow_map.sample)(jax.random.split(jax.random.key(1), n))
    if name == "gaussian":
        mean, variance = flow_map.mean, jnp.full(2, flow_map.std**2)
    else:
        mean, variance = jnp.mean(flow_map.means, axis=0), flow_map.std**2 + jnp.var(flow_map.means, axis=0)
    error = jnp.sqrt(variance / n)
    assert jnp.all(jnp.abs(jnp.mean(drawn, axis=0) - mean) < 4 * error)
    assert jnp.allclose(jnp.var(drawn, axis=0), variance, rtol=0.04)


def test_the_mixtures_map_carries_noise_to_the_data():
    flow_map = mixture(1e-5)
    noise = jax.random.normal(jax.random.key(2), (500, 2))
    data = jax.vmap(flow_map.sample)(jax.random.split(jax.random.key(3), 500))
    assert metrics.energy_distance(sample.generate(flow_map, noise, 1), data) < 0.015
    assert metrics.energy_distance(noise, data) > 0.05


def test_the_ring_is_even_and_of_its_radius():
    task = ring(modes=6, radius=2.0, std=0.1)
    assert task.means.shape == (6, 2)
    assert jnp.allclose(jnp.linalg.norm(task.means, axis=1), 2.0)
    assert jnp.allclose(jnp.linalg.norm(task.means - jnp.roll(task.means, 1, axis=0), axis=1), 2.0)  # a hexagon


def test_a_gaussian_of_images_is_a_gaussian_per_pixel():
    image = jnp.linspace(0.0, 1.0, 12).reshape(2, 2, 3)
    jumped = GaussianMap(jnp.zeros((2, 2, 3)), 0.6)(image, 1.0, 0.0)
    assert jnp.allclose(jumped, 0.6 * image, atol=1e-14)


def test_the_checkerboard_fills_every_second_square_evenly():
    points = jax.vmap(checkerboard)(jax.random.split(jax.random.key(0), 8000))
    assert jnp.max(jnp.abs(points)) <= 1
    cell = jnp.clip(((points + 1) * 2).astype(int), 0, 3)
    assert jnp.all(cell.sum(axis=1) % 2 == 0)
    counts = jnp.bincount(cell[:, 0] * 4 + cell[:, 1], length=16)
    filled = counts[counts > 0]
    assert filled.size == 8
    assert jnp.all(jnp.abs(filled - 1000) < 150)
