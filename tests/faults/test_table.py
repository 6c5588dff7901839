"""The rows can fail; and how fast a refusal is in a process of its own."""

import json
import os
import subprocess
import sys
import time

import pytest
from table import SECONDS, Row, judge
from trees import CI

from commands.__main__ import main
from commands.tree import Tree


def slowly(root, monkeypatch):
    choose = Tree.choose
    monkeypatch.setattr(Tree, "choose", lambda *given: time.sleep(SECONDS) or choose(*given))


def touching(root, monkeypatch):
    choose = Tree.choose
    monkeypatch.setattr(Tree, "choose", lambda *given: (root / "new").write_text("") and 0 or choose(*given))


def talking(root, monkeypatch):
    choose = Tree.choose
    monkeypatch.setattr(Tree, "choose", lambda *given: print("more", file=sys.stderr) or choose(*given))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (Row("another code", ["run", "papre"], 1, []), "exit code 2"),
        (Row("another word", ["run", "papre"], 2, ["paper", "elephant"]), "elephant"),
        (Row("a second line", ["run", "papre"], 2, ["papre"], talking), "more"),
        (Row("too slow", ["run", "papre"], 2, ["papre"], slowly), " s"),
        (Row("a file that was written", ["run", "papre"], 2, ["papre"], touching), "files have changed"),
        (Row("a call that raises something else", lambda: int("x"), ValueError, ["elephant"]), "elephant"),
    ],
    ids=str,
)
def test_a_row_can_fail(row, said, tree, monkeypatch, capsys):
    with pytest.raises(AssertionError, match=said):
        judge(row, tree, monkeypatch, capsys)


HEAVY = ("jax", "nbformat", "papermill", "scipy", "pytest", "numpy", "yaml", "nbconvert", "matplotlib")


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["run", "papre"], ["bench", "stpes"], ["run"]])
def test_help_and_a_refusal_take_half_a_second_and_import_nothing_heavy(arguments):
    code = "import sys; from commands.__main__ import main\n"
    code += "try: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    code += f"print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(CI), str(CI.parent)])}
    command = [sys.executable, "-P", "-c", f"import json; {code}", *arguments]
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        seconds.append(time.monotonic() - started)
        assert json.loads(done.stdout.splitlines()[-1]) == []
    assert min(seconds) < SECONDS, seconds


@pytest.mark.parametrize(
    "verb", ["list", "run", "check", "record", "refresh", "renew", "new", "table", "bench", "site", "lab"]
)
def test_every_verb_is_described(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert f"ci/replicate {verb}" in capsys.readouterr().out
