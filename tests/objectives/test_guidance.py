"""Where training with guidance leads: to `ClassGuidedMap`, here of two classes with the mixture as that of no class."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from problems import gradient, lively

from flowcore import (
    AbstractFlowMap,
    AverageVelocityMap,
    MixtureMap,
    Objective,
    Term,
    WithAuxiliary,
    flow_matching,
    guidance,
    times,
)
from flowcore.data import Labelled, SampledSource
from flowcore.maps import ConditionedMap
from flowcore.networks import ResidualMLP
from flowcore.objectives.context import Context
from flowcore.sample import generate

MEANS = jnp.array([[1.0, 0.2], [-0.4, -0.7]])
STD = 0.5


CLASSES = eqx.filter_vmap(lambda mean: MixtureMap(mean[None], STD))(MEANS)  # each class is one mode
EXACT = guidance.ClassGuidedMap(CLASSES, MixtureMap(MEANS, STD))


def asked(label, scale, interval=guidance.ALWAYS):
    return guidance.guidance_condition(label, 2, scale, interval)


class AtScale(AbstractFlowMap):
    """The exact answer at one scale, asked for by the class alone."""

    scale: float
    interval: tuple = guidance.ALWAYS

    def velocity(self, x, t, condition):
        told = asked(0, self.scale, self.interval).at[:2].set(condition)
        return EXACT.velocity(x, t, jnp.where(jnp.all(condition == 0), 0.0, told))

    def average_velocity(self, x, s, t, condition):
        return self.velocity(x, s, condition)


def context(condition, label, fixed_point, x=None, s=0.6):
    """A row whose c is E[c | x_s, class]: the velocity of its class at x_s, or of the mixture without one."""
    x = jnp.array([0.3, -0.1]) if x is None else x
    data = MixtureMap(MEANS if not jnp.any(condition) else MEANS[label][None], STD)
    c = data.velocity(x, s)
    x0 = x - s * c  # x_s = x0 + s c
    target = fixed_point.condition_on(condition)
    return Context(target, None, x0, x0 + c, (s, s), 0.0, jax.random.key(0), label), x


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize(("scale", "kept"), [(2.0, 0.0), (1.0, 0.5), (0.2, 0.92), (1.0, 0.0)])
def test_mean_flows_guidance_leads_to_the_scale_over_one_minus_what_is_kept(scale, kept, label):
    fixed_point = AtScale(scale / (1 - kept))
    row, x = context(jax.nn.one_hot(label, 2), label, fixed_point)
    found = guidance.guided_velocity(scale, kept)(row)(x, 0.6)
    assert jnp.allclose(found, row.target.velocity(x, 0.6), rtol=1e-11, atol=1e-12)
    other = AtScale(scale / (1 - kept) + 0.1).condition_on(jax.nn.one_hot(label, 2))
    assert jnp.linalg.norm(found - other.velocity(x, 0.6)) > 1e-3


@pytest.mark.parametrize("scale", [1.0, 2.0, 7.5])
def test_improved_mean_flows_guidance_leads_to_the_scale_that_is_told(scale):
    row, x = context(asked(1, scale), 1, EXACT)
    assert jnp.allclose(
        guidance.conditioned_guided_velocity(row)(x, 0.6), row.target.velocity(x, 0.6), rtol=1e-11, atol=1e-12
    )


@pytest.mark.parametrize("share", [1.0, 0.5, 0.2])
def test_guidance_free_training_leads_to_one_over_its_share(share):
    row, x = context(asked(0, 1 / share), 0, EXACT)
    c = row.eps - row.x0
    left, right = guidance.guidance_free(row.target, x, 0.6, 0.6, v=lambda x, t: c, target=row.target)
    assert jnp.allclose(left, right, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    "source", [guidance.guided_velocity(2.0), guidance.guided_velocity(1.0, 0.5), guidance.conditioned_guided_velocity]
)
def test_rows_without_a_class_keep_their_velocity(source):
    told = source is guidance.conditioned_guided_velocity
    row, x = context(jnp.zeros(5 if told else 2), 0, EXACT if told else AtScale(2.0))
    assert jnp.allclose(source(row)(x, 0.6), row.eps - row.x0, rtol=1e-12)


def conditional_net():
    return AverageVelocityMap(lively(ResidualMLP(2, 16, 1, conditions=5, key=jax.random.key(3))))


def test_guidance_free_training_has_the_residual_of_improved_mean_flow_and_its_gradient_over_the_scale():
    scale, x, c, model = 2.5, jnp.array([0.3, -0.1]), jnp.array([0.9, 0.2]), conditional_net()
    condition = asked(1, scale)
    row = Context(ConditionedMap(model, condition), None, jnp.zeros(2), c, (0.6, 0.6), 0.0, jax.random.key(0), 1)

    def free(m):
        return guidance.guidance_free(m.condition_on(condition), x, 0.6, 0.6, v=lambda x, t: c, target=row.target)

    def told(m):
        v = guidance.conditioned_guided_velocity(row)
        return flow_matching(m.condition_on(condition), x, 0.6, 0.6, v=v, target=row.target)

    residuals = [left - right for left, right in (free(model), told(model))]
    assert jnp.allclose(*residuals, rtol=1e-12)
    slopes = [
        gradient(lambda m, sides=sides: jnp.sum((sides(m)[0] - sides(m)[1]) ** 2), model) for sides in (free, told)
    ]
    assert jnp.allclose(scale * slopes[0], slopes[1], rtol=1e-10, atol=1e-12)


def test_a_term_is_given_the_label_of_its_row_and_drops_its_share_of_them():
    seen = Term(
        lambda model, x, s, t, *, v, target: (model.condition[:2], jax.nn.one_hot(jnp.int32(x[0]), 2)),
        times.diagonal(),
        start=lambda context: context.x0,
        condition=guidance.class_condition(2, drop_rate=0.25),
    )
    labels = jnp.arange(4000) % 2
    batch = Labelled(jnp.stack([labels.astype(float)] * 2, axis=1), labels)
    model = conditional_net()
    loss, _ = Objective((seen,))(model, batch, target=model, key=jax.random.key(0))
    assert loss == pytest.approx(0.25, abs=0.02)  # a dropped row is 1 away from its label, the others 0


def test_outside_its_interval_guidance_is_none():
    inside, outside = (0.5, 0.8), (0.1, 0.4)
    row, x = context(asked(1, 3.0, outside), 1, EXACT)
    assert jnp.allclose(guidance.conditioned_guided_velocity(row)(x, 0.6), row.eps - row.x0, rtol=1e-12)
    assert jnp.allclose(row.target.velocity(x, 0.6), row.eps - row.x0, rtol=1e-11)  # and so says the exact map
    row, x = context(asked(1, 3.0, inside), 1, EXACT)
    assert jnp.allclose(guidance.conditioned_guided_velocity(row)(x, 0.6), row.target.velocity(x, 0.6), rtol=1e-11)
    assert jnp.linalg.norm(row.target.velocity(x, 0.6) - (row.eps - row.x0)) > 0.1
    for interval, expected in ((inside, 2.0), (outside, 1.0)):
        row, x = context(jax.nn.one_hot(1, 2), 1, AtScale(2.0, interval))
        found = guidance.guided_velocity(1.0, 0.5, interval)(row)(x, 0.6)
        assert jnp.allclose(found, AtScale(expected).condition_on(row.target.condition).velocity(x, 0.6), rtol=1e-11)


def test_scales_are_drawn_with_density_one_over_the_scale_and_their_intervals_around_the_middle():
    draw = guidance.guided_condition(2, most=8.0, drop_rate=0.0)
    row = Context(None, None, None, None, (), 0.0, None, jnp.int32(1))
    found = jax.vmap(lambda key: draw(row._replace(key=key)))(jax.random.split(jax.random.key(0), 4000))
    scale, low, high = 1 / (1 - found[:, 2]), found[:, 3], found[:, 4]
    assert jnp.all(found[:, 1] == 1.0) and jnp.all((scale >= 1) & (scale <= 8))
    assert jnp.median(scale) == pytest.approx(8**0.5, rel=0.05)
    assert jnp.all((low >= 0) & (low <= 0.5) & (high >= 0.5) & (high <= 1))
    assert (jnp.mean(low), jnp.mean(high)) == (pytest.approx(0.25, abs=0.02), pytest.approx(0.75, abs=0.02))


def test_each_row_is_generated_under_its_own_condition():
    noise, conditions = jnp.array([[0.4, -0.3]] * 3), jnp.stack([asked(0, 1.0), asked(1, 1.0), asked(1, 4.0)])
    found = generate(EXACT, noise, 1, conditions=conditions)
    one_by_one = jnp.concatenate([generate(EXACT.condition_on(c), noise[:1], 1) for c in conditions])
    assert jnp.allclose(found, one_by_one, rtol=1e-12) and len(jnp.unique(found, axis=0)) == 3
    assert jnp.allclose(found[0], MixtureMap(MEANS[:1], STD)(noise[0], 1.0, 0.0), atol=1e-5)


def test_labelled_toy_data_are_drawn():
    def draw(key):
        return Labelled(jax.random.normal(key, (2,)), jnp.int32(1))

    batch = SampledSource(draw, 5).batch(None, jax.random.key(0))
    assert batch.x0.shape == (5, 2) and batch.label.shape == (5,)


@pytest.mark.parametrize("source", [guidance.guided_velocity(2.0), guidance.conditioned_guided_velocity])
def test_guidance_and_an_auxiliary_network_compose(source):
    """A map with an auxiliary network is guided as it is alone."""
    net = AverageVelocityMap(ResidualMLP(2, 8, 1, conditions=5, key=jax.random.key(0)))
    x0, label = jax.random.normal(jax.random.key(1), (8, 2)), jnp.arange(8) % 2
    condition = guidance.guided_condition(2)
    term = Term(flow_matching, times.diagonal(), velocity=source, condition=condition)

    def loss(model):
        return Objective((term,))(model, Labelled(x0, label), target=model, key=jax.random.key(2))[0]

    assert loss(WithAuxiliary(net, net)) == pytest.approx(float(loss(net)), rel=1e-12)
