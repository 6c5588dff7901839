"""Static guards on every recorded notebook, because nbval passes silently on cells that never ran or were stripped.

A guard returns what is wrong in words. Each is shown to fail on a spoilt copy of a small good notebook.
"""

import ast
import copy
import functools
import io
import re
import tokenize
from pathlib import Path

import nbformat
import pytest
from problems import prepare_fake_fashion

import flowcore
from commands.__main__ import main
from commands.notebooks import code_cells, failure, tagged
from commands.tree import TEMPLATE
from flowcore import plots, record
from flowcore.methods import METHODS
from flowcore.recording import claims

ROOT = Path(__file__).resolve().parent.parent
REPLICATIONS = ROOT / "replications"
PAPERS = sorted(path.stem for path in REPLICATIONS.glob("*.ipynb"))
READING = sorted(path for path in (ROOT / "notebooks").glob("*.ipynb") if path.stem != TEMPLATE)
SECTIONS = ["2 Notation", "3 Parameters", "4 Task", "5 The equality", "6 Training", "7 Samples", "8 Claims"]
SECTIONS += ["9 Recorded metrics"]
FAMILY = record.FAMILIES[0]  # what a record is of that does not say: a flow map
METRICS = ["cost", *record.METRICS[FAMILY]]
JUMPS = ["endpoint_error_2", "endpoint_error_4"]
JUMPS += ["lagrangian_residual", "eulerian_residual", "compositional_residual"]
RENOISED = ["energy_distance_2", "energy_distance_4"]  # of a map that was learned at t = 0 only
FROM_NOISE = ["path_error_75", "path_error_50", "path_error_25"]  # of one that was learned at s = 1 only
RUNGS = ["endpoint_error_2", "endpoint_error_4", "level_error_7", "level_error_0"]  # of one told the level of its jump
LARGEST = 600_000


# --- the guards: (notebook, its record, its name) -> problems ------------------------------------------------------


def sections(notebook, kept, paper):
    """Nine sections, the same in every notebook; the title is the first."""
    first = notebook.cells[0]
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    found = [heading for text in texts for heading in re.findall(r"^## +(.+?) *$", text, re.M)]
    problems = (
        [] if first.cell_type == "markdown" and first.source.startswith("# ") else ["it must begin with a # title"]
    )
    return problems + ([f"sections {found} are not {SECTIONS}"] if found != SECTIONS else [])


def parameters_cell(notebook, kept, paper):
    """One line per parameter: annotated, literal, commented."""
    cells = [cell for cell in code_cells(notebook) if tagged(cell, "parameters")]
    if len(cells) != 1:
        return [f"{len(cells)} cells tagged parameters"]
    problems = [f"`{line}` is no commented literal" for line in cells[0].source.splitlines() if not is_parameter(line)]
    return problems or ([] if "seed" in defaults(notebook) else ["no parameter named seed"])


def is_parameter(line):
    """`steps: int = 4000  # what it is`"""
    try:
        (statement,) = ast.parse(line).body
        ast.literal_eval(statement.value)
    except (SyntaxError, ValueError, AttributeError):
        return False
    comments = [
        token for token in tokenize.generate_tokens(io.StringIO(line).readline) if token.type == tokenize.COMMENT
    ]
    return isinstance(statement, ast.AnnAssign) and len(comments) == 1


def defaults(notebook):
    (cell,) = (cell for cell in code_cells(notebook) if tagged(cell, "parameters"))
    return {line.target.id: ast.literal_eval(line.value) for line in ast.parse(cell.source).body}


def executed(notebook, kept, paper):
    """From top to bottom in one go, without an error."""
    counts = [cell.execution_count for cell in code_cells(notebook)]
    in_order = counts == list(range(1, len(counts) + 1))
    problems = [] if in_order else [f"execution counts {counts}; ci/replicate record {paper}"]
    return problems + [text for text in [failure(notebook)] if text]


