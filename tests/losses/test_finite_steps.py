"""The equalities that take a finite step, and FACM: what they equal, and that the ways to get them wrong are seen."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jax.lax import stop_gradient
from problems import disturbed, gaussian, gradient, small_net, z_scores

from flowcore import (
    AverageVelocityMap,
    Objective,
    TangentMap,
    Term,
    conditional,
    ct,
    ctm,
    facm,
    mean_flow,
    schedules,
    soflow,
    squared,
    teacher_velocity,
    times,
)
from flowcore.calculus import along
from flowcore.path import linear_to_trigflow, trigflow_to_linear, velocity_to_edm, velocity_to_trigflow

X, C = jnp.array([0.4, -1.1]), jnp.array([0.9, 0.2])


def c(x, t):
    """A velocity that is the same everywhere, as that of one datum and one noise is."""
    return C


# --- the wrong variants ----------------------------------------------------------------------------------------------


def ct_target_at_the_sources_time(model, x, s, u, t, *, v, target, solver):
    return model(x, s, t), target(solver(v)(x, s, u), s, t)


def ct_target_at_the_sources_point(model, x, s, u, t, *, v, target, solver):
    return model(x, s, t), target(x, u, t)


def ct_step_towards_the_noise(model, x, s, u, t, *, v, target, solver):
    return model(x, s, t), target(solver(v)(x, s, 2 * s - u), u, t)


def ctm_second_jump_from_the_sources_time(model, x, s, u, t, *, v, target, solver):
    return target(model(x, s, t), t, 0.0), target(model(solver(v)(x, s, u), s, t), t, 0.0)


def ctm_outer_jump_on_one_side_only(model, x, s, u, t, *, v, target, solver):
    return target(model(x, s, t), t, 0.0), model(solver(v)(x, s, u), u, t)


def soflow_whole_jump_in_the_correction(model, x, s, u, t, *, v, target, solver, lever=lambda s, u, t: t - s, sign=1):
    v_step = solver(v).average_velocity(x, s, u)
    V, V_u = model.average_velocity(x, s, t), target.average_velocity(x + (u - s) * v_step, u, t)
    return V, v_step + sign * lever(s, u, t) * (V - V_u) / (s - u)


def soflow_wrong_sign(model, x, s, u, t, **rest):
    return soflow_whole_jump_in_the_correction(model, x, s, u, t, **rest, lever=lambda s, u, t: t - u, sign=-1)


def soflow_point_left_behind(model, x, s, u, t, *, v, target, solver):
    V, V_u = model.average_velocity(x, s, t), target.average_velocity(x, u, t)
    return V, solver(v).average_velocity(x, s, u) + (t - u) * (V - V_u) / (s - u)


def facm_residual(model, x, s, t, *, v, target, solver, sign=1, velocity_at=None):
    v_x = v(x, s if velocity_at is None else velocity_at)
    V, dV_ds = along(v_x)(model.average_velocity)(x, s, t)
    return V, V + (1 - jnp.sqrt(1 - s)) * jnp.clip(v_x + sign * (t - s) * dV_ds - V, -1.0, 1.0)


def facm_wrong_sign(model, x, s, t, **rest):
    return facm_residual(model, x, s, t, **rest, sign=-1)


def facm_velocity_at_the_data(model, x, s, t, **rest):
    return facm_residual(model, x, s, t, **rest, velocity_at=t)


RIGHT = [ct, ctm, soflow, facm]
WRONG = [
    ct_target_at_the_sources_time,
    ct_target_at_the_sources_point,
    ct_step_towards_the_noise,
    ctm_second_jump_from_the_sources_time,
    ctm_outer_jump_on_one_side_only,
    soflow_whole_jump_in_the_correction,
    soflow_wrong_sign,
    soflow_point_left_behind,
    facm_wrong_sign,
    facm_velocity_at_the_data,
]


def gap(equality):
    """How far the sides are apart at the exact map, its own solver, over many points and times."""
    exact, continuous = gaussian(), equality.__name__.startswith("facm")
    solver = {} if equality is facm else {"solver": lambda v: exact}
    law = times.to_data() if continuous else times.split(times.ordered(), times.uniform)
    drawn = law(jax.random.key(1), 64, 0.0)
    x = 1.5 * jax.random.normal(jax.random.key(2), (64, 2))

    @jax.jit
    @jax.vmap
    def difference(x, *times):
        left, right = equality(exact, x, *times, v=exact.velocity, target=exact, **solver)
        return left - right

    return float(jnp.max(jnp.abs(difference(x, *drawn))))


@pytest.mark.parametrize("equality", RIGHT, ids=lambda f: f.__name__)
def test_the_right_ones_hold_at_the_exact_map(equality):
    assert gap(equality) < 1e-11


@pytest.mark.parametrize("equality", WRONG, ids=lambda f: f.__name__)
def test_a_wrong_variant_does_not_hold_at_the_exact_map(equality):
    assert gap(equality) > 1e-2


def test_with_few_steps_training_is_biased():
    """The exact map is not where consistency training rests: its step from the data is that of the wrong path."""
    z = z_scores(Objective((Term(ct, times.neighbours(schedules.even, 4)),)), gaussian(), batches=2000)
    assert jnp.max(jnp.abs(z)) > 8


def test_with_few_euler_steps_distillation_is_biased_though_its_teacher_is_exact():
    term = Term(ct, times.neighbours(schedules.even, 4), velocity=teacher_velocity)
    z = z_scores(Objective((term,)), gaussian(), batches=500)
    assert jnp.max(jnp.abs(z)) > 8


# --- the limits ------------------------------------------------------------------------------------------------------


def loss_gradient(equality, law, weight=lambda *times: 1.0, velocity=conditional):
    """On one batch of data, noise and pairs (s, t), whatever the equality."""
    exact, model = gaussian(), AverageVelocityMap(small_net())
    x0 = jax.vmap(exact.sample)(jax.random.split(jax.random.key(1), 64))
    loss = Objective((Term(equality, law, velocity=velocity, weight=weight),))
    return gradient(lambda m: loss(m, x0, target=model, teacher=exact, key=jax.random.key(2))[0], model)


DISCRETE = {"ct": (ct, lambda s, u, t: 1 / ((s - u) * (s - t))), "soflow": (soflow, lambda *times: 1.0)}


@pytest.mark.parametrize("velocity", [conditional, teacher_velocity], ids=["conditional", "teacher_velocity"])
@pytest.mark.parametrize("name", DISCRETE)
def test_the_gradient_tends_to_mean_flows_at_first_order_in_the_step(name, velocity):
    equality, weight = DISCRETE[name]
    limit = loss_gradient(mean_flow, times.ordered(), velocity=velocity)
    coarse, fine = (
        jnp.linalg.norm(loss_gradient(equality, times.shrinking_step(times.ordered(), h), weight, velocity) - limit)
        for h in (2e-4, 1e-4)
    )
    assert fine < 1e-3 * jnp.linalg.norm(limit)
    assert coarse / fine == pytest.approx(2, rel=0.02)


# --- identities ------------------------------------------------------------------------------------------------------


def slopes(equality, model, *times, v=c, target=None, distance=squared):
    """(loss, gradient) at one point."""
    target = model if target is None else target

    def loss(m):
        return distance(*equality(m, X, *times, v=v, target=target))

    return loss(model), gradient(loss, model)


def test_soflows_released_inner_product_has_half_our_gradient_and_may_be_negative():
    """sign(t - s) <V, sg q>, q = (F - F_u) / (s - u) with the weight left out: left - right is -q."""
    model = AverageVelocityMap(small_net())

    def product(m, s, u, t):
        q = stop_gradient((m(X, s, t) - m(X + (u - s) * C, u, t)) / (s - u))
        return jnp.sign(t - s) * jnp.vdot(m.average_velocity(X, s, t), q)

    values = []
    for s, u, t in [(0.9, 0.6, 0.1), (0.5, 0.4, 0.0), (1.0, 0.2, 0.1)]:
        value, ours = slopes(soflow, model, s, u, t)
        theirs = gradient(functools.partial(product, s=s, u=u, t=t), model)
        assert jnp.linalg.norm(ours - 2 * theirs) < 1e-13 * jnp.linalg.norm(ours)
        assert value > 0
        values.append(product(model, s, u, t))
    assert min(values) < 0


def test_soflow_with_a_step_as_long_as_the_jump_asks_for_the_steps_velocity():
    left, right = soflow(gaussian(), X, 0.9, 0.1, 0.1, v=c, target=gaussian())
    assert jnp.array_equal(left, gaussian().average_velocity(X, 0.9, 0.1))
    assert jnp.allclose(right, C, rtol=1e-14)


@pytest.mark.parametrize("s", [0.0, 0.4, 1.0])
def test_soflow_over_no_time_is_flow_matching_with_a_finite_gradient(s):
    model = AverageVelocityMap(small_net())
    value, slope = slopes(soflow, model, s, s, s)
    wanted = gradient(lambda m: squared(m.velocity(X, s), C), model)
    assert value == pytest.approx(float(squared(model.velocity(X, s), C)), rel=1e-13)
    assert jnp.allclose(slope, wanted, rtol=1e-12, atol=1e-13)


def test_consistency_asks_the_target_at_the_point_of_the_same_data_and_noise():
    """With the conditional velocity the Euler step stays on the straight path."""
    x0, eps, seen = jnp.array([1.0, 2.0]), jnp.array([-0.5, 0.3]), []

    def target(x, s, t):
        seen.append((x, s, t))
        return x

    ct(gaussian(), 0.2 * x0 + 0.8 * eps, 0.8, 0.3, 0.05, v=lambda x, t: eps - x0, target=target)
    ((x, s, t),) = seen
    assert jnp.allclose(x, 0.7 * x0 + 0.3 * eps, rtol=1e-14)
    assert (s, t) == (0.3, 0.05)


def test_consistency_gives_the_target_no_gradient_even_when_it_is_the_live_model():
    model = disturbed(gaussian(), 0.1)
    _, stopped = slopes(ct, model, 0.8, 0.5, 0.0)
    live = gradient(lambda m: squared(*ct(m, X, 0.8, 0.5, 0.0, v=c, target=m)), model)
    assert jnp.linalg.norm(live) > 0
    assert jnp.array_equal(stopped, live)


def test_at_the_data_the_trajectory_model_is_a_consistency_model():
    """At t = 0 the outer jump is none."""
    model = AverageVelocityMap(small_net())
    ours, theirs = (slopes(equality, model, 0.8, 0.5, 0.0) for equality in (ctm, ct))
    assert ours[0] == pytest.approx(float(theirs[0]), rel=1e-13)
    assert jnp.allclose(ours[1], theirs[1], rtol=1e-12, atol=1e-14)


def test_where_the_teacher_goes_all_the_way_the_right_side_holds_no_student():
    """u = t: whatever the model, the frozen jump from the teacher's point."""
    exact = gaussian()
    solved = eqx.Partial(ctm, solver=lambda v: exact)
    for model in (disturbed(exact, 0.5), AverageVelocityMap(small_net())):
        _, right = solved(model, X, 0.9, 0.4, 0.4, v=c, target=exact)
        assert jnp.allclose(right, exact(exact(X, 0.9, 0.4), 0.4, 0.0), rtol=1e-14)


