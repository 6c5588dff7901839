"""Sources: what `fit` draws its batches from.

    indices = source.draw_indices(steps)      on the host: a pytree of arrays with leading axis `steps`, or None
    x0 = source.batch(indices[k], key)        inside jit: the batch of one step, (batch, ...)
    place = source.state(); source.restore(place)      where it is, for a checkpoint

`ShuffledSource` holds a data set on the device and lets Grain draw only the indices of each batch; `SampledSource`
makes examples on the device, without end. On several processes each draws its rows of the batch (the second axis of
the indices), a block in their order.
"""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32, PRNGKeyArray

from flowcore.checks import check
from flowcore.data.examples import Examples, Labelled


class SampledSource(eqx.Module):
    """A source with no end, drawn on the device: `draw(key)` gives one example."""

    draw: Callable
    batch_size: int = eqx.field(static=True)

    def __check_init__(self):
        check("batch_size", self.batch_size, least=1, whole=True)

    @classmethod
    def of_rows(cls, examples, batch_size: int) -> "SampledSource":
        """Rows of an array (or of `Labelled`, `Paired` arrays) drawn with replacement: needs no Grain."""
        rows = Rows(checked(examples))
        return cls(rows, batch_size)

    def draw_indices(self, steps: int) -> None:
        """Nothing: the key of the step says all."""
        return None

    def batch(self, indices: None, key: PRNGKeyArray) -> Examples:
        """`batch_size` independent examples."""
        return jax.vmap(self.draw)(jax.random.split(key, self.batch_size))

    def state(self) -> dict[str, int]:
        """Nothing: it is nowhere."""
        return {}

    def restore(self, state: dict[str, int]) -> "SampledSource":
        """Itself. Raises ValueError if the state is that of a source that is somewhere."""
        if state:
            raise ValueError(f"the state is of another source: it has {state}, this one is drawn and has none")
        return self


class Rows(eqx.Module):
    """A row of the examples, drawn with replacement."""

    examples: Examples

    def __call__(self, key: PRNGKeyArray):
        row = jax.random.randint(key, (), 0, len(jax.tree.leaves(self.examples)[0]))
        return jax.tree.map(lambda leaf: leaf[row], self.examples)


def checked(examples) -> Examples:
    """The examples as arrays on the device. Raises ValueError for none, for parts of different lengths, for levels that
    were not scaled, for noise of another shape than the data, for numbers that are not finite, and for labels that are
    no classes."""
    leaves = jax.tree.leaves(examples)
    lengths = sorted({len(leaf) for leaf in leaves})
    if not lengths or lengths[0] == 0:
        raise ValueError("there are no examples to draw from")
    if len(lengths) > 1:
        raise ValueError(f"the parts of the examples differ in length: {', '.join(map(str, lengths))}")
    first = leaves[0]
    if not jnp.issubdtype(first.dtype, jnp.floating):
        raise ValueError(f"the examples are {first.dtype}, not floating point: scale images with flowcore.data.scale")
    eps = getattr(examples, "eps", None)
    if eps is not None and eps.shape != examples.x0.shape:
        raise ValueError(f"noise of a pair must be shaped like its datum: x0 is {examples.x0.shape}, eps {eps.shape}")
    for leaf in leaves:
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not bool(jnp.all(jnp.isfinite(leaf))):
            raise ValueError("some of the examples are not finite: look for NaN or infinity in the data")
    label = getattr(examples, "label", None)
    if label is not None and not (jnp.issubdtype(label.dtype, jnp.integer) and int(jnp.min(label)) >= 0):
        found = f"down to {int(jnp.min(label))}" if jnp.issubdtype(label.dtype, jnp.integer) else label.dtype
        raise ValueError(f"labels must be integers from 0 on, not {found}: number the classes 0, 1, 2, ...")
    return jax.tree.map(jnp.asarray, examples)


