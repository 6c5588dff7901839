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


@pytest.mark.parametrize(("s", "t"), [(0.0, 0.0), (0.0, 0.4), (0.3, 0.7), (0.002, 0.9), (0.6, 1.0)])
def test_renoising_makes_x_s_an_x_t(s, t):
    """In x0, eps and the fresh noise it is linear: x0 gets 1 - t, and the squares of the noises add up to t^2."""
    of_data = path.renoise(path.interpolate(jnp.ones(1), jnp.zeros(1), s), s, t, jnp.zeros(1))
    of_old = path.renoise(path.interpolate(jnp.zeros(1), jnp.ones(1), s), s, t, jnp.zeros(1))
    of_new = path.renoise(jnp.zeros(1), s, t, jnp.ones(1))
    assert of_data[0] == pytest.approx(1 - t, abs=1e-15)
    assert of_old[0] ** 2 + of_new[0] ** 2 == pytest.approx(t**2, abs=1e-15)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_renoising_by_nothing_changes_nothing(dtype):
    s = jnp.linspace(0.0, 0.99, 100, dtype=dtype)
    again = jax.vmap(lambda s: path.renoise(X0.astype(dtype), s, s, EPS.astype(dtype)))(s)
    assert jnp.array_equal(again, jnp.broadcast_to(X0.astype(dtype), (100, 3)))


def test_renoising_in_two_parts_is_renoising_at_once():
    """From .2 by .5 to .8: the same share of x, the same variance of fresh noise."""

    def by_half(x, first, second):
        return path.renoise(path.renoise(x, 0.2, 0.5, first), 0.5, 0.8, second)

    zero, one = jnp.zeros(1), jnp.ones(1)
    assert jnp.allclose(by_half(one, zero, zero), path.renoise(one, 0.2, 0.8, zero), rtol=1e-14)
    parts = by_half(zero, one, zero) ** 2 + by_half(zero, zero, one) ** 2
    assert jnp.allclose(parts, path.renoise(zero, 0.2, 0.8, one) ** 2, rtol=1e-14)


@pytest.mark.parametrize("std", [0.5, 1.0])
@pytest.mark.parametrize("t", TIMES)
def test_an_edm_network_denoises_to_x_minus_t_v(t, std):
    """Its preconditioning as in table 1 of the paper, and its output that of the dictionary."""
    V = EPS
    noisy, sigma = path.linear_to_edm(X0, t)
    c_skip, c_out = std**2 / (sigma**2 + std**2), sigma * std / jnp.sqrt(sigma**2 + std**2)
    output = path.velocity_to_edm(V, X0, t, std)
    assert jnp.allclose(c_skip * noisy + c_out * output, X0 - t * V, rtol=1e-12, atol=1e-12)
    assert jnp.allclose(path.edm_to_velocity(output, X0, t, std), V, rtol=1e-11)


@pytest.mark.parametrize("std", [0.5, 1.0])
@pytest.mark.parametrize("t", [*TIMES, 1.0])
def test_a_trigflow_network_denoises_to_x_minus_t_v(t, std):
    V = EPS
    turned, angle = path.linear_to_trigflow(X0, t, std)
    output = path.velocity_to_trigflow(V, X0, t, std)
    assert jnp.allclose(jnp.cos(angle) * turned - jnp.sin(angle) * std * output, X0 - t * V, rtol=1e-12, atol=1e-12)
    assert jnp.allclose(path.trigflow_to_velocity(output, X0, t, std), V, rtol=1e-12)


def test_a_trigflow_network_is_an_edm_network_of_the_other_sign():
    """The same numbers: F_trig = -net. Reference: Lu & Song 2024, appendix A."""
    for t in TIMES:
        assert jnp.allclose(
            path.velocity_to_trigflow(EPS, X0, t, 0.5), -path.velocity_to_edm(EPS, X0, t, 0.5), rtol=1e-11
        )


def test_a_trigflow_output_that_is_the_velocity_of_its_path_is_the_velocity_of_ours():
    """std F = cos(a) z - sin(a) x0, z = std eps, if and only if V = eps - x0."""
    for t in (0.1, 0.5, 1.0):
        x = path.interpolate(X0, EPS, t)
        _, angle = path.linear_to_trigflow(x, t, 0.5)
        output = path.velocity_to_trigflow(path.conditional_velocity(X0, EPS), x, t, 0.5)
        assert jnp.allclose(0.5 * output, jnp.cos(angle) * 0.5 * EPS - jnp.sin(angle) * X0, rtol=1e-12)
