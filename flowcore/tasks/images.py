"""Data sets of images: the reference is the ODE of a denoiser that is trained here; a classifier's features judge."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from flowcore import data
from flowcore.maps import OdeMap
from flowcore.sample import generate
from flowcore.tasks import teachers
from flowcore.tasks.task import Classes, Task, fewer
from flowcore.tasks.teachers import DENOISER, Classifier
from flowcore.training import Recipe

REAL = 10_000  # images, the last of which samples are held against


def images(
    progress: Callable = iter,
    *,
    name: str,
    denoiser: Recipe = DENOISER,
    classifier: Classifier | None = None,
    count: int = 1000,
    rows: str = "",
    trial: bool = False,
) -> Task:
    """A data set of images in ten classes; the reference is the ODE solution of a denoiser, trained here if need be.

    `progress` wraps the chunks of that training, e.g. `tqdm`. `rows` takes a slice of both splits, as in "[:512]".
    A `trial` is measured on few points, against a teacher that is hardly trained.
    `real` is the last `REAL` of all images: where that many are held out these alone, else those trained on too, for a
    Frechet distance wants many. Raises `flowcore.data.DataError`, which says what to do.
    """
    if trial:
        denoiser, classifier, count = denoiser.replace(steps=20), Classifier(steps=20), fewer(count)
    train, test = (data.load(name, split + rows) for split in ("train", "test"))
    images = jnp.asarray(data.scale(train["image"]))
    labels = jnp.asarray(train["label"], jnp.int32)

    def learn(seed):
        return OdeMap(
            teachers.denoiser(images, denoiser.replace(seed=seed), progress=progress).velocity, tolerance=1e-4
        )

    reference = learn(denoiser.seed)
    noise = jax.random.normal(jax.random.key(20250519), (count, *images.shape[1:]))
    unseen, unseen_labels = jnp.asarray(data.scale(test["image"])), jnp.asarray(test["label"], jnp.int32)
    learned = teachers.classifier(images, labels, classifier, progress=progress)

    def labelled(size, seed):
        return data.ShuffledSource(images, size, labels=labels, seed=seed)

    return Task(
        reference,
        noise,
        generate(reference, noise, 1),
        jnp.concatenate([images, unseen])[-REAL:],
        lambda size, seed: data.ShuffledSource(images, size, seed=seed),
        learned,
        learned.accuracy(unseen, unseen_labels),
        Classes(10, labelled, jnp.arange(count) % 10),
        relearn=learn,
    )
