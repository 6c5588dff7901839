"""A U-Net for images: convolutions on three resolutions, each half the one before, and attention on the lowest.

What a resolution was on the way down is laid beside it on the way up, so the middle need not remember the pixels.
Convolutions have no bias: the times shift what lies between them.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from flowcore.networks.layers import (
    Condition,
    Linear,
    embed_times,
    perceptron,
    refuse_other_condition,
    refuse_other_shape,
    refuse_sizes,
    rms_norm,
    source_and_gap,
    zero_init,
)
from flowcore.networks.transformer import Attention
from flowcore.path import Time

GROUPS = HEADS = 4
HALVINGS = 2


def convolution(channels_in: int, channels_out: int, size: int = 3, stride: int = 1, *, key: PRNGKeyArray):
    return eqx.nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2, use_bias=False, key=key)


class ResidualBlock(eqx.Module):
    """Two convolutions beside a shortcut; the times shift and scale between them, and the second starts at 0.

    Reference: Dhariwal & Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis", section 3.1.
    """

    first: eqx.nn.Conv2d
    second: eqx.nn.Conv2d
    shortcut: eqx.nn.Conv2d
    modulate: Linear
    normalise: eqx.nn.GroupNorm

    def __init__(self, channels_in: int, channels_out: int, embedding: int, *, key: PRNGKeyArray):
        keys = jax.random.split(key, 4)
        self.first = convolution(channels_in, channels_out, key=keys[0])
        self.second = zero_init(convolution(channels_out, channels_out, key=keys[1]))
        self.shortcut = convolution(channels_in, channels_out, 1, key=keys[2])
        self.modulate = Linear(embedding, 2 * channels_out, key=keys[3])
        self.normalise = eqx.nn.GroupNorm(GROUPS, channelwise_affine=False)

    def __call__(self, x: Float[Array, "C H W"], embedding: Float[Array, " embedding"]) -> Float[Array, "D H W"]:
        shift, scale = self.modulate(jax.nn.silu(embedding)).reshape(2, -1, 1, 1)
        hidden = self.first(jax.nn.silu(self.normalise(x)))
        hidden = self.normalise(hidden) * (1 + scale) + shift
        return self.shortcut(x) + self.second(jax.nn.silu(hidden))


class AttentionBlock(eqx.Module):
    """Attention between all places, beside a shortcut."""

    attention: Attention

    def __call__(self, x: Float[Array, "C H W"], embedding: Float[Array, " embedding"]) -> Float[Array, "C H W"]:
        tokens = self.attention(rms_norm(x.reshape(x.shape[0], -1).T))
        return x + tokens.T.reshape(x.shape)


def upsample(x: Float[Array, "C H W"]) -> Float[Array, "C 2*H 2*W"]:
    """Every pixel as a square of four."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


class UNet(eqx.Module):
    """A small U-Net for images (H, W, C), with `depth` residual blocks on each resolution and way: for accelerators.

    `width` channels at the full resolution, twice as many below: 28x28 goes 28, 14, 7.
    Reference: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", appendix B.
    Raises ValueError when the sides cannot be halved twice or the width is no multiple of 4, and when it is asked for
    an image or a condition of another shape.
    """

    into: eqx.nn.Conv2d
    times: eqx.nn.Sequential
    down: list  # of each resolution, the highest first: residual blocks
    shrink: list  # and the convolution that leads to the next
    middle: list
    grow: list
    up: list
    out: Linear
    clock: Callable = eqx.field(static=True)
    octaves: int = eqx.field(static=True)
    shape: tuple[int, int, int] = eqx.field(static=True)
    conditions: int = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, int, int],
        width: int = 64,
        depth: int = 2,
        *,
        clock: Callable = source_and_gap,
        octaves: int = 3,
        conditions: int = 0,
        key: PRNGKeyArray,
    ):
        refuse_sizes(width=width, octaves=octaves, depth=depth, conditions=conditions)
        height, breadth, channels = self.shape = tuple(shape)
        if height % 2**HALVINGS or breadth % 2**HALVINGS:
            raise ValueError(f"the sides of an image of {height}x{breadth} cannot be halved {HALVINGS} times")
        if width % GROUPS:
            raise ValueError(f"{GROUPS} groups do not divide a width of {width}")
        keys, embedding = iter(jax.random.split(key, 4 * (depth + 1) * (HALVINGS + 1))), 2 * width

        def blocks(channels_in, channels_out):
            sizes = [channels_in] + [channels_out] * (depth - 1)
            return [ResidualBlock(size, channels_out, embedding, key=next(keys)) for size in sizes]

        widths = [width] + [2 * width] * HALVINGS
        pairs = list(zip(widths[:-1], widths[1:], strict=True))  # (at a resolution, at the next below)
        self.into = convolution(channels, width, key=next(keys))
        self.times = perceptron(4 * octaves + conditions, embedding, embedding, key=next(keys))
        self.down = [blocks(here, here) for here, _ in pairs]
        self.shrink = [convolution(here, below, stride=2, key=next(keys)) for here, below in pairs]
        mixing = AttentionBlock(Attention(widths[-1], HEADS, key=next(keys)))
        self.middle = [*blocks(widths[-1], widths[-1]), mixing, *blocks(widths[-1], widths[-1])]
        self.grow = [convolution(below, here, key=next(keys)) for here, below in reversed(pairs)]
        self.up = [blocks(2 * here, here) for here, _ in reversed(pairs)]
        self.out = zero_init(Linear(width, channels, key=next(keys)))
        self.clock, self.octaves, self.conditions = clock, octaves, conditions

    def __call__(
        self, x: Float[Array, "H W C"], s: Time, t: Time, condition: Condition = None
    ) -> Float[Array, "H W C"]:
        refuse_other_shape(x, self.shape)
        refuse_other_condition(condition, self.conditions)
        embedding = embed_times(self, x, s, t, condition)
        hidden, skips = self.into(jnp.moveaxis(x, -1, 0)), []
        for blocks, shrink in zip(self.down, self.shrink, strict=True):
            for block in blocks:
                hidden = block(hidden, embedding)
            skips.append(hidden)
            hidden = shrink(hidden)
        for block in self.middle:
            hidden = block(hidden, embedding)
        for grow, blocks in zip(self.grow, self.up, strict=True):
            hidden = jnp.concatenate([grow(upsample(hidden)), skips.pop()])
            for block in blocks:
                hidden = block(hidden, embedding)
        pixels = rms_norm(hidden.reshape(hidden.shape[0], -1).T)
        return jax.vmap(self.out)(jax.nn.silu(pixels)).reshape(x.shape)
