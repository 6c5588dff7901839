"""What a batch is made of: data alone, with labels, or with the noise that belongs to each datum."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int


class Labelled(NamedTuple):
    """Data with their labels: one example, or a batch."""

    x0: Float[Array, "..."]
    label: Int[Array, "*batch"]


class Paired(NamedTuple):
    """Data with the noise at the other end of their path: one example, or a batch. A term takes this noise in place of
    drawing its own, so any objective trains on a coupling.

    Reference: Liu, Gong & Liu 2023, "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified
    Flow", algorithm 1 (reflow).
    """

    x0: Float[Array, "..."]
    eps: Float[Array, "..."]
    label: Int[Array, "*batch"] | None = None


Examples = Float[Array, "batch ..."] | Labelled | Paired


def parts(examples: Examples) -> tuple:
    """(x0, eps, label) of one example or a batch, None for what it does not have."""
    if isinstance(examples, Paired):
        return examples
    if isinstance(examples, Labelled):
        return examples.x0, None, examples.label
    return examples, None, None
