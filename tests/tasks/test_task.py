import dataclasses
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import prepare_fake_fashion

import flowcore
from flowcore import (
    AbstractFlowMap,
    AverageVelocityMap,
    GaussianMap,
    TangentMap,
    data,
    rulers,
    sample,
    tasks,
    teachers,
    training,
)
from flowcore.data import SampledSource
from flowcore.data.datasets import BUILDERS
from flowcore.tasks.images import images


class Shifted(AbstractFlowMap):
    """A map that is wrong by a known distance: every jump over a gap g ends 0.3 g to the side."""

    exact: AbstractFlowMap

    def average_velocity(self, x, s, t):
        return self.exact.average_velocity(x, s, t) - jnp.array([0.3, 0.0])

    def velocity(self, x, t):
        return self.average_velocity(x, t, t)


@pytest.fixture(scope="module")
def task():
    exact = GaussianMap(jnp.array([0.3, -0.5]), 0.6)
    key_noise, key_real = jax.random.split(jax.random.key(0))
    noise = jax.random.normal(key_noise, (2000, 2))
    real = jax.vmap(exact.sample)(jax.random.split(key_real, 2000))
    ends = jax.vmap(lambda x: exact(x, 1.0, 0.0))(noise)
    return tasks.Task(exact, noise, ends, real, lambda size, seed: SampledSource(exact.sample, size))


def test_the_reference_is_measured_without_error(task):
    """Whatever a replication measures: jumps, jumps to the data, jumps from the noise."""
    jumps = task.measure(task.reference)
    assert max(jumps[f"endpoint_error_{n}"] for n in (1, 2, 4)) < 1e-12
    assert max(value for name, value in jumps.items() if name.endswith("residual")) < 1e-6
    renoised = task.measure_consistency(task.reference, sample.consistency())
    assert renoised["endpoint_error_1"] < 1e-12
    assert max(abs(renoised[f"energy_distance{n}"]) for n in ("", "_2", "_4")) < 0.01
    from_noise = task.measure_from_noise(task.reference)
    assert max(value for name, value in from_noise.items() if "error" in name) < 1e-12


def test_a_known_error_is_measured(task):
    wrong = Shifted(task.reference)
    assert task.measure(wrong)["endpoint_error_1"] == pytest.approx(0.3, rel=1e-9)
    assert task.measure_consistency(wrong, sample.consistency())["endpoint_error_1"] == pytest.approx(0.3, rel=1e-9)
    from_noise = task.measure_from_noise(wrong)
    assert from_noise["path_error_75"] == pytest.approx(0.3 * 0.25, rel=1e-9)
    assert from_noise["path_error_25"] == pytest.approx(0.3 * 0.75, rel=1e-9)
    assert from_noise["endpoint_error_1"] == pytest.approx(0.3, rel=1e-9)


def test_the_energy_difference_of_the_exact_map_is_zero_where_the_distance_is_not(task):
    assert abs(task.energy_of_reference) > 1e-6
    assert abs(task.energy_difference(task.endpoints)) < 1e-12
    moved = task.endpoints + 0.3
    assert 0.05 < task.energy_difference(moved) < 1
    other = dataclasses.replace(task, endpoints=moved)  # held against another reference
    assert other.energy_difference(task.endpoints) == pytest.approx(-task.energy_difference(moved))


def test_the_own_ode_of_a_map_is_not_the_reference(task):
    """A constant velocity beside the exact one: its own jumps follow it or, as Euler steps, do not."""
    moved = Shifted(task.reference)
    assert task.own_ode_error(task.reference) < 1e-3
    euler = TangentMap(task.reference.velocity)
    assert task.own_ode_error(euler, steps=4) == pytest.approx(task.endpoint_error(euler, 4), rel=1e-2)
    solved = sample.generate(flowcore.OdeMap(moved.velocity, 1e-9), task.noise, 1)
    gaps = sample.generate(moved, task.noise, 1) - solved
    assert task.own_ode_error(moved) == pytest.approx(float(jnp.sqrt(jnp.mean(jnp.sum(gaps**2, axis=1)))), rel=1e-2)
    assert abs(task.own_ode_error(moved) - task.endpoint_error(moved)) > 0.05


def test_what_only_pictures_of_a_known_law_have_is_measured_of_nothing_else(task):
    """So the metrics that the plane and images have recorded are all that they have."""
    assert task.measure_law(task.endpoints) == {}
    assert tasks.TASKS["ring"](count=64).measure_law(jnp.zeros((64, 2))) == {}


def test_the_floor_of_a_distance_is_what_exact_draws_have(task):
    """The energy distance of n points scatters by about the size over n."""
    small = dataclasses.replace(task, noise=task.noise[:100], endpoints=task.endpoints[:100], real=task.real[:100])
    few, many = (rulers.floors(each, pairs=20)["energy_distance"] for each in (small, task))
    assert 0.002 < few < 0.05
    assert 10 < few / many < 40  # 20 times as many points
    assert rulers.floors(task, pairs=1).keys() == {"energy_distance"}
    with pytest.raises(ValueError, match="pairs of exact draws must be"):
        rulers.floors(task, pairs=0)
    with pytest.raises(ValueError, match="that of this task is exact"):
        rulers.floors(task, pairs=1, other_seed=1)


