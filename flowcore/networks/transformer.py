"""A small diffusion transformer for images, with attention whose implementation can be selected."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from flowcore.networks import attention
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
from flowcore.path import Time


class Attention(eqx.Module):
    """Self-attention with normalised queries and keys; `attend` is one of `flowcore.networks.attention`, by default the
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
        mixed = self.attend(rms_norm(query), rms_norm(key), value)
        return jax.vmap(self.out)(mixed.reshape(tokens.shape))


class DiTBlock(eqx.Module):
    """Attention and an MLP, each shifted, scaled and gated by the times; the gates start at 0 (adaLN-zero)."""

    attention: Attention
    mlp: eqx.nn.Sequential
    modulate: Linear

    def __init__(self, width: int, heads: int, *, key: PRNGKeyArray):
        key_attention, key_mlp, key_modulate = jax.random.split(key, 3)
        self.attention = Attention(width, heads, key=key_attention)
        self.mlp = perceptron(width, 4 * width, width, key=key_mlp)
        self.modulate = zero_init(Linear(width, 6 * width, key=key_modulate))

    def __call__(self, tokens, embedding):
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = self.modulate(jax.nn.silu(embedding)).reshape(6, 1, -1)
        tokens = tokens + gate * self.attention(rms_norm(tokens) * (1 + scale) + shift)
        return tokens + gate_mlp * jax.vmap(self.mlp)(rms_norm(tokens) * (1 + scale_mlp) + shift_mlp)


class DiT(eqx.Module):
    """A small diffusion transformer for images (H, W, C), in `patch` x `patch` tokens: for accelerators.

    Reference: Peebles & Xie 2023, "Scalable Diffusion Models with Transformers", section 3.2 (adaLN-Zero).
    Raises ValueError when the patch does not divide the image or the heads do not divide the width, and when it is
    asked for an image or a condition of another shape.
    """

    into: Linear
    place: Float[Array, "tokens width"]
    times: eqx.nn.Sequential
    blocks: list
    out: Linear
    clock: Callable = eqx.field(static=True)
    patch: int = eqx.field(static=True)
    octaves: int = eqx.field(static=True)
    shape: tuple[int, int, int] = eqx.field(static=True)
    conditions: int = eqx.field(static=True)

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
        sizes = {"patch": patch, "width": width, "heads": heads, "octaves": octaves}
        refuse_sizes(**sizes, depth=depth, conditions=conditions)
        height, breadth, channels = self.shape = tuple(shape)
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
        self.out = zero_init(Linear(width, pixels, key=keys[0]))
        self.clock, self.patch, self.octaves, self.conditions = clock, patch, octaves, conditions

    def __call__(
        self, x: Float[Array, "H W C"], s: Time, t: Time, condition: Condition = None
    ) -> Float[Array, "H W C"]:
        refuse_other_shape(x, self.shape)
        refuse_other_condition(condition, self.conditions)
        embedding = embed_times(self, x, s, t, condition)
        rows, columns, p = x.shape[0] // self.patch, x.shape[1] // self.patch, self.patch
        patches = x.reshape(rows, p, columns, p, -1).swapaxes(1, 2).reshape(rows * columns, -1)
        tokens = jax.vmap(self.into)(patches) + self.place
        for block in self.blocks:
            tokens = block(tokens, embedding)
        patches = jax.vmap(self.out)(rms_norm(tokens))
        return patches.reshape(rows, columns, p, p, -1).swapaxes(1, 2).reshape(x.shape)
