"""`refresh`: notebooks executed in place, beside the records that they have."""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from commands import code, files, notebooks, parameters
from commands.arguments import positive
from commands.errors import NotebookFailed
from commands.execution import Run, execute, require_device
from commands.tree import Tree
from flowcore import record


def cleaned(source, executed):
    """`source` with the outputs and counts of `executed`, and nothing that differs between two identical runs."""
    results = {cell.id: cell for cell in executed.cells}
    source.cells = [cell for cell in source.cells if not notebooks.tagged(cell, "injected-parameters")]
    for cell in notebooks.code_cells(source):
        cell.execution_count = results[cell.id].execution_count
        cell.outputs = [notebooks.lighten(output) for output in results[cell.id].outputs if not volatile(output)]
    for cell in source.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
    for key in ("papermill", "widgets"):
        source.metadata.pop(key, None)
    source.metadata.get("language_info", {}).pop("version", None)
    return source


def show_result(notebook: Path, work: Path) -> None:
    """Leaves the notebook in the folder of work with its result, which speaks of all presets, shown anew from the
    record there; no other cell is executed. Raises NotebookFailed."""
    source, alone = notebooks.load(notebook), notebooks.load(notebook)
    alone.cells = [cell for cell in notebooks.code_cells(alone) if "record.result(" in cell.source]
    if not alone.cells:
        return
    only, output = work / "result.ipynb", work / "result.out.ipynb"
    notebooks.write(only, alone)
    task = Run(only, output, {}, work, f"{notebook.stem} result")
    (failed,) = execute([task], jobs=1)
    if failed:
        raise NotebookFailed(f"{task.label}: {failed}; see {output}")
    shown = {cell.id: cell for cell in cleaned(alone, notebooks.load(output)).cells}
    source.cells = [shown.get(cell.id, cell) for cell in source.cells]
    notebooks.write(work / notebook.name, source)


def volatile(output: dict) -> bool:
    """Warnings and progress bars: a stream on stderr, or a live widget."""
    return output.get("name") == "stderr" or "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def refresh(works: dict[Path, Path], jobs: int) -> Iterator[str | None]:
    """Leaves each notebook in its folder of work, executed at its defaults beside the record there: what failed in
    each, or None."""
    runs = [Run(path, work / "defaults.ipynb", {}, work, f"{path.stem} defaults") for path, work in works.items()]
    for task, failed in zip(runs, execute(runs, jobs), strict=True):
        if not failed:
            done = cleaned(notebooks.load(task.source), notebooks.load(task.output))
            notebooks.write(task.cwd / task.source.name, done)
        yield f"{task.label}: {failed}; see {task.output}" if failed else None


def refresh_papers(tree: Tree, papers: Sequence[str], jobs: int) -> int:
    """The notebooks executed in place, beside the records that they have: for a change that moves no number. A record
    that was agreed with says from then on that it holds for this code. One that disagrees is left as it was."""
    works = {tree.notebook(paper): tree.build / "refresh" / paper for paper in tree.choose(papers)}
    for path in works:
        parameters.of_notebook(path)
        if tree.keeps_record(path.stem):
            record.read(tree.record(path.stem))
    require_device()
    failures = []
    with contextlib.ExitStack() as locks:
        for path in works:
            locks.enter_context(tree.lock_record(path.stem))
        for path, work in works.items():
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            if tree.keeps_record(path.stem):
                shutil.copy(tree.record(path.stem), work)
        read = code.Code(tree)
        depends = {path: read.of(path.stem) for path in works if tree.keeps_record(path.stem)}
        for (path, work), failed in zip(works.items(), refresh(works, jobs), strict=True):
            if failed:
                failures.append(failed)
                continue
            renewed = {}
            if path in depends and notebooks.agreed(notebooks.read(work / path.name)):
                renewed = code.renewed(tree, path.stem, depends[path], work)
            files.move({work / path.name: path} | renewed)
            shutil.rmtree(work)
            print(f"refreshed {path.stem}", flush=True)
    if failures:
        raise NotebookFailed("; ".join(failures))
    return 0


def add(verbs) -> None:
    verb = verbs.add_parser("refresh", help="execute notebooks in place, for a change that moves no number")
    verb.add_argument("papers", nargs="*", metavar="PAPER", help="a name of the list, or all")
    verb.add_argument("--jobs", type=positive, default=1, help="notebooks at a time")
    verb.set_defaults(command=lambda asked, tree: refresh_papers(tree, asked.papers, asked.jobs))