def test_without_a_classifier_there_are_no_metrics_of_images(task):
    assert task.measure_images(task.samples(task.reference)) == {}


def test_the_classes_of_the_mixture_are_its_halves():
    task = tasks.TASKS["ring"](count=512)
    batch = task.classes.source(256, 0).batch(None, jax.random.key(0))
    assert jnp.mean(batch.label) == pytest.approx(0.5, abs=0.1)
    assert jnp.mean(jnp.where(batch.label == 0, batch.x0[:, 1], -batch.x0[:, 1]) > -0.4) == 1  # modes 0 and 4 lie at 0
    ends = sample.generate(task.classes.exact, task.noise, 1, conditions=task.classes.conditions(1.0))
    nearest = jnp.argmin(jnp.linalg.norm(ends[:, None] - task.reference.means[None], axis=2), axis=1)
    assert jnp.mean(nearest // 4 == task.classes.labels) > 0.999
    further = sample.generate(task.classes.exact, task.noise, 1, conditions=task.classes.conditions(3.0))
    assert jnp.mean(jnp.abs(further[:, 1])) > 1.05 * jnp.mean(jnp.abs(ends[:, 1]))  # away from the other half
    free = sample.generate(task.classes.exact, task.noise, 1, conditions=0 * task.classes.conditions(1.0))
    assert jnp.max(jnp.abs(free - task.endpoints)) < 1e-4


@pytest.fixture
def fake_fashion(tmp_path, monkeypatch):
    """30 and 10 images that `load` takes for Fashion-MNIST, and an empty cache."""
    prepare_fake_fashion(tmp_path, monkeypatch, train=30, test=10)
    monkeypatch.setattr(data, "scale", lambda image: image / 127.5 - 1)  # in float64, as the weights are here
    with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
        yield


SMALL = {
    "denoiser": training.Recipe(width=8, depth=1, steps=2, batch=4),
    "classifier": teachers.Classifier(convolutions=(4, 4), width=8, steps=2, batch=4),
    "count": 12,
}


def test_a_task_of_images_from_the_original_files(fake_fashion):
    """Everything that the large ones do: the teacher and the classifier are trained, the classes and metrics there."""
    task = images(name="fashion_mnist", rows="[:10]", **SMALL)
    assert task.shape == (28, 28, 1)
    assert task.noise.shape == task.endpoints.shape == (12, 28, 28, 1)
    assert task.real.shape == (10 + 10, 28, 28, 1)
    assert -1 <= task.real.min() < -0.99 and 0.99 < task.real.max() <= 1
    source = task.classes.source(6, 0)
    batch = source.batch(source.draw_indices(1)[0], jax.random.key(0))
    assert batch.x0.shape == (6, 28, 28, 1) and batch.label.shape == (6,)
    found = task.measure(AverageVelocityMap(lambda x, s, t: 0 * x))
    assert {f"frechet_distance_{n}" for n in (1, 2, 4)} <= found.keys()
    assert 0 <= found["classifier_accuracy"] <= 1
    assert all(np.isfinite(value) for value in found.values())
    still = sample.generate(AverageVelocityMap(lambda x, s, t: 0 * x), task.noise, 1)
    assert task.frechet_distance(task.real) < 1e-6 < found["frechet_distance_1"]
    assert found["frechet_distance_1"] == pytest.approx(task.frechet_distance(still))


def test_the_floor_of_a_learned_reference_is_another_teacher(fake_fashion):
    task = images(name="fashion_mnist", rows="[:10]", **SMALL)
    assert rulers.floors(task) == {}  # no law is known, and nothing else was asked
    floor = rulers.floors(task, other_seed=5)
    other = images(name="fashion_mnist", rows="[:10]", **SMALL | {"denoiser": SMALL["denoiser"].replace(seed=5)})
    assert floor == {"endpoint_error": pytest.approx(task.endpoint_error(other.reference))}
    assert floor["endpoint_error"] > 0.01
    with pytest.raises(ValueError, match="other_seed 0 is that of the task's own teacher"):
        rulers.floors(task, other_seed=0)


def test_of_many_images_the_real_ones_are_the_last(fake_fashion, monkeypatch):
    """So those that are held out, where there are enough of them."""
    monkeypatch.setattr(sys.modules["flowcore.tasks.images"], "REAL", 10)
    task = images(name="fashion_mnist", **SMALL)
    assert jnp.array_equal(task.real, data.scale(data.load("fashion_mnist", "test")["image"]))


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
def test_the_recipes_of_the_large_tasks_fit_their_images(name):
    """Teacher and classifier begin: the teacher is of millions of weights, the classifier's features of its width."""
    shape, recipes = BUILDERS[name].SHAPE, tasks.TASKS[name].keywords
    net = eqx.filter_eval_shape(lambda: recipes["denoiser"].begin(shape)[0].average.net)
    assert sum(leaf.size for leaf in jax.tree.leaves(net) if hasattr(leaf, "size")) > 1e6
    features = jax.eval_shape(lambda x: teachers.Features(shape, recipes["classifier"]).features(x), jnp.zeros(shape))
    assert features.shape == (recipes["classifier"].width,)
