"""The Lagrangian equalities: one value, several gradients, and the ways to get them wrong."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jax.lax import stop_gradient
from problems import disturbed, gaussian, gradient, leaves, small_net

from flowcore import (
    AverageVelocityMap,
    EndpointMap,
    Objective,
    Term,
    WithAuxiliary,
    ayf_lmd,
    free_flow,
    free_flow_auxiliary,
    lmd,
    lsd,
    methods,
    pid,
    self_velocity,
    squared,
    teacher_velocity,
    times,
)
from flowcore.calculus import d_dt, stop_gradients


def velocity_at_the_start(model, x, s, t, *, v, target):
    _, end_dt = d_dt(model)(x, s, t)
    return end_dt, v(x, t)


def velocity_at_the_source_time(model, x, s, t, *, v, target):
    end, end_dt = d_dt(model)(x, s, t)
    return end_dt, v(end, s)


def flipped_sign(model, x, s, t, *, v, target):
    end, end_dt = d_dt(model)(x, s, t)
    return end_dt, -v(end, t)


WRONG = [velocity_at_the_start, velocity_at_the_source_time, flipped_sign]
VARIANTS = [lmd, lsd, ayf_lmd]
X0 = jax.vmap(gaussian().sample)(jax.random.split(jax.random.key(1), 64))


def objective(equality, velocity=teacher_velocity):
    return Objective((Term(equality, times.ordered(), velocity=velocity),))


def loss_of(equality, model, *, teacher=None, velocity=teacher_velocity):
    """The loss on a fixed batch, the exact map as teacher unless another one is given."""
    teacher = teacher or gaussian()
    return objective(equality, velocity)(
        model, X0, target=stop_gradients(model), teacher=teacher, key=jax.random.key(2)
    )[0]


def slope(equality, model, **settings):
    return gradient(lambda m: loss_of(equality, m, **settings), model)


def relative(a, b):
    return jnp.linalg.norm(a - b) / jnp.linalg.norm(b)


@pytest.mark.parametrize("output", [AverageVelocityMap, EndpointMap])
@pytest.mark.parametrize("velocity", [teacher_velocity, self_velocity], ids=["teacher", "self"])
def test_all_variants_have_one_value(output, velocity):
    model = output(small_net())
    values = eqx.filter_jit(lambda m: jnp.stack([loss_of(equality, m, velocity=velocity) for equality in VARIANTS]))(
        model
    )
    assert values[0] > 0.1
    assert jnp.allclose(values, values[0], rtol=1e-12)


def test_and_three_gradients():
    """lmd and lsd differ by the teacher's Jacobian only, so they are the closer pair."""
    model = AverageVelocityMap(small_net())
    full, stopped, through_V = (slope(equality, model) for equality in VARIANTS)
    assert relative(full, stopped) > 0.01
    assert relative(through_V, stopped) > 0.1


def test_lmd_is_lsd_plus_the_gradient_through_the_teachers_input():
    """grad |dF/dt - v(F)|^2 = [grad with v held] + [grad with dF/dt held]."""

    def through_the_teacher(model, x, s, t, *, v, target):
        end, end_dt = d_dt(model)(x, s, t)
        return stop_gradient(end_dt), v(end, t)

    model = AverageVelocityMap(small_net())
    parts = slope(lsd, model) + slope(through_the_teacher, model)
    assert jnp.linalg.norm(slope(through_the_teacher, model)) > 0.01
    assert relative(parts, slope(lmd, model)) < 1e-12


def test_stopped_parts_pass_no_gradient():
    """Of lsd the left side only: two residuals with the same left and a constant right agree."""
    x, s, t, model = jnp.array([0.4, -1.1]), 0.9, 0.2, AverageVelocityMap(small_net())
    right_of = {
        equality: lambda m, e=equality: e(m, x, s, t, v=gaussian().velocity, target=None)[1] for equality in VARIANTS
    }
    sizes = {e: jnp.linalg.norm(gradient(lambda m, e=e: jnp.sum(right_of[e](m)), model)) for e in VARIANTS}
    assert sizes[lmd] > 0.01
    assert sizes[lsd] == sizes[ayf_lmd] == 0


