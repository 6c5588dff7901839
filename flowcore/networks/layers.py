"""What the backbones share: how the times and a condition reach a network, linear layers, norms.

Both times reach a network as Fourier features of the source time s and of the gap s - t. In two dimensions the source
time cannot be read off the point, so a clock of the gap alone is not enough (`gap_only` shows it).
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from flowcore.checks import check
from flowcore.path import Point, Time

Condition = Float[Array, "..."] | float | None  # what a map is asked under: numbers of order one, or nothing


def source_and_gap(s: Time, t: Time) -> Float[Array, " clocks"]:
    """(s, s - t): the two numbers that stand for the times."""
    return jnp.stack([s, s - t])


def gap_only(s: Time, t: Time) -> Float[Array, " clocks"]:
    """(s - t, s - t): blind to the source time, as improved MeanFlow's image networks are."""
    return jnp.stack([s - t, s - t])


def source_and_level(levels: int = 7) -> Callable:
    """A clock of shortcut models: the source time, and the level log2 1/(s - t) of the jump as a share of `levels`.

    Jumps shorter than 2^-levels, down to none, all have the last level, as in the release, where the velocity is
    the shortest jump. Its slope in time is no use: for equalities without derivatives.
    Reference: Frans et al. 2024, "One Step Diffusion via Shortcut Models". Raises ValueError for no levels.
    """
    check("levels of source_and_level", levels, least=1, whole=True)

    def clock(s, t):
        return jnp.stack([s, -jnp.log2(jnp.clip(s - t, 2.0**-levels, 1.0)) / levels])

    return clock


def fourier_features(clock: Float[Array, " clocks"], count: int) -> Float[Array, " features"]:
    """Sines and cosines of each time at `count` octaves from a quarter turn up: (2 * clocks * count,).

    The fastest octave bounds the time derivative that the JVP losses feed on, so it is kept low.
    """
    phase = (0.5 * jnp.pi) * 2.0 ** jnp.arange(count, dtype=clock.dtype)[:, None] * clock[None]
    return jnp.concatenate([jnp.sin(phase), jnp.cos(phase)]).ravel()


def time_features(clock: Float[Array, " clocks"], octaves: int, condition) -> Float[Array, " features"]:
    """The Fourier features of the times and, when there is one, the condition itself, flattened."""
    features = fourier_features(clock, octaves)
    if condition is None:
        return features
    return jnp.concatenate([features, jnp.ravel(jnp.asarray(condition, features.dtype))])


def embed_times(net, x: Point, s: Time, t: Time, condition) -> Float[Array, " width"]:
    """The time embedding, `net.times` of the features of the times, in float32 at least: accelerators would round what
    the derivative is taken of."""
    clock = net.clock(jnp.asarray(s, x.dtype), jnp.asarray(t, x.dtype))
    with jax.default_matmul_precision("float32"):
        return net.times(time_features(clock, net.octaves, condition))


class Linear(eqx.nn.Linear):
    """W x + b as x W^T + b: under `vmap` the rows stay first, in the tangent of a JVP too.

    W x of many rows is transposed, and of a tangent XLA transposes it again at every use: a step of MeanFlow through
    128 units takes an eighth longer for the same bits.
    """

    def __call__(self, x: Float[Array, " size"], *, key: PRNGKeyArray | None = None) -> Float[Array, " out"]:
        product = x @ self.weight.T
        return product if self.bias is None else product + self.bias


def refuse_sizes(*, depth: int, conditions: int, **sizes: int) -> None:
    """Raise ValueError for a size below 1, by its name, and for a negative depth or number of conditions."""
    for name, size in sizes.items():
        check(name, size, least=1, whole=True)
    for name, count in {"depth": depth, "conditions": conditions}.items():
        check(name, count, least=0, whole=True)


def refuse_other_shape(x: Point, shape: tuple[int, ...]) -> None:
    """Raise ValueError for an example that the network was not made for. Shapes are known while tracing: this costs
    nothing where it runs."""
    if x.shape != shape:
        raise ValueError(
            f"this network takes examples of shape {shape}, not of shape {x.shape}: make it for these data "
            "(a batch goes through jax.vmap)"
        )


def refuse_other_condition(condition: Condition, count: int) -> None:
    """Raise ValueError for a condition of another size than the network was made for."""
    given = 0 if condition is None else jnp.size(condition)
    if given != count:
        raise ValueError(
            f"this network takes a condition of {count} numbers, not of {given}: make it with conditions={given}, or "
            f"ask the map with map.condition_on(...)"
        )


def perceptron(size: int, width: int, out: int, *, key: PRNGKeyArray) -> eqx.nn.Sequential:
    """One hidden layer of `width` units with silu."""
    key_in, key_out = jax.random.split(key)
    return eqx.nn.Sequential(
        [Linear(size, width, key=key_in), eqx.nn.Lambda(jax.nn.silu), Linear(width, out, key=key_out)]
    )


def zero_init(layer: eqx.Module) -> eqx.Module:
    """The layer with weight and bias 0."""
    return jax.tree.map(lambda p: jnp.zeros_like(p) if eqx.is_array(p) else p, layer)


def rms_norm(x: Float[Array, "*rows width"]) -> Float[Array, "*rows width"]:
    """Each row scaled to root mean square 1. Not learned: the times do the scaling."""
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)
