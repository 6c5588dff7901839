"""The Lagrangian equalities: one value, several gradients, and the ways to get them wrong."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jax.lax import stop_gradient
from problems import disturbed, gaussian, gradient, leaves, small_net

from flowcore import AverageVelocityMap, EndpointMap, Objective, Term, lmd, lsd, own, taught, times
from flowcore.calculus import d_dt
from flowcore.cost import frozen


def in_velocities(model, x, s, t, *, v, target):
    """V = sg[ v(F, t) - (t - s) dV/dt ]: the same residual, the gradient through V alone (as in Align Your Flow)."""
    V, dV_dt = d_dt(model.average_velocity)(x, s, t)
    return V, stop_gradient(v(x + (t - s) * V, t) - (t - s) * dV_dt)


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
VARIANTS = [lmd, lsd, in_velocities]
X0 = jax.vmap(gaussian().sample)(jax.random.split(jax.random.key(1), 64))


def objective(equality, velocity=taught):
    return Objective((Term(equality, times.ordered(), velocity=velocity),))


def loss_of(equality, model, *, teacher=None, velocity=taught):
    """The loss on a fixed batch, the exact map as teacher unless another one is given."""
    teacher = teacher or gaussian()
    return objective(equality, velocity)(model, X0, target=frozen(model), teacher=teacher, key=jax.random.key(2))[0]


def slope(equality, model, **settings):
    return gradient(lambda m: loss_of(equality, m, **settings), model)


def relative(a, b):
    return jnp.linalg.norm(a - b) / jnp.linalg.norm(b)


@pytest.mark.parametrize("output", [AverageVelocityMap, EndpointMap])
@pytest.mark.parametrize("velocity", [taught, own], ids=["taught", "own"])
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
    assert sizes[lsd] == sizes[in_velocities] == 0


def test_lmd_sends_no_gradient_into_the_teachers_weights():
    """Only through its input: freezing the weights by hand changes nothing, stopping the input does."""
    model, teacher = AverageVelocityMap(small_net()), AverageVelocityMap(small_net(1))
    ours = slope(lmd, model, teacher=teacher)
    assert relative(ours, slope(lmd, model, teacher=frozen(teacher))) == 0
    assert relative(ours, slope(lsd, model, teacher=teacher)) > 0.01


def test_the_models_own_velocity_is_that_of_the_trusted_copy():
    """Self-distillation sends no gradient into the role of the teacher: live or copied, lsd sees a constant."""
    model, exact = AverageVelocityMap(small_net()), gaussian()

    def value(m, target):
        return objective(lsd, own)(m, X0, target=target, teacher=exact, key=jax.random.key(2))[0]

    assert jnp.array_equal(gradient(lambda m: value(m, model), model), gradient(lambda m: value(m, m), model))


@pytest.mark.parametrize("equality", VARIANTS, ids=lambda f: f.__name__)
def test_every_variant_is_stationary_at_the_exact_map(equality):
    assert jnp.linalg.norm(slope(equality, disturbed(gaussian()))) < 1e-12


@pytest.mark.parametrize("equality", WRONG, ids=lambda f: f.__name__)
def test_a_wrong_variant_is_not(equality):
    assert jnp.linalg.norm(slope(equality, disturbed(gaussian()))) > 1e-2


@pytest.mark.parametrize("equality", [lmd, lsd], ids=lambda f: f.__name__)
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
