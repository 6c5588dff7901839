"""Eight Gaussians in the plane: the task of pictures, whose map is known exactly."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from flowcore.data import Labelled, SampledSource
from flowcore.exact import MixtureMap, ring
from flowcore.objectives.guidance import ClassGuidedMap
from flowcore.sample import generate
from flowcore.tasks.task import Classes, Task, fewer


def mixture(progress: Callable = iter, *, trial: bool = False, count: int = 4096) -> Task:
    """Eight Gaussians on a circle of radius 1.4 (std 0.12) in the plane; the reference is exact. The classes are the
    four modes of the upper half and the four of the lower.

    Nothing is trained, so there is no `progress` to show. A `trial` is measured on few points.
    """
    exact = ring()
    count = fewer(count) if trial else count
    key_noise, key_real = jax.random.split(jax.random.key(20250519))
    noise = jax.random.normal(key_noise, (count, 2))
    real = jax.vmap(exact.sample)(jax.random.split(key_real, count))
    return Task(
        exact,
        noise,
        generate(exact, noise, 1),
        real,
        lambda size, seed: SampledSource(exact.sample, size),
        classes=half_classes(exact, count),
    )


def half_classes(exact: MixtureMap, count: int) -> Classes:
    """The first half of the modes as one class and the second as another."""
    of_class = eqx.filter_vmap(lambda means: MixtureMap(means, exact.std))(jnp.stack(jnp.split(exact.means, 2)))

    def draw(key):
        key_label, key_point = jax.random.split(key)
        label = jax.random.randint(key_label, (), 0, 2)
        return Labelled(jax.tree.map(lambda leaf: leaf[label], of_class).sample(key_point), label)

    guided = ClassGuidedMap(of_class, exact)
    return Classes(2, lambda size, seed: SampledSource(draw, size), jnp.arange(count) % 2, guided)