def test_lmd_sends_no_gradient_into_the_teachers_weights():
    """Only through its input: freezing the weights by hand changes nothing, stopping the input does."""
    model, teacher = AverageVelocityMap(small_net()), AverageVelocityMap(small_net(1))
    ours = slope(lmd, model, teacher=teacher)
    assert relative(ours, slope(lmd, model, teacher=stop_gradients(teacher))) == 0
    assert relative(ours, slope(lsd, model, teacher=teacher)) > 0.01


def test_the_models_own_velocity_is_that_of_the_trusted_copy():
    """Self-distillation sends no gradient into the role of the teacher: live or copied, lsd sees a constant."""
    model, exact = AverageVelocityMap(small_net()), gaussian()

    def value(m, target):
        return objective(lsd, self_velocity)(m, X0, target=target, teacher=exact, key=jax.random.key(2))[0]

    assert jnp.array_equal(gradient(lambda m: value(m, model), model), gradient(lambda m: value(m, m), model))


@pytest.mark.parametrize("equality", VARIANTS, ids=lambda f: f.__name__)
def test_every_variant_is_stationary_at_the_exact_map(equality):
    assert jnp.linalg.norm(slope(equality, disturbed(gaussian()))) < 1e-12


@pytest.mark.parametrize("equality", WRONG, ids=lambda f: f.__name__)
def test_a_wrong_variant_is_not(equality):
    assert jnp.linalg.norm(slope(equality, disturbed(gaussian()))) > 1e-2


@pytest.mark.parametrize("equality", VARIANTS, ids=lambda f: f.__name__)
def test_value_and_gradient_are_finite_at_the_corners_of_the_triangle(equality):
    x, exact, model = jnp.array([0.4, -1.1]), gaussian(), AverageVelocityMap(small_net())

    @eqx.filter_jit
    @jax.vmap
    def both(s, t):
        def value(m):
            left, right = equality(m, x, s, t, v=exact.velocity, target=m)
            return jnp.sum((left - right) ** 2)

        return eqx.filter_value_and_grad(value)(model)

    found = both(*jnp.array([(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (1.0, 0.0), (1e-9, 0.0)]).T)
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in leaves(found))


# --- Align Your Flow ------------------------------------------------------------------------------------------------


def test_the_finite_step_of_align_your_flow_tends_to_ayf_lmd_at_first_order():
    """|F(x_s, s, t) - sg[ a jump to t', a teacher step to t ]|^2 / e, t' = t + e (s - t), weighs (t - s)^2."""

    def finite(e):
        def equality(model, x, s, t, *, v, target):
            earlier = t + e * (s - t)
            y = model(x, s, earlier)
            return model(x, s, t), stop_gradient(y + (t - earlier) * v(y, earlier))

        return equality

    model = AverageVelocityMap(small_net())
    term = Term(ayf_lmd, times.ordered(), velocity=teacher_velocity, weight=lambda s, t: (t - s) ** 2)
    exact = gaussian()
    limit = gradient(lambda m: Objective((term,))(m, X0, target=m, teacher=exact, key=jax.random.key(2))[0], model)
    coarse, fine = (relative(slope(finite(e), model) / e, limit) for e in (2e-3, 1e-3))
    assert fine < 1e-2
    assert coarse / fine == pytest.approx(2, rel=0.02)


