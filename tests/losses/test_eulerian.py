"""MeanFlow: what it equals, and that the ways to get it wrong are seen."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import pytest
from jax.lax import stop_gradient
from problems import disturbed, gaussian, gradient, small_net, z_scores

from flowcore import (
    AverageVelocityMap,
    DenoisedMap,
    EndpointMap,
    Objective,
    TangentMap,
    Term,
    ayf_emd,
    conditional,
    flow_matching,
    improved_mean_flow,
    mean_flow,
    methods,
    squared,
    teacher_velocity,
    times,
)
from flowcore.calculus import along, d_ds, difference_along


def wrong_sign(model, x, s, t, *, v, target):
    V, dV_ds = along(v(x, s))(model.average_velocity)(x, s, t)
    return V, stop_gradient(v(x, s) - (t - s) * dV_ds)


def tangent_without_time(model, x, s, t, *, v, target):
    """Tangent (v, 0): only the point moves."""
    V, dV = jax.jvp(lambda x: model.average_velocity(x, s, t), (x,), (v(x, s),))
    return V, stop_gradient(v(x, s) + (t - s) * dV)


def tangent_without_point(model, x, s, t, *, v, target):
    """Tangent (0, 1): only the time runs."""
    V, dV_ds = d_ds(model.average_velocity)(x, s, t)
    return V, stop_gradient(v(x, s) + (t - s) * dV_ds)


def velocity_at_the_target_time(model, x, s, t, *, v, target):
    V, dV_ds = along(v(x, t))(model.average_velocity)(x, s, t)
    return V, stop_gradient(v(x, t) + (t - s) * dV_ds)


def velocity_at_the_endpoint(model, x, s, t, *, v, target):
    v_end = v(model(x, s, t), t)
    V, dV_ds = along(v_end)(model.average_velocity)(x, s, t)
    return V, stop_gradient(v_end + (t - s) * dV_ds)


def without_stop_gradient(model, x, s, t, *, v, target):
    V, dV_ds = along(v(x, s))(model.average_velocity)(x, s, t)
    return V, v(x, s) + (t - s) * dV_ds


WRONG = [
    wrong_sign,
    tangent_without_time,
    tangent_without_point,
    velocity_at_the_target_time,
    velocity_at_the_endpoint,
]


def loss_gradient(equality, model, velocity=teacher_velocity):
    """Gradient of the loss on a fixed batch: two equalities with equal gradients here are the same method."""
    exact = gaussian()
    x0 = jax.vmap(exact.sample)(jax.random.split(jax.random.key(1), 64))
    loss = Objective((Term(equality, times.ordered(), velocity=velocity),))
    return gradient(lambda m: loss(m, x0, target=model, teacher=exact, key=jax.random.key(2))[0], model)


def at_times(equality, model, s, t):
    """(values, gradients) of the squared distance at one point and several times, with the conditional velocity."""
    x, c = jnp.array([0.4, -1.1]), jnp.array([0.9, 0.2])

    @eqx.filter_jit
    @jax.vmap
    def both(s, t):
        def loss(m):
            return squared(*equality(m, x, s, t, v=lambda x, t: c, target=model))

        value, slope = eqx.filter_value_and_grad(loss)(model)
        return value, jax.flatten_util.ravel_pytree(slope)[0]

    return both(s, t)


@pytest.mark.parametrize("equality", WRONG, ids=lambda f: f.__name__)
def test_a_wrong_variant_is_not_stationary_at_the_exact_map(equality):
    assert jnp.linalg.norm(loss_gradient(equality, disturbed(gaussian()))) > 1e-2


def test_the_right_one_is():
    """On the same batch, so that the bound above is one between right and wrong."""
    assert jnp.linalg.norm(loss_gradient(mean_flow, disturbed(gaussian()))) < 1e-12


def test_without_stop_gradient_the_exact_map_is_stationary_too():
    """With the true velocity both sides agree there, so the gradient vanishes whichever way it flows."""
    assert jnp.linalg.norm(loss_gradient(without_stop_gradient, disturbed(gaussian()))) < 1e-12


def test_the_stop_gradient_changes_the_gradient_away_from_the_exact_map():
    model = disturbed(gaussian(), offset=0.1)
    ours, other = loss_gradient(mean_flow, model), loss_gradient(without_stop_gradient, model)
    assert jnp.linalg.norm(ours - other) > 0.05 * jnp.linalg.norm(ours)


def test_without_stop_gradient_the_conditional_velocity_is_biased():
    """The negative control of the z-score in test_methods: the noise of eps - x0 enters squared."""
    z = z_scores(Objective((Term(without_stop_gradient, times.ordered(), velocity=conditional),)), gaussian())
    assert jnp.max(jnp.abs(z)) > 8


def test_the_gradient_is_that_of_the_swapped_form():
    """grad MF = grad |V + (s-t) sg[D_c V] - c|^2: all that improved MeanFlow changes is the tangent."""
    model = AverageVelocityMap(small_net())
    ours, theirs = (loss_gradient(equality, model, conditional) for equality in (mean_flow, swapped))
    assert jnp.linalg.norm(ours) > 0.1
    assert jnp.max(jnp.abs(ours - theirs)) < 1e-12 * jnp.linalg.norm(ours)


@pytest.mark.parametrize("output", [AverageVelocityMap, EndpointMap, DenoisedMap])
def test_on_the_diagonal_it_is_flow_matching(output):
    model, time = output(small_net()), jnp.array([0.0, 0.3, 1.0])
    value, slope = at_times(mean_flow, model, time, time)
    value_fm, slope_fm = at_times(flow_matching, model, time, time)
    assert jnp.allclose(value, value_fm, rtol=1e-12)
    assert jnp.allclose(slope, slope_fm, rtol=1e-12, atol=1e-12)


def test_it_is_the_limit_of_its_finite_difference_twin():
    def twin(step):
        def equality(model, x, s, t, *, v, target):
            V, dV_ds = difference_along(v(x, s), step)(model.average_velocity)(x, s, t)
            return V, stop_gradient(v(x, s) + (t - s) * dV_ds)

        return equality

    model = AverageVelocityMap(small_net())
    ours = loss_gradient(mean_flow, model)
    coarse, fine = (jnp.linalg.norm(loss_gradient(twin(step), model) - ours) for step in (2e-3, 1e-3))
    assert fine < 1e-4 * jnp.linalg.norm(ours)
    assert coarse / fine == pytest.approx(4, rel=0.02)  # second order


@pytest.mark.parametrize("output", [AverageVelocityMap, EndpointMap, DenoisedMap])
def test_value_and_gradient_are_finite_at_the_corners_of_the_triangle(output):
    s, t = jnp.array([(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (1.0, 0.0), (1e-9, 0.0)]).T
    value, slope = at_times(mean_flow, output(small_net()), s, t)
    assert jnp.all(jnp.isfinite(value))
    assert jnp.all(jnp.isfinite(slope))


# --- improved MeanFlow ----------------------------------------------------------------------------------------------


def swapped(model, x, s, t, *, v, target):
    """MeanFlow solved for v, its tangent still the v that is given."""
    V, dV_ds = along(v(x, s))(model.average_velocity)(x, s, t)
    return V + (s - t) * stop_gradient(dV_ds), v(x, s)


def swapped_without_stop_gradient(model, x, s, t, *, v, target):
    V, dV_ds = along(v(x, s))(model.average_velocity)(x, s, t)
    return V + (s - t) * dV_ds, v(x, s)


def improved_without_stop_gradient(model, x, s, t, *, v, target):
    """Improved MeanFlow, the live model's derivative and velocity differentiated too."""
    V, dV_ds = along(model.velocity(x, s))(model.average_velocity)(x, s, t)
    return V + (s - t) * dV_ds, v(x, s)


