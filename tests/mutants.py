"""Mutants of every equality, which the tests must catch: `python tests/mutants.py [names ...] [--list] [--jobs 2]`.

A mutant is one function of `flowcore/losses` with one thing wrong: a sign flipped, a stop-gradient dropped, one time
read for another, or an equality asked at another point. It is put into a copy of the repository, where the tests of the
rows that use the function run first, then those that name it, until one fails. It survives when none does. Not a test
itself: it takes an hour or two.

Some mutants are the same function in other words; they are listed in `SAME` with the reason.
"""

import argparse
import ast
import concurrent.futures
import copy
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LOSSES = ROOT / "flowcore" / "losses"
FILES = ("diagonal", "lagrangian", "eulerian", "compositional")
TIMES = ("s", "u", "t")
POINTS = {"x_u": "x", "y": "x", "end": "x", "F_u": "x"}  # where an equality is asked -> where its jump starts
STOPPED = "the same: the stop around it stops this too"
SAME = {
    ("lsd", "nothing stopped in stop_gradient(end)"): STOPPED,
    ("esd", "nothing stopped in stop_gradient(v(x, s))"): STOPPED,
    ("free_flow", "nothing stopped in stop_gradient(interpolate(x + (t - s) * V, noise, u))"): STOPPED,
}


class Mutant(NamedTuple):
    file: str
    function: str
    change: str  # in words, with the line of the file
    source: str  # of the whole file


# --- making them ---------------------------------------------------------------------------------------------------


def changes(function: ast.FunctionDef) -> Iterator[tuple[ast.AST, str]]:
    """Every changed copy of the function, and what was changed."""
    body = [node for statement in function.body[1:] for node in ast.walk(statement)]
    times = {argument.arg for argument in function.args.args} & set(TIMES)
    for node in body:
        for new, words in substitutes(node, times):
            yield replaced(function, node, new), f"line {node.lineno}: {words}"


def substitutes(node: ast.AST, times: set[str]) -> Iterator[tuple[ast.AST, str]]:
    """What may stand for a node."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        flipped = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        yield ast.BinOp(node.left, flipped, node.right), f"sign flipped in {ast.unparse(node)}"
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield node.operand, f"sign dropped in {ast.unparse(node)}"
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "stop_gradient":
        yield node.args[0], f"nothing stopped in {ast.unparse(node)}"
    if isinstance(node, ast.Call):
        for i, argument in enumerate(node.args):
            name = getattr(argument, "id", "")
            others = sorted(times - {name}) if name in times else [POINTS[name]] if name in POINTS else []
            for other in others:
                arguments = [ast.Name(other) if j == i else each for j, each in enumerate(node.args)]
                yield ast.Call(node.func, arguments, node.keywords), f"{other} for {name} in {ast.unparse(node)}"


def replaced(function: ast.FunctionDef, old: ast.AST, new: ast.AST) -> ast.FunctionDef:
    class Replace(ast.NodeTransformer):
        def visit(self, node):
            return new if node is old else self.generic_visit(node)

    # the copy keeps the node's identity, which is how it is found
    twin = copy.deepcopy(function, {id(old): old})
    return ast.fix_missing_locations(Replace().visit(twin))


def mutants() -> Iterator[Mutant]:
    for file in FILES:
        text = (LOSSES / f"{file}.py").read_text()
        lines = text.splitlines(keepends=True)
        for function in ast.parse(text).body:
            if isinstance(function, ast.FunctionDef):
                before, after = lines[: function.lineno - 1], lines[function.end_lineno :]
                for changed, words in changes(function):
                    yield Mutant(file, function.name, words, "".join([*before, ast.unparse(changed), "\n", *after]))


# --- catching them -------------------------------------------------------------------------------------------------


def tests_of(function: str) -> list[list[str]]:
    """Arguments of pytest, the likeliest first."""
    from flowcore import METHODS  # here: it imports JAX

    rows = [row.name for row in METHODS if function in {term.name for term in row.terms()}]
    named = [
        str(path.relative_to(ROOT))
        for path in sorted(ROOT.glob("tests/**/test_*.py"), key=lambda path: path.stat().st_size)
        if re.search(rf"\b{function}\b", path.read_text())
    ]
    common = [["tests/methods/test_methods.py", "-k", " or ".join(f"[{name}]" for name in rows)]] if rows else []
    if function == "flow_matching":
        common = [["tests/methods/test_methods.py", "-k", "[flow"]]  # its name there has a space
    return common + [[path] for path in named if path != "tests/methods/test_methods.py"]


def caught(mutant: Mutant, tree: Path) -> str | None:
    """The test that fails, in a copy of the repository that is whole again afterwards; None when none does."""
    path = tree / "flowcore" / "losses" / f"{mutant.file}.py"
    whole = path.read_text()
    path.write_text(mutant.source)
    try:
        for selection in tests_of(mutant.function):
            pytest = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *selection]
            environment = os.environ | {"PYTHONPATH": str(tree)}
            run = subprocess.run(pytest, cwd=tree, env=environment, capture_output=True, text=True)
            if run.returncode == 1:
                return re.search(r"^(?:FAILED|ERROR) (\S+)", run.stdout, re.M)[1]
            if run.returncode:
                raise RuntimeError(f"pytest {' '.join(selection)} ended with {run.returncode}: {run.stdout[-500:]}")
        return None
    finally:
        path.write_text(whole)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="functions; default: all")
    parser.add_argument("--list", action="store_true", help="only say what would be changed")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    chosen = [mutant for mutant in mutants() if not arguments.names or mutant.function in arguments.names]
    if arguments.list:
        print(*(f"{mutant.function}: {mutant.change}" for mutant in chosen), f"{len(chosen)} mutants", sep="\n")
        return 0

    trees = queue.Queue()
    survivors, same = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for job in range(arguments.jobs):
            tree = Path(folder) / str(job)
            tree.mkdir()
            for name in ("flowcore", "tests", "ci", "replications", "pyproject.toml", "README.md"):
                source = ROOT / name
                (shutil.copytree if source.is_dir() else shutil.copy)(source, tree / name)
            trees.put(tree)

        def one(mutant):
            tree = trees.get()
            try:
                return mutant, caught(mutant, tree)
            finally:
                trees.put(tree)

        with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
            for mutant, by in pool.map(one, chosen):
                known = SAME.get((mutant.function, mutant.change.partition(": ")[2]))
                print(f"{mutant.function}, {mutant.change}: {by or known or 'SURVIVED'}", flush=True)
                same += bool(not by and known)
                survivors += [] if by or known else [mutant]
    killed = len(chosen) - same - len(survivors)
    print(f"{len(chosen)} mutants, {killed} caught, {same} the same, {len(survivors)} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
