"""What things cost on this machine: time, memory, and what they are worth beside something else timed in the same run.

A machine drifts: another process wakes, a processor cools. So nothing is compared across runs: what is to be compared
is timed in turn, round after round, and the number is the median over the rounds of the ratio within a round, beside
the smallest and the largest. `ci/replicate bench` runs all of this, or what is named, and writes the table and the
figure of README.md. Each function below is one measurement; it returns numbers, which may be nested by name.
"""

import contextlib
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from flowcore import cost, methods, times, training
from flowcore.data import SampledSource, ShuffledSource
from flowcore.exact import ring
from flowcore.maps import AverageVelocityMap, TangentMap, WithAuxiliary
from flowcore.methods import METHODS, objective
from flowcore.networks import ResidualMLP
from flowcore.networks.attention import chunked, plain
from flowcore.objectives.terms import Objective
from flowcore.sample import generate

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / "build" / "peers"  # its environment
BATCH = 512
WIDE = {"width": 512, "depth": 4}  # where matrix products dominate; the networks of the replications have 128 and 2
FLOW_MATCHING = "flow matching"


def summary(values) -> dict[str, float]:
    """The median over the rounds, the smallest and the largest, and how many there were."""
    low, high = min(values), max(values)
    return {"median": statistics.median(values), "low": low, "high": high, "rounds": len(values)}


def ratio(above: list[float], below: list[float]) -> dict[str, float]:
    """The summary of above / below, round by round."""
    return summary([a / b for a, b in zip(above, below, strict=True)])


