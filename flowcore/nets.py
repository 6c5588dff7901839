"""Backbones `net(x, s, t[, condition]) -> like x`, for one example. All start at zero output, so V = 0 before training.

Both times reach the network as sines and cosines of the source time s and of the gap s - t. In two dimensions the
source time cannot be read off the point, so a clock that tells only the gap is not enough (`gap_only` shows it).
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from flowcore import attention
from flowcore.path import Point, Time

Condition = Float[Array, "..."] | float | None  # what a map is asked under: numbers of order one, or nothing


def source_and_gap(s: Time, t: Time) -> Float[Array, " clocks"]:
    """(s, s - t): what the network is told of the times."""
    return jnp.stack([s, s - t])


def gap_only(s: Time, t: Time) -> Float[Array, " clocks"]:
    """(s - t, s - t): blind to the source time, as improved MeanFlow's image networks are."""
    return jnp.stack([s - t, s - t])


def source_and_level(levels: int = 7) -> Callable:
    """A clock of shortcut models: the source time, and the level log2 1/(s - t) of the jump as a share of `levels`.

    Jumps shorter than 2^-levels, down to none, are all told the last level, as in the release, where the velocity is
    the shortest jump. Its slope in time is no use: for equalities without derivatives.
    Reference: Frans et al. 2024, "One Step Diffusion via Shortcut Models".
    """

    def clock(s, t):
        return jnp.stack([s, -jnp.log2(jnp.clip(s - t, 2.0**-levels, 1.0)) / levels])

    return clock


def waves(clock: Float[Array, " clocks"], count: int) -> Float[Array, " features"]:
    """Sines and cosines of each time at `count` octaves from a quarter turn up: (2 * clocks * count,).

    The fastest octave bounds the time derivative that the JVP losses feed on, so it is kept low.
    """
    phase = (0.5 * jnp.pi) * 2.0 ** jnp.arange(count, dtype=clock.dtype)[:, None] * clock[None]
    return jnp.concatenate([jnp.sin(phase), jnp.cos(phase)]).ravel()


def announced(clock: Float[Array, " clocks"], octaves: int, condition) -> Float[Array, " features"]:
    """The waves of the times and, when there is one, the condition itself, flattened."""
    told = waves(clock, octaves)
    return told if condition is None else jnp.concatenate([told, jnp.ravel(jnp.asarray(condition, told.dtype))])


def embedded(net, x: Point, s: Time, t: Time, condition) -> Float[Array, " told"]:
    """What `net.times` makes of the times, in float32 at least: accelerators would round what the derivative is taken
    of."""
    clock = net.clock(jnp.asarray(s, x.dtype), jnp.asarray(t, x.dtype))
    with jax.default_matmul_precision("float32"):
        return net.times(announced(clock, net.octaves, condition))


class Linear(eqx.nn.Linear):
    """W x + b as x W^T + b: under `vmap` the rows stay first, in the tangent of a JVP too.

    W x of many rows is transposed, and of a tangent XLA transposes it again at every use: a step of MeanFlow through
    128 units takes an eighth longer for the same bits.
    """

    def __call__(self, x: Float[Array, " size"], *, key: PRNGKeyArray | None = None) -> Float[Array, " out"]:
        product = x @ self.weight.T
        return product if self.bias is None else product + self.bias


def perceptron(size: int, width: int, out: int, *, key: PRNGKeyArray) -> eqx.nn.Sequential:
    """One hidden layer of `width` units with silu."""
    key_in, key_out = jax.random.split(key)
    return eqx.nn.Sequential(
        [Linear(size, width, key=key_in), eqx.nn.Lambda(jax.nn.silu), Linear(width, out, key=key_out)]
    )


def zeroed(layer: eqx.Module) -> eqx.Module:
    """The layer with weight and bias 0."""
    return jax.tree.map(lambda p: jnp.zeros_like(p) if eqx.is_array(p) else p, layer)


class ResidualMLP(eqx.Module):
    """An MLP on the flattened example: `depth` residual blocks of `width` units, each shifted by the two times.

    For points in the plane (width 128) and for 8x8 images (width 256), where it trains in a minute on two cores. With
    `conditions` it is told that many numbers of order one beside the times, e.g. the scale of its teacher's guidance.
    """

    into: Linear
    times: eqx.nn.Sequential
    blocks: list
    out: Linear
    clock: Callable = eqx.field(static=True)
    octaves: int = eqx.field(static=True)

    def __init__(
        self,
        size: int,
        width: int = 128,
        depth: int = 2,
        *,
        clock: Callable = source_and_gap,
        octaves: int = 3,
        conditions: int = 0,
        key: PRNGKeyArray,
    ):
        keys = jax.random.split(key, depth + 3)
        self.into = Linear(size, width, key=keys[0])
        self.times = perceptron(4 * octaves + conditions, width, width, key=keys[1])
        self.blocks = [Linear(width, width, key=k) for k in keys[3:]]
        self.out = zeroed(Linear(width, size, key=keys[2]))
        self.clock, self.octaves = clock, octaves

    def __call__(self, x: Point, s: Time, t: Time, condition: Condition = None) -> Point:
        clock = self.clock(jnp.asarray(s, x.dtype), jnp.asarray(t, x.dtype))
        told = self.times(announced(clock, self.octaves, condition))
        hidden = self.into(x.ravel())
        for block in self.blocks:
            hidden = hidden + block(jax.nn.silu(hidden + told))
        return self.out(jax.nn.silu(hidden)).reshape(x.shape)


