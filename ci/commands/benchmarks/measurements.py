"""All measurements by name, in the order in which they are run."""

from commands.benchmarks.inference import attention, sampling
from commands.benchmarks.peer import peers
from commands.benchmarks.processes import compilation, scaling
from commands.benchmarks.train_step import dealing, overhead, steps, utilisation, wide_steps

MEASUREMENTS = {
    measure.__name__: measure
    for measure in (
        steps,
        wide_steps,
        overhead,
        compilation,
        dealing,
        sampling,
        attention,
        utilisation,
        scaling,
        peers,
    )
}
