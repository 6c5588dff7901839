"""The compositional equalities: what their targets are, and where they meet those of other papers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jax.lax import stop_gradient
from problems import disturbed, gaussian, gradient, leaves, small_net, z_scores

from flowcore import (
    AverageVelocityMap,
    EndpointMap,
    GaussianMap,
    Objective,
    TangentMap,
    Term,
    conditional,
    fmm,
    fmm_inverse,
    mean_flow,
    psd,
    soflow,
    squared,
    teacher_target,
    teacher_velocity,
    times,
)
from flowcore.calculus import d_dt, stop_gradients

X = jnp.array([0.4, -1.1])


def model():
    return AverageVelocityMap(small_net())


# --- two jumps are one ---------------------------------------------------------------------------------------------


def test_the_target_tends_to_that_of_mean_flow_as_the_first_jump_shrinks():
    """(semigroup target - V) / l -> MeanFlow target - V, the tangent being the map's own velocity; error O(l)."""
    map, s, t = model(), 0.9, 0.2
    left, wanted = mean_flow(map, X, s, t, v=map.velocity, target=None)

    def error(share):
        _, right = psd(map, X, s, s + share * (t - s), t, v=None, target=map)
        return jnp.linalg.norm((right - left) / share - (wanted - left))

    errors = [error(share) for share in (1e-1, 1e-2, 1e-3, 1e-4)]
    assert jnp.linalg.norm(wanted - left) > 0.1
    assert errors[-1] < 1e-3 * jnp.linalg.norm(wanted - left)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.1)
    assert errors[2] / errors[3] == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize(("s", "t"), [(1.0, 0.0), (0.9, 0.2), (0.1, 0.7)])
