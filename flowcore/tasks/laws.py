"""The task of a law that is known: its exact map, noise and data, and as classes groups of its components."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from flowcore.data import Labelled, SampledSource
from flowcore.exact import GaussianMixtureMap, MixtureMap, SubspaceMap
from flowcore.maps import AbstractFlowMap
from flowcore.objectives.guidance import ClassGuidedMap
from flowcore.sample import generate
from flowcore.tasks.task import Classes, Task

Mixture = GaussianMixtureMap | MixtureMap | SubspaceMap
SEED = 20250519  # of the noise and data that every run is measured on


def of_law(
    exact: Mixture, count: int, components: Int[np.ndarray, "classes some"], pictures: Callable | None = None
) -> Task:
    """A task of `count` noises and data; a row of `components` lists those that are one class."""
    key_noise, key_real = jax.random.split(jax.random.key(SEED))
    real = draws(exact, key_real, count)
    noise = jax.random.normal(key_noise, real.shape)
    of_class = eqx.filter_vmap(exact.of_components)(jnp.asarray(components))
    labels = jnp.arange(count) % len(components)
    return Task(
        exact,
        noise,
        generate(exact, noise, 1),
        real,
        lambda size, seed: SampledSource(exact.sample, size),
        classes=Classes(
            len(components),
            lambda size, seed: SampledSource(LabelledSample(of_class, len(components)), size),
            labels,
            ClassGuidedMap(of_class, exact),
        ),
        pictures=pictures,
    )


def draws(law: AbstractFlowMap, key: PRNGKeyArray, count: int) -> Float[Array, "count *shape"]:
    """So many independent data, few at a time: a datum of a mixture needs a matrix of its own. Not compiled as one
    program, of which the last bits would depend on what is fused."""
    parts = jnp.split(jax.random.split(key, count), np.arange(512, count, 512))
    return jnp.concatenate([jax.vmap(law.sample)(keys) for keys in parts])


class LabelledSample(eqx.Module):
    """A datum of a class drawn evenly, with its label; `of_class` holds the laws of the classes, stacked."""

    of_class: Mixture
    classes: int = eqx.field(static=True)

    def __call__(self, key: PRNGKeyArray) -> Labelled:
        key_label, key_point = jax.random.split(key)
        label = jax.random.randint(key_label, (), 0, self.classes)
        return Labelled(jax.tree.map(lambda leaf: leaf[label], self.of_class).sample(key_point), label)
