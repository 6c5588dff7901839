"""What an error is held against: how far one gets without learning anything.

The same rulers stand beside every error of a task, so that "small" means something. One Euler step of the exact
velocity ends at the mean of the data, v(x, 1) = x - E x0: it is listed once, and says nothing of a teacher.
"""

import jax
import jax.numpy as jnp

from flowcore import metrics
from flowcore.maps import TangentMap
from flowcore.sample import generate
from flowcore.tasks.task import Task

EULER = (2, 4, 8, 16)  # the steps of the reference's velocity


def endpoint_rulers(task: Task) -> dict[str, float]:
    """RMS distance to the reference endpoints of what needs no training, by name; units of the data.

    The centre of the right component is there where the reference knows its components (`reference.centre`)."""
    euler = TangentMap(task.reference.velocity)
    ends = {"mean of the data": generate(euler, task.noise, 1), "do nothing": task.noise}
    if hasattr(task.reference, "centre"):
        ends["centre of the right component"] = jax.vmap(task.reference.centre)(task.endpoints)
    ends |= {f"{steps} Euler steps": generate(euler, task.noise, steps) for steps in EULER}
    return {name: metrics.endpoint_error(end, task.endpoints) for name, end in ends.items()}


def spread(task: Task) -> float:
    """RMS distance of the reference endpoints from their mean: the unit in which tasks of other sharpness compare."""
    return float(metrics.rms(task.endpoints - jnp.mean(task.endpoints, axis=0, keepdims=True)))
