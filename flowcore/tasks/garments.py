"""The exact ground: a mixture of images, whose every map, posterior, tilt and guided velocity is known.

The law of Fashion-MNIST as two Gaussians per class in the leading principal components of its images (`garments_fit`
says how it was fitted). The task has the leading r of 64 coordinates, or with `garments_784` all pixels: the 64 and one
isotropic Gaussian in the directions that they leave out.
"""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from flowcore.exact import GaussianMixtureMap, SubspaceMap
from flowcore.tasks.garments_fit import COMPONENTS, FILE, PER_CLASS, SCALE
from flowcore.tasks.laws import of_law
from flowcore.tasks.task import Task, fewer

COMPONENTS_OF_CLASS = np.arange(10 * PER_CLASS).reshape(10, PER_CLASS)
SIDE = 28
# root of the mean variance of the images in the 720 directions beyond the 64, in the units of the coordinates
REST = 0.0707
TOLERANCE = 1e-5


@functools.cache
def parameters() -> dict[str, np.ndarray]:
    """The file, in float64: factors unpacked to (20, 64, 64), axes made orthonormal again, their signs kept."""
    with np.load(FILE) as file:
        found = {name: file[name].astype(np.float64) for name in file.files}
    factors = np.zeros((len(found["factors"]), COMPONENTS, COMPONENTS))
    factors[:, *np.tril_indices(COMPONENTS)] = found["factors"]
    axes, triangle = np.linalg.qr(found["axes"])
    found["axes"] = axes * np.sign(np.diag(triangle))
    return found | {"factors": factors, "weights": found["weights"] / found["weights"].sum()}


def law(dim: int = 24, sharpness: float = 1.0, tolerance: float = TOLERANCE) -> GaussianMixtureMap:
    """The exact map in the leading `dim` coordinates, all component variances times `sharpness`.

    Raises ValueError for a dimension that the file does not have, and for a sharpness that is not positive."""
    if not 1 <= dim <= COMPONENTS:
        raise ValueError(f"garments have 1 to {COMPONENTS} coordinates, not {dim}")
    if not sharpness > 0:
        raise ValueError(f"sharpness multiplies variances: it must be positive, not {sharpness}")
    found = parameters()
    factors = found["factors"][:, :dim, :dim]  # of the marginal: a factor's leading rows
    variances, axes = np.linalg.eigh(factors @ np.swapaxes(factors, 1, 2))
    parts = np.log(found["weights"]), found["means"][:, :dim], axes, sharpness * variances
    return GaussianMixtureMap(*(jnp.asarray(part, float) for part in parts), tolerance)


def law_784(sharpness: float = 1.0, tolerance: float = TOLERANCE) -> SubspaceMap:
    """The exact map of whole images (28, 28, 1). `sharpness` multiplies the variances of the core alone, within the 64
    coordinates; what lies beyond them keeps its `REST`."""
    axes = jnp.asarray(parameters()["axes"], float)
    return SubspaceMap(law(COMPONENTS, sharpness, tolerance), axes, REST, (SIDE, SIDE, 1))


def pictures(points: Float[Array, "n *shape"]) -> Float[np.ndarray, "n 28 28 1"]:
    """Points of the task as images, of which 1 is white and -1 black: mean + 3 U z; of whole images, which have a grain
    in the directions beyond the 64, the part within them."""
    found = parameters()
    flat = np.asarray(points, np.float64).reshape(len(points), -1)
    axes = found["axes"][:, : flat.shape[1]]
    within = flat @ axes.T if flat.shape[1] <= COMPONENTS else flat @ axes @ axes.T
    return (found["mean_image"] + SCALE * within).reshape(-1, SIDE, SIDE, 1)


def garments(
    progress: Callable = iter, *, dim: int = 24, sharpness: float = 1.0, count: int = 4096, trial: bool = False
) -> Task:
    """The task in `dim` coordinates. Nothing is trained, so there is no `progress` to show. A `trial` is measured on
    few points."""
    return of_law(law(dim, sharpness), fewer(count) if trial else count, COMPONENTS_OF_CLASS, pictures)


def garments_784(progress: Callable = iter, *, sharpness: float = 1.0, count: int = 4096, trial: bool = False) -> Task:
    """The task in all pixels."""
    return of_law(law_784(sharpness), fewer(count) if trial else count, COMPONENTS_OF_CLASS, pictures)
