"""Eight Gaussians in the plane: the task of pictures, whose map is known exactly."""

from collections.abc import Callable

import numpy as np

from flowcore import exact
from flowcore.tasks.laws import of_law
from flowcore.tasks.task import Task, fewer

HALVES = np.arange(8).reshape(2, 4)


def ring(progress: Callable = iter, *, trial: bool = False, count: int = 4096) -> Task:
    """Eight Gaussians on a circle of radius 1.4 (std 0.12) in the plane; the reference is exact. The classes are the
    four modes of the upper half and the four of the lower.

    Nothing is trained, so there is no `progress` to show. A `trial` is measured on few points.
    """
    return of_law(exact.ring(), fewer(count) if trial else count, HALVES)
