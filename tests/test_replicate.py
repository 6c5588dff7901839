"""The command line, on small notebooks that need no JAX: what it prints, refuses, writes and leaves alone."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from flowcore import record
from flowcore.methods import METHODS

CI = Path(__file__).resolve().parent.parent / "ci"
sys.path.insert(0, str(CI))
import replicate  # noqa: E402

PARAMETERS = (
    "steps: int = 10  # steps\nrate: float = 0.5  # learning rate\nname: str = 'a'  # a word\n"
    "sizes: tuple = (1, 2)  # sizes\nseed: int = 0  # seed"
)
TRAIN = "import sys\nerror = sizes[0] + rate / steps + seed / 1000\nprint('noise', file=sys.stderr)\nprint('trained')"
# `import record`, not `from flowcore import record`: the package imports JAX, for which these kernels need not wait.
CLAIMS = (
    f"import sys; sys.path.append({str(Path(record.__file__).parent)!r})"
    + """
import record
claims = [
    record.Claim.judge("small", f"{error:.3f}", error < 2),
    record.Claim.judge("even seed", str(seed), seed % 2 == 0),
]
record.table(claims)"""
)
CHECK = "record.check('paper', parameters=globals(), metrics={'cost': 4, 'endpoint_error_1': error}, claims=claims)"


def notebook(train=TRAIN, check=CHECK, parameters=PARAMETERS):
    """A replication in four code cells, not executed."""
    code, markdown = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    cells = [
        markdown("# 900_template: TITLE OF THE PAPER\n\nhttps://example.org/paper", id="title"),
        markdown("## 3 Parameters", id="h3"),
        code(parameters, id="parameters", metadata={"tags": ["parameters"]}),
        markdown("## 6 Training", id="h6"),
        code(train, id="train"),
        code(CLAIMS, id="claims"),
        markdown("## 9 Recorded metrics", id="h9"),
        code(check, id="check", metadata={"tags": ["nbval-check-output"]}),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def put(root, paper="paper", **sources):
    """A tree with one replication that has a preset `other` and is not recorded yet."""
    (root / "replications").mkdir(exist_ok=True)
    sources.setdefault("check", CHECK.replace("paper", paper, 1))
    nbformat.write(notebook(**sources), root / "replications" / f"{paper}.ipynb")
    parameters = {"steps": 10, "rate": 0.5, "name": "a", "sizes": [1, 2]}
    presets = {"mixture": {"parameters": parameters}, "other": {"parameters": parameters | {"steps": 20}}}
    record.write(root / "replications" / f"{paper}.json", {"title": "T", "url": "U", "presets": presets})
    return root


def contents(root):
    return {path.name: path.read_bytes() for path in sorted((root / "replications").iterdir())}


@pytest.fixture
def tree(tmp_path):
    return put(tmp_path)


@pytest.fixture(scope="module")
def recorded_once(tmp_path_factory):
    root = put(tmp_path_factory.mktemp("recorded tree"))  # with a space
    assert replicate.main(["record", "paper", "--seeds", "3"], root) == 0
    return root


@pytest.fixture
def recorded(recorded_once, tmp_path):
    return Path(shutil.copytree(recorded_once, tmp_path / "a tree"))


def one_line(capsys, *expected):
    """The only line on stderr, which holds each of `expected`."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    for text in expected:
        assert text in lines[0]


