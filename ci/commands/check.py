"""`check`: recorded notebooks rerun as they are and compared by nbval, with a line for everything that disagrees."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from commands import notebooks
from commands.arguments import positive
from commands.errors import BadInput, Failed, NotebookFailed, first_line
from commands.execution import require_device, share_cores
from commands.plan import plan
from commands.tree import TEMPLATE, Tree
from flowcore import record

JOBS = 2
NOT_COMPARED = (  # what nbval reads in a cell's tags, and alone in a comment, to pass over the cell or its output
    "NBVAL_SKIP",
    "NBVAL_IGNORE_OUTPUT",
    "NBVAL_RAISES_EXCEPTION",
    "PYTEST_VALIDATE_IGNORE_OUTPUT",
)
TAGS = ("raises-exception", *(word.lower().replace("_", "-") for word in NOT_COMPARED))
COLOUR = re.compile(r"(?:\x1b|#x1B)\[[0-9;]*m")  # pytest writes the escape so in XML, which has none


def check(
    tree: Tree,
    papers: Sequence[str],
    since: str | None = None,
    *,
    everything: bool = False,
    budget: float | None = None,
) -> int:
    """nbval on the notebooks as they are. It passes where nothing is compared, so such notebooks are refused before;
    and so is a record that cannot be read. What is recorded under the very code at hand is skipped, unless it is named,
    or `everything` is asked for; a `budget` of minutes may leave some of the others for another time."""
    if since is not None and papers:
        raise BadInput("say which replications, or --since a revision, not both")
    if everything and budget is not None:
        raise BadInput("say --all, or what --budget there is, not both")
    chosen, named = tree.choose(papers or ["all"]) if since is None else [], [name for name in papers if name != "all"]
    if since is not None:
        chosen, named = touched(tree, since)
    if since is not None and not chosen:
        print(f"no replication has changed since {since}")
        return 0
    if not chosen:
        raise BadInput("there is no replication to check yet")
    for paper in chosen:
        if tree.keeps_record(paper):
            record.read(tree.record(paper))
    for paper in chosen:
        refuse_unrecorded(tree, paper)
    found = plan(tree, chosen, chosen if everything else named, jobs=JOBS, budget=budget)
    for line in found.said:
        print(line, flush=True)
    if not found.rerun:
        return 0
    require_device()
    share_cores(JOBS)
    failures = list(rerun(tree, [tree.notebook(paper) for paper in found.rerun]))
    for failure in failures:
        print(f"replicate: {failure}", file=sys.stderr)
    return 1 if failures else 0


def refuse_unrecorded(tree: Tree, paper: str) -> None:
    """Raises NotebookFailed for what nbval would pass over."""
    notebook = notebooks.read(tree.notebook(paper))
    cells, above = notebooks.code_cells(notebook), notebooks.headings(notebook)
    for cell in cells:
        if passed_over := not_compared(cell):
            reason = f"{passed_over} keeps it from being compared: remove that"
            raise NotebookFailed(f"{paper}.ipynb, {notebooks.place(cell, above, reason)}")
    reason = notebooks.failure(notebook) or (None if cells else "it has no code")
    if not reason and tree.keeps_record(paper):
        reason = without_verdict(tree, paper, cells[-1])
    if reason:
        raise NotebookFailed(f"{paper}.ipynb, {reason}; ci/replicate record {paper}")


def not_compared(cell: dict) -> str | None:
    """The tag or comment for which nbval would not run the cell, or not care how it ends; None when there is none."""
    tag = next((f"the tag {tag}" for tag in TAGS if notebooks.tagged(cell, tag)), None)
    comments = [
        line.strip().lstrip("#").strip() for line in cell["source"].splitlines() if line.strip().startswith("#")
    ]
    return tag or next((f"the comment {word}" for word in NOT_COMPARED if word in comments), None)


def without_verdict(tree: Tree, paper: str, last: dict) -> str | None:
    """Why the output of the last cell holds no verdict on a metric; None when it does."""
    if not notebooks.tagged(last, "nbval-check-output") or not last["outputs"]:
        return "the last cell must be tagged nbval-check-output and have its output"
    default = tree.default_preset(paper)
    if not tree.presets(paper)[default].get("metrics"):
        return f"the preset {default} of {paper}.json has no metrics yet: there is nothing to compare with"
    if not notebooks.agreed({"cells": [last]}):
        return "the output of the last cell has no line of a metric that is ok: nothing was compared"
    return None


# --- what has changed ----------------------------------------------------------------------------------------------


def touched(tree: Tree, revision: str) -> tuple[list[str], list[str]]:
    """The notebooks that may have changed since a revision of git, and those of them that did, or whose record did.
    They are all replications when the code changed, or when the revision is that of nothing: what GitHub calls the one
    before a new branch is all zeros."""
    if re.fullmatch(r"0{40}|0{64}", revision):
        return tree.papers(), []
    if not revision or revision.startswith("-") or "\0" in revision:
        raise BadInput(f"--since takes a revision of git, such as origin/main, not {revision!r}")
    found = git(tree, revision, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    commit = found.split()[-1]  # git before 2.30 repeats --end-of-options
    # unquoted and apart by zeros: a name may hold anything else
    names = git(tree, revision, "diff", "--name-only", "-z", "--end-of-options", f"{commit}...HEAD")
    changed = [Path(name) for name in names.split("\0") if name]
    folders = {tree.folder("0").name, tree.replications.name}
    stems = {path.stem for path in changed if path.parent.name in folders} - {TEMPLATE}
    named = sorted(stem for stem in stems if tree.notebook(stem).exists())
    everywhere = any(path.parent.name not in folders and path.suffix != ".md" for path in changed)
    return sorted({*named, *(tree.papers() if everywhere else ())}), named


def git(tree: Tree, revision: str, *arguments: str, instead: str = "name the replications") -> str:
    """What git prints. Raises Failed where it cannot be used, saying what to do `instead`, BadInput when it does not
    know the revision."""
    try:
        done = subprocess.run(["git", "-C", tree.root, *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        raise Failed(f"git: not found, and --since needs it: install it, or {instead}") from None
    if "dubious ownership" in done.stderr:
        remedy = f"git config --global --add safe.directory {tree.root}"
        raise Failed(f"{tree.root}: git does not trust a repository of somebody else; if you do: {remedy}")
    if "not a git repository" in done.stderr:
        raise Failed(f"{tree.root}: not a git repository, and --since needs one: {instead}")
    if done.returncode:
        reason = first_line(done.stderr) or "no such revision (a shallow clone has only some: git fetch --unshallow)"
        raise BadInput(f"git cannot compare with {revision!r}: {reason}")
    return done.stdout


# --- nbval ---------------------------------------------------------------------------------------------------------


def rerun(tree: Tree, paths: list[Path]) -> Iterator[str]:
    """A line per failure."""
    # Its own (empty) configuration: the repository's turns warnings into errors, which is for tests/ only.
    pytest = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", tree.root, "-p", "no:cacheprovider"]
    pytest += ["-q", "--tb=no", "-rN", "--color=no"]
    nbval = ["--nbval-lax", "--nbval-cell-timeout", "3600", "-n", str(JOBS), "--dist", "loadscope"]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        code = subprocess.run([*pytest, *nbval, f"--junitxml={report}", *paths]).returncode
        try:
            said = list(failures(tree, paths, report.read_text(encoding="utf-8")))
        except (OSError, ElementTree.ParseError):  # pytest was ended before it had written all of it
            said, code = [], code or "no report"
    if code and not said:
        said = [f"pytest ended with {code} and does not say why; the notebooks: {', '.join(p.stem for p in paths)}"]
    yield from said


def failures(tree: Tree, paths: list[Path], report: str) -> Iterator[str]:
    """What a report of pytest holds, a line each: every metric and claim that disagrees, and of cells that failed the
    first of each notebook, since those below it mostly fail in its wake. Where none failed, as many must have passed as
    the notebook has cells."""
    cases = list(ElementTree.fromstring(report).iter("testcase"))
    for path in paths:
        name = path.relative_to(tree.root).as_posix()
        there = [case for case in cases if belongs(case, name)]
        mine = [case for case in there if case_text(case)]
        judged = [case for case in mine if "OutOfBand: " in case_text(case)]
        broken = [case for case in mine if case not in judged]
        if broken:
            below = f" (and {len(broken) - 1} below)" if len(broken) > 1 else ""
            yield f"{path.stem}: {in_words(path, broken[0])}{below}"
        for case in judged:
            yield from (f"{path.stem}: {line}" for line in disagreements(tree, path.stem, case_text(case)))
        passed = sum(case.find("skipped") is None for case in there)
        wanted = sum(cell["cell_type"] == "code" for cell in notebooks.read(path)["cells"])
        if not mine and passed != wanted:
            yield f"{path.stem}: {passed} of {wanted} code cells were run and compared; see what pytest says above"


def belongs(case: ElementTree.Element, name: str) -> bool:
    return case.get("classname") == name.replace("/", ".")


def case_text(case: ElementTree.Element) -> str:
    """The traceback of a case that failed, without colours; '' of one that passed."""
    found = [element.text or "" for kind in ("failure", "error") for element in case.iter(kind)]
    return COLOUR.sub("", "\n".join(found)) or ("it failed" if found else "")


def disagreements(tree: Tree, paper: str, text: str) -> Iterator[str]:
    """Every metric and claim that `record.check` names, with the band beside the metric."""
    message = re.findall(r"OutOfBand: (.+)", text)[-1]
    metrics = {}
    for preset in tree.presets(paper).values():  # the default preset is the first to be looked at
        metrics = preset.get("metrics", {}) | metrics
    for part in re.split(r"; (?=[\w.]+: |claim ['\"])", message):
        name = part.partition(":")[0]
        if name in metrics:
            limits = metrics[name]["band"]
            band = f"band [{limits[0]:.4g}, {limits[1]:.4g}]" if limits else f"exactly {metrics[name]['mean']:g}"
            part = f"{part.removesuffix(' OUT OF BAND')}, {band}"
        yield part


def in_words(path: Path, case: ElementTree.Element) -> str:
    """Where a cell failed, and its error."""
    text = case_text(case)
    notebook = notebooks.read(path)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    number = re.search(r"Cell (\d+)", case.get("name", ""))
    errors = re.findall(r"^(\w[\w.]*(?:Error|Exception|Interrupt|Exit)\b.*)$", text, re.M)
    reason = first_line(errors[-1] if errors else text)
    if number is None or int(number[1]) >= len(cells):
        return reason
    return notebooks.place(cells[int(number[1])], notebooks.headings(notebook), reason)


def add(verbs) -> None:
    verb = verbs.add_parser("check", help="rerun recorded notebooks as they are and compare (nbval)")
    verb.add_argument("papers", nargs="*", metavar="PAPER", help="default: all")
    verb.add_argument("--since", metavar="REVISION", help="those that changed since; all, when the code did")
    verb.add_argument("--all", action="store_true", help="also those that are recorded under the very code at hand")
    verb.add_argument("--budget", type=positive, metavar="MINUTES", help="what changed most first, the rest is left")

    def command(asked, tree: Tree) -> int:
        return check(tree, asked.papers, asked.since, everything=asked.all, budget=asked.budget)

    verb.set_defaults(command=command)
