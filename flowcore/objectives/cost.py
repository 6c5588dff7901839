"""The cost of one training iteration in forward-pass equivalents, counted by the compiler.

    cost = flops(gradient of the objective) / flops(one forward pass of the same batch)

from XLA's cost analysis of one compiled step on a net where matrix products dominate. It depends on no seed and no
clock. Every term is given the full batch, as in the survey's table (section 5.6); guidance is not counted.

What a real training step takes, and what its own share of the batch costs, is measured by `ci/replicate bench`.
"""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from flowcore.data.examples import parts
from flowcore.maps import AverageVelocityMap, WithAuxiliary
from flowcore.networks import ResidualMLP
from flowcore.objectives.terms import Objective

ROWS = 8


def flops(function: Callable, *arguments) -> float:
    """Floating-point operations of one compiled call, from XLA. A scan's body would be counted once: give one step."""
    return eqx.filter_jit(function).lower(*arguments).compile().compiled.cost_analysis()["flops"]


def on_full_batch(loss: Objective) -> Objective:
    """The same objective with every term asked for on every row."""
    return eqx.tree_at(lambda loss: [term.share for term in loss.terms], loss, [1.0] * len(loss.terms))


def gradient(loss: Objective) -> Callable:
    """(model, teacher, x0, key) -> the gradient of the objective; target and teacher have none."""

    def gradient(model, teacher, examples, key):
        def total(model):
            return loss(model, examples, target=model, teacher=teacher, key=key)[0]

        return eqx.filter_grad(total)(model)

    return gradient


def forward_passes(loss: Objective, *, model=None, teacher=None, like=None, condition=None) -> float:
    """Cost of one training iteration of the objective, in forward passes: 3 for flow matching, 4 for MeanFlow.

    Measured on a residual MLP of 12 layers of 1,024 units and points of 8 numbers, or on a `model` and a batch `like`
    its own, under a `condition` if it needs one; a teacher, where the objective asks for one, is as large (by default
    another such network). Raises ValueError for a model without a batch, and for a batch without a model.
    """
    if (model is None) != (like is None):
        raise ValueError("give forward_passes a model and a batch like its own, or neither")
    keys = jax.random.split(jax.random.key(0), 2)
    if model is None:
        model, other = (AverageVelocityMap(ResidualMLP(8, 1024, 12, key=key)) for key in keys)
        teacher = other if teacher is None else teacher
        model = WithAuxiliary(model, other)  # an auxiliary network costs nothing unless it is asked
    rows = math.lcm(ROWS, *(term.group or 1 for term in loss.terms))
    examples, key = jnp.zeros((rows, 8)) if like is None else like, jax.random.key(1)
    x0, _, _ = parts(examples)

    def forward(model, x0, s, t):
        asked = model if condition is None else model.condition_on(condition)
        return jax.vmap(asked.average_velocity)(x0, s, t)

    zeros = jnp.zeros(x0.shape[0])
    full = flops(gradient(on_full_batch(loss)), model, teacher, examples, key)
    return full / flops(forward, model, x0, zeros, zeros)


def to_integer(cost: float) -> int:
    """The cost as the integer that is recorded. Raises ValueError when it is not within 0.2 of one."""
    if abs(cost - round(cost)) > 0.2:
        raise ValueError(f"the cost {cost:.2f} is not close to a whole number of forward passes: not matmul-dominated?")
    return round(cost)
