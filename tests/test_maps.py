import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from problems import gaussian, lively, small_net

from flowcore import (
    AbstractFlowMap,
    AverageVelocityMap,
    DenoisedMap,
    EdmHeunMap,
    EndpointMap,
    GuidedMap,
    HeunMap,
    MixtureMap,
    OdeMap,
    RepeatedMap,
    TangentMap,
    WithAuxiliary,
)
from flowcore.calculus import along as derivative_along
from flowcore.calculus import d_dt, difference_along, difference_dt
from flowcore.networks import ResidualMLP
from flowcore.sample import jump as steps_along

X = jnp.array([0.7, -0.4])


def conditional_map():
    return AverageVelocityMap(lively(ResidualMLP(2, 16, 1, conditions=1, key=jax.random.key(3))))


@functools.cache
def all_maps() -> dict[str, AbstractFlowMap]:
    net = small_net()
    return {
        "average velocity": AverageVelocityMap(net),
        "endpoint": EndpointMap(net),
        "denoised": DenoisedMap(net),
        "tangent": TangentMap(gaussian().velocity),
        "heun": HeunMap(gaussian().velocity),
        "repeated": RepeatedMap(TangentMap(gaussian().velocity), 3),
        "given": conditional_map().condition_on(0.7),
        "ode": OdeMap(gaussian().velocity, 1e-10),
        "gaussian": gaussian(),
        "mixture": MixtureMap(jnp.array([[1.0, 0.0], [-0.5, 0.8]]), 0.3, 1e-10),
    }


every = pytest.mark.parametrize("name", all_maps())
jump = eqx.filter_jit(lambda flow_map, x, s, t: flow_map(x, s, t))
jumps = eqx.filter_jit(eqx.filter_vmap(lambda flow_map, x, s, t: flow_map(x, s, t), in_axes=(None, 0, 0, 0)))


@every
def test_a_jump_over_no_time_is_no_jump(name):
    xs, s = jnp.stack([X, -X, 2 * X]), jnp.array([0.0, 0.4, 1.0])
    assert jnp.array_equal(jumps(all_maps()[name], xs, s, s), xs)


@every
def test_on_the_diagonal_the_average_velocity_is_the_velocity(name):
    flow_map = all_maps()[name]
    error = jax.vmap(lambda t: flow_map.average_velocity(X, t, t) - flow_map.velocity(X, t))
    assert jnp.max(jnp.abs(jax.jit(error)(jnp.array([0.0, 0.4, 1.0])))) < 1e-12


@every
def test_the_jump_is_the_average_velocity_times_the_time(name):
    flow_map = all_maps()[name]
    expected = X - 0.7 * eqx.filter_jit(flow_map.average_velocity)(X, 0.9, 0.2)
    assert jnp.allclose(jump(flow_map, X, 0.9, 0.2), expected, rtol=1e-12)


@every
def test_a_jump_starts_with_the_velocity(name):
    """dF/dt at t = s is V(x, s, s), whatever the network predicts."""
    flow_map = all_maps()[name]
    _, slope = jax.jit(d_dt(flow_map))(X, 0.6, 0.6)
    assert jnp.allclose(slope, flow_map.velocity(X, 0.6), rtol=1e-9)


@every
def test_denoising_is_an_euler_step_to_the_data(name):
    flow_map = all_maps()[name]
    assert jnp.allclose(flow_map.denoise(X, 0.6), X - 0.6 * flow_map.velocity(X, 0.6), rtol=1e-14)


@pytest.mark.parametrize("name", ["ode", "mixture"])
def test_a_solve_can_be_differentiated_forward(name):
    """Through the solver: both derivatives agree with differences."""
    flow_map, v = all_maps()[name], jnp.array([1.0, -0.5])

    @jax.jit
    def pairs(x, s, t):
        exact = d_dt(flow_map)(x, s, t)[1], derivative_along(v)(flow_map)(x, s, t)[1]
        return exact, (difference_dt(flow_map, 1e-4)(x, s, t)[1], difference_along(v, 1e-4)(flow_map)(x, s, t)[1])

    exact, twins = pairs(X, 0.9, 0.2)
    assert jnp.allclose(jnp.stack(exact), jnp.stack(twins), atol=1e-6)


