"""The training step: its time, its FLOPs, and what goes on around it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from commands.benchmarks.timing import elapsed, in_turn, ratio, summary
from flowcore import cost, methods, training
from flowcore.data import SampledSource, ShuffledSource
from flowcore.exact import ring
from flowcore.maps import AverageVelocityMap, WithAuxiliary
from flowcore.methods import METHODS, objective
from flowcore.networks import ResidualMLP
from flowcore.objectives.terms import Objective

BATCH = 512
WIDE = {"width": 512, "depth": 4}  # where matrix products dominate; the networks of the replications have 128 and 2
FLOW_MATCHING = "flow matching"


def network(key: int = 0, size: int = 2, **layout) -> AverageVelocityMap:
    return AverageVelocityMap(ResidualMLP(size, **layout, key=jax.random.key(key)))


def training_run(loss: Objective, steps: int, *, source=None, model=None) -> tuple:
    """The arguments of `fit` and its settings: the standard 2-D task; a teacher is a network like the model."""
    model = network() if model is None else model
    source = SampledSource(ring().sample, BATCH) if source is None else source
    optimiser = training.adam(1e-3, steps)
    state = training.begin(model, optimiser, key=jax.random.key(1))
    return (state, loss, source, optimiser), {"steps": steps, "chunk": steps, "teacher": network(key=2)}


def step_seconds(loss: Objective, steps: int, **setting) -> Callable[[], float]:
    """A function that trains for `steps` in one chunk and returns the seconds of one step."""
    arguments, settings = training_run(loss, steps, **setting)
    return lambda: elapsed(lambda: [log for _, log in training.fit(*arguments, **settings)]) / steps


def step_flops(loss: Objective, model) -> float:
    """Floating-point operations of the gradient on one batch, as it is trained: shares split it."""
    return cost.flops(cost.gradient(loss), model, network(key=2), jnp.zeros((BATCH, 2)), jax.random.key(0))


def steps(rounds: int = 11, length: int = 300) -> dict:
    """A training step of every method over one of flow matching: its time, and its compiled FLOPs.

    Each is timed in turn with flow matching alone: in the minute that all of them take, a machine drifts.
    """
    losses = {FLOW_MATCHING: Objective(methods.flow_matching_terms())}
    losses |= {row.name: objective(row) for row in METHODS}
    auxiliary = WithAuxiliary(network(), network(key=3))
    models = {name: auxiliary if name == "FreeFlow" else network() for name in losses}
    timed = {name: step_seconds(losses[name], length, model=models[name]) for name in losses}
    flops = {name: step_flops(losses[name], models[name]) for name in losses}

    def found(name):
        seconds = in_turn({FLOW_MATCHING: timed[FLOW_MATCHING], name: timed[name]}, rounds)
        return {
            "seconds": summary(seconds[name]),
            "time": ratio(seconds[name], seconds[FLOW_MATCHING]),
            "flops": flops[name] / flops[FLOW_MATCHING],
        }

    return {name: found(name) for name in losses}


def wide_steps(rounds: int = 5, length: int = 4) -> dict:
    """MeanFlow over flow matching where matrix products dominate."""
    losses = {FLOW_MATCHING: methods.flow_matching_terms(), "MF": methods.mean_flow_terms()}
    timed = {name: step_seconds(Objective(terms), length, model=network(**WIDE)) for name, terms in losses.items()}
    seconds = in_turn(timed, rounds)
    return {"seconds": summary(seconds["MF"]), "time": ratio(seconds["MF"], seconds[FLOW_MATCHING])}


def overhead(rounds: int = 15, length: int = training.CHUNK) -> dict:
    """What `fit` adds to a chunk of `length` steps: dealing, keys, fetching the logs, refusing what is not finite."""
    loss = Objective(methods.mean_flow_terms())
    arguments, settings = training_run(loss, length)
    given = chunk_arguments(*arguments, settings, length)
    chunk = training.loop.run_chunk.lower(*given).compile()
    timed = {"fit": step_seconds(loss, length), "bare": lambda: elapsed(chunk, *given) / length}
    seconds = in_turn(timed, rounds)
    over = [fit / bare - 1 for fit, bare in zip(seconds["fit"], seconds["bare"], strict=True)]
    return {"share": summary(over), "bare": summary(seconds["bare"])}


def chunk_arguments(state, loss, source, optimiser, settings: dict, length: int) -> tuple:
    """What `fit` calls `training.loop.run_chunk` with."""
    decays = jnp.asarray(0.999), jnp.asarray(0.0)
    indices, devices = source.draw_indices(length), None
    return state, indices, source, loss, settings["teacher"], optimiser, decays, float(length), length, devices


def dealing(rounds: int = 7, length: int = 200) -> dict:
    """What Grain takes to deal the batch of a step, over the step itself: images as large as the digits."""
    images = jnp.zeros((60_000, 64))
    source = ShuffledSource(images, BATCH)
    loss, model = Objective(methods.flow_matching_terms()), network(size=64, width=256)
    step = step_seconds(loss, length, source=ShuffledSource(images, BATCH), model=model)
    seconds = in_turn({"deal": lambda: elapsed(source.draw_indices, length) / length, "step": step}, rounds)
    return {"share": ratio(seconds["deal"], seconds["step"]), "batches": summary([1 / s for s in seconds["deal"]])}


def utilisation(rounds: int = 7, length: int = 10, side: int = 2048) -> dict:
    """FLOPs per second of MeanFlow's step, as a share of what one product of two matrices of `side` rows reaches."""
    matrix = jax.random.normal(jax.random.key(0), (side, side))
    product = jax.jit(jnp.matmul).lower(matrix, matrix).compile()
    loss = Objective(methods.mean_flow_terms())
    models = {"128 units": network(), "512 units": network(**WIDE)}
    flops = {name: step_flops(loss, model) for name, model in models.items()}
    timed = {name: step_seconds(loss, length, model=model) for name, model in models.items()}
    seconds = in_turn(timed | {"peak": lambda: elapsed(product, matrix, matrix)}, rounds)
    peak = [2 * side**3 / each for each in seconds["peak"]]
    share = {name: ratio([flops[name] / each for each in seconds[name]], peak) for name in models}
    return {"peak": summary(peak), "share": share}