# --- from noise alone: FreeFlow and PID -------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_the_signal_of_a_path_from_noise_obeys_both_of_its_equations(t):
    """X = (F - t eps) / (1 - t): V(eps, 1, t) = eps - X, and X - t (1-t) dX/dt = E[x0 | F] (BOOT's and PID's form)."""
    exact, eps = gaussian(), jnp.array([0.7, -1.2])

    def signal(t):
        return (exact(eps, 1.0, t) - t * eps) / (1 - t)

    X, dX_dt = jax.jvp(signal, (t,), (1.0,))
    assert jnp.allclose(exact.average_velocity(eps, 1.0, t), eps - X, atol=1e-13)
    assert jnp.allclose(X - t * (1 - t) * dX_dt, exact.denoise(exact(eps, 1.0, t), t), atol=1e-12)


def test_pid_at_the_top_of_its_grid_is_boots_boundary_condition():
    """At u = s = 1 the chord ends in the signal at the next point, and must equal the teacher's denoised noise."""
    model, teacher, eps, t = AverageVelocityMap(small_net()), gaussian(), jnp.array([0.7, -1.2]), 0.9
    left, right = pid(model, eps, 1.0, 1.0, t, v=teacher.velocity, target=None)
    assert jnp.allclose(left, (model(eps, 1.0, t) - t * eps) / (1 - t), atol=1e-13)
    assert jnp.allclose(right, teacher.denoise(eps, 1.0), atol=1e-13)


def chord(step):
    """PID's objective at u = t + step: the law below deals the same targets to all."""
    s, t = times.from_source(1.0)(jax.random.key(9), len(X0), 0.0)
    return Objective((Term(pid, lambda key, n, progress: (s, t * (1 - step) + step, t), velocity=teacher_velocity),))


def test_pid_has_the_value_of_the_weighted_residual_and_another_gradient():
    """In the limit u^2 |dF/du - v|^2, but F_u also stands in the stopped side. Measured: 20 to 70 % apart."""
    model, exact, key = AverageVelocityMap(small_net()), gaussian(), jax.random.key(2)
    s, t = times.from_source(1.0)(jax.random.key(9), len(X0), 0.0)
    residual = Objective(
        (Term(lsd, lambda key, n, progress: (s, t), velocity=teacher_velocity, weight=lambda s, t: t**2),)
    )

    def value(loss, m):
        return loss(m, X0, target=m, teacher=exact, key=key)[0]

    assert value(chord(1e-6), model) == pytest.approx(float(value(residual, model)), rel=1e-4)
    ours, other = (gradient(lambda m, loss=loss: value(loss, m), model) for loss in (chord(1e-6), residual))
    assert relative(ours, other) > 0.1


def test_pid_is_stationary_at_the_exact_map_to_first_order_in_its_step():
    model, exact = disturbed(gaussian()), gaussian()

    def size(step):
        def value(m):
            return chord(step)(m, X0, target=stop_gradients(m), teacher=exact, key=jax.random.key(2))[0]

        return jnp.linalg.norm(gradient(value, model))

    assert size(1e-4) < 1e-2
    assert size(2e-4) / size(1e-4) == pytest.approx(2, rel=0.02)


@pytest.mark.parametrize("terms", [methods.free_flow_terms, methods.pid_terms])
def test_methods_without_data_never_touch_it(terms):
    """Data of NaN give the same loss and the same gradient as data that are any good."""
    net, teacher = AverageVelocityMap(small_net()), gaussian()
    model, loss = WithAuxiliary(net, AverageVelocityMap(small_net(1))), Objective(terms())

    def slope_on(x0):
        return gradient(
            lambda m: loss(m, x0, target=stop_gradients(model), teacher=teacher, key=jax.random.key(2))[0], model
        )

    assert jnp.linalg.norm(slope_on(X0)) > 0.01
    assert jnp.array_equal(slope_on(jnp.full_like(X0, jnp.nan)), slope_on(X0))


def test_with_data_the_test_above_would_fail():
    model, loss = AverageVelocityMap(small_net()), Objective(methods.ayf_lmd_terms())
    x0 = jnp.full_like(X0, jnp.nan)
    found = gradient(lambda m: loss(m, x0, target=model, teacher=gaussian(), key=jax.random.key(2))[0], model)
    assert not jnp.any(jnp.isfinite(found))


