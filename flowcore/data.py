"""Data: a set lies in memory whole, and what is dealt to each step is only the indices of its batch.

    TFDS (array_record on disk) -> numpy, once -> images on the device
    Grain: step k -> indices of batch k                              -> images[indices], inside the jitted step

`load` does the first line; for what is not on disk yet it asks our builders (`flowcore.datasets`), which download the
original files or take them from a folder. `Dealt` does the second line; `Drawn` is its twin for toy data with no end,
drawn on the device. To the trainer they are one protocol, a source:

    dealt = source.deal(steps)      on the host: a pytree of arrays with leading axis `steps`, or None
    x0 = source.batch(dealt[k], key)    inside jit: the batch of one step, (batch, ...)
    place = source.state(); source.restored(place)      where it is, for a checkpoint

On several processes each is dealt its rows of the batch (the second axis of what is dealt), a block in their order.
"""

import contextlib
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import grain
import jax
import jax.numpy as jnp
import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from jaxtyping import Array, Float, Float32, Int, Int32, PRNGKeyArray, UInt8

from flowcore.datasets import BUILDERS
from flowcore.datasets.originals import DataError
from flowcore.datasets.preparation import explained, prepare


def load(
    name: str,
    split: str = "train",
    *,
    data_dir: str | os.PathLike | None = None,
    from_files: str | os.PathLike | None = None,
    download: bool = True,
) -> dict[str, np.ndarray]:
    """All examples of a split, one array per feature: {"image": uint8 (N, H, W, C), "label": int64 (N,)} for our sets.

    `name` is one of ours (`flowcore.datasets.BUILDERS`), which is prepared when it is not on disk yet, or any data set
    that TFDS has prepared in `data_dir` in the array_record format: "name", "name/config" or "name:version". `split`
    may be a slice or a sum, as in TFDS: "train[:10%]", "train+test". `data_dir` defaults to that of TFDS
    (TFDS_DATA_DIR, else ~/tensorflow_datasets). `from_files` is a folder with the original files, to prepare from
    instead of downloading. Raises `DataError`, which says what to do; a set is prepared whole or not at all.
    """
    root = Path(data_dir or tfds.core.constants.get_default_data_dir()).expanduser()
    builder = BUILDERS.get(name)
    if builder is None:
        return read(prepared_folder(name, root), split)
    folder = root / builder.name / str(builder.VERSION)
    if not folder.exists():
        prepare(name, builder, root, from_files, download)
    return read(folder, split)


def prepared_folder(name: str, root: Path) -> Path:
    """The folder of a data set that is not ours, of its newest version unless `name` says which."""
    stem, _, version = name.partition(":")
    found = {path.name: path for path in (root / stem).glob("*") if tfds.core.Version.is_valid(path.name)}
    newest = max(found, key=tfds.core.Version, default=None)
    if (version or newest) in found:
        return found[version or newest]
    infos = [info.relative_to(root) for depth in ("*/*", "*/*/*") for info in root.glob(f"{depth}/dataset_info.json")]
    on_disk = sorted({info.parent.parent.as_posix() for info in infos if not info.parts[0].startswith(".")})
    raise DataError(
        f"There is no data set {name!r}. Ours are {', '.join(BUILDERS)}; prepared in {root}: "
        f"{', '.join(on_disk) or 'none'}. Choose one of these, or prepare it with TFDS (file_format='array_record')"
    )


def read(folder: Path, split: str) -> dict[str, np.ndarray]:
    """The examples of a split in a folder that TFDS has prepared. Raises `DataError`."""
    for needed in ("dataset_info.json", "features.json"):
        if not (folder / needed).is_file():
            raise DataError(f"{folder} is only half prepared: it has no {needed}. Delete that folder and load again")
    damaged = f"{folder} cannot be read", "If it is damaged, delete that folder and load again"
    with explained(*damaged):
        builder = tfds.builder_from_directory(folder)
        parts = known_parts(split, list(builder.info.splits), folder)
        if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
            raise DataError(
                f"{folder} is in the format {builder.info.file_format}, which needs TensorFlow to read. "
                "Delete that folder and prepare it with file_format='array_record'"
            )
        for part in parts:
            refuse_other_length(builder.info.splits[part])
    with explained(
        f"the split {split!r} of {folder} is empty or not understood", "Write it as 'train' or 'train[:10%]'"
    ):
        source = builder.as_data_source(split)
    with explained(*damaged):
        examples = source.__getitems__(range(len(source)))
    with explained(f"{folder} is not made of arrays of one shape", "Choose a data set of equally large examples"):
        return {feature: np.stack([example[feature] for example in examples]) for feature in examples[0]}


def known_parts(split: str, known: list[str], folder: Path) -> set[str]:
    """The names in a split such as "train[:10%]+test". Raises `DataError` for one that the data set does not have."""
    parts = {part.split("[")[0].strip() for part in split.split("+")}
    if unknown := parts - set(known):
        raise DataError(f"{folder} has no split {', '.join(sorted(unknown))!r}. Choose from: {', '.join(known)}")
    return parts


