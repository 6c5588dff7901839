r"""Guidance inside training: the map of one class learns a velocity that is pushed away from that of no class.

    v_w(x, t | y) = v(x, t | 0) + w (v(x, t | y) - v(x, t | 0))           classifier-free guidance at scale w

Each source below replaces the conditional velocity c = eps - x0 by a c_g whose mean, at the map that it leads to, is
that map's own velocity: the fixed point is v_w, so one jump is guided and costs no second network call. The class is
the condition of the model (`Term.condition`): a one-hot vector, zeros for no class. A network that takes the guidance
too finds three numbers behind it: the strength 1 - 1/w, and the times between which it acts (else w = 1).
Rows that lost their class keep c.

Reference: Ho & Salimans 2022 for w; the sources are those of the papers named there.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flowcore.checks import check
from flowcore.maps import AbstractFlowMap, OdeMap
from flowcore.objectives.context import Context
from flowcore.path import Time, conditional_velocity

ALWAYS = (0.0, 1.0)  # the interval of guidance that acts at all times


def guidance_condition(
    label: Int[Array, ""] | int, classes: int, scale: Time, interval=ALWAYS
) -> Float[Array, " numbers"]:
    """The condition that asks for a class at a scale of guidance >= 1, acting in an interval of times.

    Raises ValueError for a class that there is not, a scale below 1 and an interval that is none, as far as they are
    known when it is made."""
    check("classes", classes, least=1, whole=True)
    check(f"label of {classes} classes", label, least=0, most=classes - 1, whole=True)
    check("scale of guidance", scale, least=1)
    check_interval(interval)
    return jnp.concatenate([jax.nn.one_hot(label, classes), jnp.stack([1 - 1 / jnp.asarray(scale), *interval])])


def check_interval(interval) -> None:
    """Raise ValueError unless these are two times in order; an array is passed over."""
    if not isinstance(interval, tuple | list):
        return
    if len(interval) != 2:
        raise ValueError(f"interval of guidance must be two times (low, high), not {interval}")
    for time in interval:
        check("a time of the interval of guidance", time, least=0, most=1)
    if all(isinstance(time, int | float) for time in interval) and interval[0] > interval[1]:
        raise ValueError(f"interval of guidance must be (low, high) with low <= high, not {interval}")


def guidance_strength(condition: Float[Array, " numbers"], t: Time) -> Float[Array, ""]:
    """1 - 1/w at time t, as the condition says."""
    strength, low, high = condition[-3:]
    return jnp.where((low <= t) & (t <= high), strength, 0.0)


def class_condition(classes: int, drop_rate: float = 0.1) -> Callable:
    """A condition: the one-hot class of the row, or zeros in the share `drop_rate` of the rows.

    Raises ValueError for no classes, and for a share outside of [0, 1]; when it is asked for one, for data without
    labels."""
    check("classes", classes, least=1, whole=True)
    check("drop_rate", drop_rate, least=0, most=1)

    def condition(context: Context):
        refuse_no_label(context)
        labelled = jax.random.uniform(context.key) >= drop_rate
        return jnp.where(labelled, jax.nn.one_hot(context.label, classes), 0.0)

    return condition


def refuse_no_label(context: Context) -> None:
    """Raise ValueError for a row without a label."""
    if context.label is None:
        raise ValueError("a condition on the class needs labels: give the source Labelled(x0, label), or labels=...")


def guided_condition(classes: int, most: float = 8.0, drop_rate: float = 0.1) -> Callable:
    """A condition: the class, a scale w in [1, most] of density 1/w, and an interval from U(0, 1/2) to U(1/2, 1), as
    `guidance_condition`; zeros in the share `drop_rate` of the rows.

    Reference: Geng et al. 2025, "Improved Mean Flows", as released (their beta = 1), which asks for all times where
    s = t. Raises ValueError as `class_condition`, and for a scale below 1.
    """
    check("classes", classes, least=1, whole=True)
    check("most of guided_condition", most, least=1)
    check("drop_rate", drop_rate, least=0, most=1)

    def condition(context: Context):
        refuse_no_label(context)
        key_class, key_scale, key_interval = jax.random.split(context.key, 3)
        scale = most ** jax.random.uniform(key_scale)
        interval = (jnp.arange(2.0) + jax.random.uniform(key_interval, (2,))) / 2
        labelled = jax.random.uniform(key_class) >= drop_rate
        return jnp.where(labelled, guidance_condition(context.label, classes, scale, interval), 0.0)

    return condition


def unconditional_velocity(context: Context):
    """The velocity of the target under no class."""
    return context.target.condition_on(jnp.zeros_like(context.target.condition)).velocity


def guided_velocity(scale: float, self_share: float = 0.0, interval=ALWAYS) -> Callable:
    """c_g = w c + k V(x, s, s | y) + (1 - w - k) V(x, s, s | 0), leading to scale w / (1 - k); k = `self_share` < 1.

    The noise of c enters times w only, so a large k and a small w reach a scale with less variance. Outside of
    `interval` c is kept.
    Reference: Geng et al. 2025, "Mean Flows for One-step Generative Modeling", section 4.2 and appendix (omega, kappa).
    Raises ValueError for a scale that is not above 0, a share outside of [0, 1), and an interval that is none.
    """
    check("scale of guided_velocity", scale, above=0)
    check("self_share of guided_velocity", self_share, least=0, below=1)
    check_interval(interval)
    low, high = interval

    def velocity(context: Context):
        c, free = conditional_velocity(context.x0, context.eps), unconditional_velocity(context)
        unlabelled = jnp.all(context.target.condition == 0)

        def v(x, t):
            mixed = scale * c + self_share * context.target.velocity(x, t) + (1 - scale - self_share) * free(x, t)
            return jnp.where(unlabelled | (t < low) | (t > high), c, mixed)

        return v

    return velocity


def conditioned_guided_velocity(context: Context):
    """c_g = c + (1 - 1/w) (V(x, s, s | y, w) - V(x, s, s | 0)), leading to the scale w, in the interval, of the
    row's condition (`guided_condition`).

    Reference: Geng et al. 2025, "Improved Mean Flows", section 4 (flexible guidance), as released.
    """
    c, free = conditional_velocity(context.x0, context.eps), unconditional_velocity(context)
    condition = context.target.condition
    return lambda x, t: c + guidance_strength(condition, t) * (context.target.velocity(x, t) - free(x, t))


def guidance_free(model, x, s, t, *, v, target):
    """b V(x, s, s | y) + (1 - b) V(x, s, s | 0) = v, b = 1/w: flow matching of a network whose condition is 1 - b.

    The class-less part is the target's. Its residual is that of flow matching with `conditioned_guided_velocity`, and
    its gradient 1/w of that one's.
    Reference: Chen et al. 2025, "Visual Generation Without Guidance" (GFT), algorithm 1.
    """
    share = 1 - guidance_strength(model.condition, s)
    free = target.condition_on(jnp.zeros_like(target.condition))
    return share * model.velocity(x, s) + (1 - share) * free.velocity(x, s), v(x, s)


class ClassGuidedMap(AbstractFlowMap):
    """Where training with guidance leads, for velocities that are known: v_w of the class, scale and interval of a
    `guidance_condition`.

    `of_class` holds the maps of all classes, stacked along a first axis of their arrays; `free` is that of no class.
    """

    of_class: AbstractFlowMap
    free: AbstractFlowMap
    tolerance: float = eqx.field(static=True, default=1e-6)

    def __check_init__(self):
        check("tolerance of a ClassGuidedMap", self.tolerance, above=0)

    def velocity(self, x, t, condition):
        free = self.free.velocity(x, t)
        velocities = eqx.filter_vmap(lambda flow_map: flow_map.velocity(x, t))(self.of_class)
        of_class = jnp.tensordot(condition[:-3], velocities, axes=1)
        guided = free + (of_class - free) / (1 - guidance_strength(condition, t))
        return jnp.where(jnp.all(condition == 0), free, guided)

    def average_velocity(self, x, s, t, condition):
        return OdeMap(lambda x, t: self.velocity(x, t, condition), self.tolerance).average_velocity(x, s, t)