# --- wrong commands: one line, exit code 2 -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["run"], ["paper"]),
        (["run", "papre"], ["papre", "there are: paper"]),
        (["check", "papre"], ["papre", "there are: paper"]),
        (["record", "papre"], ["papre", "there are: paper"]),
        (["run", "paper", "-p", "stps", "3"], ["stps", "there are: steps, rate, name, sizes, seed"]),
        (["run", "paper", "-p", "steps", "many"], ["steps is int", "'many'"]),
        (["run", "paper", "-p", "steps", "2.5"], ["steps is int", "2.5"]),
        (["run", "paper", "-p", "steps", "true"], ["steps is int", "True"]),
        (["run", "paper", "-p", "rate", "[1"], ["rate is float", "[1"]),
        (["run", "paper", "--preset", "images"], ["images", "there are: mixture, other"]),
        (["run", "all", "--preset", "images"], ["no replication has a preset 'images'"]),
        (["record", "paper", "--preset", "images"], ["images", "there are: mixture, other"]),
        (["record", "paper", "--seeds", "2"], ["at least 3"]),
        (["run", "paper", "--jobs", "0"], ["not positive"]),
        (["walk"], ["walk", "run"]),
        (["table"], ["README.md", "<!-- landscape -->"]),
        (["new", "Bad-Name", "--title", "t", "--url", "u"], ["Bad-Name"]),
        (["new", "paper", "--title", "t", "--url", "u"], ["exists already"]),
        (["new", "other", "--title", "t", "--url", "u"], ["900_template", "missing"]),
    ],
    ids=" ".join,
)
def test_a_wrong_command_is_answered_in_one_line(tree, capsys, arguments, expected):
    before = contents(tree)
    assert replicate.main(arguments, tree) == 2
    one_line(capsys, *expected)
    assert contents(tree) == before and not (tree / "build").exists()


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda text: text[:-20], ["not JSON"]),
        (lambda text: text.replace('"steps": 20', '"stepz": 20'), ["presets.other.parameters", "stepz"]),
        (lambda text: text.replace('"steps": 20', '"steps": "20"'), ["presets.other.parameters", "steps"]),
        (lambda text: text.replace('"presets"', '"preset"'), ["presets"]),
    ],
    ids=["cut", "name", "type", "key"],
)
def test_a_record_spoilt_by_hand_is_named(tree, capsys, edit, expected):
    path = tree / "replications" / "paper.json"
    path.write_text(edit(path.read_text()))
    assert replicate.main(["run", "paper", "--preset", "other"], tree) == 2
    one_line(capsys, "paper.json", *expected)


def test_a_spoilt_notebook_is_named(tree, capsys):
    (tree / "replications" / "paper.ipynb").write_text("{")
    assert replicate.main(["run", "paper"], tree) == 2
    one_line(capsys, "paper.ipynb is not a notebook")


@pytest.mark.parametrize(
    ("name", "text", "value"), [("rate", "1e-3", 0.001), ("rate", "2", 2.0), ("steps", "20", 20), ("name", "7", "7")]
)
def test_values_take_the_type_of_the_default(name, text, value):
    parsed = replicate.parse(name, text, {"steps": 10, "rate": 0.5, "name": "a"})
    assert parsed == value and type(parsed) is type(value)


# --- run -----------------------------------------------------------------------------------------------------------


def test_run_injects_preset_and_parameters_and_writes_html(tree, capsys):
    before = contents(tree)
    assert replicate.main(["run", "paper", "--preset", "other", "-p", "rate", "0.25"], tree) == 0
    printed = capsys.readouterr().out
    executed = nbformat.read(tree / "build" / "paper.other.ipynb", as_version=4)
    (injected,) = (cell.source for cell in executed.cells if "injected-parameters" in cell.metadata.get("tags", []))
    assert "steps = 20" in injected and "rate = 0.25" in injected
    text = executed.cells[-1].outputs[0].data["text/plain"]
    assert "nothing is checked" in text and "rate = 0.25, not 0.5" in text
    assert "trained" in (tree / "build" / "paper.other.html").read_text()
    assert "5/5" in printed and "6 Training" in printed and str(tree / "build" / "paper.other.ipynb") in printed
    assert contents(tree) == before


