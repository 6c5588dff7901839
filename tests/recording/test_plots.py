import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from flowcore import plots

RNG = np.random.default_rng(0)
CLOUDS = {name: RNG.normal(size=(20, 2)) for name in ("one step", "two steps", "exact")}
PICTURES = {name: RNG.uniform(-1, 1, size=(10, 4, 4, 1)) for name in ("data", "samples")}
CURVES = {"MF": RNG.uniform(1, 2, 300), "FM": RNG.uniform(1, 2, 30)}
DRAWN = {
    "points": (lambda: plots.points(CLOUDS), 3),
    "points over a reference": (lambda: plots.points(CLOUDS, CLOUDS["exact"]), 3),
    "images": (lambda: plots.images(PICTURES, side=3), 2),
    "curves": (lambda: plots.curves(CURVES, "loss", floor=1.0), 1),
    "bars": (lambda: plots.bars({"MF": 4.0, "FM": 3.0}, "cost", reference=3.0), 1),
    "bars with marks": (lambda: plots.bars({"MF": 4.0, "FM": 3.0}, "cost", marks=[1.4, 1.0]), 1),
}


@pytest.mark.parametrize("name", DRAWN)
def test_it_is_a_figure_with_its_panels_and_is_not_left_open(name):
    draw, panels = DRAWN[name]
    figure = draw()
    assert isinstance(figure, Figure)
    assert len(figure.axes) == panels
    assert plt.get_fignums() == []
    figure.canvas.draw()  # a closed figure can still be shown, without a warning


def test_panels_are_titled_in_order():
    assert [axis.get_title() for axis in plots.points(CLOUDS).axes] == list(CLOUDS)


def test_lines_join_each_point_to_its_reference():
    """What is drawn is the error of each row, not a path from row to row."""
    (axis,) = plots.points({"a": CLOUDS["one step"]}, CLOUDS["exact"]).axes
    assert len(axis.lines) == 20
    ends = axis.lines[7].get_xydata()
    assert np.allclose(ends, [CLOUDS["exact"][7], CLOUDS["one step"][7]])


def test_the_mosaic_is_row_by_row_from_black_to_white():
    batch = np.stack([np.full((2, 2, 1), level) for level in (-1.0, 0.0, 1.0)])
    picture = plots.mosaic(batch, side=2)
    assert picture.shape == (6, 6)  # a line of one pixel below and beside each
    assert [picture[0, 0], picture[0, 3], picture[3, 0], picture[3, 3]] == [0, 0.5, 1, 1]  # the last place is blank


def test_the_mosaic_clips_what_overshoots_and_keeps_colours():
    picture = plots.mosaic(np.full((1, 2, 2, 3), 7.0), side=1)
    assert picture.shape == (3, 3, 3)
    assert picture.max() == 1


def test_curves_are_smoothed_over_a_hundredth_of_the_run():
    (axis,) = plots.curves({"run": np.arange(1.0, 301.0)}, "loss", log=False).axes
    steps, values = axis.lines[0].get_data()
    assert len(values) == 100
    assert (steps[1], values[0], values[1]) == (3, 2, 5)


def test_bars_read_from_top_to_bottom():
    (axis,) = plots.bars({"first": 4.0, "second": 3.0}, "cost").axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["second", "first"]
    assert [bar.get_width() for bar in axis.patches] == [3, 4]
