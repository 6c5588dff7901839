"""Wrong commands: one line, exit code 2, nothing written."""

import pytest
from trees import contents, one_line

from commands import parameters
from commands.__main__ import main


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
    assert main(arguments, tree) == 2
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
    assert main(["run", "paper", "--preset", "other"], tree) == 1
    one_line(capsys, "paper.json", *expected)


def test_a_spoilt_notebook_is_named(tree, capsys):
    (tree / "replications" / "paper.ipynb").write_text("{")
    assert main(["run", "paper"], tree) == 1
    one_line(capsys, "paper.ipynb is not a notebook")


@pytest.mark.parametrize(
    ("name", "text", "value"), [("rate", "1e-3", 0.001), ("rate", "2", 2.0), ("steps", "20", 20), ("name", "7", "7")]
)
def test_values_take_the_type_of_the_default(name, text, value):
    parsed = parameters.parse(name, text, {"steps": 10, "rate": 0.5, "name": "a"})
    assert parsed == value and type(parsed) is type(value)
