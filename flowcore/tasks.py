"""What is learned, and what it is held against: the same ground for every replication.

A task has data, noise, and a reference map that says where each noise should go: the exact map where there is one
(`mixture`), else the ODE solution of a trained denoiser (`images`). Its noise and the reference endpoints are drawn
once, so that all runs of a notebook are measured on the same points.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flowcore import data, guidance, metrics, teachers
from flowcore.exact import MixtureMap, ring
from flowcore.maps import AbstractFlowMap, OdeMap
from flowcore.networks import Choices
from flowcore.path import Time
from flowcore.sample import generate, jump

FEW = (1, 2, 4)  # the numbers of steps at which every replication is measured
ROWS = 4096  # of the data, at which residuals are measured, all at once
REAL = 10_000  # images, the last of which samples are held against
ON_THE_WAY = (0.75, 0.5, 0.25)  # the targets at which a map that jumps from noise only is measured too


@dataclasses.dataclass(frozen=True)
class Classes:
    """What a task's examples are examples of, for training under a class (`flowcore.guidance`)."""

    count: int
    source: Callable[[int, int], Any]  # as the task's, with labels
    labels: Int[Array, " n"]  # a class for each of the task's noises
    exact: guidance.ClassGuidedMap | None = None  # where guided training leads, when it is known

    def asked(self, scale: float, interval=guidance.ALWAYS) -> Float[Array, "n numbers"]:
        """The condition of each noise: its class, at one scale of guidance."""
        return jax.vmap(lambda label: guidance.asked(label, self.count, scale, interval))(self.labels)


@dataclasses.dataclass(frozen=True)
class Task:
    """`noise`, `endpoints` (the reference map of that noise) and `real` (examples of the data) are (n, *shape)."""

    reference: AbstractFlowMap
    noise: Float[Array, "n ..."]
    endpoints: Float[Array, "n ..."]
    real: Float[Array, "m ..."]
    source: Callable[[int, int], Any]  # (batch size, seed) -> what `fit` draws its batches from
    classifier: teachers.Features | None = None
    accuracy: float | None = None  # of the classifier, on held-out images
    classes: Classes | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return self.noise.shape[1:]

    def against(self, reference: AbstractFlowMap) -> "Task":
        """The same task, held against another reference map."""
        return dataclasses.replace(self, reference=reference, endpoints=generate(reference, self.noise, 1))

    def samples(self, model, sampler: Callable = jump) -> dict[int, Float[Array, "n ..."]]:
        """What the model makes of the noise in 1, 2 and 4 steps."""
        return {steps: generate(model, self.noise, steps, sampler, key=jax.random.key(11)) for steps in FEW}

    def endpoint_error(self, model, steps: int = 1) -> float:
        """RMS distance of the model's endpoints to the reference's."""
        return metrics.endpoint_error(generate(model, self.noise, steps), self.endpoints)

    def measure(self, model) -> dict[str, float]:
        """The metrics of design section 4, ready to be recorded; those on images when there is a classifier."""
        samples = self.samples(model)
        found = {f"endpoint_error_{n}": metrics.endpoint_error(made, self.endpoints) for n, made in samples.items()}
        found["energy_distance"] = metrics.energy_distance(samples[1], self.real)
        found |= metrics.residuals(model, self.reference.velocity, self.real[:ROWS], key=jax.random.key(7))
        return found | self.measure_images(samples)

    def measure_consistency(self, model, sampler: Callable) -> dict[str, float]:
        """What `measure` is for a map that was learned at t = 0 only: it knows neither other jumps nor, with them, the
        three rules, and its sampler adds fresh noise, so that in several steps only the law of the samples can be held
        against the data."""
        samples = self.samples(model, sampler)
        found = {"endpoint_error_1": metrics.endpoint_error(samples[1], self.endpoints)}
        found["energy_distance"] = metrics.energy_distance(samples[1], self.real)
        found |= {f"energy_distance_{n}": metrics.energy_distance(samples[n], self.real) for n in FEW if n > 1}
        return found | self.measure_images(samples)

    def measure_from_noise(self, model) -> dict[str, float]:
        """What `measure` is for a map that was learned at s = 1 only: it makes one jump, but to every t."""
        made = generate(model, self.noise, 1)
        found = {"endpoint_error_1": metrics.endpoint_error(made, self.endpoints)}
        found["energy_distance"] = metrics.energy_distance(made, self.real)
        found |= {f"path_error_{round(100 * t)}": self.path_error(model, t) for t in ON_THE_WAY}
        return found | self.measure_images({1: made})

    def path_error(self, model, t: float) -> float:
        """RMS distance of the model's jump from the noise to time t to the reference's."""
        time = jnp.asarray(t)  # not a float, which would be compiled in
        return metrics.endpoint_error(*(carried(flow_map, self.noise, time) for flow_map in (model, self.reference)))

    def measure_images(self, samples: dict[int, Float[Array, "n ..."]]) -> dict[str, float]:
        """What only images have: nothing without a classifier."""
        if self.classifier is None:
            return {}
        found = {f"frechet_distance_{n}": self.frechet_distance(made) for n, made in samples.items()}
        return {
            "classifier_accuracy": self.accuracy,
            **found,
            "frechet_distance_reference": self.frechet_distance(self.endpoints),
        }

    def frechet_distance(self, images: Float[Array, "n ..."]) -> float:
        """Frechet distance of the images to the real ones, in the classifier's features."""
        features = jax.vmap(self.classifier.features)
        return metrics.frechet_distance(features(images), features(self.real))