class Attention(eqx.Module):
    """Self-attention with normalised queries and keys; `attend` is one of `flowcore.attention`, by default the
    automatic one."""

    project: Linear
    out: Linear
    attend: Callable
    heads: int = eqx.field(static=True)

    def __init__(self, width: int, heads: int, *, key: PRNGKeyArray):
        key_project, key_out = jax.random.split(key)
        self.project = Linear(width, 3 * width, key=key_project)
        self.out = Linear(width, width, key=key_out)
        self.attend, self.heads = attention.automatic, heads

    def __call__(self, tokens: Float[Array, "tokens width"]) -> Float[Array, "tokens width"]:
        query, key, value = jnp.moveaxis(jax.vmap(self.project)(tokens).reshape(len(tokens), 3, self.heads, -1), 1, 0)
        mixed = self.attend(unit(query), unit(key), value)
        return jax.vmap(self.out)(mixed.reshape(tokens.shape))


def unit(x: Float[Array, "*rows width"]) -> Float[Array, "*rows width"]:
    """Each row scaled to root mean square 1. Not learned: the times do the scaling."""
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)


class DiTBlock(eqx.Module):
    """Attention and an MLP, each shifted, scaled and gated by the times; the gates start at 0 (adaLN-zero)."""

    attention: Attention
    mlp: eqx.nn.Sequential
    modulate: Linear

    def __init__(self, width: int, heads: int, *, key: PRNGKeyArray):
        key_attention, key_mlp, key_modulate = jax.random.split(key, 3)
        self.attention = Attention(width, heads, key=key_attention)
        self.mlp = perceptron(width, 4 * width, width, key=key_mlp)
        self.modulate = zeroed(Linear(width, 6 * width, key=key_modulate))

    def __call__(self, tokens, told):
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.modulate(jax.nn.silu(told)).reshape(6, 1, -1)
        tokens = tokens + gate * self.attention(unit(tokens) * (1 + scale) + shift)
        return tokens + gate_mlp * jax.vmap(self.mlp)(unit(tokens) * (1 + scale_mlp) + shift_mlp)


class DiT(eqx.Module):
    """A small diffusion transformer for images (H, W, C), in `patch` x `patch` tokens: for accelerators.

    Reference: Peebles & Xie 2023, "Scalable Diffusion Models with Transformers", section 3.2 (adaLN-Zero).
    Raises ValueError when the patch does not divide the image or the heads do not divide the width.
    """

    into: Linear
    place: Float[Array, "tokens width"]
    times: eqx.nn.Sequential
    blocks: list
    out: Linear
    clock: Callable = eqx.field(static=True)
    patch: int = eqx.field(static=True)
    octaves: int = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, int, int],
        patch: int = 2,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        *,
        clock: Callable = source_and_gap,
        octaves: int = 3,
        conditions: int = 0,
        key: PRNGKeyArray,
    ):
        height, breadth, channels = shape
        if height % patch or breadth % patch:
            raise ValueError(f"patches of {patch} do not tile an image of {height}x{breadth}")
        if width % heads:
            raise ValueError(f"{heads} heads do not divide a width of {width}")
        keys = jax.random.split(key, depth + 3)
        pixels = patch * patch * channels
        self.into = Linear(pixels, width, key=keys[0])
        self.place = 0.02 * jax.random.normal(keys[1], (height // patch * (breadth // patch), width))
        self.times = perceptron(4 * octaves + conditions, width, width, key=keys[2])
        self.blocks = [DiTBlock(width, heads, key=k) for k in keys[3:]]
        self.out = zeroed(Linear(width, pixels, key=keys[0]))
        self.clock, self.patch, self.octaves = clock, patch, octaves

    def __call__(
        self, x: Float[Array, "H W C"], s: Time, t: Time, condition: Condition = None
    ) -> Float[Array, "H W C"]:
        told = embedded(self, x, s, t, condition)
        rows, columns, p = x.shape[0] // self.patch, x.shape[1] // self.patch, self.patch
        patches = x.reshape(rows, p, columns, p, -1).swapaxes(1, 2).reshape(rows * columns, -1)
        tokens = jax.vmap(self.into)(patches) + self.place
        for block in self.blocks:
            tokens = block(tokens, told)
        patches = jax.vmap(self.out)(unit(tokens))
        return patches.reshape(rows, columns, p, p, -1).swapaxes(1, 2).reshape(x.shape)
