"""Fits the law of `flowcore.tasks.garments` to Fashion-MNIST and writes its file: python -m flowcore.tasks.garments_fit

A mixture of two full Gaussians per class in the 64 leading principal components of the 60,000 training images, in units
in which a coordinate is about one. What is in the file defines the law, so its rounding to half precision is no error,
and the file is shipped: this algorithm need not end in the same place on every machine.

    weights (20,), means (20, 64), factors (20, 2080), axes (784, 64), mean_image (784,)        all float16

`factors` are the lower Cholesky factors of the covariances, packed row by row: their leading rows are those of the
marginal in the leading coordinates, and they are positive definite whatever the rounding.
"""

from pathlib import Path

import numpy as np

FILE = Path(__file__).parent / "garments.npz"
COMPONENTS, SCALE, PER_CLASS = 64, 3.0, 2
REGULARISATION, FLOOR = 1e-4, 0.03  # of the fit's covariances; the smallest standard deviation that is kept


def principal_components(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean (784,), axes (784, 64)) of images (n, 784); each axis points to where its largest entry is positive."""
    mean = images.mean(axis=0)
    _, axes = np.linalg.eigh(np.cov(images, rowvar=False))
    axes = axes[:, ::-1][:, :COMPONENTS]
    return mean, axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(COMPONENTS)])


def floored(covariance: np.ndarray) -> np.ndarray:
    """The covariance with its eigenvalues raised to the floor."""
    variances, axes = np.linalg.eigh(covariance)
    return (axes * np.maximum(variances, FLOOR**2)) @ axes.T


def fit(images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """The content of the file, from images (n, 784) in [-1, 1] and their classes."""
    from sklearn.mixture import GaussianMixture

    mean, axes = principal_components(images)
    z = (images - mean) @ axes / SCALE
    weights, means, factors = [], [], []
    rows, columns = np.tril_indices(COMPONENTS)
    for label in range(10):
        options = {"covariance_type": "full", "reg_covar": REGULARISATION, "max_iter": 100, "random_state": 0}
        mixture = GaussianMixture(PER_CLASS, **options).fit(z[labels == label])
        weights.append(mixture.weights_ / 10)
        means.append(mixture.means_)
        factors += [np.linalg.cholesky(floored(each))[rows, columns] for each in mixture.covariances_]
    found = {"weights": np.concatenate(weights), "means": np.concatenate(means), "factors": np.stack(factors)}
    found |= {"axes": axes, "mean_image": mean}
    return {name: value.astype(np.float16) for name, value in found.items()}


def main() -> None:
    from flowcore import data

    train = data.load("fashion_mnist")
    images = data.scale(train["image"]).astype(np.float64).reshape(len(train["image"]), -1)
    np.savez_compressed(FILE, **fit(images, train["label"]))
    print(f"{FILE.name}: {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