@eqx.filter_jit
def carried(flow_map, noise: Float[Array, "n ..."], t: Time) -> Float[Array, "n ..."]:
    """F(noise, 1, t) of every row."""
    return jax.vmap(lambda x: flow_map(x, 1.0, t))(noise)


def mixture(progress: Callable = iter, count: int = 4096) -> Task:
    """Eight Gaussians on a circle of radius 1.4 (std 0.12) in the plane; the reference is exact. The classes are the
    four modes of the upper half and the four of the lower.

    Nothing is trained, so there is no `progress` to show.
    """
    exact = ring()
    key_noise, key_real = jax.random.split(jax.random.key(20250519))
    noise = jax.random.normal(key_noise, (count, 2))
    real = jax.vmap(exact.sample)(jax.random.split(key_real, count))
    return Task(
        exact,
        noise,
        generate(exact, noise, 1),
        real,
        lambda size, seed: data.Drawn(exact.sample, size),
        classes=halves(exact, count),
    )


def halves(exact: MixtureMap, count: int) -> Classes:
    """The first half of the modes as one class and the second as another."""
    of_class = eqx.filter_vmap(lambda means: MixtureMap(means, exact.std))(jnp.stack(jnp.split(exact.means, 2)))

    def draw(key):
        key_label, key_point = jax.random.split(key)
        label = jax.random.randint(key_label, (), 0, 2)
        return data.Labelled(jax.tree.map(lambda leaf: leaf[label], of_class).sample(key_point), label)

    guided = guidance.ClassGuidedMap(of_class, exact)
    return Classes(2, lambda size, seed: data.Drawn(draw, size), jnp.arange(count) % 2, guided)


def images(
    progress: Callable = iter,
    *,
    name: str,
    denoiser: teachers.Denoiser | None = None,
    classifier: teachers.Classifier | None = None,
    count: int = 1000,
    rows: str = "",
) -> Task:
    """A data set of images in ten classes; the reference is the ODE solution of a denoiser, trained here if need be.

    `progress` wraps the chunks of that training, e.g. `tqdm`. `rows` takes a slice of both splits, as in "[:512]".
    `real` is the last `REAL` of all images: where that many are held out these alone, else those trained on too, for a
    Frechet distance wants many. Raises `flowcore.data.DataError`, which says what to do.
    """
    train, test = (data.load(name, split + rows) for split in ("train", "test"))
    images = jnp.asarray(data.scale(train["image"]))
    labels = jnp.asarray(train["label"], jnp.int32)
    reference = OdeMap(teachers.denoiser(images, denoiser, progress=progress).velocity, tolerance=1e-4)
    noise = jax.random.normal(jax.random.key(20250519), (count, *images.shape[1:]))
    unseen, unseen_labels = jnp.asarray(data.scale(test["image"])), jnp.asarray(test["label"], jnp.int32)
    learned = teachers.classifier(images, labels, classifier)
    return Task(
        reference,
        noise,
        generate(reference, noise, 1),
        jnp.concatenate([images, unseen])[-REAL:],
        lambda size, seed: data.Dealt(images, size, seed=seed),
        learned,
        learned.accuracy(unseen, unseen_labels),
        Classes(10, lambda size, seed: data.Dealt(images, size, labels=labels, seed=seed), jnp.arange(count) % 10),
    )


LARGE = {  # for an accelerator
    "denoiser": teachers.Denoiser("unet_bfloat16", width=64, depth=2, steps=20_000, rate=5e-4),
    "classifier": teachers.Classifier(convolutions=(32, 64), steps=4000),
    "count": 4096,
}
TINY = {  # the same code with everything as small as it may be, to try it anywhere: its numbers mean nothing
    "denoiser": teachers.Denoiser(width=16, depth=1, steps=2, batch=8),
    "classifier": teachers.Classifier(convolutions=(4, 4), width=16, steps=20),
    "count": 256,
    "rows": "[:512]",
}

TASKS: dict[str, Callable[..., Task]] = Choices(
    mixture=mixture,
    digits=functools.partial(images, name="digits"),  # 8x8, 1,797 of them
    fashion_mnist=functools.partial(images, name="fashion_mnist", **LARGE),  # 28x28
    cifar10=functools.partial(images, name="cifar10", **LARGE),  # 32x32 in colour
    tiny_fashion_mnist=functools.partial(images, name="fashion_mnist", **TINY),
    tiny_cifar10=functools.partial(images, name="cifar10", **TINY),
)
