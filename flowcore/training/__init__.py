"""Training: the loop, what it is spread over, checkpoints, and recipes. `checkpoints` is imported by name: it needs
Orbax, which the core does without."""

from flowcore.training.devices import Devices, data_parallel, fully_sharded
from flowcore.training.loop import CHUNK, Diverged, State, begin, chunk_length, collect, fit
from flowcore.training.recipe import TRIAL, Recipe, adam