def test_a_failing_notebook_is_kept_and_its_cell_named(tree, capsys):
    put(tree, train="x = 1\nraise RuntimeError('loss is nan\\nat step 3')")
    put(tree, "dying", train="import os\nos._exit(1)")
    put(tree, "good")
    assert replicate.main(["run", "all", "--jobs", "2"], tree) == 1
    output = capsys.readouterr()
    dying, paper = output.err.splitlines()[-2:]
    for text in ("paper.ipynb", "section '6 Training'", "`x = 1`", "RuntimeError: loss is nan"):
        assert text in paper
    assert "dying.ipynb" in dying and "`import os`" in dying and "DeadKernelError" in dying
    assert "loss is nan" in (tree / "build" / "paper.html").read_text()
    assert f"done  {tree / 'build' / 'good.ipynb'}" in output.out


def test_all_with_a_preset_are_those_that_have_it(tree, capsys):
    put(tree, "without", train="raise RuntimeError")
    kept = record.read(tree / "replications" / "without.json")
    record.write(tree / "replications" / "without.json", kept | {"presets": {"mixture": kept["presets"]["mixture"]}})
    assert replicate.main(["run", "all", "--preset", "other"], tree) == 0
    assert {path.name for path in (tree / "build").glob("*.ipynb")} == {"paper.other.ipynb"}
    assert replicate.main(["run", "without", "--preset", "other"], tree) == 2
    assert "no preset 'other' in without.json" in capsys.readouterr().err


# --- record --------------------------------------------------------------------------------------------------------


def test_record_writes_bands_verdicts_and_an_executed_notebook(recorded):
    entry = record.read(recorded / "replications" / "paper.json")["presets"]["mixture"]
    assert entry["metrics"]["cost"] == {"mean": 4, "spread": 0.0, "band": None, "seeds": [4, 4, 4]}
    assert entry["metrics"]["endpoint_error_1"]["seeds"] == pytest.approx([1.05, 1.051, 1.052])
    assert [(claim["verdict"], claim["agree"]) for claim in entry["claims"]] == [("holds", "3/3"), ("holds", "2/3")]
    assert entry["claims"][0]["measured"] == "1.050" and "seed" not in entry["parameters"]
    assert set(entry["recorded"]) == {"date", "device", "python", "versions"}

    written = nbformat.read(recorded / "replications" / "paper.ipynb", as_version=4)
    source = notebook()
    assert [cell.id for cell in written.cells] == [cell.id for cell in source.cells]
    assert [cell.source for cell in written.cells] == [cell.source for cell in source.cells]
    assert [cell.metadata for cell in written.cells] == [cell.metadata for cell in source.cells]
    code = replicate.code_cells(written)
    assert [cell.execution_count for cell in code] == [1, 2, 3, 4]
    assert [output.get("name") for output in code[1].outputs] == ["stdout"]  # stderr is gone
    text = code[-1].outputs[0].data["text/plain"]
    assert "2 of 2 metrics in band" in text and "varies over seeds (holds 2/3)" in text
    assert set(written.metadata) == {"kernelspec"}
    assert sorted(path.name for path in (recorded / "replications").iterdir()) == ["paper.ipynb", "paper.json"]


def test_another_preset_changes_only_its_entry_of_the_json(recorded):
    before, old = contents(recorded), record.read(recorded / "replications" / "paper.json")
    assert replicate.main(["record", "paper", "--preset", "other", "--seeds", "3", "--jobs", "2"], recorded) == 0
    after, now = contents(recorded), record.read(recorded / "replications" / "paper.json")
    assert after["paper.ipynb"] == before["paper.ipynb"] and now["presets"]["mixture"] == old["presets"]["mixture"]
    assert now["presets"]["other"]["metrics"]["endpoint_error_1"]["seeds"][0] == pytest.approx(1.025)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"train": TRAIN + "\nassert seed < 1"}, "AssertionError"),
        ({"train": TRAIN + "\nerror = float('nan') if seed else 1.0"}, "endpoint_error_1 is nan"),
        ({"check": "claims"}, "does not call record.check"),
    ],
    ids=["failing", "nan", "no check"],
)
def test_a_failing_recording_leaves_both_files_as_they_were(recorded, capsys, source, expected):
    nbformat.write(notebook(**source), recorded / "replications" / "paper.ipynb")
    before = contents(recorded)
    assert replicate.main(["record", "paper", "--seeds", "3"], recorded) == 1
    assert expected in capsys.readouterr().err
    assert contents(recorded) == before


