"""`check`: what nbval compares, what is refused before, and what has changed since a revision."""

import subprocess

import nbformat
import pytest
from trees import change_record, contents, one_line, put

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
    assert main(["check"], recorded) == 1
    one_line(capsys, "paper.ipynb", expected)


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
    assert touched(there, "HEAD") == []
    commit("README.md", "new")
    assert touched(there, "HEAD~1") == []
    commit("replications/paper.json", "{}")
    assert touched(there, "HEAD~2") == ["paper"]
    commit("flowcore/maps.py", "2")
    assert touched(there, "HEAD~1") == ["other_paper", "paper"]
    (tree / "notebooks").mkdir()
    commit("notebooks/000_first.ipynb", "{}")
    commit("notebooks/900_template.ipynb", "{}")
    assert touched(there, "HEAD~2") == ["000_first"]
