"""What a term takes beside single examples: data that bring their noise, and rows that are compared as a cloud."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import gaussian, gradient, same, small_net

from flowcore import (
    AverageVelocityMap,
    Objective,
    Term,
    ct,
    flow_matching,
    mean_flow,
    schedules,
    squared,
    times,
    training,
)
from flowcore.data import Labelled, Paired, SampledSource, ShuffledSource
from flowcore.path import interpolate

KEY = jax.random.key(0)
MODEL = AverageVelocityMap(small_net())
X0, EPS = jax.random.normal(KEY, (2, 12, 2))


def loss(term, examples, model=MODEL, key=KEY):
    return Objective((term,))(model, examples, target=model, key=key)[0]


# --- pairs -----------------------------------------------------------------------------------------------------------


def test_reflow_is_flow_matching_on_pairs():
    """Reflow's regression (Liu et al. 2023, algorithm 1) written out: the noise is the pair's, not the term's own."""
    term = Term(flow_matching, times.diagonal())
    s, _ = term.times(jax.random.split(jax.random.fold_in(KEY, 0))[0], 12, 0.0)

    def reflow(x0, eps, s):
        return squared(MODEL.velocity(interpolate(x0, eps, s), s), eps - x0)

    assert loss(term, Paired(X0, EPS)) == pytest.approx(float(jnp.mean(jax.vmap(reflow)(X0, EPS, s))), rel=1e-12)
    assert abs(loss(term, Paired(X0, EPS)) - loss(term, X0)) > 1e-3  # the noise is another one


def test_pairs_of_the_terms_own_noise_change_nothing():
    term = Term(mean_flow, times.ordered())
    _, key_noise = jax.random.split(jax.random.fold_in(KEY, 0))
    noise = jax.random.normal(key_noise, X0.shape)
    assert loss(term, Paired(X0, noise)) == loss(term, X0)


def test_a_pair_may_have_a_label():
    seen = []

    def condition(context):
        seen.append(context.label)
        return jnp.zeros(())

    class Deaf(AverageVelocityMap):
        def condition_on(self, condition):
            return self

    model = Deaf(small_net())
    term = Term(flow_matching, times.diagonal(), condition=condition)
    labels = jnp.arange(12)
    assert loss(term, Paired(X0, EPS, labels), model) == pytest.approx(float(loss(term, Paired(X0, EPS), model)))
    assert seen[0].dtype == labels.dtype and seen[1] is None


@pytest.mark.parametrize("labels", [None, np.arange(12)])
def test_a_shuffled_source_deals_pairs_together(labels):
    source = ShuffledSource(Paired(X0, EPS, labels), 5, seed=1)
    indices = source.draw_indices(3)
    batch = source.batch(indices[2], KEY)
    assert isinstance(batch, Paired)
    assert jnp.array_equal(batch.x0, X0[indices[2]]) and jnp.array_equal(batch.eps, EPS[indices[2]])
    assert (batch.label is None) == (labels is None)
    again = ShuffledSource(Paired(X0, EPS, labels), 5, seed=1).restore(source.state())
    assert np.array_equal(again.draw_indices(2), source.draw_indices(2))


def test_rows_are_drawn_together_with_what_belongs_to_them():
    batch = SampledSource.of_rows(Labelled(X0, jnp.arange(12)), 30).batch(None, KEY)
    assert jnp.array_equal(batch.x0, X0[batch.label])
    assert len(set(batch.label.tolist())) > 5


def test_training_on_pairs_learns_their_straight_paths():
    """Data that are twice their noise: the velocity of the path is known, -x / (1 + (1 - t)), and flow matching finds
    it on pairs and cannot on the same data alone."""
    draw_noise = jax.random.normal(jax.random.key(3), (512, 2))
    source = SampledSource.of_rows(Paired(2 * draw_noise, draw_noise), 64)
    recipe = training.Recipe(width=32, depth=1, steps=300, rate=1e-2)
    objective = Objective((Term(flow_matching, times.diagonal()),))

    def error(source):
        state, optimiser = recipe.begin((2,))
        with jax.numpy_dtype_promotion("standard"):
            state, _ = training.collect(training.fit(state, objective, source, optimiser, steps=recipe.steps))
        x, t = draw_noise * 1.5, jnp.asarray(0.5)
        return float(jnp.sqrt(jnp.mean((jax.vmap(lambda x: state.average.velocity(x, t))(x) + x / 1.5) ** 2)))

    assert error(source) < 0.15 < 0.3 < error(SampledSource.of_rows(2 * draw_noise, 64))


# --- groups ----------------------------------------------------------------------------------------------------------


def kernel(a, b):
    """A Laplace kernel between all points of two clouds."""
    return jnp.exp(-jnp.sqrt(jnp.sum((a[:, None] - b[None]) ** 2, axis=-1) + 1e-12))


def mmd(left, right):
    """The squared maximum mean discrepancy of two clouds, its V-statistic: what IMM minimises (Zhou et al. 2025)."""
    return jnp.mean(kernel(left, left)) - 2 * jnp.mean(kernel(left, right)) + jnp.mean(kernel(right, right))


LAW = times.neighbours(schedules.even, 8)


def test_imm_with_groups_of_one_is_consistency_training_with_its_distance():
    def of_points(left, right):
        return mmd(left[None], right[None])

    one, points = Term(ct, LAW, group=1, distance=mmd), Term(ct, LAW, distance=of_points)
    assert loss(one, X0) == pytest.approx(float(loss(points, X0)), rel=1e-12)
    slopes = [gradient(lambda m, term=term: loss(term, X0, m), MODEL) for term in (one, points)]
    assert jnp.linalg.norm(slopes[0]) > 0
    assert jnp.allclose(*slopes, rtol=1e-10, atol=1e-12)


def test_the_rows_of_a_group_share_their_times_and_nothing_else():
    seen = {}

    def spy(model, x, s, u, t, *, v, target):
        return jnp.concatenate([x, s[None]]), jnp.zeros(3)

    def clouds(left, right):
        jax.debug.callback(lambda cloud: seen.setdefault(float(cloud[0, 2]), cloud), left)
        return jnp.sum(left**2)

    loss(Term(spy, LAW, group=4, distance=clouds), X0)
    jax.effects_barrier()
    assert all(cloud.shape == (4, 3) for cloud in seen.values())
    for cloud in seen.values():
        assert len(set(cloud[:, 2].tolist())) == 1 and len(set(cloud[:, 0].tolist())) == 4


def test_a_weight_counts_once_for_a_group():
    term = Term(ct, LAW, group=3, distance=mmd, weight=lambda s, u, t: 2.0)
    assert loss(term, X0) == pytest.approx(2 * float(loss(Term(ct, LAW, group=3, distance=mmd), X0)))


def test_groups_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(ValueError, match="groups of 5 do not divide the 12 rows of ct"):
        loss(Term(ct, LAW, group=5, distance=mmd), X0)


def test_groups_at_the_exact_map_feel_no_force_on_average():
    """The fixed point of group matching, to O(1/M): the step below is exact, so both clouds have one law."""
    exact = gaussian()
    x0 = jax.vmap(exact.sample)(jax.random.split(KEY, 256))
    term = Term(eqx.Partial(ct, solver=lambda v: exact), LAW, group=64, distance=mmd)
    assert abs(float(loss(term, x0, exact))) < 1e-9  # both sides are the same points
    assert same(exact, gaussian())
