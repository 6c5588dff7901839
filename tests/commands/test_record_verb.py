"""`record` and `refresh`: what is measured and written, and what an interruption leaves."""

import base64
import io
import json
import signal
import time

import nbformat
import numpy as np
import pytest
from trees import TRAIN, change_record, contents, notebook, start

import flowcore
from commands import code, notebooks
from commands import record as recording
from commands.__main__ import main
from commands.tree import Tree
from flowcore import record


def test_record_writes_bands_verdicts_and_an_executed_notebook(recorded):
    entry = record.read(recorded / "replications" / "paper.json")["presets"]["mixture"]
    assert entry["metrics"]["cost"] == {"mean": 4, "spread": 0.0, "band": None, "seeds": [4, 4, 4]}
    assert entry["metrics"]["endpoint_error_1"]["seeds"] == pytest.approx([1.05, 1.051, 1.052])
    assert [(claim["verdict"], claim["agree"]) for claim in entry["claims"]] == [("holds", "3/3"), ("holds", "2/3")]
    assert entry["claims"][0]["measured"] == "1.050" and "seed" not in entry["parameters"]
    assert entry["code"] == code.of(Tree(recorded), "paper")
    assert set(entry["recorded"]) == {"date", "device", "python", "versions", "seconds"}

    written = nbformat.read(recorded / "replications" / "paper.ipynb", as_version=4)
    source = notebook()
    assert [cell.id for cell in written.cells] == [cell.id for cell in source.cells]
    assert [cell.source for cell in written.cells] == [cell.source for cell in source.cells]
    assert [cell.metadata for cell in written.cells] == [cell.metadata for cell in source.cells]
    cells = notebooks.code_cells(written)
    assert [cell.execution_count for cell in cells] == [1, 2, 3, 4]
    assert [output.get("name") for output in cells[1].outputs] == ["stdout"]  # stderr is gone
    text = cells[-1].outputs[0].data["text/plain"]
    assert "2 of 2 metrics in band" in text and "varies over seeds (holds 2/3)" in text
    assert set(written.metadata) == {"kernelspec"}
    assert sorted(path.name for path in (recorded / "replications").iterdir()) == ["paper.ipynb", "paper.json"]


def test_another_preset_changes_only_its_entry_of_the_json(recorded):
    before, old = contents(recorded), record.read(recorded / "replications" / "paper.json")
    assert main(["record", "paper", "--preset", "other", "--seeds", "3", "--jobs", "2"], recorded) == 0
    after, now = contents(recorded), record.read(recorded / "replications" / "paper.json")
    assert after["paper.ipynb"] == before["paper.ipynb"] and now["presets"]["mixture"] == old["presets"]["mixture"]
    assert now["presets"]["other"]["metrics"]["endpoint_error_1"]["seeds"][0] == pytest.approx(1.025)


def test_another_preset_shows_the_result_anew_and_runs_no_other_cell(recorded):
    path, place = (recorded / "replications" / f"paper.{end}" for end in ("ipynb", "json"))
    kept, before = json.loads(place.read_text()), nbformat.read(path, as_version=4)
    kept["presets"]["third"] = {"parameters": kept["presets"]["other"]["parameters"]}
    place.write_text(json.dumps(kept))
    cell = nbformat.v4.new_code_cell("from flowcore import record\n\nrecord.result('paper')", id="result")
    before.cells.insert(1, cell)
    nbformat.write(before, path)
    assert main(["record", "paper", "--preset", "third", "--seeds", "3", "--jobs", "2"], recorded) == 0
    after = nbformat.read(path, as_version=4)
    (shown,) = after.cells.pop(1).outputs
    before.cells.pop(1)
    assert shown.data["text/markdown"] == "*Not recorded yet.*" and after == before


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
    assert main(["record", "paper", "--seeds", "3"], recorded) == 1
    assert expected in capsys.readouterr().err
    assert contents(recorded) == before


def test_a_recording_that_fails_at_the_very_end_leaves_both_files(recorded, monkeypatch):
    before = contents(recorded)
    monkeypatch.setattr(recording, "measure", lambda *_: [{"metrics": {"cost": 5}, "statistics": {}, "claims": []}] * 3)
    assert main(["record", "paper", "--seeds", "3"], recorded) == 1  # the notebook itself still says cost 4
    assert contents(recorded) == before


@pytest.mark.parametrize(
    ("number", "ended", "said"),
    [(signal.SIGKILL, -9, ""), (signal.SIGINT, 130, "replicate: interrupted; nothing recorded was changed\n")],
    ids=["killed", "interrupted"],
)
def test_an_interrupted_recording_leaves_both_files_as_they_were(recorded, number, ended, said):
    slow = TRAIN + "\nimport time\nprint(seed)\ntime.sleep(60 * seed)"
    nbformat.write(notebook(train=slow), recorded / "replications" / "paper.ipynb")
    before = contents(recorded)
    with start(recorded, "record", "paper", "--seeds", "3") as process:
        for line in process.stdout:
            if line.startswith("paper seed 1  2/"):
                break
        time.sleep(0.5)  # in the sleeping cell
        process.send_signal(number)
        assert process.wait(120) == ended and process.stderr.read().endswith(said)
    assert contents(recorded) == before


