"""`record`: a notebook measured over seeds, into its JSON file."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from commands import code, combination, files, fingerprint, notebooks, parameters
from commands.arguments import positive
from commands.errors import BadInput, NotebookFailed, first_line
from commands.execution import Run, execute, require_device
from commands.refresh import refresh, show_result
from commands.run import portable
from commands.tree import Tree
from flowcore import record
from flowcore.recording.claims import companions

SOURCES = (".py", ".npz", ".tsv")  # of flowcore: its code and the data that lies in it
SEEDS = {"garments": 8, "garments_4x": 5, "garments_sharp": 5, "garments_sharper": 5, "ring": 5, "mixture": 5}  # else 3
SET_UPS = {  # of the machine, under which the same seed should give the same numbers, beside another number of threads
    "avx2": {"XLA_FLAGS": "--xla_cpu_max_isa=AVX2"},
    "other_fusion": {"XLA_FLAGS": "--xla_cpu_use_fusion_emitters=false"},
}


def record_paper(tree: Tree, paper: str, preset: str | None, seeds: int | None, jobs: int) -> int:
    """Both files are replaced at the very end: an interrupted or failing recording leaves the old ones as they were.
    The seeds that it had finished are kept, and used by the next recording of the very same notebook, parameters and
    flowcore in the same environment."""
    (paper,) = one(tree.choose([paper]))
    default = tree.default_preset(paper)
    preset = preset or default
    seeds = seeds or SEEDS.get(preset, 3)
    if seeds < 3:
        raise BadInput(f"a band needs at least 3 seeds, not {seeds}")
    given = asked_for(tree, paper, preset)
    require_device()
    with tree.lock_record(paper):
        work = tree.build / "record" / f"{paper}.{portable(preset)}"
        wanted, depends = recipe(tree, paper, given), code.of(tree, paper, given)
        if not finished(work / "recipe", wanted):
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            files.write(work / "recipe", wanted)
        old = record.read(tree.record(paper))
        blank = {name: {"parameters": entry["parameters"]} for name, entry in old["presets"].items()}
        write(work / f"{paper}.json", old | {"presets": blank | {preset: {"parameters": given}}})
        # what differs from seed to seed is data: a program is compiled once
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(tree.build / "jax-cache"))
        results = measure(tree.notebook(paper), given, seeds, jobs, work)
        if recipe(tree, paper, given) != wanted:
            raise NotebookFailed(f"{paper}: its code was edited while it was recorded, so its seeds may differ: again")
        others = (
            vary(tree.notebook(paper), given, work)
            if combination.under_protocol(results) and preset not in companions(default)
            else []
        )
        old = record.read(tree.record(paper))  # again: somebody may have edited it meanwhile
        new = combination.combine(given, results, others) | {"recorded": provenance() | {"seconds": duration(work)}}
        if preset == default and (taken := fingerprint.of(tree.notebook(paper))):
            new["fingerprint"] = taken
        new["code"] = depends
        write(work / f"{paper}.json", old | {"presets": old["presets"] | {preset: new}})
        if preset == default:
            (failed,) = refresh({tree.notebook(paper): work}, jobs=1)
            if failed:
                raise NotebookFailed(failed)
        else:
            show_result(tree.notebook(paper), work)
        both = tree.record(paper), tree.notebook(paper)
        files.move({work / path.name: path for path in both if (work / path.name).exists()})
        shutil.rmtree(work)
    print(f"recorded preset {preset} of {paper} over {seeds} seeds")
    return 0


def one(papers: list[str]) -> list[str]:
    """`all` may be many, or none."""
    if len(papers) != 1:
        raise BadInput(f"record takes one replication at a time, not {', '.join(papers) or 'none'}")
    return papers


def asked_for(tree: Tree, paper: str, preset: str) -> dict[str, object]:
    """The parameters of a preset without the seed, all of them. Raises BadInput when one is missing."""
    known = parameters.of_notebook(tree.notebook(paper))
    given = parameters.of_preset(tree.record(paper), preset, known)
    if preset == tree.default_preset(paper):  # the notebook is where the default preset is edited
        # as a record holds them: papermill, like JSON, has no tuples
        here = {name: parameter.default for name, parameter in known.items() if name != "seed"}
        given = json.loads(json.dumps(here))
    missing = known.keys() - given.keys() - {"seed"}
    if "seed" not in known or missing:
        names = "seed among the notebook's parameters" if "seed" not in known else ", ".join(sorted(missing))
        raise BadInput(f"{paper}: preset {preset} lacks {names}")
    return given


def write(path: Path, content: dict) -> None:
    with files.naming(path):
        record.write(path, content)


def recipe(tree: Tree, paper: str, given: dict[str, object]) -> str:
    """A hash of what a recorded number depends on: the notebook's code, its parameters, flowcore with the data that
    lies in it, and the versions of the packages."""
    import flowcore

    content = hashlib.sha256(json.dumps(given, sort_keys=True).encode())
    cells = notebooks.code_cells(notebooks.read(tree.notebook(paper)))
    content.update("\n".join(cell["source"] for cell in cells).encode())
    for path in sorted(Path(flowcore.__file__).parent.rglob("*")):
        if path.suffix in SOURCES:
            content.update(path.read_bytes())
    with contextlib.suppress(FileNotFoundError):  # an environment of one's own has no pins
        content.update((tree.root / "ci" / "requirements.txt").read_bytes())
    return content.hexdigest()


def finished(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


def measure(notebook: Path, given: dict[str, object], seeds: int, jobs: int, work: Path) -> list[dict]:
    """What each seed measured, now or in a recording that did not come to its end. Raises NotebookFailed."""
    label = f"{notebook.stem} seed"
    outputs = [work / f"seed_{seed}.ipynb" for seed in range(seeds)]
    runs = [Run(notebook, out, given | {"seed": i}, work, f"{label} {i}") for i, out in enumerate(outputs)]
    new = [task for task in runs if not measured(task.output)]
    failures, results = execute(new, jobs), []
    for task in runs:
        failed = next(failures) if task in new else None
        if failed:
            raise NotebookFailed(f"{task.label}: {failed}; see {task.output}")
        results.append(fresh(notebooks.load(task.output), task.label))
        print(f"{task.label}  " + ", ".join(f"{k} {v:.4g}" for k, v in results[-1]["metrics"].items()), flush=True)
    return results


def measured(output: Path) -> bool:
    """Whether an earlier recording came to the end of this seed; what it left half written does not count."""
    with contextlib.suppress(NotebookFailed):
        return output.exists() and notebooks.failure(notebooks.read(output)) is None
    return False


def fresh(notebook, label: str) -> dict:
    """Metrics and claims that `record.check` left in the last output's metadata. Raises NotebookFailed."""
    outputs = notebooks.code_cells(notebook)[-1].outputs
    found = [output.metadata[record.MIME] for output in outputs if record.MIME in output.get("metadata", {})]
    if not found:
        raise NotebookFailed(f"{label}: the last cell does not call record.check")
    numbers = found[-1]["metrics"].items(), *(group.items() for group in found[-1].get("statistics", {}).values())
    wrong = [f"{name} is {value}" for group in numbers for name, value in group if not record.is_number(value)]
    if wrong:
        raise NotebookFailed(f"{label}: {', '.join(wrong)}")
    return found[-1]


