"""The command line of the replications: run, check, record and list them. `ci/replicate --help` says how.

papermill varies, nbval holds still: `run` and `record` execute a copy under build/ with parameters injected, `check`
reruns exactly the notebook that the reader sees. papermill's own status is not trusted (it calls cells completed that
never ran): a run is good when every code cell has an execution count and none has an error.

Exit codes: 0 all well, 1 a notebook failed or the table is out of date, 2 a wrong command (one line says why).
"""

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nbformat
import yaml

from flowcore import record

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = "900_template"
PEERS = {  # what `bench peers` is held against; packages without their dependencies, which only their trainers need
    "torch==2.13.0": [],
    "einops==0.8.2": [],
    "rectified-flow-pytorch==0.14.0": ["--no-deps"],
}


class BadInput(Exception):
    """The command cannot be understood; the message is one line that says what is available. Exit code 2."""


class NotebookFailed(Exception):
    """A notebook did not run to its end, or may not be trusted. Exit code 1."""


@dataclass(frozen=True)
class Tree:
    """Where everything is, below the root of a repository."""

    root: Path

    @property
    def build(self) -> Path:
        return self.root / "build"

    @property
    def replications(self) -> Path:
        return self.root / "replications"

    def folder(self, name: str) -> Path:
        """Names that begin with a number are the reading path's, which is tied to no paper."""
        return self.root / "notebooks" if name[:1].isdigit() else self.replications

    def notebook(self, name: str) -> Path:
        return self.folder(name) / f"{name}.ipynb"

    def record(self, name: str) -> Path:
        return self.folder(name) / f"{name}.json"

    def keeps_record(self, name: str) -> bool:
        """A replication must have one; of the reading path those that have."""
        return self.folder(name) == self.replications or self.record(name).exists()

    def presets(self, name: str) -> dict[str, dict]:
        return record.read(self.record(name))["presets"] if self.record(name).exists() else {}

    def papers(self) -> list[str]:
        return sorted(path.stem for path in self.replications.glob("*.ipynb"))

    def choose(self, names: Sequence[str], preset: str | None = None) -> list[str]:
        """These notebooks; `all` is every paper's, with a preset every one's that has it. Raises BadInput for none and
        for an unknown one."""
        there = f"there are: {', '.join(self.papers()) or 'none yet'}"
        if not names:
            raise BadInput(f"say which replication, or all; {there}")
        every = [paper for paper in self.papers() if not preset or preset in self.presets(paper)]
        if "all" in names and preset and not every:
            raise BadInput(f"no replication has a preset {preset!r}")
        named = [each for name in names for each in (every if name == "all" else [name])]
        unknown = [name for name in named if not self.notebook(name).exists()]
        if unknown:
            raise BadInput(f"no replication {', '.join(unknown)}; {there}")
        return list(dict.fromkeys(named))


# --- notebooks -----------------------------------------------------------------------------------------------------


def load(path: Path) -> nbformat.NotebookNode:
    try:
        return nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, AttributeError) as error:
        raise BadInput(f"{path} is not a notebook: {first_line(str(error))}") from None


