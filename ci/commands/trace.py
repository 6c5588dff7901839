"""What a notebook computes, cut short and exact: python -m commands.trace NOTEBOOK OUTPUT

All cells are run. Every `flowcore.fit` trains its first 25 steps and then, as if those between lay behind it, its last
25, so that the end of a schedule is seen too; a task is the trial of itself, on 256 points; and `record.check` compares
nothing. What was logged, measured and claimed is written as JSON, each number with all its digits.
"""

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from commands.notebooks import code_cells, read

STEPS = 25  # from the beginning, and from the end


def trace(notebook: Path) -> dict[str, object]:
    """{"flowcore": where it is, and by what it is of: every number of every run and of `record.check`}."""
    import flowcore
    from flowcore import tasks, training
    from flowcore.recording import record
    from flowcore.training import loop

    whole, found = loop.fit, {"flowcore": str(Path(flowcore.__file__).parent)}
    runs = []

    def fit(state, objective, source, optimiser, *, steps: int, chunk: int = loop.CHUNK, **settings):
        runs.append({})

        def train(state):
            return whole(state, objective, source, optimiser, steps=steps, chunk=STEPS, **settings)

        chunks = list(ends(state, train, steps))
        for _, log in chunks:
            for name, values in log.items():
                runs[-1].setdefault(name, []).extend(values.tolist())
        return loop.Chunks(state, iter(chunks), len(chunks))

    def check(paper: str, *, parameters: Mapping[str, object], **given):
        found.update(numbers(given))

    flowcore.fit = training.fit = loop.fit = fit
    record.check = check
    for name, make in tasks.TASKS.items():
        tasks.TASKS[name] = tried(make)
    os.chdir(notebook.parent)
    names = {"__name__": "__main__"}
    for cell in code_cells(read(notebook)):
        exec(compile(cell["source"], f"{notebook.name}, cell {cell['id']}", "exec"), names)
    return dict(numbers({f"run {count}": log for count, log in enumerate(runs, 1)})) | found


def ends(state, train: Callable, steps: int) -> Iterator[tuple]:
    """The first chunks and the last of a run: (state, log) each."""
    begun = int(state.step.ravel()[0])
    for reached, log in train(state):
        yield reached, log
        done = int(reached.step.ravel()[0]) - begun
        if STEPS <= done and begun + 2 * done < steps:
            yield from train(after(reached, steps - begun - 2 * done))
            return


def after(state, steps: int):
    """The state as if so many more steps lay behind it; the optimiser counts them too."""
    import jax
    import jax.numpy as jnp

    def moved(leaf):
        counts = jnp.issubdtype(leaf.dtype, jnp.integer) and leaf.shape == state.step.shape
        return leaf + steps if counts and bool((leaf == state.step).all()) else leaf

    return dataclasses.replace(state, step=state.step + steps, optimiser=jax.tree.map(moved, state.optimiser))


def tried(make: Callable) -> Callable:
    """The same task on few points, whatever it is asked for."""
    return lambda *given, **options: make(*given, **options | {"trial": True})


def numbers(value: object, at: str = "") -> Iterator[tuple[str, str]]:
    """(where, what) of all that lies in a value; a float by the digits that give it back."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from numbers(each, f"{at}, {name}" if at else str(name))
    elif isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from numbers(each, f"{at}[{index}]")
    elif getattr(value, "ndim", 0):
        content = value.__array__()
        yield at, f"{content.dtype}{content.shape} {hashlib.sha256(content.tobytes()).hexdigest()}"
    elif hasattr(value, "item"):
        yield at, repr(value.item())
    else:
        yield at, repr(value) if isinstance(value, float | int | str | None) else type(value).__name__


def difference(there: dict[str, str], here: dict[str, str]) -> str | None:
    """The first that is not the same in both, in words."""
    for name in [*there, *(name for name in here if name not in there)]:
        if there.get(name) != here.get(name):
            return f"{name} is {here.get(name, 'gone')}, and was {there.get(name, 'not there')}"
    return None


if __name__ == "__main__":
    output = Path(sys.argv[2]).resolve()
    output.write_text(json.dumps(trace(Path(sys.argv[1]).resolve())), encoding="utf-8")
