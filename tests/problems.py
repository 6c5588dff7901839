"""What several test files share: an exact task, a map that is exact in value but has the gradient of a real network,
and gradients as plain vectors."""

import functools
import hashlib
import socket

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import tensorflow_datasets as tfds

from flowcore import AbstractFlowMap, GaussianMap, data
from flowcore.calculus import stop_gradients
from flowcore.data.datasets import BUILDERS
from flowcore.data.datasets.mnist import FlowFashionMnist
from flowcore.networks import ResidualMLP


def gaussian():
    """The exact map of 2-D Gaussian data that is neither centred nor of unit spread, so that no term drops out."""
    return GaussianMap(jnp.array([0.3, -0.5]), 0.6)


def lively(net, seed=7, size=0.3):
    """The net with noise on every parameter: away from initialisation, where layers are zero and gradients vanish."""
    arrays, static = eqx.partition(net, eqx.is_inexact_array)
    flat, unravel = jax.flatten_util.ravel_pytree(arrays)
    return eqx.combine(unravel(flat + size * jax.random.normal(jax.random.key(seed), flat.shape)), static)


@functools.cache
def small_net(seed=0):
    """A random residual MLP on points of the plane, output layer included."""
    return lively(ResidualMLP(2, width=16, depth=1, key=jax.random.key(seed)), seed + 100)


class Disturbed(AbstractFlowMap):
    """exact + (net - frozen copy of net) + offset: at offset 0 the exact map, with the net's parameter gradient."""

    exact: AbstractFlowMap
    net: ResidualMLP
    copy: ResidualMLP
    offset: float = eqx.field(static=True, default=0.0)

    def average_velocity(self, x, s, t):
        learned = self.net(x, s, t) - stop_gradients(self.copy)(x, s, t)
        return stop_gradients(self.exact).average_velocity(x, s, t) + learned + self.offset

    def velocity(self, x, t):
        return (
            stop_gradients(self.exact).velocity(x, t)
            + self.net(x, t, t)
            - stop_gradients(self.copy)(x, t, t)
            + self.offset
        )


def disturbed(exact, offset=0.0):
    return Disturbed(exact, small_net(), small_net(), offset)


def gradient(loss, model):
    """d loss / d model, as one vector."""
    return eqx.filter_jit(lambda model: jax.flatten_util.ravel_pytree(eqx.filter_grad(loss)(model))[0])(model)


def z_scores(objective, exact, *, batches=4000, rows=8):
    """Mean gradient of the objective at the exact map, in standard errors, along eight random directions.

    Batches are small so that there are many: each is one independent draw of data, noise and times.
    """
    model = disturbed(exact)

    @jax.jit
    def one(key):
        key_data, key_loss = jax.random.split(key)
        x0 = jax.vmap(exact.sample)(jax.random.split(key_data, rows))
        return gradient(lambda m: objective(m, x0, target=model, teacher=exact, key=key_loss)[0], model)

    gradients = jax.lax.map(one, jax.random.split(jax.random.key(3), batches), batch_size=1000)
    along = gradients @ jax.random.normal(jax.random.key(4), (gradients.shape[1], 8))
    return jnp.mean(along, axis=0) / (jnp.std(along, axis=0) / batches**0.5)


def lenient(optimiser):
    """The same optimiser, allowed to mix integers and floats: optax does (step counts), flowcore must not."""

    def update(gradient, state, parameters=None):
        with jax.numpy_dtype_promotion("standard"):
            return optimiser.update(gradient, state, parameters)

    return optax.GradientTransformation(optimiser.init, update)


def leaves(tree):
    """All arrays of a tree; random keys as their integers."""
    arrays = jax.tree.leaves(eqx.filter(tree, eqx.is_array))
    return [jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a for a in arrays]


def same(a, b):
    """Bit for bit."""
    a, b = leaves(a), leaves(b)
    return len(a) == len(b) and all(bool(jnp.array_equal(x, y)) for x, y in zip(a, b, strict=True))


# --- the official releases: both sides share the parameters theta of one small network, and no code -------------------


def weights(seed):
    """The parameters theta of a small network of a point of the plane and two times."""
    keys = jax.random.split(jax.random.key(seed), 3)
    return {
        "in": 0.7 * jax.random.normal(keys[0], (8, 4)),
        "shift": 0.5 * jax.random.normal(keys[1], (8,)),
        "out": 0.6 * jax.random.normal(keys[2], (2, 8)),
    }


LIVE, AVERAGED = weights(1), weights(2)  # the weights that are trained, and a slow copy of them as a target


def network(theta, x, first, second):
    return theta["out"] @ jnp.tanh(theta["in"] @ jnp.concatenate([x, jnp.stack([first, second])]) + theta["shift"])


def value_and_slope(loss):
    """A function of theta at the live weights: its value, and its gradient as one vector."""
    value, slope = jax.jit(jax.value_and_grad(loss))(LIVE)
    return value, jax.flatten_util.ravel_pytree(slope)[0]


def assert_equal(ours, theirs):
    """Two functions of theta, to 1e-12 of their size: value and gradient."""
    (value, slope), (value_theirs, slope_theirs) = value_and_slope(ours), value_and_slope(theirs)
    assert abs(value - value_theirs) < 1e-12 * abs(value_theirs)
    assert jnp.linalg.norm(slope_theirs) > 1e-2
    assert jnp.linalg.norm(slope - slope_theirs) < 1e-12 * jnp.linalg.norm(slope_theirs)


def drawn_noise(key, index, rows):
    """The noise that the term of this index draws for its rows, in `flowcore.objectives.terms`."""
    return jax.random.normal(jax.random.split(jax.random.fold_in(key, index))[1], (rows, 2))


class FakeFashion(FlowFashionMnist):
    """Fashion-MNIST, of other original files: their checksums are taken where they are written."""

    name = "flow_fashion_mnist"
    url_infos = {}


UrlInfo = tfds.core.download.checksums.UrlInfo


def prepare_fake_fashion(folder, monkeypatch, train: int, test: int):
    """So many images of noise, in files like Fashion-MNIST's, prepared where `load` looks, here and in kernels, from
    now on; and an empty cache of teachers."""
    rng = np.random.default_rng(0)
    for prefix, count in (("train", train), ("t10k", test)):
        parts = {"images-idx3": rng.integers(0, 256, (count, 28, 28), np.uint8), "labels-idx1": np.arange(count) % 10}
        for part, array in parts.items():
            head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
            content, name = head + array.astype(np.uint8).tobytes(), f"{prefix}-{part}-ubyte"
            (folder / name).write_bytes(content)
            (url,) = [url.removesuffix(".gz") for url in FakeFashion.URLS if f"/{name}." in url]
            info = UrlInfo(tfds.core.utils.Size(len(content)), hashlib.sha256(content).hexdigest(), name)
            monkeypatch.setitem(FakeFashion.url_infos, url, info)
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder / "prepared"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setitem(BUILDERS, "fashion_mnist", FakeFashion)
    data.load("fashion_mnist", from_files=folder)


def free_port() -> int:
    """Of this machine; for a server that is started at once."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]