def test_the_trajectory_models_gradient_passes_through_the_outer_jump():
    """2 (left - right) J dF, J the Jacobian of the frozen jump; not 2 (left - right) dF."""
    model, outer = AverageVelocityMap(small_net()), gaussian()
    left, right = ctm(model, X, 0.9, 0.6, 0.3, v=c, target=outer)
    _, ours = slopes(ctm, model, 0.9, 0.6, 0.3, target=outer)
    J = jax.jacfwd(lambda x: outer(x, 0.3, 0.0))(model(X, 0.9, 0.3))
    through, around = (
        gradient(lambda m, pull=pull: jnp.vdot(pull, m(X, 0.9, 0.3)), model)
        for pull in (2 * (left - right) @ J, 2 * (left - right))
    )
    assert jnp.allclose(ours, through, rtol=1e-12, atol=1e-14)
    assert jnp.linalg.norm(ours - around) > 0.1 * jnp.linalg.norm(ours)


def test_facm_is_mean_flow_relaxed_and_clipped():
    model = AverageVelocityMap(small_net())
    for s in (0.0, 0.36, 1.0):
        V, target = mean_flow(model, X, s, 0.0, v=c, target=None)
        left, right = facm(model, X, s, 0.0, v=c, target=None)
        assert jnp.array_equal(left, V)
        assert jnp.allclose(right - left, (1 - (1 - s) ** 0.5) * jnp.clip(target - V, -1, 1), atol=1e-14)


