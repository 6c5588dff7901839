import jax
import jax.numpy as jnp
import pytest
from problems import small_net

from flowcore import AverageVelocityMap
from flowcore.calculus import along, d_ds, d_dt, difference_along, difference_ds, difference_dt

X, V = jnp.array([0.7, -0.4]), jnp.array([1.3, 0.6])
S, T = 0.8, 0.3


def polynomial(x, s, t):
    return x**2 * s**3 + x * s * t**2


KNOWN = {
    "d_dt": (d_dt, 2 * X * S * T),
    "d_ds": (d_ds, 3 * X**2 * S**2 + X * T**2),
    "along": (along(V), 3 * X**2 * S**2 + X * T**2 + (2 * X * S**3 + S * T**2) * V),
}
TWINS = {"d_dt": (d_dt, difference_dt), "d_ds": (d_ds, difference_ds)}
TWINS["along"] = (along(V), lambda f, step: difference_along(V, step)(f))


@pytest.mark.parametrize("name", KNOWN)
def test_the_derivative_of_a_polynomial_in_closed_form(name):
    transform, expected = KNOWN[name]
    value, slope = transform(polynomial)(X, S, T)
    assert jnp.allclose(value, polynomial(X, S, T), rtol=1e-15)
    assert jnp.allclose(slope, expected, rtol=1e-14)


@pytest.mark.parametrize("name", TWINS)
def test_the_difference_twin_converges_at_second_order(name):
    derivative, difference = TWINS[name]
    net = AverageVelocityMap(small_net())
    value, slope = derivative(net)(X, S, T)

    def error(step):
        twin_value, twin = difference(net, step)(X, S, T)
        assert jnp.array_equal(twin_value, value)
        return jnp.max(jnp.abs(twin - slope))

    assert error(1e-4) < 1e-5 * jnp.max(jnp.abs(slope))
    assert error(2e-3) / error(1e-3) == pytest.approx(4, rel=0.02)


def test_along_is_the_partial_derivative_plus_the_jacobian_times_v():
    net = small_net()
    jacobian = jax.jacfwd(lambda x: net(x, S, T))(X)
    assert jnp.allclose(along(V)(net)(X, S, T)[1], d_ds(net)(X, S, T)[1] + jacobian @ V, rtol=1e-12)


@pytest.mark.parametrize("name", KNOWN)
def test_arrays_and_python_floats_are_the_same_times(name):
    transform, _ = KNOWN[name]
    net = small_net()
    floats, arrays = transform(net)(X, S, T), transform(net)(X, jnp.asarray(S), jnp.asarray(T))
    assert jnp.allclose(jnp.stack(floats), jnp.stack(arrays), rtol=1e-14)


@pytest.mark.parametrize("name", KNOWN)
def test_derivatives_of_single_precision_stay_in_single_precision(name):
    """A float64 that slips in doubles the memory of every JVP."""
    transform, _ = KNOWN[name]
    if name == "along":
        transform = along(V.astype(jnp.float32))
    value, slope = transform(polynomial)(X.astype(jnp.float32), S, T)
    assert value.dtype == slope.dtype == jnp.float32
