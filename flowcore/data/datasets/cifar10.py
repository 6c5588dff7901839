"""CIFAR-10: 32x32 colour images; a record is a label byte, then the red, green and blue planes, row by row."""

import tarfile
from pathlib import Path

import numpy as np

from flowcore.data.datasets.originals import ImageBuilder

ARCHIVE = "cifar-10-binary.tar.gz"
MEMBERS = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}


class FlowCifar10(ImageBuilder):
    """60,000 photographs of ten kinds of things, 32x32 colour. Krizhevsky 2009."""

    URLS = (f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}",)
    SHAPE = (32, 32, 3)
    CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    HOMEPAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"

    def arrays(self, files: dict[str, Path]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        with tarfile.open(files[ARCHIVE]) as archive:
            content = {
                Path(member.name).name: archive.extractfile(member).read() for member in archive if member.isfile()
            }
        records = {
            split: np.frombuffer(b"".join(content[name] for name in names), np.uint8).reshape(-1, 1 + 3 * 32 * 32)
            for split, names in MEMBERS.items()
        }
        return {
            split: (rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0])
            for split, rows in records.items()
        }