def test_facms_gradient_runs_through_the_average_velocity_alone():
    model = AverageVelocityMap(small_net())
    left, right = facm(model, X, 0.7, 0.0, v=c, target=None)
    pulled = gradient(lambda m: jnp.vdot(2 * (left - right), m.average_velocity(X, 0.7, 0.0)), model)
    assert jnp.allclose(slopes(facm, model, 0.7, 0.0)[1], pulled, rtol=1e-12, atol=1e-14)


def test_facms_clip_bounds_every_entry():
    """A velocity that is far off pulls no harder than one that is 1 off."""
    far = jnp.array([50.0, -80.0])
    left, right = facm(gaussian(), X, 1.0, 0.0, v=lambda x, t: far, target=None)
    assert jnp.allclose(jnp.abs(right - left), 1.0, rtol=1e-14)


@pytest.mark.parametrize("s", [0.0, 1e-9, 1.0])
def test_facms_gradient_is_finite_at_the_ends_of_time(s):
    value, slope = slopes(facm, AverageVelocityMap(small_net()), s, 0.0)
    assert jnp.isfinite(value)
    assert jnp.all(jnp.isfinite(slope))


# --- clocks and outputs are interchangeable (A6) ---------------------------------------------------------------------

SD = 0.5


def linear_f(model, x, s):
    return x - s * model.average_velocity(x, s, 0.0)


