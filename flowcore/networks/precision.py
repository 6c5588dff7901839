"""Networks in bfloat16, where accelerators are fastest, with everything narrow arithmetic would spoil in float32.

The operands of products are narrow, and the operands and results of convolutions. All that lies between them (the
residual stream, norms, softmax and the products of attention, the time embedding and what is made of it) is float32,
and so are the tangents of a JVP there; but fused attention (`flowcore.networks.attention`), where it is trained
through, is of narrow operands too. Weights are kept, averaged and updated in float32.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from flowcore.networks import attention
from flowcore.networks.layers import Linear


def round_to_bfloat16(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
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
        operands = round_to_bfloat16(x), round_to_bfloat16(self.layer.weight).T  # as in `networks.Linear`
        product = jax.lax.platform_dependent(*operands, cpu=jnp.matmul, default=bfloat16_matmul)
        return product if self.layer.bias is None else product + self.layer.bias

    def in_float32(self) -> Linear:
        return self.layer


class Bfloat16Convolution(eqx.Module):
    """A convolution in bfloat16, its result too, of which the device keeps the sums in float32."""

    layer: eqx.nn.Conv2d

    def __call__(self, x: Float[Array, "C H W"]) -> Float[Array, "D H2 W2"]:
        narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16) if eqx.is_array(leaf) else leaf, self.layer)
        return narrow(x.astype(jnp.bfloat16)).astype(x.dtype)

    def in_float32(self) -> eqx.nn.Conv2d:
        return self.layer


NARROW = {Linear: Bfloat16Linear, eqx.nn.Conv2d: Bfloat16Convolution}


def in_bfloat16(net):
    """The same network and weights with its layers in bfloat16, but for the time embedding and what makes shifts and
    scales of it. `flowcore.maps.in_float32` undoes it."""

    def replaced(path, node):
        of_times = {"times", "modulate"} & {getattr(key, "name", None) for key in path}
        return NARROW[type(node)](node) if type(node) in NARROW and not of_times else node

    net = jax.tree_util.tree_map_with_path(replaced, net, is_leaf=lambda node: type(node) in NARROW)
    return attention.use_attention(net, attention.automatic_bfloat16)
