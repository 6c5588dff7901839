"""The first steps of every replication's main run are those that are recorded: a change of the core shows there first.

Each is taken in a process of its own, in float32, as a kernel would run it.
"""

import sys
from pathlib import Path

import pytest

from flowcore import record

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "ci"))
from commands import fingerprint  # noqa: E402

PAPERS = sorted(path.stem for path in (ROOT / "replications").glob("*.ipynb"))


def recorded(paper):
    kept = record.read(ROOT / "replications" / f"{paper}.json")
    return kept["presets"][record.default_preset(kept)].get("fingerprint")


@pytest.mark.parametrize("paper", PAPERS)
def test_the_first_steps_are_those_that_are_recorded(paper):
    there = recorded(paper)
    assert there and "gradient_norm" in there, f"ci/replicate record {paper} takes its fingerprint"
    assert fingerprint.differences(there, fingerprint.of(ROOT / "replications" / f"{paper}.ipynb")) == []


def test_a_difference_is_named_with_its_step():
    there = {"mean_flow": [4.0, 3.0, 2.0], "gradient_norm": [1.0, 1.0, 1.0]}
    assert fingerprint.differences(there, there) == []
    near = there | {"mean_flow": [4.0, 3.0, 2.001]}
    assert fingerprint.differences(there, near) == []
    other = {"mean_flow": [4.0, 3.01, 2.0], "flow_matching": [1.0]}
    assert fingerprint.differences(there, other) == [
        "flow_matching is logged in one of them only",
        "gradient_norm is logged in one of them only",
        "mean_flow at step 10 is 3.01, recorded 3",
    ]


def test_a_loss_that_begins_at_zero_is_held_against_its_own_size():
    there = {"lsd": [0.0, 0.1, 0.2]}
    assert fingerprint.differences(there, {"lsd": [1e-9, 0.1, 0.2]}) == []
    assert len(fingerprint.differences(there, {"lsd": [1e-3, 0.1, 0.2]})) == 1


def test_another_rate_is_seen(tmp_path):
    """A copy of a notebook with one setting changed by a twentieth: the loss at the first step is the same."""
    text = (ROOT / "replications" / "mean_flow.ipynb").read_text(encoding="utf-8")
    changed = text.replace("rate: float = 2e-3", "rate: float = 2.1e-3")
    assert changed != text
    (tmp_path / "mean_flow.ipynb").write_text(changed, encoding="utf-8")
    found = fingerprint.differences(recorded("mean_flow"), fingerprint.of(tmp_path / "mean_flow.ipynb"))
    assert found and not any("step 1 " in line for line in found)


def test_a_notebook_that_trains_nothing_has_none(tmp_path):
    (tmp_path / "empty.ipynb").write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    assert fingerprint.of(tmp_path / "empty.ipynb") is None
