"""Attention, forward and back, and sampling."""

import functools

import jax
import jax.numpy as jnp

from commands.benchmarks import train_step
from commands.benchmarks.timing import elapsed, in_turn, ratio, summary
from flowcore.maps import TangentMap
from flowcore.networks.attention import chunked, plain
from flowcore.sample import generate


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


def sampling(rounds: int = 15, batch: int = train_step.BATCH) -> dict:
    """Samples in 1, 2 and 4 jumps against 64 Euler steps of the velocity of the same network."""
    model, noise = train_step.network(), jax.random.normal(jax.random.key(3), (batch, 2))
    calls = {f"{count}": (model, noise, count) for count in (1, 2, 4)}
    calls["ode"] = (TangentMap(model.velocity), noise, 64)
    seconds = in_turn({name: functools.partial(elapsed, generate, *call) for name, call in calls.items()}, rounds)
    jumps = {name: values for name, values in seconds.items() if name != "ode"}
    times_as_fast = {name: ratio(seconds["ode"], values) for name, values in jumps.items()}
    return {"seconds": {name: summary(values) for name, values in seconds.items()}, "times as fast": times_as_fast}