def test_a_recording_that_fails_at_the_very_end_leaves_both_files(recorded, monkeypatch):
    before = contents(recorded)
    monkeypatch.setattr(replicate, "measure", lambda *_: [{"metrics": {"cost": 5}, "claims": []}] * 3)
    assert replicate.main(["record", "paper", "--seeds", "3"], recorded) == 1  # the notebook itself still says cost 4
    assert contents(recorded) == before


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGKILL, -9, ""), (signal.SIGINT, 130, "replicate: interrupted; nothing recorded was changed\n")],
    ids=["killed", "interrupted"],
)
def test_an_interrupted_recording_leaves_both_files_as_they_were(recorded, number, code, said):
    slow = TRAIN + "\nimport time\nprint(seed)\ntime.sleep(60 * seed)"
    nbformat.write(notebook(train=slow), recorded / "replications" / "paper.ipynb")
    before = contents(recorded)
    with start(recorded, "record", "paper", "--seeds", "3") as process:
        for line in process.stdout:
            if line.startswith("paper seed 1  2/"):
                break
        time.sleep(0.5)  # in the sleeping cell
        process.send_signal(number)
        assert process.wait(120) == code and process.stderr.read().endswith(said)
    assert contents(recorded) == before


def test_a_recording_goes_on_with_the_seeds_that_had_finished(recorded):
    """It fails at seed 2 until that is mended from outside; seeds 0 and 1 are run once. After an edit all are run."""
    count = "\nfrom pathlib import Path\nran = Path.cwd().parents[2] / 'ran'"
    count += "\nran.write_text((ran.read_text() if ran.exists() else '') + str(seed))"
    mended = "\nassert seed < 2 or (ran.parent / 'mended').exists()"
    path = recorded / "replications" / "paper.ipynb"
    nbformat.write(notebook(train=TRAIN + count + mended), path)
    assert replicate.main(["record", "paper", "--preset", "other", "--seeds", "3"], recorded) == 1
    (recorded / "mended").touch()
    assert replicate.main(["record", "paper", "--preset", "other", "--seeds", "3"], recorded) == 0
    assert (recorded / "ran").read_text() == "0122"
    found = record.read(recorded / "replications" / "paper.json")["presets"]["other"]["metrics"]["endpoint_error_1"]
    assert found["seeds"] == pytest.approx([1.025, 1.026, 1.027])

    (recorded / "mended").unlink()
    assert replicate.main(["record", "paper", "--preset", "other", "--seeds", "3"], recorded) == 1
    nbformat.write(notebook(train=TRAIN + count + "\nerror += 1"), path)
    (recorded / "ran").unlink()
    assert replicate.main(["record", "paper", "--preset", "other", "--seeds", "3"], recorded) == 0
    assert (recorded / "ran").read_text() == "012"


def start(root, *arguments):
    """The command as the shell starts it, in a tree of its own."""
    shutil.copytree(CI, root / "ci")
    # a runner in the background ignores Ctrl-C and hands that down; a person's shell does not
    listen = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", listen, sys.executable, root / "ci" / "replicate.py", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# --- check ---------------------------------------------------------------------------------------------------------


def change_record(root, metric, **entries):
    path = root / "replications" / "paper.json"
    kept = json.loads(path.read_text())
    kept["presets"]["mixture"]["metrics"][metric] |= entries
    path.write_text(json.dumps(kept))