def outputs(notebook, kept, paper):
    """Nothing that changes from run to run: no warnings or progress bars, no live widgets."""
    found = [output for cell in code_cells(notebook) for output in cell.outputs]
    problems = ["output on stderr" for output in found if output.get("name") == "stderr"]
    return problems + ["a widget" for output in found if any("widget" in kind for kind in output.get("data", {}))]


def metadata(notebook, kept, paper):
    """Neither papermill's nor JupyterLab's notes on one execution."""
    problems = [f"metadata.{key}" for key in ("papermill", "widgets") if key in notebook.metadata]
    for cell in notebook.cells:
        problems += [f"{key} metadata of cell {cell.id}" for key in ("papermill", "execution") if key in cell.metadata]
        problems += [f"cell {cell.id} was injected"] if tagged(cell, "injected-parameters") else []
    return problems


def portable(notebook, kept, paper):
    """The same notebook everywhere: its parameters are all it depends on."""
    problems = []
    for cell in code_cells(notebook):
        problems += ["os.environ"] if re.search(r"\b(environ|getenv)\b", cell.source) else []
        problems += [
            f"absolute path {path}" for path in re.findall(r"""["'](/\w[^"']*|~/[^"']*|\w:[\\/][^"']*)""", cell.source)
        ]
        shown = [output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in cell.outputs]
        problems += [
            f"path {path} in an output" for path in re.findall(r"/(?:home|root|tmp|Users)/\S+", "".join(shown))
        ]
    return problems


def last_cell(notebook, kept, paper):
    """One call of record.check, compared by nbval, whose stored text is a good one."""
    cell = notebook.cells[-1]
    if cell.cell_type != "code" or not tagged(cell, "nbval-check-output"):
        return ["the last cell is not tagged nbval-check-output"]
    body = ast.parse(cell.source).body
    call = body[0].value if len(body) == 1 and isinstance(body[0], ast.Expr) else None
    if not isinstance(call, ast.Call) or ast.unparse(call.func) != "record.check":
        return ["the last cell is not one call of record.check"]
    problems = [] if ast.unparse(call.args[0]) == repr(paper) else [f"it checks {ast.unparse(call.args[0])}"]
    text = stored_text(notebook)
    return problems + ([] if " ok" in text and "OUT OF BAND" not in text else [f"stored verdict: {text!r}"])


def stored_text(notebook):
    return "".join(output.get("data", {}).get("text/plain", "") for output in notebook.cells[-1].outputs)


def metrics(notebook, kept, paper):
    """The stored text judges exactly what is recorded, and what its family asks for is there; of a flow map also the
    metrics of jumps of any length, or of a map that knows some: to the data, from noise, or by halves."""
    family = kept.get("family", FAMILY)
    recorded = kept["presets"][record.default_preset(kept)].get("metrics", {})
    judged = re.findall(r"^(\S+) +\S+ +(?:exact|\[.*\]) +ok$", stored_text(notebook), re.M)
    problems = [f"recorded {sorted(recorded)}, judged {sorted(judged)}"] if sorted(recorded) != sorted(judged) else []

    def missing(names):
        return [name for name in names if not any(f"_{found}".endswith(f"_{name}") for found in recorded)]

    absent = missing(["cost", *record.METRICS[family]])
    if family == FAMILY and all(map(missing, (RENOISED, FROM_NOISE, RUNGS))):
        absent += missing(JUMPS)
    return problems + ([f"no {', '.join(absent)}"] if absent else [])


def default_preset(notebook, kept, paper):
    """The recorded default preset is what the parameters cell says."""
    recorded = kept["presets"][record.default_preset(kept)]["parameters"]
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults(notebook).items()}
    given.pop("seed", None)
    return [f"recorded {recorded}, defaults {given}"] if recorded != given else []


def size(notebook, kept, paper):
    """Small enough to read over a slow line and to keep in git."""
    length = len(nbformat.writes(notebook))
    return [f"{length} bytes"] if length >= LARGEST else []


