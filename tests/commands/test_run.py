"""`run`: what is injected, printed, written and left alone."""

import nbformat
from trees import contents, notebook, put

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
