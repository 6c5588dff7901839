"""Images as numbers: from the levels 0..255 to [-1, 1] and back."""

import numpy as np
from jaxtyping import Array, Float, Float32, UInt8


def scale(image: UInt8[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """image / 127.5 - 1: from the levels 0..255 to [-1, 1]. Raises ValueError for what are no levels."""
    if image.dtype != np.uint8:
        raise ValueError(f"scale takes levels 0..255 as uint8, not {image.dtype}: are these images scaled already?")
    return image.astype(np.float32) / np.float32(127.5) - np.float32(1)


def unscale(x: Float[Array | np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """The inverse of `scale`, clipped to 0..255 and rounded: samples as images."""
    return np.round(np.clip((np.asarray(x) + 1) * 127.5, 0, 255)).astype(np.uint8)
