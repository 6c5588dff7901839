import jax
import jax.numpy as jnp
import pytest
from problems import gaussian

from flowcore import TangentMap, sample, times

X = jnp.array([0.7, -0.4])


@pytest.mark.parametrize("steps", [1, 2, 5, 16])
def test_on_the_exact_map_any_number_of_steps_ends_at_the_same_point(steps):
    exact = gaussian()
    assert jnp.allclose(sample.jump(exact, X, times.equal_steps(steps)), exact(X, 1.0, 0.0), atol=1e-13)


def test_on_the_exact_map_any_times_do():
    exact = gaussian()
    assert jnp.allclose(sample.jump(exact, X, jnp.array([1.0, 0.93, 0.4, 0.39, 0.0])), exact(X, 1.0, 0.0), atol=1e-13)


def test_rising_times_invert():
    exact, fall = gaussian(), times.equal_steps(4)
    assert jnp.allclose(sample.jump(exact, sample.jump(exact, X, fall), fall[::-1]), X, atol=1e-13)


def test_with_the_tangent_map_the_jumps_are_euler_steps():
    v, x = gaussian().velocity, X
    for s, t in [(1.0, 0.5), (0.5, 0.25), (0.25, 0.0)]:
        x = x + (t - s) * v(x, s)
    jumped = sample.jump(TangentMap(v), X, jnp.array([1.0, 0.5, 0.25, 0.0]))
    assert jnp.allclose(jumped, x, rtol=1e-13)


def test_euler_converges_to_the_exact_map_at_first_order():
    exact = gaussian()

    def error(steps):
        euler = sample.jump(TangentMap(exact.velocity), X, times.equal_steps(steps))
        return jnp.linalg.norm(euler - exact(X, 1.0, 0.0))

    assert error(256) / error(512) == pytest.approx(2, rel=0.05)


def test_generate_carries_each_row_by_itself():
    noise = jax.random.normal(jax.random.key(0), (5, 2))
    batch = sample.generate(TangentMap(gaussian().velocity), noise, 3)
    rows = [sample.jump(TangentMap(gaussian().velocity), row, times.equal_steps(3)) for row in noise]
    assert jnp.allclose(batch, jnp.stack(rows), rtol=1e-12)


def test_generate_takes_another_sampler():
    noise = jax.random.normal(jax.random.key(0), (5, 2))
    counted = sample.generate(gaussian(), noise, 3, lambda model, x, times, key: x + times.shape[0])
    assert jnp.array_equal(counted, noise + 4)