def test_a_recording_goes_on_with_the_seeds_that_had_finished(recorded):
    """It fails at seed 2 until that is mended from outside; seeds 0 and 1 are run once. After an edit all are run."""
    count = "\nfrom pathlib import Path\nran = Path.cwd().parents[2] / 'ran'"
    count += "\nran.write_text((ran.read_text() if ran.exists() else '') + str(seed))"
    mended = "\nassert seed < 2 or (ran.parent / 'mended').exists()"
    path = recorded / "replications" / "paper.ipynb"
    nbformat.write(notebook(train=TRAIN + count + mended), path)
    assert main(["record", "paper", "--preset", "other", "--seeds", "3"], recorded) == 1
    (recorded / "mended").touch()
    assert main(["record", "paper", "--preset", "other", "--seeds", "3"], recorded) == 0
    assert (recorded / "ran").read_text() == "0122"
    found = record.read(recorded / "replications" / "paper.json")["presets"]["other"]["metrics"]["endpoint_error_1"]
    assert found["seeds"] == pytest.approx([1.025, 1.026, 1.027])

    (recorded / "mended").unlink()
    assert main(["record", "paper", "--preset", "other", "--seeds", "3"], recorded) == 1
    nbformat.write(notebook(train=TRAIN + count + "\nerror += 1"), path)
    (recorded / "ran").unlink()
    assert main(["record", "paper", "--preset", "other", "--seeds", "3"], recorded) == 0
    assert (recorded / "ran").read_text() == "012"


@pytest.mark.parametrize(
    "name", ["flowcore/maps.py", "flowcore/a/cloth.npz", "flowcore/sums.tsv", "ci/requirements.txt"]
)
def test_finished_seeds_are_of_the_same_code_data_and_packages(tree, monkeypatch, name):
    (tree / "flowcore" / "a").mkdir(parents=True)
    (tree / "ci").mkdir()
    monkeypatch.setattr(flowcore, "__file__", str(tree / "flowcore" / "__init__.py"))
    (tree / name).write_text("1")
    before = recording.recipe(Tree(tree), "paper", {})
    assert recording.recipe(Tree(tree), "paper", {}) == before
    (tree / name).write_text("2")
    assert recording.recipe(Tree(tree), "paper", {}) != before


def test_refresh_executes_in_place_and_moves_no_number(recorded, capsys):
    """A notebook that has only been edited is executed beside its record; one that disagrees with it is left alone."""
    path, json_file = (recorded / "replications" / f"paper{suffix}" for suffix in (".ipynb", ".json"))
    edited = nbformat.read(path, as_version=4)
    edited.cells[4].source += "\nprint('again')"
    nbformat.write(edited, path)
    kept = record.read(json_file)
    assert main(["refresh", "paper"], recorded) == 0
    assert "again" in nbformat.read(path, as_version=4).cells[4].outputs[0].text
    now = record.read(json_file)
    before, after = (each["presets"]["mixture"].pop("code") for each in (kept, now))
    assert now == kept and after == before | {"notebook": after["notebook"]} != before
    assert after == code.of(Tree(recorded), "paper")
    change_record(recorded, "endpoint_error_1", mean=0.5, band=[0.4, 0.6])
    before = contents(recorded)
    assert main(["refresh", "paper"], recorded) == 1
    assert "OutOfBand" in capsys.readouterr().err
    assert contents(recorded) == before


def test_refresh_renews_no_hash_where_nothing_was_compared(recorded):
    """Parameters of no preset: the notebook runs, and is held against nothing."""
    path, json_file = (recorded / "replications" / f"paper{suffix}" for suffix in (".ipynb", ".json"))
    edited = nbformat.read(path, as_version=4)
    edited.cells[2].source = edited.cells[2].source.replace("steps: int = 10", "steps: int = 11")
    nbformat.write(edited, path)
    kept = json_file.read_bytes()
    assert main(["refresh", "paper"], recorded) == 0
    assert json_file.read_bytes() == kept


def test_an_interrupted_refresh_leaves_both_files_as_they_were(recorded):
    slow = nbformat.read(recorded / "replications" / "paper.ipynb", as_version=4)
    slow.cells[4].source += "\nimport time\ntime.sleep(60)"
    nbformat.write(slow, recorded / "replications" / "paper.ipynb")
    before = contents(recorded)
    with start(recorded, "refresh", "paper") as process:
        for line in process.stdout:
            if line.startswith("paper defaults  2/"):
                break
        time.sleep(0.5)  # in the sleeping cell
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
    assert contents(recorded) == before


def test_a_picture_is_kept_in_fewer_bytes_and_looks_the_same():
    """A figure of lines and text, as matplotlib draws it."""
    import matplotlib.pyplot as plt
    from PIL import Image

    drawn = io.BytesIO()
    figure, axis = plt.subplots()
    axis.plot([1, 3, 2], label="error")
    axis.legend()
    figure.savefig(drawn, format="png")
    plt.close(figure)
    output = {"data": {"image/png": base64.b64encode(drawn.getvalue()).decode(), "text/plain": "<Figure>"}}
    light = base64.b64decode(notebooks.lighten(output)["data"]["image/png"])
    assert len(light) < len(drawn.getvalue()) and output["data"]["text/plain"] == "<Figure>"
    before, after = (np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), int) for png in (drawn.getvalue(), light))
    assert before.shape == after.shape and np.abs(before - after).max() < 16
    assert notebooks.lighten({"name": "stdout", "text": "trained"}) == {"name": "stdout", "text": "trained"}
