"""What a term or an objective may know of training: the step, the progress, a memory, a learned weight."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import gradient, lively, same, small_net

from flowcore import (
    AverageVelocityMap,
    Objective,
    ResidualMLP,
    Term,
    flow_matching,
    mean_flow,
    model_velocity,
    self_velocity,
    times,
    training,
)
from flowcore.data import SampledSource
from flowcore.training import loop

KEY = jax.random.key(0)
MODEL = AverageVelocityMap(small_net())
X0 = jax.random.normal(KEY, (8, 2))
SOURCE = SampledSource.of_rows(X0, 8)


def fit(objective, steps=6, model=MODEL, optimiser=None, **settings):
    optimiser = optax.sgd(0.05) if optimiser is None else optimiser
    state = training.begin(model, optimiser, key=jax.random.key(1), **settings)
    return training.collect(training.fit(state, objective, SOURCE, optimiser, steps=steps, chunk=3))


def test_a_term_rests_between_its_steps():
    flow, jumps = Term(flow_matching, times.diagonal()), Term(mean_flow, times.ordered())
    resting = eqx.tree_at(lambda term: term.every, jumps, 3)
    _, log = fit(Objective((flow, resting)))
    assert np.flatnonzero(log["mean_flow"]).tolist() == [0, 3]
    _, always = fit(Objective((flow, jumps)))
    assert np.all(always["mean_flow"] > 0)
    assert log["mean_flow"][0] == always["mean_flow"][0]


def test_a_resting_term_has_no_gradient():
    objective = Objective((Term(mean_flow, times.ordered(), every=2),))
    at = [gradient(lambda m, s=s: objective(m, X0, target=MODEL, step=s, key=KEY)[0], MODEL) for s in (0, 1)]
    assert jnp.linalg.norm(at[0]) > 0 and jnp.linalg.norm(at[1]) == 0


def test_a_weight_may_see_the_progress():
    term = Term(flow_matching, times.diagonal(), weight=lambda s, t, progress: progress)
    plain = Term(flow_matching, times.diagonal())

    def loss(term, progress):
        return Objective((term,))(MODEL, X0, target=MODEL, progress=progress, key=KEY)[0]

    assert loss(term, 0.25) == pytest.approx(0.25 * float(loss(plain, 0.25)))


class Weighed(AverageVelocityMap):
    """A map with a learned log-weight."""

    log_weight: jax.Array


def test_a_learned_weight_finds_the_size_of_its_loss():
    """At the minimum of e^-u w d + u the weight is the log of the mean of w d."""
    term = Term(
        flow_matching,
        times.given(0.5, 0.5),
        uncertainty=lambda model, s, t: model.log_weight,
        weight=lambda s, t: 3.0,
    )
    model = Weighed(small_net(), jnp.asarray(0.0))

    def loss(u):
        weighed = eqx.tree_at(lambda m: m.log_weight, model, u)
        return Objective((term,))(weighed, X0, target=weighed, key=KEY)[0]

    plain = 3 * Objective((Term(flow_matching, times.given(0.5, 0.5)),))(model, X0, target=model, key=KEY)[0]
    assert loss(jnp.asarray(0.0)) == pytest.approx(float(plain))
    assert abs(jax.grad(loss)(jnp.log(plain))) < 1e-12 < abs(jax.grad(loss)(jnp.asarray(0.0)))


def test_given_times_are_those():
    s, u, t = times.given(1.0, jnp.arange(3) / 4, 0.0)(KEY, 3, 0.5)
    assert (s.tolist(), u.tolist(), t.tolist()) == ([1, 1, 1], [0, 0.25, 0.5], [0, 0, 0])


def test_the_live_maps_velocity_carries_the_gradient():
    """MeanFlow with nothing stopped but its derivative: as source the live map is differentiated, the self is not."""

    def own_velocity(model, x, s, t, *, v, target):
        return v(x, s), jnp.zeros_like(x)

    def slope(velocity):
        objective = Objective((Term(own_velocity, times.diagonal(), velocity=velocity),))
        return gradient(lambda m: objective(m, X0, target=m, key=KEY)[0], MODEL)

    assert jnp.linalg.norm(slope(model_velocity)) > 0 == jnp.linalg.norm(slope(self_velocity))


def remembering(model, x0, *, target, teacher, progress, key, memory):
    """A loss against the mean of all data so far, which it keeps."""
    count, mean = memory
    mean = (count * mean + jnp.mean(x0)) / (count + 1)
    value = (jnp.sum(model.velocity(jnp.ones(2), 0.5)) - mean) ** 2
    return value, {"remembered": value}, (count + 1, jax.lax.stop_gradient(mean))


def test_a_memory_is_handed_on_and_no_gradient_moves_it():
    memory = (jnp.asarray(0.0), jnp.asarray(0.0))
    state, _ = fit(remembering, memory=memory)
    assert state.memory[0] == 6
    batches = [SOURCE.batch(None, jax.random.split(jax.random.fold_in(state.key, k))[0]) for k in range(6)]
    assert state.memory[1] == pytest.approx(float(np.mean([jnp.mean(batch) for batch in batches])), rel=1e-9)


def test_a_run_with_a_memory_goes_on_bit_for_bit():
    optimiser, memory = optax.sgd(0.05), (jnp.asarray(0.0), jnp.asarray(0.0))
    state = training.begin(MODEL, optimiser, key=jax.random.key(1), memory=memory)
    (half, _), *_, (whole, _) = training.fit(state, remembering, SOURCE, optimiser, steps=6, chunk=3)
    again, _ = training.collect(training.fit(half, remembering, SOURCE, optimiser, steps=6, chunk=3))
    assert same(again.model, whole.model) and same(again.memory, whole.memory)


def test_an_objective_that_takes_neither_is_given_neither():
    def plain(model, x0, *, target, teacher, progress, key):
        value = jnp.mean(x0) * jnp.sum(model.velocity(jnp.ones(2), 0.5))
        return value, {"plain": value}

    state, _ = fit(plain)
    assert state.memory is None


@pytest.mark.parametrize("wrap", [eqx.Partial, functools.partial])
def test_what_a_wrapper_has_bound_is_not_asked_for(wrap):
    """Neither of a weight, nor of an objective; and one that would take any keyword does not ask."""

    def weighed(s, t, scale, progress=1.0):
        return scale * progress

    def scaled(model, x0, *, target, teacher, progress, key, scale):
        value = scale * jnp.mean(x0) * jnp.sum(model.velocity(jnp.ones(2), 0.5))
        return value, {"scaled": value}

    def loss(weight):
        term = Term(flow_matching, times.diagonal(), weight=weight)
        return float(Objective((term,))(MODEL, X0, target=MODEL, progress=0.5, key=KEY)[0])

    assert loss(wrap(weighed, scale=2.0)) == pytest.approx(loss(lambda s, t: 1.0))
    assert loss(wrap(weighed, scale=2.0, progress=3.0)) == pytest.approx(6 * loss(lambda s, t: 1.0))
    fit(wrap(scaled, scale=2.0))
    fit(lambda *given, **others: scaled(*given, scale=1.0, **others))


def test_a_term_of_several_seeds_rests_without_being_computed():
    """All seeds are at one step, so what decides is one number: a condition and not a choice between both."""
    objective, optimiser = Objective((Term(mean_flow, times.ordered(), every=3),)), optax.sgd(0.05)
    begin = eqx.filter_vmap(lambda key: training.begin(MODEL, optimiser, key=key))
    state = begin(jax.random.split(KEY, 2))
    last, log = training.collect(training.fit(state, objective, SOURCE, optimiser, steps=6, chunk=3))
    assert log["mean_flow"].shape == (2, 6)
    assert np.all(np.nonzero(log["mean_flow"].sum(axis=0))[0] == [0, 3])
    arguments = state, None, SOURCE, objective, None, optimiser, (jnp.asarray(0.9), jnp.asarray(0.0)), 6.0, 3, None
    program = jax.make_jaxpr(lambda key: loop.run_chunk(*arguments)[1])(KEY)
    assert " cond[" in str(program)


def test_no_gradient_reaches_the_target_through_its_condition():
    class Conditioned(AverageVelocityMap):
        c: jax.Array

    model = Conditioned(ResidualMLP(2, 8, 1, conditions=1, key=KEY), jnp.ones(1))
    model = lively(model)

    def of_target(model, x, s, t, *, v, target):
        return target.velocity(x, s), v(x, s)

    term = Term(of_target, times.diagonal(), condition=lambda context: context.model.c)
    slope = gradient(lambda m: Objective((term,))(m, X0, target=m, key=KEY)[0], model)
    assert jnp.linalg.norm(slope) == 0


def test_a_run_that_is_over_gives_its_state():
    optimiser = optax.sgd(0.05)
    objective = Objective((Term(flow_matching, times.diagonal()),))
    state, _ = fit(objective, optimiser=optimiser)
    again, log = training.collect(training.fit(state, objective, SOURCE, optimiser, steps=6))
    assert again is state and log == {}
    with pytest.raises(ValueError, match="no steps left"):
        training.collect(iter([]))