def test_check_is_green_on_what_was_recorded_and_changes_nothing(recorded, capfd):
    before = contents(recorded)
    assert replicate.main(["check"], recorded) == 0
    assert "4 passed" in capfd.readouterr().out
    assert contents(recorded) == before


def test_check_is_red_on_a_metric_out_of_band(recorded, capfd):
    change_record(recorded, "endpoint_error_1", mean=0.5, band=[0.4, 0.6])
    assert replicate.main(["check", "paper"], recorded) == 1
    printed = capfd.readouterr().out
    assert "OUT OF BAND" in printed and "endpoint_error_1" in printed and "1 failed, 3 passed" in printed


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda cell: cell.update(execution_count=None), "was not executed"),
        (lambda cell: cell.update(outputs=[]), "must be tagged nbval-check-output and have its output"),
        (lambda cell: cell.metadata.update(tags=[]), "must be tagged nbval-check-output and have its output"),
    ],
    ids=["not executed", "no output", "no tag"],
)
def test_check_refuses_what_nbval_would_not_compare(recorded, capsys, spoil, expected):
    path = recorded / "replications" / "paper.ipynb"
    executed = nbformat.read(path, as_version=4)
    spoil(executed.cells[-1])
    nbformat.write(executed, path)
    assert replicate.main(["check"], recorded) == 1
    one_line(capsys, "paper.ipynb", expected)


# --- new, table, list ----------------------------------------------------------------------------------------------


def test_a_replication_without_its_record_is_refused_and_the_reading_path_needs_none(tree, capsys):
    (tree / "replications" / "paper.json").unlink()
    assert replicate.main(["run", "paper"], tree) == 2
    there = replicate.Tree(tree)
    assert there.keeps_record("paper") and not there.keeps_record("000_first")


def test_what_changed_since_a_revision_is_all_when_the_code_did(tree):
    put(tree, "other_paper")
    (tree / "flowcore").mkdir()

    def commit(name, text):
        (tree / name).write_text(text)
        for arguments in (["add", "."], ["-c", "user.name=n", "-c", "user.email=e@e", "commit", "-qm", "m"]):
            subprocess.run(["git", *arguments], cwd=tree, check=True)

    subprocess.run(["git", "init", "-q"], cwd=tree, check=True)
    commit("flowcore/maps.py", "1")
    there = replicate.Tree(tree)
    assert replicate.touched(there, "HEAD") == []
    commit("README.md", "new")
    assert replicate.touched(there, "HEAD~1") == []
    commit("replications/paper.json", "{}")
    assert replicate.touched(there, "HEAD~2") == ["paper"]
    commit("flowcore/maps.py", "2")
    assert replicate.touched(there, "HEAD~1") == ["other_paper", "paper"]
    (tree / "notebooks").mkdir()
    commit("notebooks/000_first.ipynb", "{}")
    commit("notebooks/900_template.ipynb", "{}")
    assert replicate.touched(there, "HEAD~2") == ["000_first"]


def test_refresh_executes_in_place_and_moves_no_number(recorded, capsys):
    """A notebook that has only been edited is executed beside its record; one that disagrees with it is left alone."""
    path, json_file = (recorded / "replications" / f"paper{suffix}" for suffix in (".ipynb", ".json"))
    edited = nbformat.read(path, as_version=4)
    edited.cells[4].source += "\nprint('again')"
    nbformat.write(edited, path)
    kept = json_file.read_bytes()
    assert replicate.main(["refresh", "paper"], recorded) == 0
    assert "again" in nbformat.read(path, as_version=4).cells[4].outputs[0].text
    assert json_file.read_bytes() == kept
    change_record(recorded, "endpoint_error_1", mean=0.5, band=[0.4, 0.6])
    before = contents(recorded)
    assert replicate.main(["refresh", "paper"], recorded) == 1
    assert "OutOfBand" in capsys.readouterr().err
    assert contents(recorded) == before