@every
def test_it_is_one_example_that_vmap_makes_a_batch(name):
    flow_map = all_maps()[name]
    xs, s, t = jnp.stack([X, -X, 2 * X]), jnp.array([1.0, 0.5, 0.7]), jnp.array([0.0, 0.5, 0.1])
    batch = jumps(flow_map, xs, s, t)
    singles = jnp.stack([jump(flow_map, *row) for row in zip(xs, s, t, strict=True)])
    assert jnp.allclose(batch, singles, atol=1e-9)


def test_the_endpoint_maps_network_is_the_endpoint_of_the_full_jump():
    net = small_net()
    assert jnp.allclose(EndpointMap(net)(X, 1.0, 0.0), net(X, 1.0, 0.0), rtol=1e-12)


def test_the_denoised_maps_network_is_what_a_jump_to_the_data_gives():
    net = small_net()
    flow_map = DenoisedMap(net)
    assert jnp.allclose(flow_map(X, 0.6, 0.0), net(X, 0.6, 0.0), rtol=1e-12)
    assert jnp.allclose(flow_map.denoise(X, 0.6), net(X, 0.6, 0.6), rtol=1e-12)


def test_the_denoised_maps_floor_bounds_the_division():
    net = small_net()
    flow_map = DenoisedMap(net, floor=0.2)
    assert jnp.allclose(flow_map.average_velocity(X, 0.1, 0.0), (X - net(X, 0.1, 0.0)) / 0.2, rtol=1e-14)
    assert jnp.allclose(flow_map.average_velocity(X, 0.3, 0.0), (X - net(X, 0.3, 0.0)) / 0.3, rtol=1e-14)
    assert jnp.all(jnp.isfinite(flow_map.average_velocity(X, 0.0, 0.0)))


def test_the_tangent_map_reads_the_velocity_at_the_source_only():
    v = gaussian().velocity
    tangent = TangentMap(v)
    assert jnp.array_equal(tangent.average_velocity(X, 0.9, 0.2), v(X, 0.9))
    assert jnp.array_equal(tangent.velocity(X, 0.2), v(X, 0.2))
    assert jnp.linalg.norm(tangent(X, 1.0, 0.0) - gaussian()(X, 1.0, 0.0)) > 0.1  # one Euler step is not the map


@pytest.mark.parametrize("tolerance", [1e-4, 1e-8])
def test_the_ode_map_is_as_exact_as_its_tolerance(tolerance):
    flow_map = OdeMap(gaussian().velocity, tolerance)
    assert jnp.max(jnp.abs(jump(flow_map, X, 1.0, 0.0) - gaussian()(X, 1.0, 0.0))) < 10 * tolerance


def test_the_ode_map_runs_in_both_directions():
    flow_map = OdeMap(gaussian().velocity, 1e-10)
    assert jnp.allclose(jump(flow_map, jump(flow_map, X, 0.9, 0.1), 0.1, 0.9), X, atol=1e-8)


def test_the_abstract_map_cannot_be_made():
    with pytest.raises(TypeError):
        AbstractFlowMap()


def test_the_heun_map_is_the_trapezoid_rule():
    v = gaussian().velocity
    first = v(X, 0.9)
    by_hand = X - 0.7 * (first + v(X - 0.7 * first, 0.2)) / 2
    assert jnp.allclose(HeunMap(v)(X, 0.9, 0.2), by_hand, rtol=1e-14)


@pytest.mark.parametrize(("s", "t"), [(0.9, 0.2), (0.5, 0.002), (0.3, 0.0), (0.4, 0.4), (0.2, 0.7)])
def test_the_edm_heun_map_is_heun_written_in_sigma(s, t):
    """On y = x / (1 - s) = x0 + sigma eps, whose velocity dy/dsigma is the noise x + (1 - s) v."""
    v = gaussian().velocity
    sigma, sigma_t = s / (1 - s), t / (1 - t)

    def slope(y, sigma):
        level = sigma / (1 + sigma)
        x = y / (1 + sigma)
        return x + (1 - level) * v(x, level)

    y = X / (1 - s)
    first = slope(y, sigma)
    second = slope(y + (sigma_t - sigma) * first, sigma_t)
    y = y + (sigma_t - sigma) * (first + second) / 2
    assert jnp.allclose(EdmHeunMap(v)(X, s, t), (1 - t) * y, rtol=1e-13)
    assert jnp.array_equal(EdmHeunMap(v).velocity(X, t), v(X, t))