def verdicts(notebook, kept, paper):
    """Every verdict is what the recorded seeds say, and the result on top of the notebook is that of the record."""
    problems = []
    for name, preset in kept["presets"].items():
        for entry in claims.recorded(kept["presets"], name).values():
            found = claims.judge(claims.stated(entry), preset["statistics"])
            if found["verdict"] != entry["verdict"] or found.get("ratio") != pytest.approx(entry.get("ratio")):
                problems.append(f"preset {name}, claim {entry['id']}: the seeds say {found['verdict']}")
    default = record.default_preset(kept)
    if claims.recorded(kept["presets"], default):
        shown = [cell for cell in code_cells(notebook) if "record.result(" in cell.source]
        texts = [output.get("data", {}).get("text/markdown") for cell in shown for output in cell.outputs]
        stale = record.result_text(kept["presets"], default) not in texts
        problems += [f"the result that is shown is another; ci/replicate refresh {paper}"] if stale else []
    return problems


def budgets(notebook, kept, paper):
    """The second budget trains everything four times as long, and is else the first."""
    problems = []
    for name, longer in claims.LONGER.items():
        if name in kept["presets"] and longer in kept["presets"]:
            here, there = (kept["presets"][preset]["parameters"] for preset in (name, longer))
            wanted = {key: 4 * value if re.search(r"(^|_)steps$", key) else value for key, value in here.items()}
            problems += [f"{longer} is {there}, not {wanted}"] if there != wanted else []
    return problems


def sources(notebook, kept, paper):
    """The code that a notebook shows is the code that there is."""
    problems = []
    for cell in code_cells(notebook):
        if shown := re.fullmatch(r"plots\.source\(([\w., ]+)\)", cell.source.strip()):
            names = [name.strip().removeprefix("flowcore.").split(".") for name in shown[1].split(",")]
            if not all(hasattr(flowcore, name[0]) for name in names):
                continue  # written in the notebook itself
            functions = [functools.reduce(getattr, name, flowcore) for name in names]
            texts = [output.get("data", {}).get("text/markdown") for output in cell.outputs]
            stale = plots.source(*functions).data not in texts
            problems += [f"the code of {shown[1]} is shown otherwise; ci/replicate refresh {paper}"] if stale else []
    return problems


PLAIN = [parameters_cell, executed, outputs, metadata, portable, size]  # of what is tied to no paper, too
RECORDED = [last_cell, default_preset]
GUARDS = [*PLAIN, *RECORDED, sections, metrics, verdicts, budgets, sources]


# --- the notebooks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
@pytest.mark.parametrize("paper", PAPERS)
def test_replication(paper, guard):
    notebook = nbformat.read(REPLICATIONS / f"{paper}.ipynb", as_version=4)
    assert guard(notebook, record.read(REPLICATIONS / f"{paper}.json"), paper) == []


@pytest.mark.parametrize("path", READING, ids=lambda path: path.stem)
def test_reading_path(path):
    notebook, there = nbformat.read(path, as_version=4), path.with_suffix(".json")
    kept = record.read(there) if there.exists() else None
    guards = [*PLAIN, *(RECORDED if kept else [])]
    assert [problem for guard in guards for problem in guard(notebook, kept, path.stem)] == []


def test_notebooks_and_records_come_in_pairs():
    assert sorted(path.stem for path in REPLICATIONS.glob("*.json")) == PAPERS


def test_the_id_of_a_claim_belongs_to_one_paper():
    kept = {paper: record.read(REPLICATIONS / f"{paper}.json")["presets"] for paper in PAPERS}
    ids = [
        (key, paper)
        for paper in PAPERS
        for key in {k for name in kept[paper] for k in claims.recorded(kept[paper], name)}
    ]
    shared = {key for key, _ in ids if sum(key == other for other, _ in ids) > 1}
    assert not shared, f"{sorted(shared)}: give them the prefix of their own paper"


def test_methods_that_are_here_have_their_replication():
    here = {row.paper for row in METHODS if row.terms is not None}
    assert not PAPERS or here <= set(PAPERS)


