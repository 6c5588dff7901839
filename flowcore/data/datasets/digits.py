"""The 8x8 handwritten digits that scikit-learn ships: real data with nothing to download."""

from pathlib import Path

import numpy as np

from flowcore.data.datasets.originals import ImageBuilder

TRAIN = 1500


class FlowDigits(ImageBuilder):
    """1,797 handwritten digits, 8x8 grey, from the test set of Alpaydin & Kaynak 1998; 1,500 to train, 297 to test.

    The 17 grey levels 0..16 are stored as round(level * 255 / 16), so that all image sets read alike.
    """

    SHAPE = (8, 8, 1)
    HOMEPAGE = "https://archive.ics.uci.edu/dataset/80"

    def arrays(self, files: dict[str, Path]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        from sklearn.datasets import load_digits  # half a second, needed only once: to prepare

        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        # the legacy generator: numpy promises that its stream never changes, and so neither does the split
        order = np.random.RandomState(0).permutation(len(images))
        halves = {"train": order[:TRAIN], "test": order[TRAIN:]}
        return {split: (images[rows], digits.target[rows]) for split, rows in halves.items()}