def test_split_half_way_the_target_is_that_of_shortcut_models(s, t):
    """The mean of the velocities of two half jumps, which is SplitMeanFlow's with the same split."""
    map, half = model(), (s - t) / 2
    first = map.average_velocity(X, s, s - half)
    second = map.average_velocity(X - half * first, s - half, t)
    _, right = psd(map, X, s, (s + t) / 2, t, v=None, target=map)
    assert jnp.allclose(right, (first + second) / 2, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("u", [0.9, 0.65, 0.3, 0.2])
def test_it_is_two_jumps_in_a_row(u):
    """x + (t - s) target is where the two jumps of the target map end; at the ends of u one of them is none."""
    map, s, t = model(), 0.9, 0.2
    _, right = psd(map, X, s, u, t, v=None, target=map)
    assert jnp.allclose(X + (t - s) * right, map(map(X, s, u), u, t), rtol=1e-12)


@pytest.mark.parametrize("time", [0.0, 0.5, 1.0])
def test_on_the_diagonal_value_and_gradient_are_finite_and_nothing_is_asked(time):
    """At s = t the two sides are one number: the rule alone knows no data."""
    map = model()
    left, right = psd(map, X, time, time, time, v=None, target=map)
    assert jnp.allclose(left, right, rtol=1e-12)
    assert jnp.all(jnp.isfinite(gradient(lambda m: squared(*psd(m, X, time, time, time, v=None, target=map)), map)))


def test_the_two_jumps_are_the_targets_and_pass_no_gradient():
    map, frozen_map = model(), AverageVelocityMap(small_net(1))

    def value(m, target):
        return squared(*psd(m, X, 0.9, 0.4, 0.2, v=None, target=target))

    live, copied = (gradient(lambda m, of=of: value(m, of(m)), map) for of in (lambda m: m, stop_gradients))
    assert jnp.allclose(live, copied, rtol=1e-12, atol=1e-14)
    assert jnp.linalg.norm(gradient(lambda m: value(map, m), map)) == 0
    assert value(map, frozen_map) != value(map, map)


def test_a_constant_velocity_obeys_the_rule():
    """Hence the term on the diagonal."""
    map = AverageVelocityMap(lambda x, s, t: jnp.full_like(x, 0.7))
    left, right = psd(map, X, 0.9, 0.4, 0.2, v=None, target=map)
    assert jnp.allclose(left, right, rtol=1e-14)
    assert not jnp.allclose(left, gaussian().average_velocity(X, 0.9, 0.2))


# alpha-Flow (Zhang et al. 2025) goes the share alpha of the jump with a velocity that is given, the rest with the map.
# Progressive distillation (Salimans & Ho 2022) puts two steps of a frozen sampler into one.


def alpha_flow(map, s, t, alpha, velocity):
    """Its two sides."""
    rest = map.average_velocity(X - alpha * (s - t) * velocity, s - alpha * (s - t), t)
    return map.average_velocity(X, s, t), stop_gradient(alpha * velocity + (1 - alpha) * rest)


def test_alpha_flow_at_one_half_along_the_maps_own_jump_is_the_target_of_shortcut_models():
    map, s, t = model(), 0.9, 0.2
    _, right = alpha_flow(map, s, t, 0.5, map.average_velocity(X, s, (s + t) / 2))
    _, shortcut = psd(map, X, s, (s + t) / 2, t, v=None, target=map)
    assert jnp.allclose(right, shortcut, rtol=1e-13)


def test_alpha_flow_tends_to_mean_flow_at_first_order_in_alpha():
    """Its gradient over alpha is MeanFlow's, up to O(alpha)."""
    map, s, t, v = model(), 0.9, 0.2, jnp.array([0.8, 0.5])
    wanted = gradient(lambda m: squared(*mean_flow(m, X, s, t, v=lambda x, t: v, target=None)), map)

    def error(alpha):
        slope = gradient(lambda m: squared(*alpha_flow(m, s, t, alpha, v)) / alpha, map)
        return jnp.linalg.norm(slope - wanted) / jnp.linalg.norm(wanted)

    errors = [error(alpha) for alpha in (1e-2, 1e-3, 1e-4)]
    assert errors[2] < 2e-3
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("alpha", [0.05, 0.5, 1.0])
def test_alpha_flow_is_soflow_times_alpha(alpha):
    """The residuals of the two differ by that factor, so a weight makes either the other."""
    map, s, t, v = model(), 0.9, 0.2, jnp.array([0.8, 0.5])
    left, right = alpha_flow(map, s, t, alpha, v)
    V, wanted = soflow(map, X, s, s - alpha * (s - t), t, v=lambda x, t: v, target=map)
    assert jnp.allclose(left - right, alpha * (V - wanted), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(("s", "u", "t"), [(1.0, 0.5, 0.0), (0.8, 0.6, 0.4), (0.8, 0.7, 0.1)])
def test_progressive_distillation_is_a_shortcut_over_a_frozen_teachers_steps(s, u, t):
    """Two DDIM steps of a teacher as one x-prediction, which as V is our target over the teacher's Euler steps (at half
    way the shortcut), and the loss max(1, SNR) |x - x~|^2 is max(s^2, (1-s)^2) times our square."""
    teacher, student = gaussian(), model().average_velocity(X, s, t)

    def ddim(z, now, then):
        datum = z - now * teacher.velocity(z, now)
        return (1 - then) * datum + then / now * (z - (1 - now) * datum)

    end = ddim(ddim(X, s, u), u, t)
    datum = (end - t / s * X) / ((1 - t) - t / s * (1 - s))
    _, right = psd(model(), X, s, u, t, v=None, target=TangentMap(teacher.velocity))
    assert jnp.allclose((X - datum) / s, right, rtol=1e-12)
    theirs = max(1.0, ((1 - s) / s) ** 2) * squared(X - s * student, datum)
    assert jnp.allclose(theirs, max(s**2, (1 - s) ** 2) * squared(student, right), rtol=1e-11)


def test_with_a_teachers_jumps_the_teacher_is_the_solution():
    loss = Objective(
        (Term(psd, times.split(times.ordered()), target=teacher_target, weight=lambda s, u, t: (s - t) ** 2),)
    )
    exact, key = gaussian(), jax.random.key(2)
    x0 = jax.vmap(exact.sample)(jax.random.split(key, 64))
    slope = gradient(lambda m: loss(m, x0, target=m, teacher=exact, key=key)[0], disturbed(exact))
    assert jnp.linalg.norm(slope) < 1e-12


# --- there and back ------------------------------------------------------------------------------------------------


def velocity_of_the_way_there(model, x, s, t, *, v, target):
    """The derivative taken at the end of the way there: it is the velocity at the endpoint, not at x."""
    _, end_dt = d_dt(model)(x, s, t)
    return end_dt, v(x, s)


def back_from_another_point(model, x, s, t, *, v, target):
    """The way back begun at x in place of F(x, s, t)."""
    _, back_ds = d_dt(model)(x, t, s)
    return back_ds, v(x, s)


def flipped_sign(model, x, s, t, *, v, target):
    left, right = fmm(model, x, s, t, v=v, target=target)
    return left, -right


WRONG = [velocity_of_the_way_there, back_from_another_point, flipped_sign]


def both_ways(equality, velocity):
    return Objective((Term(equality, times.either_way(), velocity=velocity),))


def z_score(equality):
    return jnp.max(jnp.abs(z_scores(both_ways(equality, conditional), gaussian(), batches=500)))


def test_with_the_conditional_velocity_flow_map_matching_is_unbiased():
    assert z_score(fmm) < 4


def test_a_wrong_variant_is_biased():
    assert z_score(flipped_sign) > 8


@pytest.mark.parametrize("wrong", WRONG, ids=lambda f: f.__name__)
def test_with_the_exact_velocity_a_wrong_variant_is_not_stationary_at_the_exact_map(wrong):
    exact, key, loss = gaussian(), jax.random.key(2), both_ways(wrong, teacher_velocity)
    x0 = jax.vmap(exact.sample)(jax.random.split(key, 64))
    slope = gradient(lambda m: loss(m, x0, target=m, teacher=exact, key=key)[0], disturbed(exact))
    assert jnp.linalg.norm(slope) > 1e-2


def test_the_gradient_runs_through_the_way_there():
    """Stopping it at y keeps the value and changes the gradient."""

    def stopped(model, x, s, t, *, v, target):
        _, back_ds = d_dt(model)(stop_gradient(model(x, s, t)), t, s)
        return back_ds, v(x, s)

    def both(equality):
        def value(m):
            return squared(*equality(m, X, 0.9, 0.2, v=gaussian().velocity, target=None))

        return eqx.filter_jit(value)(model()), gradient(value, model())

    (value, slope), (value_stopped, slope_stopped) = both(fmm), both(stopped)
    assert value == pytest.approx(float(value_stopped), rel=1e-12)
    assert jnp.linalg.norm(slope - slope_stopped) > 0.01 * jnp.linalg.norm(slope)


@pytest.mark.parametrize("output", [AverageVelocityMap, EndpointMap])
@pytest.mark.parametrize("equality", [fmm, fmm_inverse])
def test_value_and_gradient_are_finite_at_the_corners(output, equality):
    @eqx.filter_jit
    @jax.vmap
    def both(s, t):
        def value(m):
            return squared(*equality(m, X, s, t, v=gaussian().velocity, target=None))

        return eqx.filter_value_and_grad(value)(output(small_net()))

    found = both(*jnp.array([(0.5, 0.5), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)]).T)
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in leaves(found))


def test_on_the_diagonal_flow_map_matching_asks_for_the_velocity():
    left, _ = fmm(model(), X, 0.6, 0.6, v=gaussian().velocity, target=None)
    assert jnp.allclose(left, model().velocity(X, 0.6), rtol=1e-14)


def test_the_inverse_term_alone_is_obeyed_by_any_flow_map():
    """By the map of other data, and by the one that does not move: it knows no data."""
    for map in (GaussianMap(jnp.array([5.0, 5.0]), 2.0), AverageVelocityMap(lambda x, s, t: jnp.zeros_like(x))):
        left, right = fmm_inverse(map, X, 0.9, 0.2, v=None, target=None)
        assert jnp.allclose(left, right, rtol=1e-12)
