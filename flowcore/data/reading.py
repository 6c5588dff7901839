"""Data sets from disk into memory: TFDS (array_record) -> numpy, whole and once.

What is not on disk yet our builders prepare (`flowcore.data.datasets`): they download the original files, or take them
from a folder.
"""

import contextlib
import json
import os
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader

from flowcore.data.datasets import BUILDERS
from flowcore.data.datasets.originals import DataError
from flowcore.data.datasets.preparation import explained, prepare

FEATURES = "tensorflow_datasets.core.features."  # where those of TFDS itself are


def load(
    name: str,
    split: str = "train",
    *,
    data_dir: str | os.PathLike | None = None,
    from_files: str | os.PathLike | None = None,
    download: bool = True,
) -> dict[str, np.ndarray]:
    """All examples of a split, one array per feature: {"image": uint8 (N, H, W, C), "label": int64 (N,)} for our sets.

    `name` is one of ours (`flowcore.data.datasets.BUILDERS`), which is prepared when it is not on disk yet, or any data
    set that TFDS has prepared in `data_dir` in the array_record format: "name", "name/config" or "name:version".
    `split` may be a slice or a sum, as in TFDS: "train[:10%]", "train+test". `data_dir` defaults to that of TFDS
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
        refuse_other_features(folder)
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


def refuse_other_features(folder: Path) -> None:
    """Raise `DataError` for a feature that is not one of TFDS's own: TFDS would import its module, whatever that is."""
    for name in named_classes(json.loads((folder / "features.json").read_text())):
        if not name.startswith(FEATURES):
            raise DataError(
                f"{folder} has features of the class {name!r}, which is none of TFDS: its code is not run. Delete that "
                "folder, or prepare the data set with the features of TFDS"
            )


def named_classes(content):
    """Every class that a features.json names, anywhere in it, be it JSON in a string of JSON: as it is written today,
    and as it was."""
    if isinstance(content, str) and content.lstrip()[:1] in ("{", "["):
        with contextlib.suppress(ValueError):  # else it is a text
            yield from named_classes(json.loads(content))
    if isinstance(content, list):
        for part in content:
            yield from named_classes(part)
    if isinstance(content, dict):
        for key, part in content.items():
            if key in ("pythonClassName", "python_class_name", "type") and isinstance(part, str):
                yield part
            yield from named_classes(part)


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
