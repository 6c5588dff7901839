"""The cost of one training iteration in forward-pass equivalents, counted by the compiler.

    cost = flops(gradient of the objective) / flops(one forward pass of the same batch)

from XLA's cost analysis of one compiled step on a net where matrix products dominate. It depends on no seed and no
clock. Every term is given the full batch, as in the survey's table (section 5.6); guidance is not counted.

`python -m flowcore.cost` prints it for every method that is here, beside the time of a real training step.
"""

import statistics
import time
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp

from flowcore import train
from flowcore.data import Drawn
from flowcore.exact import ring
from flowcore.maps import Accompanied, AverageVelocityMap
from flowcore.methods import METHODS, flow_matching_terms, objective
from flowcore.nets import ResidualMLP
from flowcore.terms import Objective

ROWS = 8


def flops(function: Callable, *arguments) -> float:
    """Floating-point operations of one compiled call, from XLA. A scan's body would be counted once: give one step."""
    return eqx.filter_jit(function).lower(*arguments).compile().compiled.cost_analysis()["flops"]


def on_full_batch(loss: Objective) -> Objective:
    """The same objective with every term asked for on every row."""
    return eqx.tree_at(lambda loss: [term.share for term in loss.terms], loss, [1.0] * len(loss.terms))


def forward_passes(loss: Objective) -> float:
    """Cost of one training iteration of the objective, in forward passes: 3 for flow matching, 4 for MeanFlow.

    Measured on a residual MLP of 12 layers of 1,024 units; a teacher, where the objective asks for one, is as large.
    """
    keys = jax.random.split(jax.random.key(0), 2)
    model, teacher = (AverageVelocityMap(ResidualMLP(8, 1024, 12, key=key)) for key in keys)
    model = Accompanied(model, teacher)  # a companion costs nothing unless it is asked
    x0, key = jnp.zeros((ROWS, 8)), jax.random.key(1)

    def gradient(model, teacher, x0, key):
        def total(model):
            return on_full_batch(loss)(model, x0, target=frozen(model), teacher=frozen(teacher), key=key)[0]

        return eqx.filter_grad(total)(model)

    def forward(model, x0, s, t):
        return jax.vmap(model.average_velocity)(x0, s, t)

    zeros = jnp.zeros(ROWS)
    return flops(gradient, model, teacher, x0, key) / flops(forward, model, x0, zeros, zeros)


def frozen(model):
    return jax.tree.map(lambda leaf: jax.lax.stop_gradient(leaf) if eqx.is_array(leaf) else leaf, model)


def whole(cost: float) -> int:
    """The cost as the integer that is recorded. Raises ValueError when it is not within 0.2 of one."""
    if abs(cost - round(cost)) > 0.2:
        raise ValueError(f"the cost {cost:.2f} is not close to a whole number of forward passes: not matmul-dominated?")
    return round(cost)


def step_seconds(losses: list[Objective], steps: int = 200, repeats: int = 7) -> list[float]:
    """Median seconds of one training step of each, on the standard 2-D task, taken in turn so that drift cancels."""
    task = ring()
    source, optimiser = Drawn(task.sample, 512), train.adam(1e-3, steps)
    model = AverageVelocityMap(ResidualMLP(2, key=jax.random.key(0)))
    state = train.begin(model, optimiser, key=jax.random.key(1))

    def once(loss) -> float:
        start = time.perf_counter()
        for _ in train.fit(state, loss, source, optimiser, steps=steps, chunk=steps, teacher=task):
            pass
        return (time.perf_counter() - start) / steps

    for loss in losses:
        once(loss)  # compile
    rounds = [[once(loss) for loss in losses] for _ in range(repeats)]
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def main() -> None:
    rows = [row for row in METHODS if row.here]
    losses = [Objective(flow_matching_terms())] + [objective(row) for row in rows]
    names, survey = ["flow matching"] + [row.name for row in rows], [3] + [row.cost for row in rows]
    costs, seconds = [forward_passes(loss) for loss in losses], step_seconds(losses)
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}; one step of 512 points, residual MLP of 128 units")
    print(f"{'method':<20}{'survey':>8}{'forward passes':>16}{'FLOPs / FM':>12}{'ms / step':>11}{'time / FM':>11}")
    for name, said, cost, second in zip(names, survey, costs, seconds, strict=True):
        ratios = f"{cost / costs[0]:>12.2f}{1e3 * second:>11.2f}{second / seconds[0]:>11.2f}"
        print(f"{name:<20}{said:>8}{cost:>16.2f}{ratios}")


if __name__ == "__main__":
    main()
