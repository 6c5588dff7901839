"""MNIST and Fashion-MNIST: 28x28 grey images in four IDX files, the same names and format for both."""

from pathlib import Path

import numpy as np

from flowcore.data.datasets.originals import ImageBuilder, read_idx

SPLITS = {"train": "train", "test": "t10k"}
PARTS = ("images-idx3-ubyte.gz", "labels-idx1-ubyte.gz")
FILES = tuple(f"{prefix}-{part}" for prefix in SPLITS.values() for part in PARTS)


class FlowMnist(ImageBuilder):
    """70,000 handwritten digits, 28x28 grey. LeCun, Cortes & Burges 1998. The mirror is the one that TFDS uses."""

    URLS = tuple(f"https://storage.googleapis.com/cvdf-datasets/mnist/{file}" for file in FILES)
    SHAPE = (28, 28, 1)
    HOMEPAGE = "http://yann.lecun.com/exdb/mnist/"

    def arrays(self, files: dict[str, Path]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        pairs = {split: [read_idx(files[f"{prefix}-{part}"]) for part in PARTS] for split, prefix in SPLITS.items()}
        return {split: (images[..., None], labels) for split, (images, labels) in pairs.items()}


class FlowFashionMnist(FlowMnist):
    """70,000 pictures of clothes, 28x28 grey, in the format of MNIST. Xiao, Rasul & Vollgraf 2017, arXiv 1708.07747."""

    URLS = tuple(f"http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{file}" for file in FILES)
    CLASSES = (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    )  # fmt: skip
    HOMEPAGE = "https://github.com/zalandoresearch/fashion-mnist"
