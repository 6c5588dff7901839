"""What is learned, and what it is held against.

A task has data, noise, and a reference map that says where each noise should go: the exact map where there is one, else
the ODE solution of a trained denoiser. Its noise and the reference endpoints are drawn once, so that all runs of a
notebook are measured on the same points.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from flowcore import metrics
from flowcore.checks import check
from flowcore.maps import AbstractFlowMap, OdeMap
from flowcore.objectives import guidance
from flowcore.path import Time
from flowcore.sample import generate, jump
from flowcore.tasks.teachers import Features, refuse_other_labels

FEW = (1, 2, 4)  # the numbers of steps at which every replication is measured
ROWS = 4096  # of the data, at which residuals are measured, all at once
ON_THE_WAY = (0.75, 0.5, 0.25)  # the targets at which a map that jumps from noise only is measured too


@dataclasses.dataclass(frozen=True)
class Classes:
    """What a task's examples are examples of, for training under a class (`flowcore.objectives.guidance`).

    Raises ValueError for labels that are no classes."""

    count: int
    source: Callable[[int, int], Any]  # as the task's, with labels
    labels: Int[Array, " n"]  # a class for each of the task's noises
    exact: guidance.ClassGuidedMap | None = None  # where guided training leads, when it is known

    def __post_init__(self):
        check("count of Classes", self.count, least=1, whole=True)
        refuse_other_labels(self.labels, self.count)

    def conditions(self, scale: float, interval=guidance.ALWAYS) -> Float[Array, "n numbers"]:
        """The condition of each noise: its class, at one scale of guidance."""
        return jax.vmap(lambda label: guidance.guidance_condition(label, self.count, scale, interval))(self.labels)


@dataclasses.dataclass(frozen=True)
class Task:
    """`noise`, `endpoints` (the reference map of that noise) and `real` (examples of the data) are (n, *shape)."""

    reference: AbstractFlowMap
    noise: Float[Array, "n ..."]
    endpoints: Float[Array, "n ..."]
    real: Float[Array, "m ..."]
    source: Callable[[int, int], Any]  # (batch size, seed) -> what `fit` draws its batches from
    classifier: Features | None = None
    accuracy: float | None = None  # of the classifier, on held-out images
    classes: Classes | None = None
    pictures: Callable | None = None  # from points to the images that they stand for, where these are not the points
    relearn: Callable[[int], AbstractFlowMap] | None = None  # seed -> the reference of another teacher, if it has one

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
        return found | self.measure_law(samples[1]) | self.measure_images(samples)

    def measure_consistency(self, model, sampler: Callable) -> dict[str, float]:
        """What `measure` is for a map that was learned at t = 0 only: it knows neither other jumps nor, with them, the
        three rules, and its sampler adds fresh noise, so that in several steps only the law of the samples can be held
        against the data."""
        samples = self.samples(model, sampler)
        found = {"endpoint_error_1": metrics.endpoint_error(samples[1], self.endpoints)}
        found["energy_distance"] = metrics.energy_distance(samples[1], self.real)
        found |= {f"energy_distance_{n}": metrics.energy_distance(samples[n], self.real) for n in FEW if n > 1}
        return found | self.measure_law(samples[1]) | self.measure_images(samples)

    def measure_from_noise(self, model) -> dict[str, float]:
        """What `measure` is for a map that was learned at s = 1 only: it makes one jump, but to every t."""
        made = generate(model, self.noise, 1)
        found = {"endpoint_error_1": metrics.endpoint_error(made, self.endpoints)}
        found["energy_distance"] = metrics.energy_distance(made, self.real)
        found |= {f"path_error_{round(100 * t)}": self.path_error(model, t) for t in ON_THE_WAY}
        return found | self.measure_law(made) | self.measure_images({1: made})

    def measure_law(self, made: Float[Array, "n ..."]) -> dict[str, float]:
        """What only a known law of pictures has, of samples in one step; nothing for other tasks."""
        if self.pictures is None or not hasattr(self.reference, "component"):
            return {}
        return {
            "energy_difference": self.energy_difference(made),
            "endpoint_median_1": metrics.endpoint_median(made, self.endpoints),
            "component_error_1": self.component_error(made),
        }

    def energy_difference(self, made: Float[Array, "n ..."]) -> float:
        """Energy distance of samples to the data, less that of the reference endpoints to the same data: their common
        scatter goes, and the exact map has 0. Units of the data."""
        return metrics.energy_distance(made, self.real) - self.energy_of_reference

    @functools.cached_property
    def energy_of_reference(self) -> float:
        """Energy distance of the reference endpoints to the data."""
        return metrics.energy_distance(self.endpoints, self.real)

    def component_error(self, made: Float[Array, "n ..."]) -> float:
        """Share of the noises that end in another component than the exact map takes them to; the reference must know
        its components. A sample that is off in a direction in which the right one is thin counts too: a wider one is
        likelier there."""
        return float(jnp.mean(components(self.reference, made) != components(self.reference, self.endpoints)))

    def own_ode_error(self, model, steps: int = 1, tolerance: float = 1e-4) -> float:
        """RMS distance of the model's endpoints to the ODE solution of the model's own velocity: what is left to learn
        of jumping, however good the velocity is. For methods without a teacher, on references that are learned."""
        solved = generate(OdeMap(model.velocity, tolerance), self.noise, 1)
        return metrics.endpoint_error(generate(model, self.noise, steps), solved)

    def path_error(self, model, t: float) -> float:
        """RMS distance of the model's jump from the noise to time t to the reference's."""
        time = jnp.asarray(t)  # not a float, which would be compiled in
        return metrics.endpoint_error(*(carry(flow_map, self.noise, time) for flow_map in (model, self.reference)))

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
def carry(flow_map, noise: Float[Array, "n ..."], t: Time) -> Float[Array, "n ..."]:
    """F(noise, 1, t) of every row."""
    return jax.vmap(lambda x: flow_map(x, 1.0, t))(noise)


@eqx.filter_jit
def components(reference, points: Float[Array, "n ..."]) -> Int[Array, " n"]:
    """The likeliest component of every row."""
    return jax.vmap(reference.component)(points)


def fewer(count: int) -> int:
    """The points of a trial: enough to see that measuring works. Says that what is measured means nothing."""
    few = min(count, 256)
    print(f"a trial, measured on {few} points in place of {count}: its numbers mean nothing")
    return few
