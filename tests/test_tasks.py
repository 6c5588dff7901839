import jax
import jax.numpy as jnp
import pytest

from flowcore import AbstractFlowMap, GaussianMap, sample, tasks
from flowcore.data import Drawn


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
    return tasks.Task(exact, noise, ends, real, lambda size, seed: Drawn(exact.sample, size))


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


def test_without_a_classifier_there_are_no_metrics_of_images(task):
    assert task.measure_images(task.samples(task.reference)) == {}


def test_the_classes_of_the_mixture_are_its_halves():
    task = tasks.mixture(count=512)
    batch = task.classes.source(256, 0).batch(None, jax.random.key(0))
    assert jnp.mean(batch.label) == pytest.approx(0.5, abs=0.1)
    assert jnp.mean(jnp.where(batch.label == 0, batch.x0[:, 1], -batch.x0[:, 1]) > -0.4) == 1  # modes 0 and 4 lie at 0
    ends = sample.generate(task.classes.exact, task.noise, 1, conditions=task.classes.asked(1.0))
    nearest = jnp.argmin(jnp.linalg.norm(ends[:, None] - task.reference.means[None], axis=2), axis=1)
    assert jnp.mean(nearest // 4 == task.classes.labels) > 0.999
    further = sample.generate(task.classes.exact, task.noise, 1, conditions=task.classes.asked(3.0))
    assert jnp.mean(jnp.abs(further[:, 1])) > 1.05 * jnp.mean(jnp.abs(ends[:, 1]))  # away from the other half
    free = sample.generate(task.classes.exact, task.noise, 1, conditions=0 * task.classes.asked(1.0))
    assert jnp.max(jnp.abs(free - task.endpoints)) < 1e-4