def tagged(cell: nbformat.NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The cells that a kernel runs; it skips empty ones."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def defaults(path: Path) -> dict[str, object]:
    """Names and values of the cell tagged `parameters`."""
    cells = [cell for cell in code_cells(load(path)) if tagged(cell, "parameters")]
    if len(cells) != 1:
        raise BadInput(f"{path}: needs one cell tagged parameters, has {len(cells)}")
    try:
        lines = [line for line in ast.parse(cells[0].source).body if isinstance(line, ast.AnnAssign)]
        return {line.target.id: ast.literal_eval(line.value) for line in lines}
    except (SyntaxError, ValueError) as error:
        raise BadInput(f"{path}: the cell tagged parameters may only assign literals: {error}") from None


def headings(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """Cell id -> the heading above the cell."""
    heading, above = "top", {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = next((m[1] for m in reversed(list(re.finditer(r"^#+ +(.+)$", cell.source, re.M)))), heading)
        above[cell.id] = heading
    return above


def failure(notebook: nbformat.NotebookNode) -> str | None:
    """The first code cell that failed or never ran, with the reason; None when all is well."""
    above = headings(notebook)
    for cell in code_cells(notebook):
        error = next((output for output in cell.outputs if output.output_type == "error"), None)
        if error is not None or cell.execution_count is None:
            reason = f"{error.ename}: {first_line(error.evalue)}" if error else "was not executed"
            return place(cell, above, reason)
    return None


def place(cell: nbformat.NotebookNode, above: dict[str, str], reason: str) -> str:
    return f"section '{above.get(cell.id, 'given parameters')}', cell `{first_line(cell.source)}`: {reason}"


def first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


@dataclass(frozen=True)
class Run:
    """One execution of a notebook with parameters, in a folder where its record lies."""

    source: Path
    output: Path
    parameters: dict[str, object]
    cwd: Path
    label: str
    html: bool = False

    def __call__(self) -> str | None:
        """Executes; a line per cell. Returns what failed, or None."""
        import papermill  # here: it takes a second that `list` need not wait for
        from jupyter_core.utils import ensure_event_loop

        above, total = headings(load(self.source)), len(code_cells(load(self.source))) + bool(self.parameters)
        started, begun, stopped = time.monotonic(), [], None

        def announce(cell, cell_index):
            begun.append(cell)
            at = f"{len(begun)}/{total}  {time.monotonic() - started:4.0f} s"
            print(f"{self.label}  {at}  {above.get(cell.id, 'given parameters')}", flush=True)

        try:
            papermill.execute_notebook(
                self.source,
                self.output,
                self.parameters,
                resources={"metadata": {"path": str(self.cwd)}},  # papermill's own `cwd` would move all threads
                kernel_name="python3",
                progress_bar=False,
                on_cell_execute=announce,
                coalesce_streams=True,
                extra_arguments=["--log-level=CRITICAL"],  # else kernels report to listen and to be stopped
            )
        except papermill.PapermillExecutionError:
            pass  # the error is in the notebook that was saved
        except Exception as error:  # a dead kernel, a timeout: papermill calls the cells of what it saves completed
            stopped = f"{type(error).__name__}: {first_line(str(error))}"
        finally:
            ensure_event_loop().close()  # each thread has got one
        if not begun:
            return f"{self.source.name} did not start: {stopped}"
        if self.html:
            write_html(self.output)
        failed = place(begun[-1], above, stopped) if stopped else failure(load(self.output))
        return f"{self.source.name}, {failed}" if failed else None


def write_html(path: Path) -> None:
    body, _ = page_exporter().from_filename(str(path))
    path.with_suffix(".html").write_text(body, encoding="utf-8")


def page_exporter(**options):
    """nbconvert's, which would warn on every run that figures lack a text; its template cannot give them one."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(**options)
    exporter.log.setLevel("ERROR")
    return exporter


def execute(runs: Sequence[Run], jobs: int) -> Iterator[str | None]:
    """What failed in each run, in order; `jobs` kernels at a time. Leaving early does not wait for those that run."""
    share_cores(jobs)
    pool = ThreadPoolExecutor(jobs)
    try:
        yield from pool.map(Run.__call__, runs)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def share_cores(jobs: int) -> None:
    """As many threads for each kernel as it has cores to itself: with more, two notebooks on two cores take half as
    long again. NPROC is how XLA is told."""
    os.environ.setdefault("NPROC", str(max(1, (os.cpu_count() or 1) // jobs)))


# --- run and check -------------------------------------------------------------------------------------------------


def typed(name: str, value: object, given: dict[str, object]) -> object:
    """`value` for parameter `name`, as its default's type. Raises BadInput for an unknown name or another type."""
    if name not in given:
        raise BadInput(f"no parameter {name!r}; there are: {', '.join(given)}")
    kind = type(given[name])
    if kind is float and type(value) is int:
        return float(value)
    if kind is not type(None) and type(value) is not (list if kind is tuple else kind):
        raise BadInput(f"parameter {name} is {kind.__name__} (default {given[name]!r}), not {value!r}")
    return value


def parse(name: str, text: str, given: dict[str, object]) -> object:
    """The value of `-p name text`: itself for a str, else JSON (1e-3 is no number in YAML), else YAML."""
    if isinstance(given.get(name), str):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
    return typed(name, value, given)


def preset_parameters(path: Path, preset: str, given: dict[str, object]) -> dict[str, object]:
    """The parameters of a preset in the record at `path`. Raises BadInput for an unknown preset, RecordError for names
    that the notebook does not have."""
    presets = record.read(path)["presets"]
    if preset not in presets:
        raise BadInput(f"no preset {preset!r} in {path.name}; there are: {', '.join(presets)}")
    try:
        return {name: typed(name, value, given) for name, value in presets[preset]["parameters"].items()}
    except BadInput as error:
        raise record.RecordError(f"{path}: presets.{preset}.parameters: {error}") from None


def run(tree: Tree, papers: Sequence[str], preset: str | None, assignments: list[list[str]], jobs: int) -> int:
    runs = []
    for paper in tree.choose(papers, preset):
        given = defaults(tree.notebook(paper))
        recorded = {}
        if preset or tree.keeps_record(paper):  # read in any case, so that a spoilt record is named
            recorded = preset_parameters(tree.record(paper), preset or record.DEFAULT_PRESET, given)
        parameters = recorded if preset else {}
        parameters |= {name: parse(name, text, given) for name, text in assignments}
        output = tree.build / f"{paper}{f'.{preset}' if preset else ''}.ipynb"
        runs.append(Run(tree.notebook(paper), output, parameters, tree.folder(paper), paper, html=True))
    tree.build.mkdir(exist_ok=True)
    for task in runs:
        task.output.unlink(missing_ok=True)
    failures = list(execute(runs, jobs))
    for task, failed in zip(runs, failures, strict=True):
        print(f"{'FAILED' if failed else 'done'}  {task.output}  {task.output.with_suffix('.html').name}")
        if failed:
            print(f"replicate: {failed}", file=sys.stderr)
    return 1 if any(failures) else 0


def touched(tree: Tree, revision: str) -> list[str]:
    """The notebooks that changed since a revision of git, or whose record did; every replication when the code did."""
    git = ["git", "-C", str(tree.root), "diff", "--name-only", f"{revision}...HEAD"]
    run = subprocess.run(git, capture_output=True, text=True)
    if run.returncode:
        raise BadInput(f"git cannot compare with {revision!r}: {first_line(run.stderr)}")
    changed = [Path(line) for line in run.stdout.splitlines()]
    folders = {tree.folder("0").name, tree.replications.name}
    names = {path.stem for path in changed if path.parent.name in folders}
    if any(path.parent.name not in folders and path.suffix != ".md" for path in changed):
        names |= set(tree.papers())
    return sorted(name for name in names - {TEMPLATE} if tree.notebook(name).exists())


def check(tree: Tree, papers: Sequence[str], since: str | None = None) -> int:
    """nbval on the notebooks as they are. It passes on cells that were never run, so these are refused before."""
    if since and papers:
        raise BadInput("say which replications, or --since a revision, not both")
    chosen = touched(tree, since) if since else tree.choose(papers or ["all"])
    notebooks = [tree.notebook(paper) for paper in chosen]
    if since and not notebooks:
        print(f"no replication has changed since {since}")
        return 0
    if not notebooks:
        raise BadInput("there is no replication to check yet")
    for path in notebooks:
        last = code_cells(load(path))[-1]
        reason = failure(load(path))
        compared = tagged(last, "nbval-check-output") and last.outputs
        if not reason and tree.keeps_record(path.stem) and not compared:
            reason = "the last cell must be tagged nbval-check-output and have its output"
        if reason:
            raise NotebookFailed(f"{path.name}, {reason}; ci/replicate record {path.stem}")
    # Its own (empty) configuration: the repository's turns warnings into errors, which is for tests/ only.
    pytest = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", tree.root, "-p", "no:cacheprovider"]
    jobs = 2
    share_cores(jobs)
    nbval = ["--nbval-lax", "--nbval-cell-timeout", "3600", "-n", str(jobs), "--dist", "loadscope"]
    return 1 if subprocess.run([*pytest, *nbval, *notebooks]).returncode else 0


# --- record --------------------------------------------------------------------------------------------------------


def fresh(notebook: nbformat.NotebookNode, label: str) -> dict:
    """Metrics and claims that `record.check` left in the last output's metadata. Raises NotebookFailed."""
    found = [o.metadata[record.MIME] for o in code_cells(notebook)[-1].outputs if record.MIME in o.get("metadata", {})]
    if not found:
        raise NotebookFailed(f"{label}: the last cell does not call record.check")
    wrong = [f"{name} is {value}" for name, value in found[-1]["metrics"].items() if not record.is_number(value)]
    if wrong:
        raise NotebookFailed(f"{label}: {', '.join(wrong)}")
    return found[-1]


def combine(parameters: dict[str, object], runs: list[dict]) -> dict:
    """The record of a preset from its seeds: a band per metric, the majority's verdict per claim."""
    if any(run["metrics"].keys() != runs[0]["metrics"].keys() for run in runs):
        raise NotebookFailed("the seeds do not report the same metrics")
    texts = [claim["claim"] for claim in runs[0]["claims"]]
    if any([claim["claim"] for claim in run["claims"]] != texts for run in runs):
        raise NotebookFailed("the seeds do not report the same claims: a claim's text may not hold a measured value")
    claims = []
    for index, claim in enumerate(runs[0]["claims"]):
        (verdict, agree), *_ = Counter(run["claims"][index]["verdict"] for run in runs).most_common()
        claims.append({**claim, "verdict": verdict, "agree": f"{agree}/{len(runs)}"})
    metrics = {name: record.summary(name, [run["metrics"][name] for run in runs]) for name in runs[0]["metrics"]}
    return {"parameters": parameters, "metrics": metrics, "claims": claims, "recorded": provenance()}


def provenance() -> dict:
    """In a process of its own: one that asks JAX for its devices may keep them from the kernels that come after."""
    code = "import json; from flowcore import record; print(json.dumps(record.provenance()))"
    return json.loads(subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True).stdout)


def cleaned(source: nbformat.NotebookNode, executed: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """`source` with the outputs and counts of `executed`, and nothing that differs between two identical runs."""
    results = {cell.id: cell for cell in executed.cells}
    source.cells = [cell for cell in source.cells if not tagged(cell, "injected-parameters")]
    for cell in code_cells(source):
        cell.execution_count = results[cell.id].execution_count
        cell.outputs = [output for output in results[cell.id].outputs if not volatile(output)]
    for cell in source.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
    for key in ("papermill", "widgets"):
        source.metadata.pop(key, None)
    source.metadata.get("language_info", {}).pop("version", None)
    return source


def volatile(output: nbformat.NotebookNode) -> bool:
    """Warnings and progress bars: a stream on stderr, or a live widget."""
    return output.get("name") == "stderr" or "application/vnd.jupyter.widget-view+json" in output.get("data", {})


def record_paper(tree: Tree, paper: str, preset: str, seeds: int, jobs: int) -> int:
    """Both files are replaced at the very end: an interrupted or failing recording leaves the old ones as they were.
    The seeds that it had finished are kept, and used by the next recording of the very same notebook, parameters and
    flowcore."""
    (paper,) = tree.choose([paper])
    if seeds < 3:
        raise BadInput(f"a band needs at least 3 seeds, not {seeds}")
    given = defaults(tree.notebook(paper))
    parameters = preset_parameters(tree.record(paper), preset, given)
    if preset == record.DEFAULT_PRESET:  # the notebook is where the default preset is edited
        # as a record holds them: papermill, like JSON, has no tuples
        parameters = json.loads(json.dumps({name: value for name, value in given.items() if name != "seed"}))
    missing = given.keys() - parameters.keys() - {"seed"}
    if "seed" not in given or missing:
        names = "seed among the notebook's parameters" if "seed" not in given else ", ".join(sorted(missing))
        raise BadInput(f"{paper}: preset {preset} lacks {names}")

    work = tree.build / "record" / f"{paper}.{preset}"
    if not finished(work / "recipe", recipe(tree.notebook(paper), parameters)):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        (work / "recipe").write_text(recipe(tree.notebook(paper), parameters))
    old = record.read(tree.record(paper))
    blank = {name: {"parameters": entry["parameters"]} for name, entry in old["presets"].items()}
    record.write(work / f"{paper}.json", old | {"presets": blank | {preset: {"parameters": parameters}}})
    results = measure(tree.notebook(paper), parameters, seeds, jobs, work)
    old = record.read(tree.record(paper))  # again: another preset may have been recorded meanwhile
    record.write(work / f"{paper}.json", old | {"presets": old["presets"] | {preset: combine(parameters, results)}})
    if preset == record.DEFAULT_PRESET:
        (failed,) = refresh({tree.notebook(paper): work}, jobs=1)
        if failed:
            raise NotebookFailed(failed)
    for path in (tree.record(paper), tree.notebook(paper)):
        if (work / path.name).exists():
            os.replace(work / path.name, path)
    shutil.rmtree(work)
    print(f"recorded preset {preset} of {paper} over {seeds} seeds")
    return 0


def recipe(notebook: Path, parameters: dict[str, object]) -> str:
    """A hash of what a recorded number depends on: the notebook's code, its parameters and flowcore."""
    content = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode())
    content.update("\n".join(cell.source for cell in code_cells(load(notebook))).encode())
    for path in sorted(Path(record.__file__).parent.rglob("*.py")):
        content.update(path.read_bytes())
    return content.hexdigest()


def finished(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


def measure(notebook: Path, parameters: dict[str, object], seeds: int, jobs: int, work: Path) -> list[dict]:
    """What each seed measured, now or in a recording that did not come to its end. Raises NotebookFailed."""
    label = f"{notebook.stem} seed"
    outputs = [work / f"seed_{seed}.ipynb" for seed in range(seeds)]
    runs = [Run(notebook, out, parameters | {"seed": i}, work, f"{label} {i}") for i, out in enumerate(outputs)]
    new = [task for task in runs if not (task.output.exists() and failure(load(task.output)) is None)]
    failures, results = execute(new, jobs), []
    for task in runs:
        failed = next(failures) if task in new else None
        if failed:
            raise NotebookFailed(f"{task.label}: {failed}; see {task.output}")
        results.append(fresh(load(task.output), task.label))
        print(f"{task.label}  " + ", ".join(f"{k} {v:.4g}" for k, v in results[-1]["metrics"].items()), flush=True)
    return results


def refresh(works: dict[Path, Path], jobs: int) -> Iterator[str | None]:
    """Leaves each notebook in its folder of work, executed at its defaults beside the record there: what failed in
    each, or None."""
    runs = [Run(path, work / "defaults.ipynb", {}, work, f"{path.stem} defaults") for path, work in works.items()]
    for task, failed in zip(runs, execute(runs, jobs), strict=True):
        if not failed:
            nbformat.write(cleaned(load(task.source), load(task.output)), task.cwd / task.source.name)
        yield f"{task.label}: {failed}; see {task.output}" if failed else None


def refresh_papers(tree: Tree, papers: Sequence[str], jobs: int) -> int:
    """The notebooks executed in place, beside the records that they have: for a change that moves no number. One that
    disagrees with its record is left as it was."""
    works = {tree.notebook(paper): tree.build / "refresh" / paper for paper in tree.choose(papers)}
    for path, work in works.items():
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        if tree.keeps_record(path.stem):
            shutil.copy(tree.record(path.stem), work)
    failures = []
    for (path, work), failed in zip(works.items(), refresh(works, jobs), strict=True):
        if failed:
            failures.append(failed)
            continue
        os.replace(work / path.name, path)
        shutil.rmtree(work)
        print(f"refreshed {path.stem}", flush=True)
    if failures:
        raise NotebookFailed("; ".join(failures))
    return 0


# --- new -----------------------------------------------------------------------------------------------------------


def new(tree: Tree, paper: str, title: str, url: str) -> int:
    """Copies the template, which runs under its own name, title and address: these three are replaced."""
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", paper):
        raise BadInput(f"{paper!r} is not a name like mean_flow: lower case, digits, single underscores")
    for path in (tree.notebook(paper), tree.record(paper)):
        if path.exists():
            raise BadInput(f"{path} exists already")
    template = tree.notebook(TEMPLATE)
    if not template.exists():
        raise BadInput(f"the template {template} is missing")
    notebook = load(template)
    for cell in notebook.cells:
        cell.source = cell.source.replace(TEMPLATE, paper)
        cell.source = cell.source.replace("TITLE OF THE PAPER", title).replace("https://example.org/paper", url)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    parameters = {name: value for name, value in defaults(template).items() if name != "seed"}
    presets = {record.DEFAULT_PRESET: {"parameters": parameters}}
    record.write(tree.record(paper), {"title": title, "url": url, "presets": presets})
    nbformat.write(notebook, tree.notebook(paper))
    print(f"{tree.notebook(paper)}\nwrite it, then: ci/replicate run {paper}, ci/replicate record {paper}")
    return 0


# --- the landscape -------------------------------------------------------------------------------------------------


def table(tree: Tree, check_only: bool) -> int:
    from flowcore import landscape  # here: it imports JAX

    before, after = with_block(tree, "landscape", landscape.table(tree.replications))
    if check_only and before != after:
        raise NotebookFailed("the table in README.md is out of date; ci/replicate table rewrites it")
    write_readme(tree, before, after)
    print("the table in README.md is up to date")
    return 0


def with_block(tree: Tree, name: str, content: str) -> tuple[str, str]:
    """README as it is, and with `content` between its lines `<!-- name -->` and `<!-- /name -->`."""
    readme, first, last = tree.root / "README.md", f"<!-- {name} -->", f"<!-- /{name} -->"
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    before, start, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not end:
        raise BadInput(f"{readme} needs a line {first} and, below it, a line {last}")
    return text, f"{before}{start}\n{content}\n{end}{after}"


def write_readme(tree: Tree, before: str, after: str) -> None:
    if after != before:
        (tree.root / "README.md").write_text(after, encoding="utf-8")


def list_methods(tree: Tree) -> int:
    """The rows of the survey's table, then the replications of what is not in it; of each, the presets not recorded."""
    from flowcore import landscape  # here: it imports JAX

    rows = [("method", "rule", "setting", "output", "cost", "measured", "1-step error", "replication", "not run")]
    for row, metrics in landscape.measured(tree.replications):
        numbers = [landscape.shown(metrics.get(name)) for name in ("cost", "endpoint_error_1")]
        known = (row.name, row.rule, row.setting, row.output, str(row.cost))
        here = metrics is not landscape.NOT_HERE
        rows.append((*known, *numbers, *((row.paper, not_run(tree, row.paper)) if here else ("not yet", ""))))
    for paper in sorted(set(tree.papers()) - {row.paper for row in landscape.METHODS}):
        metrics = record.read(tree.record(paper))["presets"][record.DEFAULT_PRESET].get("metrics", {})
        numbers = [landscape.shown(metrics.get(name)) for name in ("cost", "endpoint_error_1")]
        rows.append(("-", "", "", "", "", *numbers, paper, not_run(tree, paper)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
    return 0


def not_run(tree: Tree, paper: str) -> str:
    """The presets that nobody has recorded yet."""
    return ", ".join(name for name, preset in tree.presets(paper).items() if "metrics" not in preset)


# --- benchmarks ----------------------------------------------------------------------------------------------------


def run_benchmarks(tree: Tree, names: Sequence[str]) -> int:
    """Runs the named measurements, or all, and rewrites ci/bench.json, README's table and its figure after each."""
    from flowcore import bench, report  # here: they import JAX

    unknown = [name for name in names if name not in bench.MEASUREMENTS]
    if unknown:
        raise BadInput(f"no benchmark {', '.join(unknown)}; there are: {', '.join(bench.MEASUREMENTS)}")
    place = tree.root / "ci" / "bench.json"
    recorded = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {}
    with_block(tree, "bench", "")  # refuses a README without a place for the table before an hour is spent
    for name in names or bench.MEASUREMENTS:
        if name == "peers":
            make_peers(tree)
        where, started = record.provenance() | {"load": os.getloadavg()[0]}, time.perf_counter()
        recorded[name] = {"recorded": where, "numbers": bench.MEASUREMENTS[name]()}
        print(f"{name}: {time.perf_counter() - started:.0f} s, at a load of {where['load']:.1f}", flush=True)
        ordered = {name: recorded[name] for name in bench.MEASUREMENTS if name in recorded}
        record.write_whole(place, ordered)
        write_readme(tree, *with_block(tree, "bench", report.table(ordered)))
        if name == "steps":
            report.figure(ordered).savefig(tree.root / ".github" / "bench.png", metadata={"Software": None}, dpi=144)
    print(report.table(ordered))
    return 0


def make_peers(tree: Tree) -> None:
    """The environment that `ci/peers.py` runs in, made again when its packages change."""
    folder, wanted = tree.build / "peers", "\n".join(PEERS)
    if finished(folder / "stamp", wanted):
        return
    print(f"installing {', '.join(PEERS)} into {folder}", file=sys.stderr, flush=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-input"]
    commands = [[sys.executable, "-m", "venv", "--clear", folder]]
    commands += [[*pip, *options, package] for package, options in PEERS.items()]
    for command in commands:
        if subprocess.run(command).returncode:
            raise NotebookFailed(f"the peer's environment could not be made: {' '.join(map(str, command))}")
    (folder / "stamp").write_text(wanted)


# --- site ----------------------------------------------------------------------------------------------------------

FRONT = "100_landscape"
STYLE = (
    "<style>.jp-RenderedMarkdown pre { font-family: var(--jp-code-font-family, monospace); }</style>"  # else it is text
)


def site(tree: Tree) -> int:
    """Every notebook as a page under build/site, as it was recorded; the landscape is the front page."""
    names = [path.stem for path in sorted((tree.root / "notebooks").glob("*.ipynb")) if path.stem != TEMPLATE]
    if FRONT not in names:
        raise BadInput(f"the front page {tree.notebook(FRONT)} is missing")
    exporter = page_exporter(exclude_input_prompt=True, exclude_output_prompt=True)
    top = tree.build / "site"
    shutil.rmtree(top, ignore_errors=True)
    for name in names + tree.papers():
        notebook, above = load(tree.notebook(name)), "" if name == FRONT else "../"
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = linked(cell.source, name)
            for output in cell.get("outputs", []):
                if text := output.get("data", {}).get("text/markdown"):
                    output["data"]["text/markdown"] = linked(text, name)
        notebook.cells.insert(0, nbformat.v4.new_markdown_cell(contents(tree, names, above)))
        notebook.metadata["title"] = name
        page = top / ("index.html" if name == FRONT else f"{tree.folder(name).name}/{name}.html")
        page.parent.mkdir(parents=True, exist_ok=True)
        body, _ = exporter.from_notebook_node(notebook)
        page.write_text(body.replace("</head>", f"{STYLE}</head>", 1), encoding="utf-8")
    print(top / "index.html")
    return 0


def linked(text: str, name: str) -> str:
    """Links to notebooks become links to their pages; the front page lies one folder higher than its notebook."""

    def page(link: re.Match) -> str:
        folder, target, anchor = link[1], link[2], link[3] or ""
        if name == FRONT:
            folder = folder.removeprefix("../") or "notebooks/"
        if target == FRONT:
            folder, target = "" if name == FRONT else "../", "index"
        return f"]({folder}{target}.html{anchor})"

    return re.sub(r"\]\(((?:\.\./)?(?:\w+/)?)(\w+)\.ipynb(#[^)\s]*)?\)", page, text)


def contents(tree: Tree, names: list[str], above: str) -> str:
    """The line of links at the top of every page."""
    reading = [f"[{name}]({above}notebooks/{name}.html)" for name in names if name != FRONT]
    papers = [f"[{name}]({above}replications/{name}.html)" for name in tree.papers()]
    return " · ".join([f"[{FRONT}]({above}index.html)", *reading, *papers])


def lab(tree: Tree) -> int:
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={tree.root}"])


# --- the command line ----------------------------------------------------------------------------------------------


class OneLineParser(argparse.ArgumentParser):
    def error(self, message: str):
        raise BadInput(f"{message} ({self.prog} --help)")


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def command_line() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="ci/replicate", description="Run, check and record the replications.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    verbs.add_parser("list", help="the methods and the replications, and what was measured of them")
    verb = verbs.add_parser("run", help="execute notebooks into build/, with other parameters if wished")
    verb.add_argument("papers", nargs="*", metavar="PAPER", help="a name of the list, or all")
    verb.add_argument("-p", dest="assignments", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    verb.add_argument("--preset", help="a named set of parameters from the notebook's JSON file")
    verb.add_argument("--jobs", type=positive, default=1, help="notebooks at a time")
    verb = verbs.add_parser("check", help="rerun recorded notebooks as they are and compare (nbval)")
    verb.add_argument("papers", nargs="*", metavar="PAPER", help="default: all")
    verb.add_argument("--since", metavar="REVISION", help="those that changed since; all, when the code did")
    verb = verbs.add_parser("record", help="measure over seeds and write the JSON file and the notebook")
    verb.add_argument("paper", metavar="PAPER")
    verb.add_argument("--preset", default=record.DEFAULT_PRESET)
    verb.add_argument("--seeds", type=positive, help="default: 5 on the mixture, 3 elsewhere")
    verb.add_argument("--jobs", type=positive, default=1, help="seeds at a time")
    verb = verbs.add_parser("refresh", help="execute notebooks in place, for a change that moves no number")
    verb.add_argument("papers", nargs="*", metavar="PAPER", help="a name of the list, or all")
    verb.add_argument("--jobs", type=positive, default=1, help="notebooks at a time")
    verb = verbs.add_parser("new", help="a new replication from the template")
    verb.add_argument("paper", metavar="PAPER")
    verb.add_argument("--title", required=True)
    verb.add_argument("--url", required=True)
    verb = verbs.add_parser("table", help="rewrite the landscape table in README.md")
    verb.add_argument("--check", action="store_true", help="only say whether it is up to date")
    verb = verbs.add_parser("bench", help="time and memory on this machine, into ci/bench.json and README.md")
    verb.add_argument("names", nargs="*", metavar="NAME", help="default: all, about twelve minutes")
    verbs.add_parser("site", help="every notebook as a page under build/site, the landscape in front")
    verbs.add_parser("lab", help="JupyterLab in this environment")
    return parser


def dispatch(arguments: argparse.Namespace, tree: Tree) -> int:
    match arguments.verb:
        case "list":
            return list_methods(tree)
        case "run":
            return run(tree, arguments.papers, arguments.preset, arguments.assignments, arguments.jobs)
        case "check":
            return check(tree, arguments.papers, arguments.since)
        case "record":
            seeds = arguments.seeds or (5 if arguments.preset == record.DEFAULT_PRESET else 3)
            return record_paper(tree, arguments.paper, arguments.preset, seeds, arguments.jobs)
        case "refresh":
            return refresh_papers(tree, arguments.papers, arguments.jobs)
        case "new":
            return new(tree, arguments.paper, arguments.title, arguments.url)
        case "table":
            return table(tree, arguments.check)
        case "bench":
            return run_benchmarks(tree, arguments.names)
        case "site":
            return site(tree)
        case "lab":
            return lab(tree)


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Exit code of one command; `root` is the repository it works on."""
    try:
        return dispatch(command_line().parse_args(arguments), Tree(root))
    except (BadInput, record.RecordError) as error:
        print(f"replicate: {error}", file=sys.stderr)
        return 2
    except NotebookFailed as error:
        print(f"replicate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("replicate: interrupted; nothing recorded was changed", file=sys.stderr)
        return 130
    except BrokenPipeError:  # of `list | head`; what is left to print goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # after a failure or an interruption other notebooks may still run: their kernels end with us
