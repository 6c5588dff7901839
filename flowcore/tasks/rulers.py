"""What an error is held against: how far one gets without learning anything.

The same rulers stand beside every error of a task, so that "small" means something. One Euler step of the exact
velocity ends at the mean of the data, v(x, 1) = x - E x0: it is listed once, and says nothing of a teacher.
Floors are the other end: what a metric shows when nothing is wrong.
"""

import jax
import jax.numpy as jnp
import numpy as np

from flowcore import metrics
from flowcore.checks import check
from flowcore.maps import TangentMap
from flowcore.sample import generate
from flowcore.tasks.laws import draws
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


def floors(task: Task, *, pairs: int = 8, other_seed: int | None = None) -> dict[str, float]:
    """What a metric shows when nothing is wrong, by the metric's name; units of the data.

    `energy_distance`: its standard deviation about 0, over independent pairs of exact draws of the task's size, where
    the law is known (`reference.sample`). `endpoint_error`, with an `other_seed`: between the endpoints of two
    teachers, the task's and one of that seed, which is trained now if it is not kept.
    Raises ValueError for no pairs, and for another seed where nothing was learned or that is the task's own."""
    check("pairs of exact draws", pairs, least=1, whole=True)
    found = {}
    if hasattr(task.reference, "sample"):
        found["energy_distance"] = energy_floor(task, pairs)
    if other_seed is not None:
        if task.relearn is None:
            raise ValueError("other_seed is for a learned reference: that of this task is exact, and has no other")
        found["endpoint_error"] = task.endpoint_error(task.relearn(other_seed))
        if found["endpoint_error"] == 0:
            raise ValueError(f"other_seed {other_seed} is that of the task's own teacher: take another")
    return found


def energy_floor(task: Task, pairs: int) -> float:
    """Root mean square of the energy distance, which is 0 on average, over pairs of exact draws."""
    distances = []
    for key in jax.random.split(jax.random.key(20250520), pairs):
        key_made, key_real = jax.random.split(key)
        made = draws(task.reference, key_made, len(task.noise))
        distances.append(metrics.energy_distance(made, draws(task.reference, key_real, len(task.real))))
    return float(np.sqrt(np.mean(np.square(distances))))


def spread(task: Task) -> float:
    """RMS distance of the reference endpoints from their mean: the unit in which tasks of other sharpness compare."""
    return float(metrics.rms(task.endpoints - jnp.mean(task.endpoints, axis=0, keepdims=True)))