def test_new_makes_a_replication_that_runs(tree, capsys):
    (tree / "notebooks").mkdir()
    template = notebook(check=CHECK.replace("paper", "900_template", 1))
    nbformat.write(template, tree / "notebooks" / "900_template.ipynb")
    url = "https://example.org/42"
    assert replicate.main(["new", "new_paper", "--title", 'A "title"', "--url", url], tree) == 0
    made = record.read(tree / "replications" / "new_paper.json")
    parameters = {"steps": 10, "rate": 0.5, "name": "a", "sizes": [1, 2]}
    assert made == {"title": 'A "title"', "url": url, "presets": {"mixture": {"parameters": parameters}}}
    first = nbformat.read(tree / "replications" / "new_paper.ipynb", as_version=4).cells[0].source
    assert first == f'# new_paper: A "title"\n\n{url}'
    assert replicate.main(["run", "new_paper"], tree) == 0


MEAN_FLOW = {"mean": 4, "spread": 0.0, "band": None, "seeds": [4]}
ERROR = {"mean": 0.18123, "spread": 0.0123, "band": [0.1, 0.3], "seeds": [0.18]}


@pytest.fixture
def landscape(tree):
    """A tree with a recorded MeanFlow and a README."""
    put(tree, "mean_flow")
    path = tree / "replications" / "mean_flow.json"
    kept = json.loads(path.read_text())
    entry = {"metrics": {"cost": MEAN_FLOW, "endpoint_error_1": ERROR}, "claims": []}
    kept["presets"]["mixture"] |= entry | {"recorded": {"date": "2026-01-01", "device": "cpu"}}
    record.write(path, kept)
    (tree / "README.md").write_text("before\n<!-- landscape -->\nold\n<!-- /landscape -->\nafter\n")
    return tree


def test_the_table_is_rewritten_and_verified(landscape, capsys):
    assert replicate.main(["table", "--check"], landscape) == 1
    one_line(capsys, "ci/replicate table")
    assert replicate.main(["table"], landscape) == 0
    text = (landscape / "README.md").read_text()
    assert text.startswith("before\n<!-- landscape -->\n| method ") and text.endswith("|\n<!-- /landscape -->\nafter\n")
    (row,) = (line for line in text.splitlines() if line.startswith("| [MF](replications/mean_flow.ipynb) |"))
    assert row.endswith("| 4 | 4 | 0.181 ± 0.012 |  |  |  |")
    assert replicate.main(["table", "--check"], landscape) == 0
    change = text.replace("0.181", "0.180")
    (landscape / "README.md").write_text(change)
    assert replicate.main(["table", "--check"], landscape) == 1
    assert (landscape / "README.md").read_text() == change


def test_the_list_shows_every_method(landscape, capsys):
    assert replicate.main(["list"], landscape) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : len(METHODS) + 1]] == [row.name for row in METHODS]
    (line,) = (line for line in lines if line.startswith("MF "))
    assert "0.181 ± 0.012" in line
    assert line.split()[-2:] == ["mean_flow", "other"]  # it has that preset too, and no numbers of it
    assert lines[1].endswith("not yet")


def test_the_list_shows_a_replication_that_is_not_in_the_table(landscape, capsys):
    assert replicate.main(["list"], landscape) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["-", "paper", "mixture,", "other"]


def test_a_page_with_a_figure_is_written_without_a_warning(tmp_path, caplog):
    page = notebook()
    page.cells[4].outputs = [nbformat.v4.new_output("display_data", data={"image/png": "iVBORw0KGgo="})]
    nbformat.write(page, tmp_path / "page.ipynb")
    replicate.write_html(tmp_path / "page.ipynb")
    assert "<img" in (tmp_path / "page.html").read_text()
    assert not caplog.records