class ShuffledSource(eqx.Module):
    """A source that goes through `examples` in a fresh order in every epoch, each example once per epoch.

    They are one array, or `Labelled` or `Paired` arrays; with `labels` an array becomes `Labelled`. Batch k is rows
    k*batch_size... of the endless sequence of epochs, whatever their ends. Of every batch process p of n holds the p-th
    of n equal blocks, so that side by side they are the batch of one process, row by row (by default the processes are
    those of JAX). Drawing moves the source forward; `state` and `restore` take it up where it was.
    """

    examples: Examples
    order: "ShuffledIndices" = eqx.field(static=True)

    def __init__(
        self,
        examples,
        batch_size: int,
        *,
        labels: Int[Array | np.ndarray, " n"] | None = None,
        seed: int = 0,
        process: int | None = None,
        processes: int | None = None,
    ):
        """`batch_size` counts the rows of all processes. Raises ValueError if they cannot share it evenly, if there is
        not one label per example, and for examples that are none (`checked`)."""
        processes = jax.process_count() if processes is None else processes
        process = jax.process_index() if process is None else process
        check("batch_size", batch_size, whole=True)
        check("seed", seed, least=0, whole=True)
        if batch_size < 1 or batch_size % processes:
            raise ValueError(f"batch_size must be a positive multiple of the {processes} processes, not {batch_size}")
        if not 0 <= process < processes:
            raise ValueError(f"process must be in 0..{processes - 1}, not {process}")
        if labels is not None and len(labels) != len(examples):
            raise ValueError(f"there are {len(labels)} labels for {len(examples)} examples")
        self.examples = checked(examples if labels is None else Labelled(jnp.asarray(examples), jnp.asarray(labels)))
        count = len(jax.tree.leaves(self.examples)[0])
        self.order = ShuffledIndices(count, batch_size, seed, process, processes)

    def draw_indices(self, steps: int) -> Int32[np.ndarray, "{steps} rows"]:
        """The indices of the next `steps` batches: the rows of this process, batch_size / processes."""
        return np.stack([next(self.order.batches) for _ in range(steps)])

    def batch(self, indices: Int[Array | np.ndarray, " rows"], key: PRNGKeyArray) -> Examples:
        """The examples of one step."""
        return jax.tree.map(lambda leaf: leaf[indices], self.examples)

    def state(self) -> dict[str, int]:
        """Where the source is, as JSON can keep it; the same for every process."""
        return self.order.recipe | self.order.batches.get_state()

    def restore(self, state: dict[str, int]) -> "ShuffledSource":
        """The same source at another place. Raises ValueError if the state is that of another sequence of batches."""
        recipe = self.order.recipe
        if other := {key: state.get(key) for key, value in recipe.items() if state.get(key) != value}:
            raise ValueError(f"the state is of another source: it has {other}, this one {recipe}")
        share = {"process": self.order.process, "processes": self.order.processes}
        moved = ShuffledSource(self.examples, recipe["batch_size"], seed=recipe["seed"], **share)
        moved.order.batches.set_state({"next_index": state["next_index"]})
        return moved


class ShuffledIndices:
    """The Grain iterator of a `ShuffledSource`: the one thing here that moves. An element is all indices of a batch.

    (Drawn one by one, each example would cost as much as a whole batch.) To jit all are equal, because nothing that is
    traced looks at them: equal steps on differently shuffled sources share one compilation.
    """

    def __init__(self, examples: int, batch_size: int, seed: int, process: int, processes: int):
        try:
            import grain  # here: sampled sources do without
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "ShuffledSource needs Grain: pip install 'flowcore[data]', or draw rows with SampledSource.of_rows"
            ) from None
        self.recipe = {"examples": examples, "batch_size": batch_size, "seed": seed}
        self.process, self.processes = process, processes

        @functools.lru_cache(maxsize=2)
        def order(epoch: int) -> np.ndarray:
            return np.random.default_rng([seed, epoch]).permutation(examples).astype(np.int32)

        def indices(step: int) -> np.ndarray:
            first, last = step * batch_size, (step + 1) * batch_size
            epochs = range(first // examples, (last - 1) // examples + 1)
            starts = [(epoch, epoch * examples) for epoch in epochs]
            rows = [order(epoch)[max(first - start, 0) : last - start] for epoch, start in starts]
            return np.split(np.concatenate(rows), processes)[process]

        # no thread of its own: a batch takes 12 us, handing it from thread to thread 15 more
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        self.batches = iter(grain.MapDataset.range(2**31).map(indices).to_iter_dataset(options))

    def __eq__(self, other):
        return type(other) is ShuffledIndices

    def __hash__(self):
        return hash(ShuffledIndices)
