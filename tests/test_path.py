import jax
import jax.numpy as jnp
import pytest

from flowcore import path

X0, EPS = jnp.array([0.3, -1.2, 0.8]), jnp.array([1.1, 0.4, -0.5])
TIMES = [0.0, 0.01, 0.3, 0.5, 0.9, 0.99]


def test_the_path_ends_at_the_datum_and_at_the_noise():
    assert jnp.array_equal(path.interpolate(X0, EPS, 0.0), X0)
    assert jnp.array_equal(path.interpolate(X0, EPS, 1.0), EPS)


def test_the_conditional_velocity_is_the_derivative_of_the_path():
    _, slope = jax.jvp(lambda t: path.interpolate(X0, EPS, t), (0.3,), (1.0,))
    assert jnp.allclose(slope, path.conditional_velocity(X0, EPS), atol=1e-15)


@pytest.mark.parametrize("t", TIMES)
def test_edm_round_trip(t):
    x, back = path.edm_to_linear(*path.linear_to_edm(X0, t))
    assert jnp.allclose(x, X0, rtol=1e-12, atol=0)
    assert back == pytest.approx(t, abs=1e-12)


@pytest.mark.parametrize("std", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("t", [*TIMES, 1.0])
def test_trigflow_round_trip(t, std):
    x, back = path.trigflow_to_linear(*path.linear_to_trigflow(X0, t, std), std)
    assert jnp.allclose(x, X0, rtol=1e-12, atol=0)
    assert back == pytest.approx(t, abs=1e-12)


@pytest.mark.parametrize("t", [*TIMES, 1.0])
def test_vp_round_trip(t):
    x, back = path.vp_to_linear(*path.linear_to_vp(X0, t))
    assert jnp.allclose(x, X0, rtol=1e-12, atol=0)
    assert back == pytest.approx(t, abs=1e-12)


@pytest.mark.parametrize("t", TIMES)
def test_the_edm_point_is_datum_plus_sigma_noise(t):
    x, sigma = path.linear_to_edm(path.interpolate(X0, EPS, t), t)
    assert jnp.allclose(x, X0 + sigma * EPS, rtol=1e-12)


@pytest.mark.parametrize("t", [*TIMES, 1.0])
def test_the_trigflow_point_lies_on_the_circle_between_datum_and_scaled_noise(t):
    std = 0.5
    x, angle = path.linear_to_trigflow(path.interpolate(X0, EPS, t), t, std)
    assert jnp.allclose(x, jnp.cos(angle) * X0 + jnp.sin(angle) * std * EPS, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("t", [*TIMES, 1.0])
def test_the_vp_point_has_unit_coefficients(t):
    x, alpha, sigma = path.linear_to_vp(path.interpolate(X0, EPS, t), t)
    assert alpha**2 + sigma**2 == pytest.approx(1)
    assert jnp.allclose(x, alpha * X0 + sigma * EPS, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("sigma", "s"), [(80.0, 0.987654), (0.002, 0.001996), (0.821, 0.45085), (0.77569, 0.43684)])
def test_sigmas_of_the_literature(sigma, s):
    assert path.edm_to_linear(X0, sigma)[1] == pytest.approx(s, abs=5e-6 if sigma < 1 else 1e-6)


@pytest.mark.parametrize("angle", [0.0, 0.2, 0.8, 1.5])
def test_the_trigflow_clock_runs_at_std_over_kappa_squared(angle):
    """ds/dangle = std / kappa^2 with kappa = cos + std sin = 1 / sqrt((1-s)^2 + s^2/std^2)."""
    std = 0.5
    s, rate = jax.jvp(lambda a: path.trigflow_to_linear(X0, a, std)[1], (angle,), (1.0,))
    kappa = jnp.cos(angle) + std * jnp.sin(angle)
    assert rate == pytest.approx(float(std / kappa**2), rel=1e-12)
    assert kappa == pytest.approx(float(((1 - s) ** 2 + s**2 / std**2) ** -0.5), rel=1e-12)


def test_the_trigflow_angle_is_that_of_sigma():
    _, angle = path.linear_to_trigflow(X0, 0.75, 0.5)
    assert angle == pytest.approx(float(jnp.arctan(3.0 / 0.5)))  # sigma = 0.75 / 0.25