IMAGES = [paper for paper in PAPERS if "images" in record.read(REPLICATIONS / f"{paper}.json")["presets"]]


@pytest.mark.slow
@pytest.mark.parametrize("paper", IMAGES)
def test_the_preset_for_accelerators_runs_at_its_smallest(paper, tmp_path, monkeypatch):
    """One to eleven minutes each. It shows that the code runs on images of 28x28 in bfloat16, not what it learns."""
    prepare_fake_fashion(tmp_path, monkeypatch, train=512, test=512)
    given = defaults(nbformat.read(REPLICATIONS / f"{paper}.ipynb", as_version=4))
    small = {"source": "tiny_fashion_mnist", "steps": 10, "batch": 8, "width": 8, "depth": 1}
    small |= {name: 2 for name in ("guided_steps", "weak_steps") if name in given}
    small |= {"levels": 2} if "levels" in given else {}  # else sampling in 1 to 128 steps takes ten minutes
    assignments = [word for name, value in small.items() for word in ("-p", name, str(value))]
    assert main(["run", paper, "--preset", "images", *assignments]) == 0


# --- the guards can fail -------------------------------------------------------------------------------------------


def good_notebook():
    """The least that passes every guard."""
    code, markdown, output = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell, nbformat.v4.new_output
    lines = [f"{name}  4  exact  ok" for name in METRICS + JUMPS]
    cells = [markdown("# A paper", id="title")]
    cells += [markdown(f"## {name}\n\ntext", id=f"section{name[0]}") for name in SECTIONS]
    source = "steps: int = 10  # how many\nrates: tuple = (0.1, 0.2)  # some '#' rates\nseed: int = 0  # any"
    cells.insert(3, code(source, id="parameters", metadata={"tags": ["parameters"]}, execution_count=1))
    printed = [output("stream", name="stdout", text="trained in 3 s")]
    cells.insert(7, code("error = 1 / steps", id="train", execution_count=2, outputs=printed))
    verdict = [output("display_data", data={"text/plain": "\n".join(["paper", *lines])})]
    source = "record.check('paper', parameters=globals(), metrics={})"
    tags = {"tags": ["nbval-check-output"]}
    cells.append(code(source, id="check", metadata=tags, execution_count=3, outputs=verdict))
    return nbformat.v4.new_notebook(cells=cells)


def good_record():
    metric = {"mean": 4, "spread": 0.0, "band": None, "seeds": [4]}
    preset = {"parameters": {"steps": 10, "rates": [0.1, 0.2]}, "metrics": {name: metric for name in METRICS + JUMPS}}
    return {"presets": {"mixture": preset}}


def cell(notebook, name):
    return next(cell for cell in notebook.cells if cell.id == name)


def edit(name, old, new):
    """Replaces text in a cell's source, and fails when it is not there."""

    def spoil(notebook, kept):
        assert old in cell(notebook, name).source
        cell(notebook, name).source = cell(notebook, name).source.replace(old, new)

    return spoil


def show(identity, kind, **entries):
    return lambda notebook, kept: cell(notebook, identity).outputs.append(nbformat.v4.new_output(kind, **entries))


def rename(notebook, kept, old, new):
    verdict(f"{old} ", f"{new} ")(notebook, kept)
    recorded = kept["presets"]["mixture"]["metrics"]
    recorded[new] = recorded.pop(old)


def verdict(old, new):
    def spoil(notebook, kept):
        data = notebook.cells[-1].outputs[0].data
        assert old in data["text/plain"]
        data["text/plain"] = data["text/plain"].replace(old, new, 1)

    return spoil


