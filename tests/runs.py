"""A small run, and what tests do with it in processes of their own: on eight devices, on two hosts, and to be killed.

    python tests/runs.py devices                        eight devices of one process
    python tests/runs.py host PROCESS PORT FOLDER       one of two processes, of two devices each
    python tests/runs.py train FOLDER                   a checkpoint after every step, until the end or SIGKILL

Each prints what it found as one line of JSON.
"""

import os
import sys

import jax

if __name__ == "__main__":  # what JAX must know before it computes anything
    count = {"devices": 8, "host": 2, "train": 1}[sys.argv[1]]
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={count}"
    if sys.argv[1] == "host":
        jax.distributed.initialize(f"127.0.0.1:{sys.argv[3]}", 2, int(sys.argv[2]), initialization_timeout=60)

import json

import conftest  # noqa: F401  the same numbers as in the tests
import equinox as eqx
import numpy as np
from problems import lenient

from flowcore import AverageVelocityMap, Objective, ResidualMLP, Term, checkpoints, flow_matching, mean_flow, times, train
from flowcore.data import Dealt

STEPS, BATCH = 40, 16
LOSS = Objective((Term(mean_flow, times.ordered(), share=0.5), Term(flow_matching, times.diagonal(), share=0.5)))
ADAM = lenient(train.adam(1e-2, STEPS))


def begin(key=None, width=16):
    model = AverageVelocityMap(ResidualMLP(16, width, 1, key=jax.random.key(0)))
    return train.begin(model, ADAM, key=jax.random.key(1) if key is None else key, target_decay=0.9)


def source(batch=BATCH, **share):
    """Random images, as digits are: 4x4, of one channel."""
    images = np.random.default_rng(0).uniform(-1, 1, (50, 4, 4, 1))
    return Dealt(images, batch, seed=3, **share)


def fit(state, source, steps=STEPS, **settings):
    return train.fit(state, LOSS, source, ADAM, steps=steps, target_decay=0.9, **settings)


def ended(training):
    """(the last state, the whole curve of each loss)."""
    states, logs = zip(*training, strict=True)
    return states[-1], {name: np.concatenate([log[name] for log in logs], axis=-1) for name in logs[0]}


def arrays(state, devices=None):
    """All arrays of a state, on this host."""
    whole = state if devices is None else devices.everywhere(state)
    return {name: np.asarray(x) for name, x in checkpoints.named_arrays(whole).items()}


def listed(tree):
    return jax.tree.map(lambda x: x.tolist(), tree)


LAYOUTS = {"data_parallel": train.data_parallel, "fully_sharded": train.fully_sharded}


def on_eight_devices():
    found = {}
    for name, layout in LAYOUTS.items():
        devices = layout()
        state, curve = ended(fit(begin(), source(), steps=6, chunk=2, devices=devices))
        held = {path: list(x.addressable_shards[0].data.shape) for path, x in checkpoints.named_arrays(state).items()}
        found[name] = {"curve": listed(curve), "arrays": listed(arrays(state)), "held": held}
    seeds = eqx.filter_vmap(begin)(jax.random.split(jax.random.key(5), 2))
    found["seeds"] = listed(ended(fit(seeds, source(), steps=6, devices=train.fully_sharded()))[1])
    return found


def on_two_hosts(folder):
    found = {"dealt": source().deal(3).tolist(), "devices": jax.device_count()}
    for name, layout in LAYOUTS.items():
        devices = layout()
        state, curve = ended(fit(begin(), source(), steps=6, chunk=2, devices=devices))
        found[name] = {"curve": listed(curve), "arrays": listed(arrays(state, devices))}
    dealt = source()  # devices are fully_sharded() now
    next(checkpoints.kept(fit(begin(), dealt, steps=6, chunk=2, devices=devices), folder, dealt))
    state, moved = checkpoints.resumed(folder, devices.laid_out(begin()), source())
    found["taken up at"] = int(state.step)
    again, _ = ended(checkpoints.kept(fit(state, moved, steps=6, chunk=2, devices=devices), folder, moved))
    found["resumed"] = listed(arrays(again, devices))
    return found


def train_until_killed(folder):
    dealt = source()
    for state, _ in checkpoints.kept(fit(begin(), dealt, chunk=1), folder, dealt):
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
