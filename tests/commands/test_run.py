"""`run`: what is injected, printed, written and left alone."""

import signal
import time

import nbformat
import pytest
from trees import TRAIN, contents, notebook, put, start

from commands import execution
from commands.__main__ import main
from flowcore import record


def test_run_injects_preset_and_parameters_and_writes_html(tree, capsys):
    before = contents(tree)
    assert main(["run", "paper", "--preset", "other", "-p", "rate", "0.25"], tree) == 0
    printed = capsys.readouterr().out
    executed = nbformat.read(tree / "build" / "paper.other.rate=0.25.ipynb", as_version=4)
    (injected,) = (cell.source for cell in executed.cells if "injected-parameters" in cell.metadata.get("tags", []))
    assert "steps = 20" in injected and "rate = 0.25" in injected
    text = executed.cells[-1].outputs[0].data["text/plain"]
    assert "nothing is checked" in text and "rate = 0.25, not 0.5" in text
    assert "trained" in (tree / "build" / "paper.other.rate=0.25.html").read_text()
    assert (
        "5/5" in printed and "6 Training" in printed and str(tree / "build" / "paper.other.rate=0.25.ipynb") in printed
    )
    assert contents(tree) == before


def test_a_failing_notebook_is_kept_and_its_cell_named(tree, capsys):
    put(tree, train="x = 1\nraise RuntimeError('loss is nan\\nat step 3')")
    put(tree, "dying", train="import os\nos._exit(1)")
    put(tree, "good")
    assert main(["run", "all", "--jobs", "2"], tree) == 1
    output = capsys.readouterr()
    dying, paper = output.err.splitlines()[-2:]
    for text in ("paper.ipynb", "section '6 Training'", "`x = 1`", "RuntimeError: loss is nan"):
        assert text in paper
    assert "dying.ipynb" in dying and "`import os`" in dying and "DeadKernelError" in dying
    assert "loss is nan" in (tree / "build" / "paper.html").read_text()
    assert f"done  {tree / 'build' / 'good.ipynb'}" in output.out


SLOW = TRAIN + "\nimport time\ntime.sleep(60)"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_the_output_that_was_there(tree, number):
    assert main(["run", "paper"], tree) == 0
    pages = [tree / "build" / f"paper{suffix}" for suffix in (".ipynb", ".html")]
    before = [page.read_bytes() for page in pages]
    put(tree, train=SLOW)
    with start(tree, "run", "paper") as process:
        for line in process.stdout:
            if line.startswith("paper  2/"):
                break
        time.sleep(0.5)  # in the sleeping cell
        process.send_signal(number)
        assert process.wait(120) == (130 if number == signal.SIGINT else -9)
    assert [page.read_bytes() for page in pages] == before
    put(tree)
    assert main(["run", "paper"], tree) == 0  # and nothing of it is in the way
    assert not list((tree / "build" / "running").iterdir())


def test_a_run_that_shows_nothing_leaves_the_output_that_was_there(tree, monkeypatch, capsys):
    assert main(["run", "paper"], tree) == 0
    before = (tree / "build" / "paper.ipynb").read_bytes()
    monkeypatch.setattr(execution.Run, "__call__", lambda task: f"{task.source.name} did not start: no kernel")
    capsys.readouterr()
    assert main(["run", "paper"], tree) == 1
    assert capsys.readouterr() == ("FAILED  paper\n", "replicate: paper.ipynb did not start: no kernel\n")
    assert (tree / "build" / "paper.ipynb").read_bytes() == before


def test_all_with_a_preset_are_those_that_have_it(tree, capsys):
    put(tree, "without", train="raise RuntimeError")
    kept = record.read(tree / "replications" / "without.json")
    record.write(tree / "replications" / "without.json", kept | {"presets": {"mixture": kept["presets"]["mixture"]}})
    assert main(["run", "all", "--preset", "other"], tree) == 0
    assert {path.name for path in (tree / "build").glob("*.ipynb")} == {"paper.other.ipynb"}
    assert main(["run", "without", "--preset", "other"], tree) == 2
    assert "no preset 'other' in without.json" in capsys.readouterr().err


def test_a_page_with_a_figure_is_written_without_a_warning(tmp_path, caplog):
    page = notebook()
    page.cells[4].outputs = [nbformat.v4.new_output("display_data", data={"image/png": "iVBORw0KGgo="})]
    nbformat.write(page, tmp_path / "page.ipynb")
    execution.write_html(tmp_path / "page.ipynb")
    assert "<img" in (tmp_path / "page.html").read_text()
    assert not caplog.records
