import dataclasses

import jax
import jax.numpy as jnp
import pytest
from problems import same

from flowcore import AverageVelocityMap, Objective, calculus, methods, teachers, training
from flowcore.data import ShuffledSource, examples
from flowcore.networks.unet import UNet
from flowcore.tasks.teachers import Classifier
from flowcore.training import Recipe

DENOISER = Recipe(width=8, depth=1, steps=6, batch=4)
CLASSIFIER = Classifier(classes=2, width=8, steps=6, batch=4)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """An empty cache of its own; and optax, which mixes integers and floats, may."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with jax.numpy_dtype_promotion("standard"):
        yield tmp_path / "flowcore"


def images(n=12):
    return jax.random.normal(jax.random.key(0), (n, 2, 2, 1))


def labels(x):
    """Separable: whether the first pixel is positive."""
    return (x[:, 0, 0, 0] > 0).astype(jnp.int32)


def refuse(*args, **settings):
    raise AssertionError("trained, though the weights are in the cache")


def test_a_denoiser_comes_from_the_cache_the_second_time(monkeypatch):
    first = teachers.denoiser(images(), DENOISER)
    monkeypatch.setattr(training, "fit", refuse)
    again = teachers.denoiser(images(), DENOISER)
    assert isinstance(again, AverageVelocityMap)
    assert same(first, again)


def test_a_classifier_comes_from_the_cache_the_second_time(monkeypatch):
    x = images()
    first = teachers.classifier(x, labels(x), CLASSIFIER)
    monkeypatch.setattr(teachers, "train_classifier", refuse)
    assert same(first, teachers.classifier(x, labels(x), CLASSIFIER))


def test_without_a_cached_file_it_does_train(monkeypatch):
    """The power of the two tests above."""
    monkeypatch.setattr(training, "fit", refuse)
    with pytest.raises(AssertionError, match="trained"):
        teachers.denoiser(images(), DENOISER)


def test_a_denoiser_is_the_average_of_the_recipes_run():
    x = images()
    state, optimiser = teachers.begin(DENOISER, (2, 2, 1))
    loss = Objective(methods.flow_matching_terms())
    *_, (state, _) = training.fit(
        state, loss, ShuffledSource(x, DENOISER.batch, seed=DENOISER.seed), optimiser, steps=DENOISER.steps
    )
    assert same(teachers.denoiser(x, DENOISER), state.average)
    assert not same(state.average, state.model)


def test_progress_is_given_the_chunks():
    seen = []

    def progress(chunks):
        for chunk in chunks:
            seen.append(chunk)
            yield chunk

    teachers.denoiser(images(), DENOISER, progress=progress)
    assert [int(state.step) for state, _ in seen] == [6]


@pytest.mark.parametrize("recipe", [DENOISER, CLASSIFIER], ids=["denoiser", "classifier"])
def test_every_field_of_the_recipe_is_in_the_name(recipe):
    names = {teachers.cache_path("x", recipe, images())}
    for field in dataclasses.fields(recipe):
        value = getattr(recipe, field.name)
        other = {str: "dit", tuple: (3,)}.get(type(value)) or 2 * value + 1
        names.add(teachers.cache_path("x", dataclasses.replace(recipe, **{field.name: other}), images()))
    assert len(names) == 1 + len(dataclasses.fields(recipe))


def test_one_changed_pixel_changes_the_name():
    x = images()
    assert teachers.cache_path("x", DENOISER, x.at[3, 0, 0, 0].add(1e-6)) != teachers.cache_path("x", DENOISER, x)


def test_what_prepares_the_examples_and_stops_the_gradient_is_part_of_the_name():
    assert {calculus.stop_gradients, examples.parts} <= set(teachers.CODE)


def test_the_kinds_of_teacher_have_names_of_their_own(place):
    kinds = ["denoiser", "classifier"]
    names = [teachers.cache_path(kind, DENOISER, images()) for kind in kinds]
    assert [name.name.split("-")[0] for name in names] == kinds
    assert all(name.parent == place for name in names)


def test_other_labels_are_another_classifier():
    x = images()
    one = teachers.classifier(x, labels(x), CLASSIFIER)
    assert not same(one, teachers.classifier(x, 1 - labels(x), CLASSIFIER))


def test_a_damaged_file_is_trained_again(place):
    """Cut short as by a full disk, empty, or not an array at all."""
    first = teachers.denoiser(images(), DENOISER)
    (file,) = place.glob("denoiser-*.eqx")
    whole = file.read_bytes()
    state, _ = teachers.begin(DENOISER, (2, 2, 1))
    for damage in (whole[: len(whole) // 2], b"", b"not an array at all" * 50):
        file.write_bytes(damage)
        assert teachers.load(file, state.average) is None
        assert not file.exists()
    file.write_bytes(whole[:-1])
    assert same(teachers.denoiser(images(), DENOISER), first)
    assert file.read_bytes() == whole


def test_nothing_is_left_beside_the_weights(place):
    teachers.denoiser(images(), DENOISER)
    assert len(list(place.iterdir())) == 1


def test_a_classifier_learns_what_is_separable():
    x = images(200)
    net = teachers.classifier(x, labels(x), Classifier(classes=2, width=16, steps=200, batch=64, rate=1e-2))
    assert net.accuracy(x, labels(x)) > 0.95
    assert net.accuracy(x, 1 - labels(x)) < 0.05


def test_features_are_those_of_the_last_hidden_layer():
    x = images(3)
    net = teachers.Features((2, 2, 1), CLASSIFIER)
    assert net.features(x[0]).shape == (8,)
    assert jnp.allclose(net(x[0]), net.head(net.features(x[0])))
    assert net(x[0]).shape == (2,)


def test_convolutions_halve_the_sides():
    """7x5 in two colours, then 4x3, then 2x2 of three channels: 12 numbers enter the hidden layer."""
    x = jax.random.normal(jax.random.key(0), (3, 7, 5, 2))
    net = teachers.Features((7, 5, 2), dataclasses.replace(CLASSIFIER, convolutions=(4, 3)))
    assert net.hidden.layers[0].weight.shape == (8, 12)
    assert net.features(x[0]).shape == (8,)
    assert jnp.max(jnp.abs(net.features(x[0]) - net.features(x[1]))) > 1e-3


def test_a_classifier_with_convolutions_learns_what_is_separable():
    x = images(200)
    recipe = Classifier(classes=2, convolutions=(8,), width=16, steps=200, batch=64, rate=1e-2)
    assert teachers.classifier(x, labels(x), recipe).accuracy(x, labels(x)) > 0.95


def test_a_denoiser_is_the_network_that_its_recipe_names():
    state, _ = Recipe(network="unet_bfloat16", width=4, depth=1).begin((4, 4, 1))
    assert isinstance(state.average.net, UNet)
