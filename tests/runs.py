"""A small run, and what tests do with it in processes of their own: on eight devices, on two hosts, and to be killed.

    python tests/runs.py devices                        eight devices of one process
    python tests/runs.py host PROCESS PORT FOLDER       one of two processes, of one device each
    python tests/runs.py train FOLDER                   a checkpoint after every other step, until the end or SIGKILL

Each prints what it found as one line of JSON.
"""

import os
import sys

import jax

if __name__ == "__main__":  # what JAX must know before it computes anything
    jax.config.update("jax_platforms", "cpu")  # devices of a processor, whatever else is here
    count = 8 if sys.argv[1] == "devices" else 1
    flags = os.environ.get("XLA_FLAGS", "")  # those of the tests, so that the programs are the same
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={count}"
    if sys.argv[1] == "host":
        # programs one after the other: on CPU two in flight, each with its own exchange, can wait for each other
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        jax.distributed.initialize(f"127.0.0.1:{sys.argv[3]}", 2, int(sys.argv[2]), initialization_timeout=60)

import json

import conftest  # noqa: F401  the same numbers as in the tests
import equinox as eqx
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import lenient

from flowcore import (
    AverageVelocityMap,
    Objective,
    ResidualMLP,
    Term,
    checkpoints,
    flow_matching,
    mean_flow,
    times,
    training,
)
from flowcore.data import SampledSource, ShuffledSource

STEPS, BATCH = 40, 16
LOSS = Objective((Term(mean_flow, times.ordered(), share=0.5), Term(flow_matching, times.diagonal(), share=0.5)))
ADAM, SGD = lenient(training.adam(1e-2, STEPS)), optax.sgd(0.1)
SEEDS = jax.random.split(jax.random.key(5), 2)


def begin(key=None, width=16):
    model = AverageVelocityMap(ResidualMLP(16, width, 1, key=jax.random.key(0)))
    return training.begin(model, ADAM, key=jax.random.key(1) if key is None else key, target_decay=0.9)


def source(batch=BATCH, **share):
    """Random images, as digits are: 4x4, of one channel."""
    images = np.random.default_rng(0).uniform(-1, 1, (50, 4, 4, 1))
    return ShuffledSource(images, batch, seed=3, **share)


def fit(state, source, steps=STEPS, **settings):
    return training.fit(state, LOSS, source, ADAM, steps=steps, target_decay=0.9, **settings)


def ended(training):
    """(the last state, the whole curve of each loss)."""
    states, logs = zip(*training, strict=True)
    return states[-1], {name: np.concatenate([log[name] for log in logs], axis=-1) for name in logs[0]}


def arrays(state, devices=None):
    """All arrays of a state, on this host."""
    whole = state if devices is None else devices.replicate(state)
    return {name: np.asarray(x) for name, x in checkpoints.named_arrays(whole).items()}


def listed(tree):
    return jax.tree.map(lambda x: x.tolist(), tree)


class Weight(eqx.Module):
    """The smallest model that eight devices can share."""

    w: jax.Array


def begin_weight(key):
    return training.begin(Weight(jax.random.normal(key, (8,))), SGD, key=key)


def pull(model, x0, **given):
    """A loss that is seen to depend on the data and the weights."""
    value = jnp.mean(x0) * jnp.sum(model.w**2)
    return value, {"pull": value}


def fit_weight(state, source, devices=None):
    return training.fit(state, pull, source, SGD, steps=6, chunk=2, devices=devices)


def held(state):
    """The shape of what the first device holds of each array."""
    return {path: list(x.addressable_shards[0].data.shape) for path, x in checkpoints.named_arrays(state).items()}


def refusal(source, devices):
    with pytest.raises(ValueError) as raised:
        next(fit_weight(begin_weight(jax.random.key(0)), source, devices))
    return str(raised.value)


def on_eight_devices():
    found = {}
    for layout in (training.data_parallel, training.fully_sharded):
        state, curve = ended(fit(begin(), source(), steps=6, chunk=2, devices=layout()))
        found[layout.__name__] = {"curve": listed(curve), "arrays": listed(arrays(state)), "held": held(state)}
    devices = training.fully_sharded()
    state, curve = ended(fit_weight(eqx.filter_vmap(begin_weight)(SEEDS), source(), devices))
    found["seeds"] = {"curve": listed(curve), "held": held(state)}
    found["refused"] = [refusal(odd, devices) for odd in (source(12), SampledSource(jax.random.normal, 12))]
    return found


def on_two_hosts(folder):
    devices = training.fully_sharded()
    found = {"indices": source().draw_indices(3).tolist(), "devices": jax.device_count()}
    state, curve = ended(fit(begin(), source(), steps=6, chunk=2, devices=devices))
    found |= {"curve": listed(curve), "arrays": listed(arrays(state, devices)), "held": held(state)}
    indices = source()
    next(checkpoints.save(fit(begin(), indices, steps=6, chunk=2, devices=devices), folder, indices))
    state, moved = checkpoints.restore(folder, devices.place(begin()), source())
    found["taken up at"] = int(state.step)
    again, _ = ended(checkpoints.save(fit(state, moved, steps=6, chunk=2, devices=devices), folder, moved))
    return found | {"resumed": listed(arrays(again, devices))}


def train_until_killed(folder):
    indices = source()
    for state, _ in checkpoints.save(fit(begin(), indices, chunk=2), folder, indices):
        print(int(state.step), flush=True)
    return "not killed"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["devices"]:
            print(json.dumps(on_eight_devices()), flush=True)
        case ["host", _, _, folder]:
            print(json.dumps(on_two_hosts(folder)), flush=True)
        case ["train", folder]:
            print(json.dumps(train_until_killed(folder)), flush=True)