SPOILT = [
    (sections, "swapped", lambda n, k: n.cells.insert(1, n.cells.pop(2))),
    (sections, "missing", edit("section6", "## 6 Training", "### 6 Training")),
    (sections, "renamed", edit("section4", "4 Task", "4 Data")),
    (sections, "no title", edit("title", "# A", "A")),
    (parameters_cell, "no tag", lambda n, k: cell(n, "parameters").metadata.update(tags=[])),
    (parameters_cell, "two", lambda n, k: cell(n, "train").metadata.update(tags=["parameters"])),
    (parameters_cell, "no annotation", edit("parameters", "steps: int", "steps")),
    (parameters_cell, "no comment", edit("parameters", "  # how many", "")),
    (parameters_cell, "computed", edit("parameters", "= 10", "= 2 * 5")),
    (parameters_cell, "no seed", edit("parameters", "seed", "sead")),
    (executed, "not executed", lambda n, k: cell(n, "train").update(execution_count=None)),
    (executed, "twice", lambda n, k: cell(n, "check").update(execution_count=4)),
    (executed, "error", show("train", "error", ename="E", evalue="e", traceback=[])),
    (outputs, "stderr", show("train", "stream", name="stderr", text="42%")),
    (outputs, "widget", show("train", "display_data", data={"application/vnd.jupyter.widget-view+json": {}})),
    (metadata, "papermill", lambda n, k: n.metadata.update(papermill={})),
    (metadata, "widgets", lambda n, k: n.metadata.update(widgets={})),
    (metadata, "cell", lambda n, k: cell(n, "train").metadata.update(papermill={})),
    (metadata, "time", lambda n, k: cell(n, "train").metadata.update(execution={})),
    (metadata, "injected", lambda n, k: cell(n, "train").metadata.update(tags=["injected-parameters"])),
    (portable, "environment", edit("train", "1 /", "os.environ['A'] /")),
    (portable, "path", edit("train", "1 /", "open('/data/x') /")),
    (portable, "home", edit("train", "1 /", 'open("~/x") /')),
    (portable, "output", show("train", "stream", name="stdout", text="saved in /home/me/x")),
    (last_cell, "no tag", lambda n, k: n.cells[-1].metadata.update(tags=[])),
    (last_cell, "not last", lambda n, k: n.cells.append(nbformat.v4.new_markdown_cell("bye"))),
    (last_cell, "two statements", edit("check", "record.check", "print(1); record.check")),
    (last_cell, "another call", edit("check", "record.check", "print")),
    (last_cell, "another paper", edit("check", "'paper'", "'papre'")),
    (last_cell, "no output", lambda n, k: n.cells[-1].outputs.clear()),
    (last_cell, "out of band", verdict("ok", "measured 3 OUT OF BAND")),
    (metrics, "not judged", verdict("cost  4  exact  ok\n", "")),
    (metrics, "not recorded", lambda n, k: k["presets"]["mixture"]["metrics"].pop("cost")),
    (metrics, "not renoised either", lambda n, k: rename(n, k, "endpoint_error_2", "energy_distance_2")),
    (metrics, "not on the way either", lambda n, k: rename(n, k, "endpoint_error_2", "path_error_50")),
    (metrics, "not on every rung either", lambda n, k: rename(n, k, "lagrangian_residual", "level_error_0")),
    (metrics, "not shared", lambda n, k: [k["presets"]["mixture"].pop("metrics"), n.cells[-1].outputs.clear()]),
    (default_preset, "value", edit("parameters", "= 10", "= 20")),
    (default_preset, "name", lambda n, k: k["presets"]["mixture"]["parameters"].pop("steps")),
    (size, "large", show("train", "stream", name="stdout", text="x" * LARGEST)),
]


def test_a_good_notebook_passes_every_guard():
    nbformat.validate(good_notebook())
    assert [problem for guard in GUARDS for problem in guard(good_notebook(), good_record(), "paper")] == []


