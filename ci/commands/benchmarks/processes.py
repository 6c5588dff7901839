"""What needs a fresh Python: the first chunk, and several devices."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from commands.benchmarks.timing import ratio, summary

CI = Path(__file__).resolve().parents[2]


def process(code: str, *arguments, **environment: str) -> float:
    """What a fresh Python prints last when it runs `code`: a number."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    path = os.pathsep.join(filter(None, [str(CI), os.environ.get("PYTHONPATH", "")]))
    environment = os.environ | {"PYTHONPATH": path} | environment
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"a process of the benchmark failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return float(done.stdout.split()[-1])


FIRST_CHUNK = """
import time
start = time.perf_counter()
from commands.benchmarks import train_step
from flowcore import methods
train_step.step_seconds(train_step.Objective(methods.mean_flow_terms()), 2)()
print(time.perf_counter() - start)
"""
IMPORT = """
import time
start = time.perf_counter()
from commands.benchmarks import train_step
print(time.perf_counter() - start)
"""


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
from commands.benchmarks import timing, train_step
from flowcore import methods, training
loss, length = train_step.Objective(methods.mean_flow_terms()), int(sys.argv[1])
arguments, settings = train_step.training_run(loss, length, model=train_step.network(**train_step.WIDE))
settings["devices"] = training.data_parallel()
seconds = [timing.elapsed(lambda: [log for _, log in training.fit(*arguments, **settings)]) for _ in range(2)]
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