def survey_sign(model, x, s, t, *, v, target):
    """Improved MeanFlow as the survey prints it."""
    V, dV_ds = along(target.velocity(x, s))(model.average_velocity)(x, s, t)
    return V + (t - s) * stop_gradient(dV_ds), v(x, s)


def test_improved_mean_flow_with_the_given_velocity_as_tangent_is_the_swapped_form():
    model, x, c = AverageVelocityMap(small_net()), jnp.array([0.4, -1.1]), jnp.array([0.9, 0.2])
    ours = improved_mean_flow(model, x, 0.8, 0.1, v=lambda x, t: c, target=TangentMap(lambda x, t: c))
    theirs = swapped(model, x, 0.8, 0.1, v=lambda x, t: c, target=None)
    assert all(jnp.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_without_stop_gradients_mean_flow_and_its_swapped_form_are_one_loss():
    model = AverageVelocityMap(small_net())
    equalities = (without_stop_gradient, swapped_without_stop_gradient)
    one, other = (loss_gradient(equality, model, conditional) for equality in equalities)
    assert jnp.max(jnp.abs(one - other)) < 1e-12 * jnp.linalg.norm(one)


def test_improved_mean_flow_needs_no_stop_gradient():
    """Its own tangent knows nothing of the noise: unbiased, where MeanFlow without its stop is not (above)."""
    loss = Objective((Term(improved_without_stop_gradient, times.ordered(), velocity=conditional),))
    assert jnp.max(jnp.abs(z_scores(loss, gaussian(), batches=1000))) < 4


def test_the_surveys_sign_of_improved_mean_flow_is_not_stationary_at_the_exact_map():
    exact = disturbed(gaussian())
    assert jnp.linalg.norm(loss_gradient(improved_mean_flow, exact)) < 1e-12
    assert jnp.linalg.norm(loss_gradient(survey_sign, exact)) > 1e-2


def test_the_target_map_is_not_read():
    """MeanFlow trusts the live model's own derivative."""
    x, v = jnp.array([0.4, -1.1]), gaussian().velocity
    left, right = mean_flow(gaussian(), x, 0.8, 0.1, v=v, target=None)
    assert jnp.allclose(left, right, atol=1e-12)


# --- Align Your Flow ------------------------------------------------------------------------------------------------


def tangent(warmup=1.0, **settings):
    """Of ayf_emd at a point in the middle of a jump, and of MeanFlow there."""
    model, x, exact = AverageVelocityMap(small_net()), jnp.array([0.4, -1.1]), gaussian()
    point = {"v": exact.velocity, "target": None}
    left, right = ayf_emd(model, x, 0.8, 0.1, warmup=warmup, **settings, **point)
    V, target = mean_flow(model, x, 0.8, 0.1, **point)
    return right - left, target - V, exact.velocity(x, 0.8) - V


def test_ayf_emd_has_mean_flows_tangent_made_short():
    """The same direction, of length |g| / (|g| + c): at t = 0 it is continuous-time consistency distillation's."""
    ours, residual, _ = tangent()
    size = jnp.linalg.norm(residual)
    assert size > 0.1
    assert jnp.allclose(ours, residual / (size + 0.1), rtol=1e-13)


def test_before_the_warmup_ayf_emd_is_the_pull_of_flow_matching():
    ours, _, pull = tangent(warmup=0.0)
    assert jnp.allclose(ours, pull / (jnp.linalg.norm(pull) + 0.1), rtol=1e-13)


def test_on_the_diagonal_ayf_emd_is_flow_matching_of_bounded_gradient():
    model, x, exact = AverageVelocityMap(small_net()), jnp.array([0.4, -1.1]), gaussian()

    def slope(equality):
        def value(m):
            return squared(*equality(m, x, 0.6, 0.6, v=exact.velocity, target=m))

        return gradient(value, model)

    pull = jnp.linalg.norm(exact.velocity(x, 0.6) - model.velocity(x, 0.6))
    assert jnp.allclose(slope(ayf_emd), slope(flow_matching) / (pull + 0.1), rtol=1e-11)


def test_the_warmup_reaches_the_equality_with_the_progress():
    model, x0 = AverageVelocityMap(small_net()), jnp.ones((8, 2))
    loss = Objective(methods.ayf_emd_terms())

    def value(progress):
        return loss(model, x0, target=model, teacher=gaussian(), progress=progress, key=jax.random.key(0))[0]

    assert value(0.0) != value(0.1) != value(0.2) == value(1.0)


def test_a_warmup_that_stops_short_of_one_leaves_a_pull_at_the_exact_map():
    """r = 0.99, where the paper's ends: what is left is 1 % of (t - s) dV/ds, and normalising magnifies it."""
    exact, x = gaussian(), jnp.array([0.4, -1.1])
    for warmup, least, most in [(1.0, 0.0, 1e-12), (0.99, 1e-3, 1.0)]:
        left, right = ayf_emd(disturbed(exact), x, 0.9, 0.1, v=exact.velocity, target=None, warmup=warmup)
        assert least <= jnp.linalg.norm(right - left) < most
