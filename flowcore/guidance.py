r"""Guidance inside training: the map of one class learns a velocity that is pushed away from that of no class.

    v_w(x, t | y) = v(x, t | 0) + w (v(x, t | y) - v(x, t | 0))           classifier-free guidance at scale w

Each source below replaces the conditional velocity c = eps - x0 by a c_g whose mean, at the map that it leads to, is
that map's own velocity: the fixed point is v_w, so one jump is guided and costs no second network call. The class is
the condition of the model (`Term.condition`): a one-hot vector, zeros for no class. A network that is told the guidance
too finds three numbers behind it: the strength 1 - 1/w, and the times between which it acts (else w = 1).
Rows that lost their class keep c.

Reference: Ho & Salimans 2022 for w; the sources are those of the papers named there.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flowcore.maps import AbstractFlowMap, OdeMap
from flowcore.path import Time, conditional_velocity
from flowcore.terms import Hand

ALWAYS = (0.0, 1.0)  # the interval of guidance that acts at all times


def asked(label: Int[Array, ""] | int, classes: int, scale: Time, interval=ALWAYS) -> Float[Array, " numbers"]:
    """The condition that asks for a class at a scale of guidance >= 1, acting in an interval of times."""
    return jnp.concatenate([jax.nn.one_hot(label, classes), jnp.stack([1 - 1 / jnp.asarray(scale), *interval])])


def strength(condition: Float[Array, " numbers"], t: Time) -> Float[Array, ""]:
    """1 - 1/w at time t, as the condition says."""
    told, low, high = condition[-3:]
    return jnp.where((low <= t) & (t <= high), told, 0.0)


def of_class(classes: int, dropped: float = 0.1) -> Callable:
    """A condition: the one-hot class of the row, or zeros in the share `dropped` of the rows."""

    def condition(hand: Hand):
        kept = jax.random.uniform(hand.key) >= dropped
        return jnp.where(kept, jax.nn.one_hot(hand.label, classes), 0.0)

    return condition


def of_class_and_guidance(classes: int, most: float = 8.0, dropped: float = 0.1) -> Callable:
    """A condition: the class, a scale w in [1, most] of density 1/w, and an interval from U(0, 1/2) to U(1/2, 1), as
    `asked`; zeros in the share `dropped` of the rows.

    Reference: Geng et al. 2025, "Improved Mean Flows", as released (their beta = 1), which asks for all times where
    s = t.
    """

    def condition(hand: Hand):
        key_class, key_scale, key_interval = jax.random.split(hand.key, 3)
        scale = most ** jax.random.uniform(key_scale)
        interval = (jnp.arange(2.0) + jax.random.uniform(key_interval, (2,))) / 2
        kept = jax.random.uniform(key_class) >= dropped
        return jnp.where(kept, asked(hand.label, classes, scale, interval), 0.0)

    return condition


def classless(hand: Hand):
    """The velocity of the target under no class."""
    return hand.target.map.given(jnp.zeros_like(hand.target.condition)).velocity


def guided(scale: float, kept: float = 0.0, interval=ALWAYS) -> Callable:
    """c_g = w c + k V(x, s, s | y) + (1 - w - k) V(x, s, s | 0), leading to scale w / (1 - k); k = `kept` < 1.

    The noise of c enters times w only, so a large k and a small w reach a scale with less variance. Outside of
    `interval` c is kept.
    Reference: Geng et al. 2025, "Mean Flows for One-step Generative Modeling", section 4.2 and appendix (omega, kappa).
    """
    low, high = interval

    def velocity(hand: Hand):
        c, free, dropped = conditional_velocity(hand.x0, hand.eps), classless(hand), jnp.all(hand.target.condition == 0)

        def v(x, t):
            mixed = scale * c + kept * hand.target.velocity(x, t) + (1 - scale - kept) * free(x, t)
            return jnp.where(dropped | (t < low) | (t > high), c, mixed)

        return v

    return velocity


def guided_as_told(hand: Hand):
    """c_g = c + (1 - 1/w) (V(x, s, s | y, w) - V(x, s, s | 0)), leading to the scale w, in the interval, that the
    network is told (`of_class_and_guidance`).

    Reference: Geng et al. 2025, "Improved Mean Flows", section 4 (flexible guidance), as released.
    """
    c, free, condition = conditional_velocity(hand.x0, hand.eps), classless(hand), hand.target.condition
    return lambda x, t: c + strength(condition, t) * (hand.target.velocity(x, t) - free(x, t))


def guidance_free(model, x, s, t, *, v, target):
    """b V(x, s, s | y) + (1 - b) V(x, s, s | 0) = v, b = 1/w: flow matching of a network that is told 1 - b.

    The class-less part is the target's. Its residual is that of flow matching with `guided_as_told`, and its gradient
    1/w of that one's. Reference: Chen et al. 2025, "Visual Generation Without Guidance" (GFT), algorithm 1.
    """
    share = 1 - strength(model.condition, s)
    free = target.map.given(jnp.zeros_like(target.condition))
    return share * model.velocity(x, s) + (1 - share) * free.velocity(x, s), v(x, s)


class ClassGuidedMap(AbstractFlowMap):
    """Where training with guidance leads, for velocities that are known: v_w of the class, scale and interval `asked`.

    `of_class` holds the maps of all classes, stacked along a first axis of their arrays; `free` is that of no class.
    """

    of_class: AbstractFlowMap
    free: AbstractFlowMap
    tolerance: float = eqx.field(static=True, default=1e-6)

    def velocity(self, x, t, condition):
        free = self.free.velocity(x, t)
        of_class = condition[:-3] @ eqx.filter_vmap(lambda flow_map: flow_map.velocity(x, t))(self.of_class)
        guided = free + (of_class - free) / (1 - strength(condition, t))
        return jnp.where(jnp.all(condition == 0), free, guided)

    def average_velocity(self, x, s, t, condition):
        return OdeMap(lambda x, t: self.velocity(x, t, condition), self.tolerance).average_velocity(x, s, t)
