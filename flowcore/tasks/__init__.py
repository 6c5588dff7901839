"""The ground that replications share: what is learned, what it is held against, and the teachers where nothing is known
exactly."""

from flowcore.tasks.names import TASKS
from flowcore.tasks.task import FEW, ON_THE_WAY, Classes, Task, carry
