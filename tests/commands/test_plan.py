"""What `check` reruns: what is stale, the most affected first, within a budget; and of the fresh ones three a day."""

import datetime
import json
import shutil
import subprocess

import pytest
from trees import PARAMETERS, change_record, put

from commands import check, code
from commands.__main__ import main
from commands.plan import plan, rotated
from commands.tree import Tree

DAY = datetime.date(2026, 11, 25)
SOURCE = "from flowcore import {}\nerror = sizes[0] + rate / steps"
MODULES = ("a", "b", "c", "record")


def keep(root, paper, seconds=None, **changes):
    """Writes the code at hand into a record, as if it had just been made."""
    path = Tree(root).record(paper)
    kept = json.loads(path.read_text())
    entry = {"metrics": {}, "claims": [], "recorded": {"date": "2026-01-01", "device": "cpu"}}
    entry["recorded"] |= {} if seconds is None else {"seconds": seconds}
    kept["presets"]["mixture"] |= entry | {"code": code.of(Tree(root), paper) | changes}
    path.write_text(json.dumps(kept))


@pytest.fixture
def six(tree):
    """Replications one to six, which use one, two, three, one, one and one of three modules."""
    (tree / "flowcore").mkdir()
    (tree / "flowcore" / "__init__.py").write_text(f"MODULES = {tuple(f'flowcore.{name}' for name in MODULES)}\n")
    for name in MODULES:
        (tree / "flowcore" / f"{name}.py").write_text("RATE = 1\n")
    for name, uses in {"one": "a", "two": "a, b", "three": "a, b, c", "four": "b", "five": "b", "six": "c"}.items():
        put(tree, name, train=SOURCE.format(uses))
        keep(tree, name, seconds=60)
    for path in (tree / "replications").glob("paper.*"):
        path.unlink()
    return tree


PAPERS = ["five", "four", "one", "six", "three", "two"]


def change(root, *names):
    for name in names:
        (root / "flowcore" / f"{name}.py").write_text("RATE = 2\n")


def planned(root, named=(), **options):
    return plan(Tree(root), Tree(root).papers(), named, jobs=1, today=DAY, **options)


def test_what_is_recorded_under_the_code_at_hand_is_skipped_but_for_three(six):
    found = planned(six)
    assert len(found.rerun) == 3 and not found.left
    rest = [paper for paper in PAPERS if paper not in found.rerun]
    assert found.said == [
        f"3 skipped, recorded under the very code at hand: {', '.join(rest)}",
        f"recorded under it too, and today's turn: {', '.join(found.rerun)}",
    ]


def test_what_has_changed_is_rerun_and_said_the_most_affected_first(six):
    change(six, "a", "b")
    put(six, "two", train=SOURCE.format("a, b"), parameters=PARAMETERS.replace("0.5", "0.4"))
    keep(six, "one", seconds=90, **{"flowcore.a": "other"})
    keep(six, "five", seconds=30, **{"flowcore.b": "other"})
    found = planned(six)
    assert found.rerun == ["two", "three", "five", "four", "one", "six"]
    assert found.said[1:3] == [
        "three has changed since it was recorded: flowcore.a, flowcore.b",
        "five has changed since it was recorded: flowcore.b",
    ]
    assert found.said[0] == "two is rerun: its record does not say under which code it was made"
    keep(six, "two", seconds=60, **{"flowcore.a": "other", "flowcore.b": "other", "parameters": "other"})
    found = planned(six)
    assert found.rerun[:2] == ["two", "three"]
    assert found.said[0] == "two has changed since it was recorded: flowcore.a, flowcore.b, parameters"


def test_a_budget_leaves_the_least_affected_and_names_them(six):
    change(six, "b")
    keep(six, "five", seconds=200, **{"flowcore.b": "other"})
    found = planned(six, budget=3)
    assert found.rerun == ["four", "three", "two"] and found.left == ["five"]
    assert found.said[-1] == "left for the night, about 3 minutes: five"
    assert planned(six, budget=7).rerun[:4] == ["four", "three", "two", "five"]
    assert len(planned(six, budget=7.4).rerun) == 5  # one of the others fits too


def test_an_unknown_time_is_two_minutes_and_two_jobs_share_it(six):
    change(six, "c")
    for paper in ("six", "three"):
        keep(six, paper, **{"flowcore.c": "other"})
    assert planned(six, budget=3).left == ["three"]
    assert plan(Tree(six), PAPERS, [], jobs=2, today=DAY, budget=2).left == []


def test_what_is_named_runs_in_any_case(six):
    assert planned(six, named=["one"], budget=0.01).rerun == ["one"]
    assert planned(six, named=PAPERS).rerun == PAPERS


def test_everybody_has_a_turn_and_a_day_has_one_answer(six):
    days = [DAY + datetime.timedelta(days=n) for n in range(2)]
    turns = [rotated(PAPERS, day, "") for day in days]
    assert sorted(sum(turns, [])) == PAPERS and rotated(PAPERS, DAY, "") == turns[0]
    assert rotated(PAPERS, DAY, "1") != turns[0]
    assert rotated([], DAY, "") == [] and rotated(["one"], DAY, "") == ["one"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["check"], 3),
        (["check", "all"], 3),
        (["check", "--all"], 6),
        (["check", "one"], 1),
        (["check", "all", "--budget", "1"], 2),  # two jobs share the minute
    ],
)
def test_the_command_says_what_it_skips(six, monkeypatch, capsys, arguments, expected):
    ran = []
    monkeypatch.setattr(check, "refuse_unrecorded", lambda *_: None)
    monkeypatch.setattr(check, "rerun", lambda tree, paths: ran.extend(paths) or [])
    assert main(arguments, six) == 0
    assert len(ran) == expected
    assert ("skipped, recorded under the very code at hand" in capsys.readouterr().out) == (expected in (2, 3))


def test_all_and_a_budget_exclude_each_other(six, capsys):
    assert main(["check", "--all", "--budget", "3"], six) == 2
    assert "not both" in capsys.readouterr().err


def test_since_reruns_what_was_edited_and_of_the_rest_what_is_stale(six, monkeypatch):
    settings = ["-c", "user.name=n", "-c", "user.email=e@e"]

    def commit():
        for arguments in (["add", "."], [*settings, "commit", "-qm", "m"]):
            subprocess.run(["git", *arguments], cwd=six, check=True)

    subprocess.run(["git", "init", "-q"], cwd=six, check=True)
    commit()
    change(six, "c")
    shutil.copy(six / "replications" / "two.json", six / "replications" / "five.json")  # and so it is stale
    commit()
    ran = []
    monkeypatch.setattr(check, "refuse_unrecorded", lambda *_: None)
    monkeypatch.setattr(check, "rerun", lambda tree, paths: ran.extend(path.stem for path in paths) or [])
    assert main(["check", "--since", "HEAD~1"], six) == 0
    assert ran[:3] == ["five", "six", "three"] and len(ran) == 6


def test_a_fresh_record_is_green_and_a_changed_cell_is_said(recorded, capfd):
    put(recorded, "stale")
    for path in (recorded / "replications").glob("paper.*"):
        shutil.copy(path, path.with_stem("stale"))
    notebook = recorded / "replications" / "stale.ipynb"
    notebook.write_text(
        notebook.read_text().replace("'paper'", "'stale'").replace("paper, p", "stale, p").replace("/ s", "/ 1 / s")
    )
    assert main(["check"], recorded) == 0
    assert "stale has changed since it was recorded: notebook\n" in capfd.readouterr().out
    change_record(recorded, "cost", mean=5)
    assert main(["check", "paper"], recorded) == 1