EPS, NOISE = jnp.array([0.7, -1.2]), jnp.array([0.3, 0.4])


def corrected(model, auxiliary, teacher):
    extra = {"auxiliary": auxiliary.velocity, "noise": NOISE}
    return free_flow(model, EPS, 1.0, 0.6, 0.0, v=teacher.velocity, target=model, **extra)


def test_where_the_companion_agrees_with_the_teacher_free_flow_corrects_nothing():
    left, right = corrected(AverageVelocityMap(small_net()), gaussian(), gaussian())
    assert jnp.array_equal(left, right)


def test_the_correction_written_out():
    """Value and gradient of the paper's two lines, not only from s = 1 to t = 0 where they are asked for."""
    model, auxiliary, teacher = AverageVelocityMap(small_net()), AverageVelocityMap(small_net(1)), gaussian()
    s, u, t = 0.9, 0.6, 0.2

    def sides(m):
        extra = {"auxiliary": auxiliary.velocity, "noise": NOISE}
        return free_flow(m, EPS, s, u, t, v=teacher.velocity, target=m, **extra)

    V = model.average_velocity(EPS, s, t)
    x_u = (1 - u) * (EPS + (t - s) * V) + u * NOISE
    correction = auxiliary.velocity(x_u, u) - teacher.velocity(x_u, u)
    left, right = sides(model)
    assert jnp.allclose(left, V, atol=1e-14) and jnp.allclose(right, V - correction, atol=1e-14)
    ours = gradient(lambda m: squared(*sides(m)) / 2, model)
    assert jnp.allclose(ours, gradient(lambda m: m.average_velocity(EPS, s, t) @ correction, model), atol=1e-12)


def test_the_correction_moves_samples_from_where_they_crowd_to_where_the_teacher_has_more():
    """Samples around +1, data around 0: a step down the gradient lowers the endpoint. The other sign would raise it."""
    model, teacher = AverageVelocityMap(small_net()), gaussian()
    crowded = type(teacher)(teacher.mean + 1.0, teacher.std)  # the velocity of samples that lie one to the right
    left, right = corrected(model, crowded, teacher)
    stepped = left - 0.1 * (left - right)  # down the gradient of |left - right|^2 / 2 in V
    assert jnp.all(EPS - stepped < EPS - left)


def test_the_companion_learns_the_velocity_of_the_maps_samples():
    """At a auxiliary that knows it, the mean gradient is zero; here the map is exact, so its samples are the data."""
    exact = gaussian()
    model = WithAuxiliary(exact, disturbed(exact))
    (_, _, follow) = methods.free_flow_terms()

    def one(key):
        return gradient(
            lambda m: follow(m, X0[:8], target=stop_gradients(model), teacher=exact, progress=0.0, key=key), model
        )

    slopes = jax.lax.map(jax.jit(one), jax.random.split(jax.random.key(3), 2000), batch_size=500)
    along = slopes @ jax.random.normal(jax.random.key(4), (slopes.shape[1], 8))
    z = jnp.mean(along, axis=0) / (jnp.std(along, axis=0) / len(along) ** 0.5)
    assert jnp.max(jnp.abs(z)) < 4


def test_the_companion_sends_no_gradient_into_the_map():
    """Even where the live map stands in for the target and gives the velocity."""
    model, x = WithAuxiliary(AverageVelocityMap(small_net()), AverageVelocityMap(small_net(1))), EPS

    def value(m):
        left, right = free_flow_auxiliary(m, x, 1.0, 0.6, 0.0, v=m.map.velocity, target=m.map, noise=NOISE)
        return squared(left, right)

    found = eqx.filter_grad(value)(model)
    assert all(jnp.all(leaf == 0) for leaf in leaves(found.map))
    assert any(jnp.any(leaf != 0) for leaf in leaves(found.auxiliary))
