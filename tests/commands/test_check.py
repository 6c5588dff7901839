"""`check`: what nbval compares, what is refused before, and what has changed since a revision."""

import os
import shutil
import subprocess

import nbformat
import pytest
from nbval import plugin
from trees import change_record, contents, one_line, put

from commands import check
from commands.__main__ import main
from commands.check import touched
from commands.tree import Tree


def test_check_is_green_on_what_was_recorded_and_changes_nothing(recorded, capfd):
    before = contents(recorded)
    assert main(["check"], recorded) == 0
    assert "4 passed" in capfd.readouterr().out
    assert contents(recorded) == before


def test_check_is_red_on_a_metric_out_of_band(recorded, capfd):
    change_record(recorded, "endpoint_error_1", mean=0.5, band=[0.4, 0.6])
    assert main(["check", "paper"], recorded) == 1
    output = capfd.readouterr()
    assert "1 failed, 3 passed" in output.out and "Traceback" not in output.out
    assert output.err == "replicate: paper: endpoint_error_1: measured 1.05, band [0.4, 0.6]\n"


def test_check_has_a_line_for_everything_that_disagrees(recorded, capfd):
    change_record(recorded, "endpoint_error_1", mean=0.5, band=[0.4, 0.6])
    change_record(recorded, "cost", mean=5)
    path = recorded / "replications" / "paper.json"
    path.write_text(path.read_text().replace('"claim": "small"', '"claim": "small; and claim \'b\': odd"'))
    put(recorded, "broken")
    shutil.copy(path, recorded / "replications" / "broken.json")
    executed = nbformat.read(recorded / "replications" / "paper.ipynb", as_version=4)
    for cell in executed.cells:
        cell.source = cell.source.replace("record.check('paper'", "record.check('broken'")
        cell.source = cell.source.replace("error = ", "raise ValueError('no\\nmore')  # ")
    nbformat.write(executed, recorded / "replications" / "broken.ipynb")
    assert main(["check"], recorded) == 1
    broken, *paper = capfd.readouterr().err.splitlines()
    assert broken.startswith("replicate: broken: section '6 Training', cell `import sys`: ValueError: no (and 2 below)")
    assert paper[:2] == [
        "replicate: paper: cost: measured 4, exactly 5",
        "replicate: paper: endpoint_error_1: measured 1.05, band [0.4, 0.6]",
    ]
    assert all(line.startswith("replicate: paper: claim ") for line in paper[2:])
    assert len(paper) == 4


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
    assert main(["check"], recorded) == 1
    one_line(capsys, "paper.ipynb", expected)


def test_what_nbval_passes_over_is_what_check_refuses():
    """Its own list, so that a word that a later one knows is noticed."""
    checked = {"NBVAL_CHECK_OUTPUT", "nbval-check-output"}
    assert {*plugin.comment_markers, *plugin.metadata_tags} - checked == {*check.NOT_COMPARED, *check.TAGS}


SKIPPED = """import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if item.name == "Cell 3":
            item.options["skip"] = True
"""
DESELECTED = """def pytest_collection_modifyitems(items):
    items[:] = [item for item in items if item.name != "Cell 3"]
"""


@pytest.mark.parametrize("plug", [SKIPPED, DESELECTED], ids=["skipped", "not collected"])
def test_check_is_red_when_a_cell_was_not_compared_though_pytest_is_green(recorded, monkeypatch, capfd, tmp_path, plug):
    (tmp_path / "passing_over.py").write_text(plug)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("PYTEST_PLUGINS", "passing_over")
    assert main(["check"], recorded) == 1
    assert capfd.readouterr().err == (
        "replicate: paper: 3 of 4 code cells were run and compared; see what pytest says above\n"
    )


def test_check_is_red_without_a_report(recorded, monkeypatch, capfd):
    monkeypatch.setattr(check.ElementTree, "fromstring", lambda _: (_ for _ in ()).throw(check.ElementTree.ParseError))
    assert main(["check"], recorded) == 1
    assert capfd.readouterr().err == (
        "replicate: pytest ended with no report and does not say why; the notebooks: paper\n"
    )


def test_what_changed_since_a_revision_is_all_when_the_code_did(tree):
    put(tree, "other_paper")
    (tree / "flowcore").mkdir()

    def commit(name, text):
        (tree / name).write_text(text)
        for arguments in (["add", "."], ["-c", "user.name=n", "-c", "user.email=e@e", "commit", "-qm", "m"]):
            subprocess.run(["git", *arguments], cwd=tree, check=True)

    subprocess.run(["git", "init", "-q"], cwd=tree, check=True)
    commit("flowcore/maps.py", "1")
    there = Tree(tree)
    assert touched(there, "HEAD") == ([], [])
    commit("README.md", "new")
    assert touched(there, "HEAD~1") == ([], [])
    commit("replications/paper.json", "{}")
    assert touched(there, "HEAD~2") == (["paper"], ["paper"])
    commit("flowcore/maps.py", "2")
    assert touched(there, "HEAD~1") == (["other_paper", "paper"], [])
    assert touched(there, "HEAD~2") == (["other_paper", "paper"], ["paper"])
    (tree / "notebooks").mkdir()
    commit("notebooks/000_first.ipynb", "{}")
    commit("notebooks/900_template.ipynb", "{}")
    assert touched(there, "HEAD~2") == (["000_first"], ["000_first"])
