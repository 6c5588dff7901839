"""The table and the figure of the benchmarks."""

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from commands.benchmarks import NAMES, report

HERE = {"date": "2026-01-01", "device": "cpu (here)", "versions": {"jax": "1.2.3"}, "load": 0.04}


def several(median):
    return {"median": median, "low": median / 2, "high": 2 * median, "rounds": 7}


def recorded(name, numbers, **where):
    return {name: {"recorded": HERE | where, "numbers": numbers}}


@pytest.mark.parametrize(("share", "verdict"), [(0.049, "met"), (0.051, "not met")])
def test_a_goal_is_held_against_the_median(share, verdict):
    row = "| what `fit` adds to a step of MeanFlow | {} | {} to {} | 7 | at most 5 %: {} |"
    shown = [report.percent(value) for value in (share, share / 2, 2 * share)]
    assert row.format(*shown, verdict) in report.table(recorded("overhead", {"share": several(share)}))


def test_what_was_not_measured_is_not_there():
    assert report.table(recorded("overhead", {"share": several(0.1)})).count("\n|") == 2


def test_it_says_where_each_was_measured_and_under_which_load():
    made = recorded("overhead", {"share": several(0.1)}) | recorded("wide_steps", {"time": several(1.0)}, load=3.0)
    text = report.table(made)
    assert "*overhead: 2026-01-01, cpu (here), JAX 1.2.3, load 0.0.*" in text
    assert "*wide_steps: 2026-01-01, cpu (here), JAX 1.2.3, load 3.0.*" in text


def test_a_number_that_is_missing_is_named():
    with pytest.raises(KeyError, match="no share was measured: run ci/replicate bench again"):
        report.table(recorded("overhead", {}))


def test_every_line_is_of_a_measurement_and_every_measurement_has_a_line():
    assert {line.measurement for line in report.LINES} == set(NAMES)


def test_the_figure_has_a_bar_and_a_mark_per_method():
    steps = {name: {"time": several(time), "flops": time} for name, time in (("MF", 1.4), ("flow matching", 1.0))}
    figure = report.figure(recorded("steps", steps))
    assert isinstance(figure, Figure)
    (axis,) = figure.axes
    assert [bar.get_width() for bar in axis.patches] == [1.4, 1.0]
    assert [mark[0] for mark in axis.collections[0].get_offsets()] == [1.4, 1.0]


def test_the_record_that_is_here_is_the_table_of_the_readme():
    """A table that was typed, or a record that was changed after it, is red."""
    root = Path(report.__file__).resolve().parents[3]
    place = root / "ci" / "bench.json"
    if not place.exists():
        pytest.skip("nothing is recorded yet: ci/replicate bench")
    block = (root / "README.md").read_text().partition("<!-- bench -->\n")[2].partition("\n<!-- /bench -->")[0]
    assert block == report.table(json.loads(place.read_text()))