@pytest.mark.parametrize(("solver", "order"), [(TangentMap, 1), (HeunMap, 2), (EdmHeunMap, 2)])
def test_the_order_of_a_solver(solver, order):
    """Twice as many equal steps from .9 to 0 divide the error by 2^order."""
    exact = gaussian()
    step = solver(exact.velocity)

    def error(n):
        return jnp.linalg.norm(steps_along(step, X, jnp.linspace(0.9, 0.0, n + 1)) - exact(X, 0.9, 0.0))

    assert error(128) / error(256) == pytest.approx(2**order, rel=0.05)
    assert error(256) < 1e-2 ** (order / 1.0)


def test_a_map_given_a_condition_is_the_map_at_that_condition():
    flow_map = conditional_map()
    bound = flow_map.condition_on(0.7)
    assert jnp.array_equal(bound(X, 0.9, 0.2), X - 0.7 * flow_map.average_velocity(X, 0.9, 0.2, 0.7))
    assert jnp.array_equal(bound.velocity(X, 0.9), flow_map.velocity(X, 0.9, 0.7))
    assert jnp.linalg.norm(bound(X, 0.9, 0.2) - flow_map.condition_on(1.7)(X, 0.9, 0.2)) > 1e-3


def test_the_condition_of_a_guided_teacher_is_its_scale():
    strong, weak = gaussian(), TangentMap(lambda x, t: 0.5 * x)
    teacher = GuidedMap(strong, weak)
    assert jnp.allclose(teacher.velocity(X, 0.4), strong.velocity(X, 0.4), rtol=1e-12)
    assert jnp.allclose(teacher.condition_on(0.0).velocity(X, 0.4), weak.velocity(X, 0.4), rtol=1e-12)
    once, twice = teacher.condition_on(2.0), GuidedMap(strong, weak, 2.0)
    assert jnp.array_equal(once.velocity(X, 0.4), twice.velocity(X, 0.4))
    expected = 2 * strong.velocity(X, 0.4) - weak.velocity(X, 0.4)
    assert jnp.allclose(once.velocity(X, 0.4), expected, rtol=1e-12)


def test_a_guided_teacher_may_be_asked_under_its_maps_conditions_too():
    """A scale, what the strong map is asked under, and what the weak one is."""
    flow_map = conditional_map()
    guided = GuidedMap(flow_map, flow_map).condition_on((2.0, 0.7, 0.0))
    expected = 2 * flow_map.velocity(X, 0.4, 0.7) - flow_map.velocity(X, 0.4, 0.0)
    assert jnp.allclose(guided.velocity(X, 0.4), expected, rtol=1e-12)


def test_a_condition_reaches_the_auxiliary_network_too():
    both = WithAuxiliary(conditional_map(), conditional_map()).condition_on(0.7)
    assert jnp.array_equal(both(X, 0.9, 0.2), conditional_map().condition_on(0.7)(X, 0.9, 0.2))
    assert jnp.array_equal(both.auxiliary.velocity(X, 0.4), conditional_map().velocity(X, 0.4, 0.7))


def test_a_trajectory_of_one_solve_is_where_the_exact_map_leads():
    exact = gaussian()
    for times in (jnp.array([1.0, 0.7, 0.2, 0.0]), jnp.array([0.1, 0.5, 0.9])):
        found = OdeMap(exact.velocity, tolerance=1e-10).trajectory(X, times)
        expected = jnp.stack([exact(X, times[0], t) for t in times])
        assert found.shape == (len(times), 2)
        assert jnp.allclose(found, expected, atol=1e-8)


@pytest.mark.parametrize("times", [[0.6], [0.6, 0.6], [0.0, 0.0, 0.0]])
def test_a_trajectory_that_takes_no_time_stays_where_it_is(times):
    found = OdeMap(gaussian().velocity).trajectory(X, jnp.array(times))
    assert jnp.array_equal(found, jnp.broadcast_to(X, (len(times), 2)))


def test_a_trajectory_may_wait_and_its_times_may_be_traced():
    exact, times = gaussian(), jnp.array([1.0, 0.5, 0.5, 0.0])
    found = eqx.filter_jit(OdeMap(exact.velocity, tolerance=1e-10).trajectory)(X, times)
    assert jnp.allclose(found, jnp.stack([exact(X, 1.0, t) for t in times]), atol=1e-8)
