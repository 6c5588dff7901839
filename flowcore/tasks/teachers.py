"""Learned references, where nothing is known exactly: the denoiser that others distil, and the classifier whose
features the Frechet distance lives in.

A recipe says everything that decides the weights; they are cached under a hash of the recipe, the images and the code
that trains them, so a notebook that needs a teacher loads it, or trains it once, and an old one is never mistaken.
What is cached begins with its checksum. A cache that cannot be read or written costs a line and the time to train
again, and nothing else.
"""

import contextlib
import dataclasses
import hashlib
import inspect
import io
import os
import secrets
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from flowcore import calculus, maps, methods, networks, path, training
from flowcore.checks import check
from flowcore.data import examples, sources
from flowcore.losses import diagonal, distances
from flowcore.networks import attention, layers, mlp, precision, transformer, unet
from flowcore.objectives import context, schedules, terms, times
from flowcore.training import Recipe, devices, loop, recipe
from flowcore.training.recipe import check_counts

CODE = (  # what decides the weights
    attention,
    calculus.stop_gradients,
    context,
    devices,
    diagonal.flow_matching,
    distances.squared,
    examples.parts,
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
    """The recipe of the classifier of images: convolutions, each of which halves the sides, and a hidden layer. Raises
    ValueError for numbers that cannot be."""

    classes: int = 10
    convolutions: tuple[int, ...] = ()  # their channels
    width: int = 128
    steps: int = 1500
    batch: int = 256
    rate: float = 1e-3
    seed: int = 0

    def __post_init__(self):
        check_counts(self, classes=1, width=1, steps=1, batch=1)
        for channels in self.convolutions:
            check("channels of a convolution", channels, least=1, whole=True)


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
    """The recipe's average as a flow map, from the cache or trained now; wrap the chunks in `progress`, e.g. tqdm.
    Without one a line says what is trained."""
    state, optimiser = begin(recipe, images.shape[1:])
    place = cache_path("denoiser", recipe, images)
    found = load(place, state.average)
    if found is None:
        announce("denoiser", recipe.steps, progress)
        loss = terms.Objective(methods.flow_matching_terms())
        source = sources.ShuffledSource(images, recipe.batch, seed=recipe.seed)
        for trained, _ in progress(training.fit(state, loss, source, optimiser, steps=recipe.steps)):
            found = trained.average
        save(place, found)
    return found


def classifier(
    images: Float[Array, "n *shape"],
    labels: Int[Array, " n"],
    recipe: Classifier | None = None,
    *,
    progress: Callable = iter,
) -> Features:
    """The recipe's classifier, from the cache or trained now on these images in [-1, 1] and integer labels; all steps
    are one chunk to `progress`. Raises ValueError for labels that are none of its classes."""
    recipe = recipe or Classifier()
    refuse_other_labels(labels, recipe.classes)
    net = Features(images.shape[1:], recipe)
    place = cache_path("classifier", recipe, images, labels)
    found = load(place, net)
    if found is None:
        announce("classifier", recipe.steps, progress)
        for trained in progress(train_classifier(net, images, labels, recipe) for _ in range(1)):
            found = trained
        save(place, found)
    return found


def refuse_other_labels(labels: Int[Array, " n"], classes: int) -> None:
    """Raise ValueError for labels that are none of so many classes, as far as they are known."""
    if labels.size and not isinstance(labels, jax.core.Tracer):
        for label in (int(jnp.min(labels)), int(jnp.max(labels))):
            check(f"a label of {classes} classes", label, least=0, most=classes - 1, whole=True)


def announce(kind: str, steps: int, progress: Callable) -> None:
    """One line before a training that nothing else shows."""
    if progress is iter:
        print(f"training a {kind} for {steps:,} steps, once: it is kept for the next time")


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
    """The weights at `place` in the structure of `like`; None, and a line that says why, when they cannot be read or
    are not what was written; None when there are none."""
    try:
        checksum, _, content = place.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        print(f"{place} cannot be read ({error.strerror}): training anew; set XDG_CACHE_HOME to a folder of your own")
        return None
    if hashlib.sha256(content).hexdigest().encode() != checksum:
        print(f"{place} is damaged: training anew")
        with contextlib.suppress(OSError):
            place.unlink()
        return None
    return eqx.tree_deserialise_leaves(io.BytesIO(content), like)


def save(place: Path, tree) -> None:
    """Write the weights whole or not at all, so that two notebooks may train the same teacher at once; where nothing
    can be written say so: they were trained for minutes, and are needed now."""
    content = io.BytesIO()
    eqx.tree_serialise_leaves(content, tree)
    content = content.getvalue()
    partial = place.with_suffix(f".{os.getpid()}-{secrets.token_hex(4)}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        os.replace(partial, place)
    except OSError as error:
        print(
            f"{place.name} is trained but not kept in {place.parent} ({error.strerror}): free some space there, or set "
            "XDG_CACHE_HOME to a folder of your own, else it is trained again the next time"
        )
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
