"""Which network, and in which precision: what a preset asks for by name.

    NETWORKS[name](shape, width, depth, key=...)  ->  net(x, s, t[, condition]) -> like x

In bfloat16 the operands of products are narrow, and the operands and results of convolutions. All that lies between
them (the residual stream, norms, softmax and the products of attention, the times and what is made of them) is float32,
and so are the tangents of a JVP there; but fused attention (`flowcore.attention`), where it is trained through, is of
narrow operands too. Weights are kept, averaged and updated in float32.
"""

import functools
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from flowcore import attention
from flowcore.nets import DiT, Linear, ResidualMLP
from flowcore.unet import UNet


def rounded(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The nearest bfloat16, as a number of the type of x. Its derivative is 1, else what a product gives on the way
    back would be rounded too."""
    nearest = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
    return x + jax.lax.stop_gradient(nearest - x)


bfloat16_matmul = functools.partial(jnp.matmul, precision="BF16_BF16_F32")


class Bfloat16Linear(eqx.Module):
    """A linear layer whose product takes bfloat16 operands and accumulates in float32, its derivatives' too."""

    layer: Linear

    def __call__(self, x: Float[Array, " size"], *, key: PRNGKeyArray | None = None) -> Float[Array, " out"]:
        # the algorithm has derivatives run in bfloat16 as well, and their results stay float32, which a cast would not;
        # a processor would ignore it, and jaxlib 0.10.2 aborts over it, compiling the gradient of a U-Net: operands are
        # rounded, so the values are the same there, though derivatives are of wide operands
        operands = rounded(x), rounded(self.layer.weight).T  # as in `nets.Linear`
        product = jax.lax.platform_dependent(*operands, cpu=jnp.matmul, default=bfloat16_matmul)
        return product if self.layer.bias is None else product + self.layer.bias


class Bfloat16Convolution(eqx.Module):
    """A convolution in bfloat16, its result too, of which the device keeps the sums in float32."""

    layer: eqx.nn.Conv2d

    def __call__(self, x: Float[Array, "C H W"]) -> Float[Array, "D H2 W2"]:
        narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if eqx.is_array(leaf) else leaf, self.layer)
        return narrow(x.astype(jnp.bfloat16)).astype(x.dtype)


NARROW = {Linear: Bfloat16Linear, eqx.nn.Conv2d: Bfloat16Convolution}


def in_bfloat16(net):
    """The same network and weights with its layers in bfloat16, but for those that the times pass through: the network
    of the times, and what makes shifts and scales of what that says."""

    def replaced(path, node):
        told = {"times", "modulate"} & {getattr(key, "name", None) for key in path}
        return NARROW[type(node)](node) if type(node) in NARROW and not told else node

    net = jax.tree_util.tree_map_with_path(replaced, net, is_leaf=lambda node: type(node) in NARROW)
    return attention.attending(net, attention.automatic_bfloat16)


def in_float32(tree):
    """The same with all its layers as they were before `in_bfloat16`."""
    narrow = tuple(NARROW.values())

    def restored(node):
        return node.layer if isinstance(node, narrow) else node

    tree = jax.tree.map(restored, tree, is_leaf=lambda node: isinstance(node, narrow))
    return attention.attending(tree, attention.automatic)


def mlp(shape: tuple[int, ...], width: int, depth: int, *, key: PRNGKeyArray, **options) -> ResidualMLP:
    """For examples of any shape."""
    return ResidualMLP(math.prod(shape), width, depth, key=key, **options)


def dit(shape: tuple[int, ...], width: int, depth: int, *, key: PRNGKeyArray, **options) -> DiT:
    """For images, in patches of 2x2."""
    return DiT(of_image(shape, "dit"), width=width, depth=depth, key=key, **options)


def unet(shape: tuple[int, ...], width: int, depth: int, *, key: PRNGKeyArray, **options) -> UNet:
    """For images."""
    return UNet(of_image(shape, "unet"), width, depth, key=key, **options)


def of_image(shape: tuple[int, ...], name: str) -> tuple[int, int, int]:
    """The shape, or a ValueError when it is none of an image."""
    if len(shape) != 3:
        raise ValueError(f"network {name!r} is for images (H, W, C), not for examples of shape {shape}: take 'mlp'")
    return shape


def narrow(build: Callable) -> Callable:
    """The same network in bfloat16."""
    return lambda *size, **options: in_bfloat16(build(*size, **options))


class Choices(dict):
    """What a parameter of a notebook names. Raises KeyError naming the choices there are."""

    def __missing__(self, name: str):
        raise KeyError(f"{name!r} is not a choice here: take one of {', '.join(map(repr, self))}")


NETWORKS: dict[str, Callable] = Choices(
    mlp=mlp, dit=dit, unet=unet, dit_bfloat16=narrow(dit), unet_bfloat16=narrow(unet)
)
