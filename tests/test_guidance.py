"""Where training with guidance leads: the exact maps of two classes, and the mixture of both as that of no class."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from problems import gradient, lively

from flowcore import AbstractFlowMap, AverageVelocityMap, MixtureMap, Objective, Term, flow_matching, guidance, times
from flowcore.data import Drawn, Labelled
from flowcore.maps import Given
from flowcore.nets import ResidualMLP
from flowcore.terms import Hand

MEANS = jnp.array([[1.0, 0.2], [-0.4, -0.7]])
STD = 0.5


class Guided(AbstractFlowMap):
    """v_0 + w (v_y - v_0) in closed form; its condition is (one-hot class, 1 - 1/w), or the class alone at `scale`."""

    scale: float | None = eqx.field(static=True, default=None)

    def velocity(self, x, t, condition):
        free, of_class = (
            MixtureMap(MEANS, STD).velocity(x, t),
            jax.vmap(lambda m: MixtureMap(m[None], STD).velocity(x, t)),
        )
        scale = 1 / (1 - condition[-1]) if self.scale is None else self.scale
        label = condition[:2]
        guided = free + scale * (label @ of_class(MEANS) - free)
        return jnp.where(jnp.all(condition == 0), free, guided)

    def average_velocity(self, x, s, t, condition):
        return self.velocity(x, s, condition)


def hand(condition, label, fixed_point, x=None, s=0.6):
    """A row whose c is E[c | x_s, class]: the velocity of its class at x_s, or of the mixture without one."""
    x = jnp.array([0.3, -0.1]) if x is None else x
    data = MixtureMap(MEANS if not jnp.any(condition) else MEANS[label][None], STD)
    c = data.velocity(x, s)
    x0 = x - s * c  # x_s = x0 + s c
    target = fixed_point.given(condition)
    return Hand(target, None, x0, x0 + c, (s, s), 0.0, jax.random.key(0), label), x


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize(("scale", "kept"), [(2.0, 0.0), (1.0, 0.5), (0.2, 0.92), (1.0, 0.0)])
def test_mean_flows_guidance_leads_to_the_scale_over_one_minus_what_is_kept(scale, kept, label):
    fixed_point = Guided(scale / (1 - kept))
    row, x = hand(jax.nn.one_hot(label, 2), label, fixed_point)
    found = guidance.guided(scale, kept)(row)(x, 0.6)
    assert jnp.allclose(found, row.target.velocity(x, 0.6), rtol=1e-11, atol=1e-12)
    other = Guided(scale / (1 - kept) + 0.1).given(jax.nn.one_hot(label, 2))
    assert jnp.linalg.norm(found - other.velocity(x, 0.6)) > 1e-3


@pytest.mark.parametrize("scale", [1.0, 2.0, 7.5])
def test_improved_mean_flows_guidance_leads_to_the_scale_that_is_told(scale):
    condition = jnp.array([0.0, 1.0, 1 - 1 / scale])
    row, x = hand(condition, 1, Guided())
    assert jnp.allclose(guidance.guided_as_told(row)(x, 0.6), row.target.velocity(x, 0.6), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.2])
def test_guidance_free_training_leads_to_one_over_its_share(share):
    condition = jnp.array([1.0, 0.0, 1 - share])
    row, x = hand(condition, 0, Guided())
    c = row.eps - row.x0
    left, right = guidance.guidance_free(row.target, x, 0.6, 0.6, v=lambda x, t: c, target=row.target)
    assert jnp.allclose(left, right, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("source", [guidance.guided(2.0), guidance.guided(1.0, 0.5), guidance.guided_as_told])
def test_rows_without_a_class_keep_their_velocity(source):
    row, x = hand(jnp.zeros(3), 0, Guided())
    assert jnp.allclose(source(row)(x, 0.6), row.eps - row.x0, rtol=1e-12)


def conditional_net():
    return AverageVelocityMap(lively(ResidualMLP(2, 16, 1, conditions=3, key=jax.random.key(3))))


def test_guidance_free_training_has_the_residual_of_improved_mean_flow_and_its_gradient_over_the_scale():
    scale, x, c, model = 2.5, jnp.array([0.3, -0.1]), jnp.array([0.9, 0.2]), conditional_net()
    condition = jnp.array([0.0, 1.0, 1 - 1 / scale])
    row = Hand(Given(model, condition), None, jnp.zeros(2), c, (0.6, 0.6), 0.0, jax.random.key(0), 1)

    def free(m):
        return guidance.guidance_free(m.given(condition), x, 0.6, 0.6, v=lambda x, t: c, target=row.target)

    def told(m):
        v = guidance.guided_as_told(row)
        return flow_matching(m.given(condition), x, 0.6, 0.6, v=v, target=row.target)

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
        start=lambda hand: hand.x0,
        condition=guidance.of_class(2, dropped=0.25),
    )
    labels = jnp.arange(4000) % 2
    batch = Labelled(jnp.stack([labels.astype(float)] * 2, axis=1), labels)
    model = conditional_net()
    loss, _ = Objective((seen,))(model, batch, target=model, key=jax.random.key(0))
    assert loss == pytest.approx(0.25, abs=0.02)  # a dropped row is 1 away from its label, the others 0


def test_strengths_are_drawn_with_density_one_over_the_scale():
    draw = guidance.of_class_and_strength(2, most=8.0, dropped=0.0)
    row = Hand(None, None, None, None, (), 0.0, None, jnp.int32(1))
    found = jax.vmap(lambda key: draw(row._replace(key=key)))(jax.random.split(jax.random.key(0), 4000))
    scale = 1 / (1 - found[:, 2])
    assert jnp.all(found[:, 1] == 1.0) and jnp.all((scale >= 1) & (scale <= 8))
    assert jnp.median(scale) == pytest.approx(8**0.5, rel=0.05)


def test_labelled_toy_data_are_drawn():
    def draw(key):
        return Labelled(jax.random.normal(key, (2,)), jnp.int32(1))

    batch = Drawn(draw, 5).batch(None, jax.random.key(0))
    assert batch.x0.shape == (5, 2) and batch.label.shape == (5,)