def in_turn(measured: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, per round. Each is called once before, to compile."""
    for seconds in measured.values():
        seconds()
    found = [{name: seconds() for name, seconds in measured.items()} for _ in range(rounds)]
    return {name: [each[name] for each in found] for name in measured}


def elapsed(call: Callable, *arguments) -> float:
    """Seconds until what the call returns is there."""
    start = time.perf_counter()
    jax.block_until_ready(call(*arguments))
    return time.perf_counter() - start


# --- the training step ---------------------------------------------------------------------------------------------


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


# --- attention, sampling -------------------------------------------------------------------------------------------


def attention(rounds: int = 3, tokens: tuple = (1024, 2048, 4096, 16384)) -> dict:
    """MeanFlow's derivative through 4 heads of 64: value and tangent, and the way back. Bytes are the compiler's, for
    plain attention and in chunks; the time is that in chunks over plain, up to 2,048 tokens."""

    def loss(attend, rows, tangents):
        value, tangent = jax.jvp(lambda rows: attend(*rows), (rows,), (tangents,))
        return jnp.sum((value - jax.lax.stop_gradient(tangent)) ** 2)

    def compiled(attend, rows):
        return jax.jit(lambda rows: jax.grad(lambda rows: loss(attend, rows, rows))(rows)).lower(rows).compile()

    found = {}
    for count in tokens:
        rows = tuple(jax.random.normal(jax.random.key(0), (3, count, 4, 64)))
        programs = {attend.__name__: compiled(attend, rows) for attend in (plain, chunked)}
        bytes_ = {name: program.memory_analysis().temp_size_in_bytes for name, program in programs.items()}
        found[str(count)] = {"bytes": bytes_}
        if count <= 2048:
            timed = {name: functools.partial(elapsed, program, rows) for name, program in programs.items()}
            seconds = in_turn(timed, rounds)
            found[str(count)]["time"] = ratio(seconds["chunked"], seconds["plain"])
    return found


def sampling(rounds: int = 15, batch: int = BATCH) -> dict:
    """Samples in 1, 2 and 4 jumps against 64 Euler steps of the velocity of the same network."""
    model, noise = network(), jax.random.normal(jax.random.key(3), (batch, 2))
    calls = {f"{count}": (model, noise, count) for count in (1, 2, 4)}
    calls["ode"] = (TangentMap(model.velocity), noise, 64)
    seconds = in_turn({name: functools.partial(elapsed, generate, *call) for name, call in calls.items()}, rounds)
    jumps = {name: values for name, values in seconds.items() if name != "ode"}
    times_as_fast = {name: ratio(seconds["ode"], values) for name, values in jumps.items()}
    return {"seconds": {name: summary(values) for name, values in seconds.items()}, "times as fast": times_as_fast}


# --- other processes -----------------------------------------------------------------------------------------------


def process(code: str, *arguments, **environment: str) -> float:
    """What a fresh Python prints last when it runs `code`: a number."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"a process of the benchmark failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return float(done.stdout.split()[-1])


FIRST_CHUNK = """
import time
start = time.perf_counter()
from flowcore import bench, methods
bench.step_seconds(bench.Objective(methods.mean_flow_terms()), 2)()
print(time.perf_counter() - start)
"""
IMPORT = "import time; start = time.perf_counter(); import flowcore.bench; print(time.perf_counter() - start)"


def compilation(rounds: int = 3) -> dict:
    """From `import flowcore` to the end of the first chunk, in a fresh process: without a compilation cache, and again
    with what the first left there."""
    first, second, imports = [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            cache = {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
            first.append(process(FIRST_CHUNK, **cache))
            second.append(process(FIRST_CHUNK, **cache))
        imports.append(process(IMPORT))
    seconds = {"first": summary(first), "second": summary(second), "import": summary(imports)}
    without_import = [[total - spent for total, spent in zip(each, imports, strict=True)] for each in (second, first)]
    return seconds | {"share": ratio(second, first), "share without import": ratio(*without_import)}


ON_DEVICES = """
import sys
from flowcore import bench, methods, training
loss, length = bench.Objective(methods.mean_flow_terms()), int(sys.argv[1])
arguments, settings = bench.training(loss, length, model=bench.network(**bench.WIDE))
settings["devices"] = training.data_parallel()
seconds = [bench.elapsed(lambda: [log for _, log in training.fit(*arguments, **settings)]) for _ in range(2)]
print(seconds[1] / length)
"""


def scaling(rounds: int = 3, length: int = 4, counts: tuple = (1, 2, 4, 8)) -> dict:
    """Steps per second of one batch shared by several devices over those of one: on a processor, devices that share
    its cores, so that no more than the cores can be gained."""
    flags = os.environ.get("XLA_FLAGS", "")
    seconds = {count: [] for count in counts}
    for _ in range(rounds):
        for count in counts:
            several = f"{flags} --xla_force_host_platform_device_count={count}"
            seconds[count].append(process(ON_DEVICES, length, XLA_FLAGS=several))
    return {str(count): ratio(seconds[counts[0]], seconds[count]) for count in counts}


# What the peer calls a loss -> ours at the same cost per row; but in LSD the peer takes all rows through both of its
# losses and masks one of them, where ours splits the batch.
COUNTERPARTS = {
    FLOW_MATCHING: methods.flow_matching_terms,
    "MeanFlow": methods.mean_flow_terms,
    "SplitMeanFlow": lambda: methods.psd_terms(diagonal=0.5, share=times.uniform),
    "SoFlow": lambda: methods.soflow_terms(diagonal=0.75),
    "LSD": methods.lsd_terms,
}
# SoFlow's step is finite, so with a conditional velocity its gradient is zero only as the step goes to zero: ours too
PROVEN = ("MeanFlow", "SplitMeanFlow", "SplitMeanFlow, jumps alone", "SoFlow, last step", "LSD")
THRESHOLD = 4.0  # standard errors


def peers(rounds: int = 5, length: int = 20, batches: int = 60) -> dict:
    """A training step of `rectified-flow-pytorch` in eager PyTorch, on the same network and batch, and whether the
    gradient of its losses is zero at the exact map of Gaussian data. `ci/replicate` makes its environment."""
    with peer() as ask:

        def timed(name, terms, count, **layout):
            there = {"step": name, "steps": count} | layout
            ours = step_seconds(Objective(terms()), count, model=network(**layout))
            return {f"{name}, there": lambda: ask(there), f"{name}, here": ours}

        found = {}
        for title, layout, names, count in (
            ("128 units", {"width": 128, "depth": 2}, COUNTERPARTS, length),
            ("512 units", WIDE, (FLOW_MATCHING, "MeanFlow"), max(1, length // 5)),
        ):
            calls = [timed(name, COUNTERPARTS[name], count, **layout) for name in names]
            seconds = in_turn({name: call for pair in calls for name, call in pair.items()}, rounds)
            found[title] = {
                name: {
                    "seconds there": summary(seconds[f"{name}, there"]),
                    "here over there": ratio(seconds[f"{name}, here"], seconds[f"{name}, there"]),
                    "time there": ratio(seconds[f"{name}, there"], seconds[f"{FLOW_MATCHING}, there"]),
                    "time here": ratio(seconds[f"{name}, here"], seconds[f"{FLOW_MATCHING}, here"]),
                }
                for name in names
            }
        scores = {name: ask({"stationary": name, "batches": batches}) for name in PROVEN}
    stationary = {name: z | {"passes": z["exact"] < THRESHOLD < z["wrong sign"]} for name, z in scores.items()}
    return found | {"stationary": stationary}


@contextlib.contextmanager
def peer():
    """A question answered by `ci/peers.py` in its own environment, on as many threads as there are cores."""
    python = PEER / "bin" / "python"
    if not python.exists():
        raise FileNotFoundError("the peer's environment is missing: ci/replicate bench peers makes it")
    command = [python, ROOT / "ci" / "peers.py", str(os.cpu_count())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:

        def ask(question: dict):
            print(json.dumps(question), file=running.stdin, flush=True)
            return json.loads(running.stdout.readline())

        try:
            yield ask
        finally:
            running.stdin.close()


MEASUREMENTS = {
    measure.__name__: measure
    for measure in (
        steps,
        wide_steps,
        overhead,
        compilation,
        dealing,
        sampling,
        attention,
        utilisation,
        scaling,
        peers,
    )
}
