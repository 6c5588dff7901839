"""The garments: the shipped law is the one that was measured, its classes and pictures, and the rulers of a task."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowcore import AverageVelocityMap, TangentMap, metrics, sample, tasks
from flowcore.tasks import garments, rulers
from flowcore.tasks.garments_fit import FILE, FLOOR, floored, principal_components
from flowcore.tasks.laws import draws


@pytest.fixture(scope="module")
def task():
    return tasks.TASKS["garments"](count=256)


def test_the_file_is_small_and_the_law_is_that_of_twenty_components():
    assert FILE.stat().st_size < 200_000
    law = garments.law(24)
    assert law.means.shape == (20, 24) and law.axes.shape == (20, 24, 24)
    assert jnp.sum(jnp.exp(law.log_weights)) == pytest.approx(1, abs=1e-12)
    assert jnp.min(law.variances) > (0.99 * FLOOR) ** 2
    assert jnp.allclose(jnp.einsum("kij,kil->kjl", law.axes, law.axes), jnp.eye(24)[None], atol=1e-12)
    classes = jnp.exp(law.log_weights).reshape(10, 2).sum(axis=1)
    assert jnp.allclose(classes, 0.1, atol=1e-3)


def test_fewer_coordinates_are_the_marginal():
    few, marginal = garments.law(16), garments.law(64).marginal(16)
    x = few.means[3] + 0.1
    assert few.log_density(x) == pytest.approx(float(marginal.log_density(x)), abs=1e-9)
    assert jnp.allclose(few.velocity(x, 0.4), marginal.velocity(x, 0.4), atol=1e-10)


def test_the_sizes_are_those_that_the_protocol_was_measured_with(task):
    """ground.md: spread 4.93 to 4.99, doing nothing 4.28, the centre 3.20, four Euler steps 1.88 (RMS, 24 coordinates);
    here over 256 noises only."""
    found = rulers.endpoint_rulers(task)
    expected = {"mean of the data": 4.96, "do nothing": 4.28, "centre of the right component": 3.20}
    expected |= {"4 Euler steps": 1.88, "16 Euler steps": 0.67}
    assert list(found)[:3] == ["mean of the data", "do nothing", "centre of the right component"]
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=0.15), name
    assert rulers.spread(task) == pytest.approx(4.96, rel=0.05)


def test_one_euler_step_is_the_mean_of_the_data(task):
    ends = sample.generate(TangentMap(task.reference.velocity), task.noise, 1)
    assert jnp.allclose(ends, task.reference.mean[None], atol=1e-12)


def test_rulers_of_the_plane_know_the_nearest_mode():
    plane = tasks.TASKS["ring"](count=256)
    found = rulers.endpoint_rulers(plane)
    assert found["centre of the right component"] == pytest.approx(0.12 * 2**0.5, rel=0.1)  # two coordinates of std .12


def test_a_dial_sharpens(task):
    sharp = garments.law(24, sharpness=1 / 16)
    assert jnp.allclose(sharp.variances, task.reference.variances / 16)
    for wrong in ({"dim": 65}, {"dim": 0}, {"sharpness": 0.0}, {"sharpness": float("nan")}):
        with pytest.raises(ValueError, match="not "):
            garments.law(**wrong)


def test_a_dial_has_names(task):
    for name, factor in {"garments_sharp": 1 / 4, "garments_sharper": 1 / 16}.items():
        sharp = tasks.TASKS[name](count=4)
        assert jnp.allclose(sharp.reference.variances, factor * task.reference.variances)
        assert jnp.array_equal(sharp.reference.means, task.reference.means)
    assert tasks.TASKS["mixture"] is tasks.TASKS["ring"]


def test_a_known_law_is_measured_by_its_components_too(task):
    exact = task.measure_law(task.endpoints)
    assert abs(exact["energy_difference"]) < 1e-9
    assert exact["endpoint_median_1"] == exact["component_error_1"] == 0
    half = jnp.where(jnp.arange(256)[:, None] < 64, task.endpoints[::-1], task.endpoints)  # a quarter goes elsewhere
    found = task.measure_law(half)
    assert 0.2 < found["component_error_1"] < 0.25  # of ten classes a few are right by chance
    assert found["endpoint_median_1"] == 0
    assert found["energy_difference"] == pytest.approx(
        metrics.energy_distance(half, task.real) - task.energy_of_reference
    )
    off = task.measure_law(task.endpoints + 0.5)
    assert off["endpoint_median_1"] == pytest.approx(0.5 * 24**0.5)
    assert off["energy_difference"] > 0.05


def test_all_ways_to_measure_have_the_metrics_of_a_known_law(task):
    few = dataclasses.replace(task, noise=task.noise[:8], endpoints=task.endpoints[:8], real=task.real[:8])
    new = {"energy_difference", "endpoint_median_1", "component_error_1"}
    still = AverageVelocityMap(lambda x, s, t: 0 * x)
    assert new <= few.measure(still).keys()
    assert new <= few.measure_consistency(still, sample.consistency()).keys()
    assert new <= few.measure_from_noise(still).keys()


def test_whole_images_are_guided_too():
    """The laws of the classes share what lies beyond the core."""
    task = tasks.TASKS["garments_784"](count=10)
    of_class = task.classes.exact.of_class
    assert of_class.core.means.shape == (10, 2, 64) and of_class.axes.shape == (10, 784, 64)
    x, condition = task.noise[3], task.classes.conditions(1.0)[3]
    one = task.reference.of_components(np.array([6, 7]))
    assert jnp.allclose(task.classes.exact.velocity(x, 0.4, condition), one.velocity(x, 0.4), atol=1e-10)
    assert not jnp.allclose(task.reference.velocity(x, 0.4), one.velocity(x, 0.4), atol=1e-3)


def test_draws_do_not_depend_on_how_many_at_once(task):
    key = jax.random.key(3)
    many = draws(task.reference, key, 600)
    keys = jax.random.split(key, 600)
    assert many.shape == (600, 24)
    for row in (0, 511, 512, 599):
        assert jnp.allclose(many[row], task.reference.sample(keys[row]), atol=1e-12)


def test_samples_are_of_the_law_and_labels_of_their_class(task):
    batch = task.classes.source(400, 0).batch(None, jax.random.key(0))
    assert batch.x0.shape == (400, 24)
    components = jax.vmap(task.reference.component)(batch.x0)
    assert jnp.mean(components // 2 == batch.label) > 0.75  # classes overlap: shirts, pullovers and coats
    real = jax.vmap(task.reference.sample)(jax.random.split(jax.random.key(1), 2000))
    assert abs(metrics.energy_distance(real, task.real)) < 0.05


def test_guided_ends_are_likelier_under_their_class(task):
    few, labels = task.noise[:32], task.classes.labels[:32]
    conditions = task.classes.conditions
    plain, guided = (sample.generate(task.classes.exact, few, 1, conditions=conditions(w)[:32]) for w in (1.0, 3.0))
    law = task.classes.exact.of_class

    def likelihood(x, label):
        return jax.tree.map(lambda leaf: leaf[label], law).log_density(x) - task.reference.log_density(x)

    of_class = [jnp.mean(jax.vmap(likelihood)(ends, labels)) for ends in (plain, guided)]
    assert of_class[1] > of_class[0]


def test_whole_images_are_the_core_and_a_grain():
    law = garments.law_784()
    x = law.sample(jax.random.key(0))
    assert x.shape == (28, 28, 1)
    z = law.axes.T @ x.ravel()
    rest = x.ravel() - law.axes @ z
    assert jnp.linalg.norm(rest) == pytest.approx(0.0707 * 720**0.5, rel=0.1)
    assert jnp.allclose(law.axes.T @ law.axes, jnp.eye(64), atol=1e-12)


def test_pictures_are_images(task):
    made = tasks.garments.pictures(task.real[:5])
    assert made.shape == (5, 28, 28, 1) and -3 < made.min() < made.max() < 3
    law = garments.law_784()
    whole = law.sample(jax.random.key(0))[None]
    inside = (law.axes.T @ whole[0].ravel())[None]
    assert np.allclose(tasks.garments.pictures(whole), tasks.garments.pictures(inside), atol=1e-10)


def test_the_fit_floors_variances_and_orders_components():
    rng = np.random.default_rng(0)
    images = rng.standard_normal((900, 784)) * np.linspace(2, 0.1, 784)
    mean, axes = principal_components(images)
    assert np.allclose(axes.T @ axes, np.eye(64), atol=1e-10)
    spread = ((images - mean) @ axes).std(axis=0)
    assert np.all(np.diff(spread) < 1e-12)
    assert np.all(axes[np.abs(axes).argmax(axis=0), np.arange(64)] > 0)
    flat = np.diag(np.linspace(1e-6, 1, 64))
    assert np.linalg.eigvalsh(floored(flat)).min() == pytest.approx(FLOOR**2)