def stated():
    """A good notebook and record that state a claim."""
    notebook, kept = good_notebook(), copy.deepcopy(good_record())
    preset = kept["presets"]["mixture"]
    seeds = {"ours": [1.0, 1.1, 0.9], "theirs": [3.0, 3.2, 2.8]}
    preset["statistics"] = {"error": {name: {"seeds": values, "drift": 0.0} for name, values in seeds.items()}}
    one = claims.Claim("P-1", "ours is better", "paper", "error", "ours", "better", "theirs")
    preset["claims"] = [claims.judge(one.definition(), preset["statistics"])]
    shown = {"text/markdown": record.result_text(kept["presets"], "mixture")}
    result = [nbformat.v4.new_output("display_data", data=shown)]
    notebook.cells.insert(1, nbformat.v4.new_code_cell("record.result('paper')", id="result", outputs=result))
    return notebook, kept


def test_a_verdict_that_the_seeds_do_not_give_is_named():
    notebook, kept = stated()
    assert verdicts(notebook, kept, "paper") == []
    kept["presets"]["mixture"]["claims"][0]["verdict"] = "contradicted"  # by hand
    first, second = verdicts(notebook, kept, "paper")
    assert first == "preset mixture, claim P-1: the seeds say supported"
    assert second == "the result that is shown is another; ci/replicate refresh paper"
    notebook, kept = stated()
    kept["presets"]["mixture"]["statistics"]["error"]["ours"]["seeds"] = [6.0, 6.1, 5.9]
    assert verdicts(notebook, kept, "paper") == ["preset mixture, claim P-1: the seeds say contradicted"]


def test_a_second_budget_that_is_no_fourfold_is_named():
    notebook, kept = good_notebook(), copy.deepcopy(good_record())
    short = {"parameters": {"steps": 10, "ablation_steps": 5, "rate": 0.1}}
    longer = {"parameters": {"steps": 40, "ablation_steps": 20, "rate": 0.1}}
    kept["presets"] = {"garments": short, "garments_4x": longer}
    assert budgets(notebook, kept, "paper") == []
    longer["parameters"]["steps"] = 10
    assert budgets(notebook, kept, "paper")[0].startswith("garments_4x is {'steps': 10")


def test_code_that_is_shown_otherwise_is_named():
    notebook = good_notebook()
    shown = nbformat.v4.new_output("display_data", data={"text/markdown": plots.source(flowcore.psd).data})
    code = nbformat.v4.new_code_cell("plots.source(flowcore.psd)", outputs=[shown])
    notebook.cells.append(code)
    assert sources(notebook, None, "paper") == []
    shown["data"]["text/markdown"] = "def psd(): pass"
    assert sources(notebook, None, "paper") == [
        "the code of flowcore.psd is shown otherwise; ci/replicate refresh paper"
    ]


def test_a_family_is_asked_for_its_own_metrics():
    """A law of sequences has no endpoint error, and must have its total variation."""
    notebook, kept = good_notebook(), good_record() | {"family": "discrete"}
    assert metrics(notebook, kept, "paper") == ["no total_variation"]
    kept["presets"]["mixture"]["metrics"]["total_variation"] = kept["presets"]["mixture"]["metrics"]["cost"]
    assert not any("no " in problem for problem in metrics(notebook, kept, "paper"))


@pytest.mark.parametrize("instead", [RENOISED, FROM_NOISE, RUNGS])
def test_a_map_that_knows_only_some_jumps_passes_without_metrics_of_the_others(instead):
    notebook, kept = good_notebook(), good_record()
    others = instead + [f"cd_{name}" for name in METRICS]
    for old, new in zip(JUMPS, others[: len(JUMPS)], strict=True):
        rename(notebook, kept, old, new)
    assert metrics(notebook, kept, "paper") == []


@pytest.mark.parametrize(
    ("guard", "what", "spoil"), SPOILT, ids=[f"{guard.__name__}-{what}" for guard, what, _ in SPOILT]
)
def test_each_guard_fails_on_a_spoilt_notebook(guard, what, spoil):
    notebook, kept = good_notebook(), copy.deepcopy(good_record())
    spoil(notebook, kept)
    assert guard(notebook, kept, "paper") != []


def test_every_guard_is_shown_to_fail():
    assert {guard for guard, *_ in SPOILT} | {verdicts, budgets, sources} == set(
        GUARDS
    )  # these have tests of their own
