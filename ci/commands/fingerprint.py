"""The first steps of a replication's main run: python -m commands.fingerprint NOTEBOOK

A notebook's cells are executed as they stand until it calls `flowcore.fit`, whose first 50 steps are trained; the
losses and the norm of the gradient at steps 1, 10 and 50 are its fingerprint. It takes seconds, and comes before small
differences between processors grow: a change of the core or of a setting is seen in it long before it leaves a band.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from commands.errors import NotebookFailed
from commands.notebooks import code_cells, read

STEPS = (1, 10, 50)
TOLERANCE = 1e-3  # relative: between processors the first 50 steps of a run agree to 1e-5


class Taken(Exception):
    """The fingerprint is taken: what is left of the notebook is not run."""

    def __init__(self, fingerprint: dict[str, list[float]]):
        super().__init__("the fingerprint is taken")
        self.fingerprint = fingerprint


class TrainsNothing(Exception):
    """The notebook came to its end without a run."""


def take(notebook: Path) -> dict[str, list[float]]:
    """Loss of every term and norm of the gradient at `STEPS` of the first run. Raises TrainsNothing."""
    import flowcore
    from flowcore.training import loop

    def fit(state, objective, source, optimiser, *, steps: int, chunk: int = loop.CHUNK, **settings):
        last = min(max(STEPS), steps)
        _, log = next(loop.fit(state, objective, source, optimiser, steps=steps, chunk=last, **settings))
        known = [step for step in STEPS if step <= len(log["gradient_norm"])]
        raise Taken({name: [float(values[step - 1]) for step in known] for name, values in log.items()})

    flowcore.fit, here, names = fit, Path.cwd(), {"__name__": "__main__"}
    os.chdir(notebook.parent)
    try:
        for cell in code_cells(read(notebook))[:-1]:  # the last compares with what is recorded
            exec(compile(cell["source"], f"{notebook.name}, cell {cell['id']}", "exec"), names)
    except Taken as taken:
        return taken.fingerprint
    finally:
        os.chdir(here)
        flowcore.fit = loop.fit
    raise TrainsNothing(f"{notebook.name} never calls flowcore.fit")


def of(notebook: Path) -> dict[str, list[float]] | None:
    """The fingerprint, in a process of its own; None for a notebook that trains nothing. Raises NotebookFailed."""
    command = [sys.executable, "-m", "commands.fingerprint", str(notebook)]
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "MPLBACKEND": "agg"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    if run.returncode:
        raise NotebookFailed(f"{notebook.name}: no fingerprint: {(run.stderr.strip().splitlines() or ['?'])[-1]}")
    return json.loads(run.stdout.splitlines()[-1])


def differences(there: dict[str, list[float]], here: dict[str, list[float]]) -> list[str]:
    """What is not the same in both, a line each; a loss that is 0 is compared with the largest of its term."""
    found = [f"{name} is logged in one of them only" for name in sorted(there.keys() ^ here.keys())]
    for name in sorted(there.keys() & here.keys()):
        if len(there[name]) != len(here[name]):
            found.append(f"{name} has {len(here[name])} steps, recorded {len(there[name])}")
            continue
        size = max(map(abs, there[name]), default=0.0)
        for step, old, new in zip(STEPS, there[name], here[name], strict=False):
            if not abs(new - old) <= TOLERANCE * max(abs(old), TOLERANCE * size):  # nan is no less
                found.append(f"{name} at step {step} is {new:.6g}, recorded {old:.6g}")
    return found


if __name__ == "__main__":
    try:
        print(json.dumps(take(Path(sys.argv[1]).resolve())))
    except TrainsNothing:
        print("null")