def refuse_other_length(info: tfds.core.SplitInfo) -> None:
    """Raise unless each file of the split has the number of records that TFDS wrote down: reading checks the rest."""
    for path, expected in zip(info.filepaths, info.shard_lengths, strict=True):
        with contextlib.closing(ArrayRecordReader(str(path))) as reader:
            if reader.num_records() != expected:
                raise ValueError(f"{path} has {reader.num_records()} records, not {expected}")


def scale(image: UInt8[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """image / 127.5 - 1: from the levels 0..255 to [-1, 1]."""
    return image.astype(np.float32) / np.float32(127.5) - np.float32(1)


def unscale(x: Float[Array | np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """The inverse of `scale`, clipped to 0..255 and rounded: samples as images."""
    return np.round(np.clip((np.asarray(x) + 1) * 127.5, 0, 255)).astype(np.uint8)


class Labelled(NamedTuple):
    """Data with their labels: one example, or a batch."""

    x0: Float[Array, "..."]
    label: Int[Array, "*batch"]


Examples = Float[Array, "batch ..."] | Labelled


class Drawn(eqx.Module):
    """A source with no end, drawn on the device: `draw(key)` gives one example."""

    draw: Callable
    batch_size: int = eqx.field(static=True)

    def deal(self, steps: int) -> None:
        """Nothing: the key of the step says all."""
        return None

    def batch(self, dealt: None, key: PRNGKeyArray) -> Examples:
        """`batch_size` independent examples."""
        return jax.vmap(self.draw)(jax.random.split(key, self.batch_size))

    def state(self) -> dict[str, int]:
        """Nothing: it is nowhere."""
        return {}

    def restored(self, state: dict[str, int]) -> "Drawn":
        """Itself. Raises ValueError if the state is that of a source that is somewhere."""
        if state:
            raise ValueError(f"the state is of another source: it has {state}, this one is drawn and has none")
        return self


class Dealt(eqx.Module):
    """A source that goes through `images` in a fresh order in every epoch, each example once per epoch; with `labels`
    the batches are `Labelled`.

    Batch k is rows k*batch_size... of the endless sequence of epochs, whatever their ends. Of every batch process p of
    n holds the p-th of n equal blocks, so that side by side they are the batch of one process, row by row (by default
    the processes are those of JAX). Dealing moves the source forward; `state` and `restored` take it up where it was.
    """

    images: Float[Array, "n *shape"]
    labels: Int[Array, " n"] | None
    dealer: "Dealer" = eqx.field(static=True)

    def __init__(
        self,
        images: Float[Array | np.ndarray, "n *shape"],
        batch_size: int,
        *,
        labels: Int[Array | np.ndarray, " n"] | None = None,
        seed: int = 0,
        process: int | None = None,
        processes: int | None = None,
    ):
        """`batch_size` counts the rows of all processes. Raises ValueError if they cannot share it evenly, and if there
        is not one label per image."""
        processes = jax.process_count() if processes is None else processes
        process = jax.process_index() if process is None else process
        if batch_size < 1 or batch_size % processes:
            raise ValueError(f"batch_size must be a positive multiple of the {processes} processes, not {batch_size}")
        if not 0 <= process < processes:
            raise ValueError(f"process must be in 0..{processes - 1}, not {process}")
        if not len(images):
            raise ValueError("there are no images to deal")
        if labels is not None and len(labels) != len(images):
            raise ValueError(f"there are {len(labels)} labels for {len(images)} images")
        self.images = jnp.asarray(images)
        self.labels = None if labels is None else jnp.asarray(labels)
        self.dealer = Dealer(len(images), batch_size, seed, process, processes)

    def deal(self, steps: int) -> Int32[np.ndarray, "{steps} rows"]:
        """The indices of the next `steps` batches: the rows of this process, batch_size / processes."""
        return np.stack([next(self.dealer.batches) for _ in range(steps)])

    def batch(self, dealt: Int[Array | np.ndarray, " rows"], key: PRNGKeyArray) -> Examples:
        """The images of one step."""
        images = self.images[dealt]
        return images if self.labels is None else Labelled(images, self.labels[dealt])

    def state(self) -> dict[str, int]:
        """Where the source is, as JSON can keep it; the same for every process."""
        return self.dealer.recipe | self.dealer.batches.get_state()

    def restored(self, state: dict[str, int]) -> "Dealt":
        """The same source at another place. Raises ValueError if the state is that of another sequence of batches."""
        if other := {key: state.get(key) for key, value in self.dealer.recipe.items() if state.get(key) != value}:
            raise ValueError(f"the state is of another source: it has {other}, this one {self.dealer.recipe}")
        share = {"process": self.dealer.process, "processes": self.dealer.processes}
        kept = {"labels": self.labels, "seed": self.dealer.recipe["seed"]}
        moved = Dealt(self.images, self.dealer.recipe["batch_size"], **kept, **share)
        moved.dealer.batches.set_state({"next_index": state["next_index"]})
        return moved


class Dealer:
    """The Grain iterator of a `Dealt`: the one thing here that moves. An element is all indices of a batch.

    (Dealt one by one, each example would cost as much as a whole batch.) To jit all dealers are equal, because nothing
    that is traced looks at them: equal steps on differently shuffled sources share one compilation.
    """

    def __init__(self, examples: int, batch_size: int, seed: int, process: int, processes: int):
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
        return type(other) is Dealer

    def __hash__(self):
        return hash(Dealer)
