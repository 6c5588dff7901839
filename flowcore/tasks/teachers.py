"""Learned references, where nothing is known exactly: the denoiser that others distil, and the classifier whose
features the Frechet distance lives in.

A recipe says everything that decides the weights; they are cached under a hash of the recipe, the images and the code
that trains them, so a notebook that needs a teacher loads it, or trains it once, and an old one is never mistaken.
"""

import dataclasses
import hashlib
import inspect
import os
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from flowcore import maps, methods, networks, path, training
from flowcore.data import sources
from flowcore.losses import diagonal, distances
from flowcore.networks import attention, layers, mlp, precision, transformer, unet
from flowcore.objectives import context, schedules, terms, times
from flowcore.training import Recipe, devices, loop, recipe

CODE = (  # what decides the weights
    attention,
    context,
    devices,
    diagonal.flow_matching,
    distances.squared,
    layers,
    loop,
    maps.AverageVelocityMap,
    methods.flow_matching_terms,
    mlp,
    networks.names,
    path.conditional_velocity,
    path.interpolate,
    precision,
    recipe,
    schedules,
    sources,
    terms,
    times.diagonal,
    times.uniform,
    transformer,
    unet,
)
DENOISER = Recipe("mlp", width=256, depth=4, steps=5000, batch=256, rate=2e-3)  # as `flow_matching` trains it


def begin(recipe: Recipe, shape: tuple[int, ...]):
    """(state, optimiser): what a denoiser is trained from, for examples of this shape."""
    key_net, key_run = jax.random.split(jax.random.key(recipe.seed))
    return recipe.begin(recipe.model(shape, key=key_net), key=key_run)


@dataclasses.dataclass(frozen=True)
class Classifier:
    """The recipe of the classifier of images: convolutions, each of which halves the sides, and a hidden layer."""

    classes: int = 10
    convolutions: tuple[int, ...] = ()  # their channels
    width: int = 128
    steps: int = 1500
    batch: int = 256
    rate: float = 1e-3
    seed: int = 0


class Features(eqx.Module):
    """A classifier of images (H, W, C): `features(x)` (width,) are those of its last hidden layer, `net(x)` the
    logits."""

    convolutions: list
    hidden: eqx.nn.MLP
    head: eqx.nn.Linear

    def __init__(self, shape: tuple[int, int, int], recipe: Classifier):
        key_hidden, key_head, *keys = jax.random.split(jax.random.key(recipe.seed), 2 + len(recipe.convolutions))
        height, breadth, channels = shape
        self.convolutions = []
        for wider, key in zip(recipe.convolutions, keys, strict=True):
            self.convolutions.append(eqx.nn.Conv2d(channels, wider, 3, stride=2, padding=1, key=key))
            height, breadth, channels = (height + 1) // 2, (breadth + 1) // 2, wider
        size = height * breadth * channels
        self.hidden = eqx.nn.MLP(size, recipe.width, recipe.width, 1, final_activation=jax.nn.relu, key=key_hidden)
        self.head = eqx.nn.Linear(recipe.width, recipe.classes, key=key_head)

    def features(self, x: Float[Array, "H W C"]) -> Float[Array, " width"]:
        x = jnp.moveaxis(x, -1, 0)
        for convolution in self.convolutions:
            x = jax.nn.relu(convolution(x))
        return self.hidden(x.ravel())

    def __call__(self, x: Float[Array, "H W C"]) -> Float[Array, " classes"]:
        return self.head(self.features(x))

    def accuracy(self, images: Float[Array, "n H W C"], labels: Int[Array, " n"]) -> float:
        """Share of the images whose largest logit is that of the label."""
        return float(jnp.mean(jnp.argmax(jax.vmap(self)(images), axis=1) == labels))


def denoiser(images: Float[Array, "n *shape"], recipe: Recipe = DENOISER, *, progress: Callable = iter):
    """The recipe's average as a flow map, from the cache or trained now; wrap the chunks in `progress`, e.g. tqdm."""
    state, optimiser = begin(recipe, images.shape[1:])
    place = cache_path("denoiser", recipe, images)
    found = load(place, state.average)
    if found is None:
        loss = terms.Objective(methods.flow_matching_terms())
        source = sources.ShuffledSource(images, recipe.batch, seed=recipe.seed)
        for trained, _ in progress(training.fit(state, loss, source, optimiser, steps=recipe.steps)):
            found = trained.average
        save(place, found)
    return found


def classifier(
    images: Float[Array, "n *shape"], labels: Int[Array, " n"], recipe: Classifier | None = None
) -> Features:
    """The recipe's classifier, from the cache or trained now on these images in [-1, 1] and integer labels."""
    recipe = recipe or Classifier()
    net = Features(images.shape[1:], recipe)
    place = cache_path("classifier", recipe, images, labels)
    found = load(place, net)
    if found is None:
        found = train_classifier(net, images, labels, recipe)
        save(place, found)
    return found


@eqx.filter_jit
def train_classifier(net: Features, images, labels, recipe: Classifier) -> Features:
    optimiser = optax.adamw(optax.cosine_decay_schedule(recipe.rate, recipe.steps), weight_decay=1e-2)
    arrays, static = eqx.partition(net, eqx.is_array)

    def loss(arrays, images, labels):
        logits = jax.vmap(eqx.combine(arrays, static))(images)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    def step(carry, key):
        arrays, state = carry
        rows = jax.random.randint(key, (recipe.batch,), 0, images.shape[0])
        gradient = jax.grad(loss)(arrays, images[rows], labels[rows])
        update, state = optimiser.update(gradient, state, arrays)
        return (optax.apply_updates(arrays, update), state), None

    keys = jax.random.split(jax.random.key(recipe.seed), recipe.steps)
    (arrays, _), _ = jax.lax.scan(step, (arrays, optimiser.init(arrays)), keys)
    return eqx.combine(arrays, static)


def cache_path(kind: str, recipe, *arrays: Array) -> Path:
    """Where the recipe's weights for these data lie: a name that no other recipe, data or training code has."""
    content = hashlib.sha256(repr(recipe).encode())
    for array in arrays:
        content.update(jnp.asarray(array).tobytes())
    for code in (*CODE, inspect.getmodule(cache_path)):
        content.update(inspect.getsource(code).encode())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "flowcore" / f"{kind}-{content.hexdigest()[:16]}.eqx"


def load(place: Path, like):
    """The weights at `place` in the structure of `like`; None when there are none, or when the file is damaged."""
    if not place.exists():
        return None
    try:
        return eqx.tree_deserialise_leaves(place, like)
    except (RuntimeError, ValueError, EOFError, OSError):
        place.unlink(missing_ok=True)  # half a file is worth nothing: train again
        return None


def save(place: Path, tree) -> None:
    """Write the weights whole or not at all, so that two notebooks may train the same teacher at once."""
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_suffix(f".{os.getpid()}")
    eqx.tree_serialise_leaves(partial, tree)
    os.replace(partial, place)
