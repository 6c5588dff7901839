"""`run`: notebooks executed into build/, with other parameters if wished. The notebook that is read is left alone."""

import argparse
import contextlib
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from commands import files, parameters
from commands.arguments import positive
from commands.execution import Run, execute, require_device
from commands.tree import Tree

UNDER_WAY = "running"  # the folder of build/ where outputs lie until there is something to show
LONGEST = 60  # characters that a file's name says of the assignments


def run(tree: Tree, papers: Sequence[str], preset: str | None, assignments: list[list[str]], jobs: int) -> int:
    runs = []
    for paper in tree.choose(papers, preset):
        known = parameters.of_notebook(tree.notebook(paper))
        recorded = {}
        if preset or tree.keeps_record(paper):  # read in any case, so that a spoilt record is named
            recorded = parameters.of_preset(tree.record(paper), preset or tree.default_preset(paper), known)
        assigned = parameters.assigned(assignments, known)
        given = (recorded if preset else {}) | assigned
        output = tree.build / UNDER_WAY / f"{named(paper, preset, assigned)}.ipynb"
        runs.append(Run(tree.notebook(paper), output, given, tree.folder(paper), paper, html=True))
    require_device()
    with contextlib.ExitStack() as locks:
        for task in runs:
            locks.enter_context(tree.lock(task.output.name, f"{tree.build / task.output.name} is being written"))
        for task in runs:
            task.output.parent.mkdir(exist_ok=True)
            for old in pages(task.output):
                old.unlink(missing_ok=True)
        ended = [(shown(task), failed) for task, failed in zip(runs, execute(runs, jobs), strict=True)]
    for (line, failed), task in zip(ended, runs, strict=True):
        print(f"{'FAILED' if failed else 'done'}  {line or task.label}")
        if failed:
            print(f"replicate: {failed}", file=sys.stderr)
    return 1 if any(failed for _, failed in ended) else 0


def shown(task: Run) -> str | None:
    """Puts what was executed in the place of what was there before, and says where; None when nothing was."""
    if not all(page.exists() for page in pages(task.output)):
        return None
    output = task.output.parent.parent / task.output.name
    files.move(dict(zip(pages(task.output), pages(output), strict=True)))
    return f"{output}  {output.with_suffix('.html').name}"


def pages(output: Path) -> tuple[Path, Path]:
    return output, output.with_suffix(".html")


def named(paper: str, preset: str | None, assigned: dict[str, object]) -> str:
    """The file's name without its suffix: paper, preset and what was assigned, so that another request is another file.
    What cannot be in a name, or makes it long, is cut, and a hash of the whole stands for it."""
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in assigned.items()}
    words = [preset] if preset else []
    words += [f"{name}={text}" for name, text in sorted(texts.items())]
    return ".".join([paper, *([portable(".".join(words))] if words else [])])


def portable(text: str) -> str:
    """The text as part of a file's name: itself where that is short and plain."""
    plain = re.sub(r"[^\w=.+-]+", "-", text, flags=re.ASCII).strip(".-")[:LONGEST]
    return plain if plain == text else f"{plain}.{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def add(verbs) -> None:
    verb = verbs.add_parser(
        "run",
        help="execute notebooks into build/, with other parameters if wished",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG,
    )
    verb.add_argument("papers", nargs="*", metavar="PAPER", help="a name of the list, or all")
    verb.add_argument("-p", dest="assignments", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    verb.add_argument("--preset", help="a named set of parameters from the notebook's JSON file")
    verb.add_argument("--jobs", type=positive, default=1, help="notebooks at a time")
    verb.set_defaults(command=lambda asked, tree: run(tree, asked.papers, asked.preset, asked.assignments, asked.jobs))


EPILOG = """\
The output is named after what was asked: build/PAPER.PRESET.NAME=VALUE.ipynb, with a hash where that is long.

Parameters are those of section 3, the cell tagged `parameters`. A line of it may state a range in its comment:
    steps: int = 4000  # training steps, at least 1; up to 100 is a trial
    rate: float = 2e-3  # peak rate of Adam, > 0
    diagonal: float = 0.5  # share of the rows, in [0, 1], where source and target are one
    network: str = "mlp"  # backbone: one of mlp, dit, unet; the last two for images
that is one of
    >= N    > N    <= N    < N    at least N    above N    at most N    below N
    in [A, B]    in (A, B]    in [A, B)    in (A, B)    one of WORD, WORD, ...
It begins the comment or follows a comma, a semicolon or a colon, and ends with the comment, at a semicolon or, but for
the words, at a comma; of a tuple it is the range of each entry. Without it: a float is finite, an integer fits 32
bits, and a seed is in [0, 2147483648). A value outside is refused before a kernel starts.
"""
