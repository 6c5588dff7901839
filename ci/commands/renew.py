"""`renew`: after a change of the core that moves no number, records say that they hold for the new code, unmeasured.

Each stale notebook is traced (`commands.trace`) on this machine under the code of a revision, whose record was fresh,
and under the code at hand. Only where both are one bit for bit is the hash in the record renewed. What so short a run
cannot show is refused before: another notebook, other parameters or packages, and a number of the code that is new or
gone.
"""

import ast
import contextlib
import io
import itertools
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from commands import code, files, trace
from commands.check import git
from commands.errors import BadInput, first_line
from commands.execution import require_device
from commands.tree import Tree

JOBS = 2
QUICK = "--xla_cpu_use_fusion_emitters=false"  # compiling is most of it, and this takes a third of the time
REMEDY = "ci/replicate refresh {} reruns it"


def renew(tree: Tree, papers: Sequence[str], since: str) -> int:
    """Renews what it can, and says a line of each that it cannot."""
    chosen = [paper for paper in tree.choose(papers or ["all"]) if tree.keeps_record(paper)]
    here = code.Code(tree)
    stale = [paper for paper in chosen if tree.default_entry(paper).get("code") != here.of(paper)]
    if not stale:
        print("nothing to renew: all is recorded under the very code at hand")
        return 0
    commit = commit_of(tree, since)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        for paper in stale:
            stack.enter_context(tree.lock_record(paper))
        old = Tree(Path(folder) / "old")
        unpack(tree, commit, old.root)
        there, failures = code.Code(old), []
        reasons = {paper: unprovable(there, here, paper) for paper in stale}
        depends = {paper: here.of(paper) for paper in stale if not reasons[paper]}
        if depends:
            require_device()
        refused = ((paper, reason) for paper, reason in reasons.items() if reason)
        for paper, reason in itertools.chain(refused, compared(old, tree, list(depends), Path(folder))):
            if not reason and not put(tree, paper, depends[paper]):
                reason = "it was edited meanwhile"
            if reason:
                failures.append(f"{paper}: {reason}; {REMEDY.format(paper)}")
            else:
                parts = ", ".join(code.changes(there.of(paper), depends[paper]))
                print(f"renewed {paper}: {parts} moved no bit of it", flush=True)
    for failure in failures:
        print(f"replicate: {failure}", file=sys.stderr)
    return 1 if failures else 0


def commit_of(tree: Tree, revision: str) -> str:
    if not revision or revision.startswith("-") or "\0" in revision:
        raise BadInput(f"--since takes a revision of git, such as HEAD~1, not {revision!r}")
    verify = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    return git(tree, revision, *verify, instead="ci/replicate refresh them").split()[-1]


def unpack(tree: Tree, commit: str, folder: Path) -> None:
    """The files of a commit, without a trace in the repository."""
    command = ["git", "-C", str(tree.root), "archive", "--format=tar", commit]
    packed = subprocess.run(command, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")


def unprovable(there: code.Code, here: code.Code, paper: str) -> str | None:
    """Why a trace would prove nothing; None when it may."""
    if not there.tree.notebook(paper).exists() or not there.tree.record(paper).exists():
        return "the revision does not have it"
    old, new = there.of(paper), here.of(paper)
    was, now = there.tree.default_entry(paper), here.tree.default_entry(paper)
    if was.get("code") != old:
        return "its record was stale in the revision already, so nothing would be proven (--since another?)"
    if {**was, "code": None} != {**now, "code": None}:
        return "its record has changed since"
    changed = code.changes(old, new)
    own = [part for part in changed if part in code.OURS]
    if own:
        return f"changed is its own {', '.join(own)}, of which a short run proves nothing"
    before, after = numbers_of(there, changed), numbers_of(here, changed)
    if moved := (before - after) | (after - before):
        which = ", ".join(sorted(moved))
        return f"a number of {', '.join(changed)} is new or gone: {which}, of which a short run proves nothing"
    return None


def numbers_of(read: code.Code, modules: list[str]) -> Counter[str]:
    """The numbers that are written in these modules: 4096, 0.5, True."""
    nodes = (node for name in modules if name in read.house.trees for node in ast.walk(read.house.trees[name]))
    return Counter(repr(node.value) for node in nodes if isinstance(node, ast.Constant) and is_number(node.value))


def is_number(value: object) -> bool:
    return isinstance(value, int | float | complex)


def compared(old: Tree, new: Tree, papers: list[str], folder: Path) -> Iterator[tuple[str, str | None]]:
    """Each notebook with the first difference between both trees, or None, as soon as it is known. What both compile
    alike is compiled once."""

    def of(task: tuple[Tree, str]) -> dict[str, str] | str:
        tree, paper = task
        output = folder / f"{'old' if tree is old else 'new'}.{paper}.json"
        failed = traced(tree, paper, output, folder / "compiled")
        print(f"traced {paper} {'as it was' if tree is old else 'as it is'}", flush=True)
        return failed or json.loads(output.read_text(encoding="utf-8"))

    some = [papers[start : start + JOBS] for start in range(0, len(papers), JOBS)]
    tasks = [(tree, paper) for together in some for tree in (old, new) for paper in together]
    pool, found = ThreadPoolExecutor(JOBS), {}
    try:
        for (tree, paper), result in zip(tasks, pool.map(of, tasks), strict=True):
            found[tree, paper] = result
            if tree is new:
                yield paper, next(reasons(found[old, paper], result), None)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def reasons(there: dict[str, str] | str, here: dict[str, str] | str) -> Iterator[str]:
    for traced, when in ((there, "as it was"), (here, "as it is")):
        if isinstance(traced, str):
            yield f"it could not be traced {when}: {traced}"
            return
    if first := trace.difference(there, here):
        yield first


def traced(tree: Tree, paper: str, output: Path, cache: Path) -> str | None:
    """Traces the notebook of a tree with the flowcore of that tree, in a process of its own. Returns what failed."""
    paths = [str(tree.root), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    compiled = {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    flags = f"{QUICK} {os.environ.get('XLA_FLAGS', '')}".strip()
    given = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "MPLBACKEND": "agg", "NPROC": "1", "XLA_FLAGS": flags}
    command = [sys.executable, "-P", "-m", "commands.trace", str(tree.notebook(paper)), str(output)]
    run = subprocess.run(command, capture_output=True, text=True, env=compiled | os.environ | given)
    if run.returncode:
        return first_line((run.stderr.strip().splitlines() or ["?"])[-1])
    found = json.loads(output.read_text(encoding="utf-8"))
    place = Path(found.pop("flowcore"))
    if place.resolve() != (tree.root / "flowcore").resolve():
        return f"flowcore was imported from {place}"
    if not found:
        return "it logs, measures and claims nothing"
    output.write_text(json.dumps(found), encoding="utf-8")
    return None


def put(tree: Tree, paper: str, depends: dict[str, str]) -> bool:
    """Writes the hashes into the record; False where they are not those of the code any more."""
    if code.of(tree, paper) != depends:
        return False
    with tempfile.TemporaryDirectory() as work:
        files.move(code.renewed(tree, paper, depends, Path(work)))
    return True


def add(verbs) -> None:
    verb = verbs.add_parser("renew", help="renew the hashes in records that a change of the core moves no bit of")
    verb.add_argument("papers", nargs="*", metavar="PAPER", help="default: all that are stale")
    verb.add_argument("--since", default="HEAD", metavar="REVISION", help="where they were not, default: HEAD")
    verb.set_defaults(command=lambda asked, tree: renew(tree, asked.papers, asked.since))
