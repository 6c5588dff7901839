r"""Guidance inside training: the map of one class learns a velocity that is pushed away from that of no class.

    v_w(x, t | y) = v(x, t | 0) + w (v(x, t | y) - v(x, t | 0))           classifier-free guidance at scale w

Each source below replaces the conditional velocity c = eps - x0 by a c_g whose mean, at the map that it leads to, is
that map's own velocity: the fixed point is v_w, so one jump is guided and costs no second network call. The class is
the condition of the model (`Term.condition`): a one-hot vector, zeros for no class, and behind it what else the
network is told. Rows that lost their class keep c.

Reference: Ho & Salimans 2022 for w; the sources are those of the papers named there.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from flowcore.path import conditional_velocity
from flowcore.terms import Hand


def of_class(classes: int, dropped: float = 0.1) -> Callable:
    """A condition: the one-hot class of the row, or zeros in the share `dropped` of the rows."""

    def condition(hand: Hand):
        kept = jax.random.uniform(hand.key) >= dropped
        return jnp.where(kept, jax.nn.one_hot(hand.label, classes), 0.0)

    return condition


def of_class_and_strength(classes: int, most: float = 8.0, dropped: float = 0.1) -> Callable:
    """A condition: the one-hot class, then the strength 1 - 1/w of a scale w in [1, most] of density 1/w; zeros in the
    share `dropped` of the rows. Reference: Geng et al. 2025, "Improved Mean Flows", as released (their beta = 1).
    """

    def condition(hand: Hand):
        key_class, key_scale = jax.random.split(hand.key)
        strength = 1 - most ** -jax.random.uniform(key_scale)
        kept = jax.random.uniform(key_class) >= dropped
        return jnp.where(kept, jnp.append(jax.nn.one_hot(hand.label, classes), strength), 0.0)

    return condition


def classless(hand: Hand):
    """The velocity of the target under no class."""
    return hand.target.map.given(jnp.zeros_like(hand.target.condition)).velocity


def guided(scale: float, kept: float = 0.0) -> Callable:
    """c_g = w c + k V(x, s, s | y) + (1 - w - k) V(x, s, s | 0), leading to scale w / (1 - k); k = `kept` < 1.

    The noise of c enters times w only, so a large k and a small w reach a scale with less variance.
    Reference: Geng et al. 2025, "Mean Flows for One-step Generative Modeling", section 4.2 and appendix (omega, kappa).
    """

    def velocity(hand: Hand):
        c, free, dropped = conditional_velocity(hand.x0, hand.eps), classless(hand), jnp.all(hand.target.condition == 0)

        def v(x, t):
            mixed = scale * c + kept * hand.target.velocity(x, t) + (1 - scale - kept) * free(x, t)
            return jnp.where(dropped, c, mixed)

        return v

    return velocity


def guided_as_told(hand: Hand):
    """c_g = c + (1 - 1/w) (V(x, s, s | y, w) - V(x, s, s | 0)), leading to the scale w that the network is told: its
    strength 1 - 1/w is the last entry of the condition (`of_class_and_strength`).

    Reference: Geng et al. 2025, "Improved Mean Flows", section 4 (flexible guidance), as released.
    """
    c, free, strength = conditional_velocity(hand.x0, hand.eps), classless(hand), hand.target.condition[-1]
    return lambda x, t: c + strength * (hand.target.velocity(x, t) - free(x, t))


def guidance_free(model, x, s, t, *, v, target):
    """b V(x, s, s | y) + (1 - b) V(x, s, s | 0) = v, b = 1/w: flow matching of a network that is told 1 - b.

    The class-less part is the target's. Its residual is that of flow matching with `guided_as_told`, and its gradient
    1/w of that one's. Reference: Chen et al. 2025, "Visual Generation Without Guidance" (GFT), algorithm 1.
    """
    share = 1 - model.condition[-1]
    free = target.map.given(jnp.zeros_like(target.condition))
    return share * model.velocity(x, s) + (1 - share) * free.velocity(x, s), v(x, s)