def test_the_site_has_a_page_per_notebook_and_its_links_lead_to_pages(landscape, capsys):
    (landscape / "notebooks").mkdir()
    assert replicate.main(["site"], landscape) == 2
    one_line(capsys, "100_landscape")
    for name in ("000_first", "100_landscape", "900_template"):
        page = notebook()
        page.cells[
            0
        ].source = "[a](../replications/mean_flow.ipynb#cell-id=train) [b](000_first.ipynb) [c](100_landscape.ipynb)"
        nbformat.write(page, landscape / "notebooks" / f"{name}.ipynb")
    assert replicate.main(["site"], landscape) == 0
    top = landscape / "build" / "site"
    pages = {str(path.relative_to(top)) for path in top.rglob("*.html")}
    assert pages == {
        "index.html",
        "notebooks/000_first.html",
        "replications/mean_flow.html",
        "replications/paper.html",
    }
    for page in pages:
        text = (top / page).read_text()
        assert ".ipynb" not in text
        links = [link.partition("#")[0] for link in re.findall(r'<a href="([^"#]+)', text) if "://" not in link]
        assert links and all(((top / page).parent / link).exists() for link in links)
    assert 'id="cell-id=train"' in (top / "replications/mean_flow.html").read_text()


def test_lab_opens_at_the_root(tree, monkeypatch):
    started = []
    monkeypatch.setattr(os, "execv", lambda path, arguments: started.append(arguments) or 0)
    replicate.main(["lab"], tree)
    assert started[0][1:] == ["-m", "jupyterlab", f"--ServerApp.root_dir={tree}"]


# --- benchmarks -----------------------------------------------------------------------------------------------------

STEPS = {
    name: {"time": {"median": time, "low": 1.0, "high": 2.0, "rounds": 3}, "flops": time}
    for name, time in (("flow matching", 1.0), ("MF", 1.3))
}


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A tree that keeps benchmarks, of two measurements that take no time; what was measured, in order."""
    from flowcore import bench

    (tmp_path / "ci").mkdir()
    (tmp_path / ".github").mkdir()
    (tmp_path / "README.md").write_text("before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n")
    done = []
    overhead = {"share": {"median": 0.2, "low": 0.1, "high": 0.3, "rounds": 5}}
    measured = {"steps": STEPS, "overhead": overhead}
    monkeypatch.setattr(
        bench, "MEASUREMENTS", {name: lambda n=name: done.append(n) or measured[n] for name in measured}
    )
    return tmp_path, done


def test_bench_writes_its_record_the_table_and_the_figure(bench):
    root, done = bench
    assert replicate.main(["bench"], root) == 0
    assert done == ["steps", "overhead"]
    readme = (root / "README.md").read_text()
    assert readme.startswith("before\n") and readme.endswith("after\n") and "old" not in readme
    assert "| 1.30 | 1.00 to 2.00 | 3 | at most 1.40: met |" in readme
    assert "| 20 % | 10 % to 30 % | 5 | at most 5 %: not met |" in readme
    entry = json.loads((root / "ci" / "bench.json").read_text())["overhead"]
    assert entry["numbers"]["share"]["rounds"] == 5
    assert {"date", "device", "versions", "load"} <= set(entry["recorded"])
    assert (root / ".github" / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_bench_of_one_keeps_the_others(bench):
    root, done = bench
    assert replicate.main(["bench"], root) == 0
    assert replicate.main(["bench", "overhead"], root) == 0
    assert done == ["steps", "overhead", "overhead"]
    assert list(json.loads((root / "ci" / "bench.json").read_text())) == ["steps", "overhead"]


def test_bench_refuses_an_unknown_name_and_a_readme_without_a_place(bench, capsys):
    root, done = bench
    assert replicate.main(["bench", "stpes"], root) == 2
    assert "no benchmark stpes; there are: steps, overhead" in capsys.readouterr().err
    (root / "README.md").write_text("nothing\n")
    assert replicate.main(["bench"], root) == 2
    assert "needs a line <!-- bench -->" in capsys.readouterr().err
    assert done == []