def duration(work: Path) -> int:
    """Seconds of the first seed, which compiles, as a rerun does."""
    first = work / "seed_0.ipynb"
    return round(notebooks.load(first).metadata["papermill"]["duration"]) if first.exists() else 0


def vary(notebook: Path, given: dict[str, object], work: Path) -> list[dict]:
    """Seed 0 once more under every other set-up of this machine: what its numbers move by is their drift."""
    found, threads = [], {"NPROC": "2" if os.environ.get("NPROC") == "1" else "1"}
    for name, variables in {"other_threads": threads, **SET_UPS}.items():
        output = work / f"{name}.ipynb"
        task = Run(notebook, output, given | {"seed": 0}, work, f"{notebook.stem} {name}")
        if not measured(output):
            with environment(variables):
                (failed,) = execute([task], jobs=1)
            if failed:
                raise NotebookFailed(f"{task.label}: {failed}; see {output}")
        found.append(fresh(notebooks.load(output), task.label))
    return found


@contextlib.contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Kernels that start within it have these variables, flags of XLA beside those that are set."""
    before = dict(os.environ)
    flags = f"{before.get('XLA_FLAGS', '')} {variables.get('XLA_FLAGS', '')}".strip()
    os.environ.update(variables | ({"XLA_FLAGS": flags} if flags else {}))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def provenance() -> dict:
    """In a process of its own: one that asks JAX for its devices may keep them from the kernels that come after."""
    code = "import json; from flowcore import record; print(json.dumps(record.provenance()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        reason = first_line((done.stderr.strip().splitlines() or ["?"])[-1])
        raise NotebookFailed(f"where this is recorded cannot be said: {reason}")
    return json.loads(done.stdout.splitlines()[-1])


def add(verbs) -> None:
    verb = verbs.add_parser("record", help="measure over seeds and write the JSON file and the notebook")
    verb.add_argument("paper", metavar="PAPER")
    verb.add_argument("--preset", help="default: the one that stands in the notebook")
    verb.add_argument("--seeds", type=positive, help="default: 8 of garments, 5 of the ring, 3 elsewhere")
    verb.add_argument("--jobs", type=positive, default=1, help="seeds at a time")

    verb.set_defaults(
        command=lambda asked, tree: record_paper(tree, asked.paper, asked.preset, asked.seeds, asked.jobs)
    )
