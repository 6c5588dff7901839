"""Networks by name, as a parameter of a notebook asks for one.

NETWORKS[name](shape, width, depth, key=...)  ->  net(x, s, t[, condition]) -> like x
"""

import math
from collections.abc import Callable

from jaxtyping import PRNGKeyArray

from flowcore.networks.mlp import ResidualMLP
from flowcore.networks.precision import in_bfloat16
from flowcore.networks.transformer import DiT
from flowcore.networks.unet import UNet


def mlp(shape: tuple[int, ...], width: int, depth: int, *, key: PRNGKeyArray, **options) -> ResidualMLP:
    """For examples of any shape."""
    return ResidualMLP(math.prod(shape), width, depth, key=key, **options)


def dit(shape: tuple[int, ...], width: int, depth: int, *, key: PRNGKeyArray, **options) -> DiT:
    """For images, in patches of 2x2."""
    return DiT(image_shape(shape, "dit"), width=width, depth=depth, key=key, **options)


def unet(shape: tuple[int, ...], width: int, depth: int, *, key: PRNGKeyArray, **options) -> UNet:
    """For images."""
    return UNet(image_shape(shape, "unet"), width, depth, key=key, **options)


def image_shape(shape: tuple[int, ...], name: str) -> tuple[int, int, int]:
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
