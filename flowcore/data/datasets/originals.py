"""What our builders have in common: labelled uint8 images, made from original files of known checksum.

    original files --(sha256)--> numpy arrays --(TFDS)--> array_record on disk --(flowcore.data)--> numpy in memory

A builder of a new data set says where its files are (`URLS`, with a line for each in `checksums.tsv`), what an image is
(`SHAPE`, `CLASSES`) and how the files become arrays (`arrays`). It needs numpy and the standard library only: the stock
builders of TFDS need TensorFlow to unpack, parse and encode. The names begin with `flow_`, so that our copy of a data
set never shares a folder with the stock one; they are not registered in TFDS, so that importing twice is harmless.
"""

import abc
import gzip
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Integer, UInt8

CHECKSUMS = tfds.core.download.checksums.load_url_infos(Path(__file__).with_name("checksums.tsv"))


class DataError(RuntimeError):
    """A data set could not be had; the message says what to do. Nothing half-written was left behind."""


class ImageBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Features `image` (uint8, SHAPE = height, width, channels) and `label` (int64, one of CLASSES)."""

    VERSION = tfds.core.Version("1.0.0")
    URLS: tuple[str, ...] = ()
    SHAPE: tuple[int, int, int]
    CLASSES: Sequence[str] = tuple("0123456789")
    HOMEPAGE = ""
    url_infos = CHECKSUMS  # size and sha256 of every original file, by URL
    files: dict[str, Path] | None = None  # original files by name; None has them downloaded

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(skip_registration=True, **kwargs)

    @abc.abstractmethod
    def arrays(self, files: dict[str, Path]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """{split: (images, labels)} with images uint8 (N, *SHAPE), labels integer (N,), from the files by name."""

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Tensor(shape=self.SHAPE, dtype=np.uint8)
        label = tfds.features.ClassLabel(names=list(self.CLASSES))
        return tfds.core.DatasetInfo(
            builder=self,
            description=type(self).__doc__,
            features=tfds.features.FeaturesDict({"image": image, "label": label}),
            supervised_keys=("image", "label"),
            homepage=self.HOMEPAGE,
            disable_shuffling=True,  # keep the original order: example i is example i of the original file
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        # one after the other: after a failure no other download is still writing
        files = self.files or {file_name(url): Path(dl_manager.download(url)) for url in self.URLS}
        return {split: self._generate_examples(*pair) for split, pair in self.arrays(files).items()}

    def _generate_examples(self, images: UInt8[np.ndarray, "n h w c"], labels: Integer[np.ndarray, "n"]) -> Iterator:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": image, "label": int(label)}


def file_name(url: str) -> str:
    """The last part of a URL."""
    return PurePosixPath(url).name


def original_files(builder: type[ImageBuilder], folder: Path) -> dict[str, Path]:
    """The original files of `builder` in `folder`, by name, each of the recorded sha256.

    A file `name.gz` may also lie there unpacked, as `name`, or packed anew, as distributions do: then its content is
    compared, for which `checksums.tsv` must have a line for `name` too. Raises `DataError` for a file that is missing,
    is not the original, or cannot be compared.
    """
    names = [file_name(url) for url in builder.URLS]
    found = {}
    for url, name in zip(builder.URLS, names, strict=True):
        packed, unpacked = folder / name, folder / name.removesuffix(".gz")
        content = builder.url_infos.get(url.removesuffix(".gz"))
        if packed.is_file():
            if content is None or unpacked_checksum(packed) != content.checksum:
                refuse_other_file(packed, builder.url_infos[url].checksum)
        elif unpacked.is_file() and unpacked != packed:
            if content is None:
                raise DataError(f"{unpacked} cannot be compared: only {name} has a recorded sha256. Put {name} there")
            refuse_other_file(unpacked, content.checksum)
        else:
            expected = ", ".join(names)
            raise DataError(f"{name} is not in {folder}. Put the original files there: {expected} (.gz or unpacked)")
        found[name] = packed if packed.is_file() else unpacked
    return found


def unpacked_checksum(path: Path) -> str | None:
    """The sha256 of what the file unpacks to; None when it does not."""
    try:
        return hashlib.sha256(gzip.decompress(path.read_bytes())).hexdigest()
    except (OSError, EOFError, zlib.error):
        return None


def refuse_other_file(path: Path, expected: str) -> None:
    """Raise `DataError` unless the sha256 of the file is the expected one."""
    with path.open("rb") as file:
        measured = hashlib.file_digest(file, "sha256").hexdigest()
    if measured != expected:
        raise DataError(
            f"{path} is not the original file: expected sha256 {expected}, found {measured}. Replace it by the original"
        )


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array in an IDX file, gzipped or not: 0, 0, 8 (ubyte), number of axes, big-endian sizes, the bytes."""
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":  # by content, since TFDS renames what it downloads
        content = gzip.decompress(content)
    if content[:3] != b"\0\0\x08":
        raise DataError(f"{path} is not an IDX file of bytes. Replace it by the original")
    axes = content[3]
    shape = np.frombuffer(content, ">u4", axes, offset=4)
    return np.frombuffer(content, np.uint8, int(shape.prod()), offset=4 + 4 * axes).reshape(shape)