def trigflow_f(model, turned, angle):
    """f of a TrigFlow network whose output means the same V, in its own clock."""
    x, s = trigflow_to_linear(turned, angle, SD)
    output = velocity_to_trigflow(model.average_velocity(x, s, 0.0), x, s, SD)
    return jnp.cos(angle) * turned - jnp.sin(angle) * SD * output


def edm_f(model, noisy, sigma):
    """f of an EDM network whose output means the same V."""
    x, s = noisy / (1 + sigma), sigma / (1 + sigma)
    output = velocity_to_edm(model.average_velocity(x, s, 0.0), x, s, SD)
    norm = jnp.sqrt(sigma**2 + SD**2)
    return SD**2 / norm**2 * noisy + sigma * SD / norm * output


@pytest.mark.parametrize("s", [0.05, 0.3, 0.7, 0.95])
def test_value_and_tangent_are_the_same_in_every_clock(s):
    """df/da = (sd / kappa^2) df/ds and df/dsigma = (1-s)^2 df/ds, along the path of one datum and one noise."""
    model, x0, eps, one = AverageVelocityMap(small_net()), X - s * C, X + (1 - s) * C, jnp.ones(())
    value, slope = along(C)(lambda x, s, t: linear_f(model, x, s))(X, s, 0.0)
    turned, angle = linear_to_trigflow(X, jnp.asarray(s), SD)
    turning = SD * jnp.cos(angle) * eps - jnp.sin(angle) * x0
    kappa = jnp.cos(angle) + SD * jnp.sin(angle)
    trig = jax.jvp(functools.partial(trigflow_f, model), (turned, angle), (turning, one))
    edm = jax.jvp(functools.partial(edm_f, model), (X / (1 - s), jnp.asarray(s / (1 - s))), (eps, one))
    assert jnp.allclose(jnp.stack(trig), jnp.stack([value, SD / kappa**2 * slope]), rtol=1e-12, atol=1e-12)
    assert jnp.allclose(jnp.stack(edm), jnp.stack([value, (1 - s) ** 2 * slope]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("s", [0.05, 0.3, 0.7, 0.95])
def test_the_semigradient_in_trigflows_clock_is_mean_flows_times_a_weight(s):
    """|F - sg[F + cos(a) df/da]|^2 in the output F: sd (1-s) ((1-s)^2 + s^2/sd^2) times that at t = 0."""
    model, x0, eps = AverageVelocityMap(small_net()), X - s * C, X + (1 - s) * C
    turned, angle = linear_to_trigflow(X, jnp.asarray(s), SD)
    turning = SD * jnp.cos(angle) * eps - jnp.sin(angle) * x0

    def loss(m):
        output = velocity_to_trigflow(m.average_velocity(X, s, 0.0), X, s, SD)
        _, slope = jax.jvp(functools.partial(trigflow_f, m), (turned, angle), (turning, jnp.ones(())))
        return squared(output, stop_gradient(output + jnp.cos(angle) * slope))

    weight = SD * (1 - s) * ((1 - s) ** 2 + s**2 / SD**2)
    _, ours = slopes(mean_flow, model, s, 0.0)
    assert jnp.linalg.norm(gradient(loss, model) - weight * ours) < 1e-12 * jnp.linalg.norm(ours)


def test_the_conditional_euler_step_of_the_module_docstring():
    """x_u = x_s + (u - s) v by the default solver."""
    assert jnp.allclose(TangentMap(c)(X, 0.8, 0.5), X - 0.3 * C, rtol=1e-15)
