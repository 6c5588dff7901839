"""What a row of the batch has at hand, and what a term makes of it: a velocity, a target, a starting point, extras.

The three settings of the survey's table are three sources of the velocity: `conditional` (marginal from conditional),
`self_velocity` (self-distillation) and `teacher_velocity` (distillation). All functions here take a `Context`.
"""

from typing import Any, NamedTuple

import jax
from jaxtyping import Array, PRNGKeyArray

from flowcore.path import conditional_velocity, interpolate


class Context(NamedTuple):
    """One row: its datum and noise, its times, and the maps it may ask. Target and teacher never get a gradient."""

    target: Any  # the trusted copy of the map: the live model or its average
    teacher: Any  # a frozen flow map, or None
    x0: Array
    eps: Array
    times: tuple  # the source first, the target last
    progress: Any  # the share of training that is done
    key: PRNGKeyArray  # for what else the equality must draw
    label: Any = None  # of the datum, when the data have labels
    model: Any = None  # the live map, through which the gradient runs


# --- velocities ------------------------------------------------------------------------------------------------------


def conditional(context: Context):
    """v = eps - x0, right on average at x_s only: for equalities that are linear in v and ask for it nowhere else."""
    velocity = conditional_velocity(context.x0, context.eps)
    return lambda x, t: velocity


def self_velocity(context: Context):
    """v(x, t) = V(x, t, t) of the map's trusted copy: no gradient."""
    return context.target.velocity


def model_velocity(context: Context):
    """v(x, t) = V(x, t, t) of the live map: the gradient runs through it, for variants in which nothing is stopped."""
    return context.model.velocity


def teacher_velocity(context: Context):
    """v(x, t) of the teacher. Raises ValueError when there is none."""
    if context.teacher is None:
        raise ValueError("this objective distils: pass teacher=... (a flow map, e.g. flowcore.OdeMap or an exact map)")
    return context.teacher.velocity


def sample_velocity(context: Context):
    """v = noise - F(eps, s, t), at s = 1 and t = 0: the conditional velocity of what the map itself makes of noise.
    The noise is `independent_noise`."""
    made = context.target(context.eps, context.times[0], context.times[-1])
    velocity = conditional_velocity(made, independent_noise(context)["noise"])
    return lambda x, t: velocity


# --- targets ---------------------------------------------------------------------------------------------------------


def self_target(context: Context):
    """The target handed to the equality: the live model, or its average when `fit` is given a `target_decay`."""
    return context.target


def teacher_target(context: Context):
    """The target is the teacher itself: a frozen map. Raises ValueError when there is none."""
    if context.teacher is None:
        raise ValueError("this objective distils a flow map: pass teacher=... (a frozen flow map)")
    return context.teacher


# --- starting points and extras --------------------------------------------------------------------------------------


def on_path(context: Context):
    """x_s = (1 - s) x0 + s eps."""
    return interpolate(context.x0, context.eps, context.times[0])


def from_noise(context: Context):
    """x_s = s eps, for methods that see no data and start where there is next to none, at s = 1 or close to it."""
    return context.times[0] * context.eps


def no_extra(context: Context) -> dict:
    """The equality takes nothing beyond `v` and `target`."""
    return {}


def independent_noise(context: Context) -> dict:
    """A noise that is not the path's."""
    return {"noise": jax.random.normal(context.key, context.x0.shape, context.x0.dtype)}
