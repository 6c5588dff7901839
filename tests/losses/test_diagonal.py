import jax
import jax.numpy as jnp
from problems import disturbed, gaussian, gradient, z_scores

from flowcore import Objective, Term, flow_matching, squared, times


def test_the_sides_are_the_velocity_of_the_model_and_of_the_source():
    x, exact = jnp.array([0.4, -1.1]), gaussian()
    left, right = flow_matching(exact, x, 0.7, 0.7, v=lambda x, t: t * x, target=None)
    assert jnp.array_equal(left, exact.velocity(x, 0.7))
    assert jnp.array_equal(right, 0.7 * x)


def test_the_target_time_is_not_read():
    x, exact = jnp.array([0.4, -1.1]), gaussian()
    here, there = (flow_matching(exact, x, 0.7, t, v=exact.velocity, target=None) for t in (0.7, 0.1))
    assert jnp.array_equal(jnp.stack(here), jnp.stack(there))


def test_the_velocity_source_gets_no_gradient_through_the_model_argument():
    """v comes from a trusted copy: 2 (V - v) dV, and nothing of dv."""
    x, model, other = jnp.array([0.4, -1.1]), disturbed(gaussian(), 0.2), disturbed(gaussian())
    residual = model.velocity(x, 0.7) - other.velocity(x, 0.7)
    ours = gradient(lambda m: squared(*flow_matching(m, x, 0.7, 0.7, v=other.velocity, target=other)), model)
    by_hand = gradient(lambda m: 2 * jnp.vdot(residual, m.velocity(x, 0.7)), model)
    assert jnp.linalg.norm(by_hand) > 0
    assert jnp.allclose(ours, by_hand, rtol=1e-12, atol=1e-14)


def test_the_reversed_velocity_is_far_from_stationary():
    """The negative control of the z-score in test_methods: x0 - eps in place of eps - x0."""

    def reverse(context):
        return lambda x, t: context.x0 - context.eps

    z = z_scores(Objective((Term(flow_matching, times.diagonal(), velocity=reverse),)), gaussian(), batches=500)
    assert jnp.max(jnp.abs(z)) > 8


def test_it_is_stationary_at_the_end_points_of_time():
    exact = gaussian()
    for s in (0.0, 1.0):
        x = jax.random.normal(jax.random.key(0), (2,))
        left, right = flow_matching(disturbed(exact), x, s, s, v=exact.velocity, target=None)
        assert jnp.allclose(left, right, atol=1e-14)
