"""Data: examples, the sources that `fit` draws batches from, and data sets on disk.

`load` and `DataError` are imported when they are asked for: they need TensorFlow Datasets, which the core does without.
"""

from flowcore.data.examples import Examples, Labelled, Paired
from flowcore.data.images import scale, unscale
from flowcore.data.sources import SampledSource, ShuffledSource


def __getattr__(name: str):
    if name in ("load", "DataError"):
        import flowcore

        return getattr(flowcore.brought("flowcore.data.reading"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
