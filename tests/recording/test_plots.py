import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from flowcore import AverageVelocityMap, plots, tasks

RNG = np.random.default_rng(0)
CLOUDS = {name: RNG.normal(size=(20, 2)) for name in ("one step", "two steps", "exact")}
PICTURES = {name: RNG.uniform(-1, 1, size=(10, 4, 4, 1)) for name in ("data", "samples")}
CURVES = {"MF": RNG.uniform(1, 2, 300), "FM": RNG.uniform(1, 2, 30)}
RULERS = {"mean of the data": 4.96, "centre": 3.2, "2 steps": 3.34, "8 steps": 1.11, "16 steps": 1.1, "floor": -1e-3}
ERRORS = {"MF": [1.3, 1.1], "LSD": [1.0, 0.8]}
DRAWN = {
    "points": (lambda: plots.points(CLOUDS), 3),
    "points over a reference": (lambda: plots.points(CLOUDS, CLOUDS["exact"]), 3),
    "images": (lambda: plots.images(PICTURES, side=3), 2),
    "curves": (lambda: plots.curves(CURVES, "loss", floor=1.0), 1),
    "bars": (lambda: plots.bars({"MF": 4.0, "FM": 3.0}, "cost", reference=3.0), 1),
    "bars beside rulers": (lambda: plots.bars({"MF": 1.3, "LSD": 1.1}, "error", rulers=RULERS), 1),
    "bars of runs that diverged": (lambda: plots.bars({"MF": float("nan")}, "error", rulers=RULERS), 1),
    "lines": (lambda: plots.lines([1, 2], ERRORS, "steps", "error"), 1),
    "lines beside rulers": (lambda: plots.lines([1, 2], ERRORS, "steps", "error", rulers=RULERS), 1),
    "lines of runs that diverged": (
        lambda: plots.lines([1, 2], {"MF": [float("nan")] * 2}, "steps", "error", rulers=RULERS),
        1,
    ),
    "lines far from all rulers": (lambda: plots.lines([1, 2], ERRORS, "steps", "error", rulers={"far": 99.0}), 1),
    "bars far from all rulers": (lambda: plots.bars({"MF": 1.3}, "error", rulers={"far": 99.0}), 1),
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


# --- rulers ----------------------------------------------------------------------------------------------------------


def labels(axis) -> dict[str, object]:
    """The texts of an axis that name a ruler."""
    return {text.get_text(): text for text in axis.texts if any(text.get_text().startswith(name) for name in RULERS)}


def dotted(axis, along: str) -> list[float]:
    """Where the dotted lines stand."""
    drawn = [line for line in axis.lines if line.get_linestyle() == ":"]
    return sorted(float((line.get_xdata() if along == "x" else line.get_ydata())[0]) for line in drawn)


def overlaps(figure, texts) -> list[tuple[str, str]]:
    """Pairs of labels that cover each other, in the frame of their own slant."""
    figure.canvas.draw()
    found = []
    for i, one in enumerate(texts):
        for other in texts[i + 1 :]:
            shift = np.subtract(other.get_window_extent().min, one.get_window_extent().min)
            slant = np.deg2rad(one.get_rotation())
            across = abs(shift @ [-np.sin(slant), np.cos(slant)])
            if across < one.get_fontsize() * figure.dpi / 72:
                found.append((one.get_text(), other.get_text()))
    return found


def test_rulers_of_bars_are_lines_with_labels_and_do_not_squash_the_bars():
    figure = plots.bars({"MF": 1.3, "LSD": 1.1}, "error", rulers=RULERS)
    (axis,) = figure.axes
    assert dotted(axis, "x") == [-1e-3, 1.1, 1.11, 3.2]
    assert axis.get_xlim()[1] <= 2.6 * 1.3  # the longest bar takes two fifths
    assert set(labels(axis)) == {"centre 3.2", "8 steps 1.11", "16 steps 1.1", "floor -0.001"}
    assert figure.get_supxlabel() == "off the axis: mean of the data 4.96, 2 steps 3.34"
    assert overlaps(figure, list(labels(axis).values())) == []


def test_rulers_of_lines_are_drawn_within_a_factor_of_three():
    figure = plots.lines([1, 2], ERRORS, "steps", "error", rulers=RULERS)
    (axis,) = figure.axes
    assert dotted(axis, "y") == [1.1, 1.11, 3.2, 3.34]
    assert figure.get_supxlabel() == "off the axis: mean of the data 4.96, floor -0.001"
    assert overlaps(figure, list(labels(axis).values())) == []
    low, high = axis.get_ylim()
    assert low < 0.8 and 3.34 < high < 4.96


def test_labels_move_apart_and_no_further():
    assert np.allclose(plots.apart(np.array([0.1, 0.5, 0.9]), 0.1), [0.1, 0.5, 0.9])
    assert np.allclose(plots.apart(np.array([0.52, 0.5]), 0.1), [0.56, 0.46])
    assert np.allclose(plots.apart(np.array([0.5, 0.5, 0.5, 2.0]), 0.1), [0.4, 0.5, 0.6, 2.0])
    assert np.allclose(plots.apart(np.array([0.0, 0.01, 0.11]), 0.1), [-0.06, 0.04, 0.14])  # one block, its mean kept
    assert len(plots.apart(np.array([]), 0.1)) == 0


def test_a_table_has_dashes_where_nothing_is_known_and_rulers_in_italics():
    made = plots.table({"MF": {1: 1.234, 4: 1.1}, "CD": {1: 1.3}}, {"centre": 3.2})
    assert made.data.splitlines() == [
        "|  | 1 step | 4 steps |",
        "| --- | --- | --- |",
        "| MF | 1.23 | 1.1 |",
        "| CD | 1.3 | - |",
        "| *centre* | *3.2* | *3.2* |",
    ]


# --- samples of any task -------------------------------------------------------------------------------------------


def task_of(shape, pictures=None) -> tasks.Task:
    """Twelve points, which the reference leaves where they are."""
    noise = jnp.asarray(RNG.normal(size=(12, *shape)))
    still = AverageVelocityMap(lambda x, s, t: 0 * x)
    return tasks.Task(still, noise, noise, noise, lambda size, seed: None, pictures=pictures)


def test_samples_in_the_plane_are_joined_to_where_the_reference_puts_them():
    task = task_of((2,))
    (axis,) = plots.samples(task, {"1 step": task.noise + 0.1}).axes
    assert len(axis.lines) == 12
    assert np.allclose(axis.lines[3].get_xydata(), [task.endpoints[3], task.noise[3] + 0.1])
    (axis,) = plots.samples(task, {"other noise": task.noise[:5]}, against_reference=False).axes
    assert len(axis.lines) == 0


def test_samples_that_stand_for_pictures_are_drawn_as_those_of_the_same_rows():
    pictures = lambda points: np.ones((1, 28, 28, 1)) * points[:, 0].reshape(-1, 1, 1, 1)  # noqa: E731
    task = task_of((3,), pictures)
    points = np.linspace(-1, 1, 90).reshape(30, 3)
    figure = plots.samples(task, {"1 step": points, "2 steps": points[::-1]})
    drawn = [axis.images[0].get_array() for axis in figure.axes]
    assert [picture.shape for picture in drawn] == [(5 * 29, 5 * 29)] * 2
    assert drawn[0][30, 30] == pytest.approx(points[6, 0] / 2 + 0.5)  # the second of the second row
    assert drawn[1][30, 30] == pytest.approx(points[::-1][6, 0] / 2 + 0.5)


def test_samples_of_images_are_images_and_others_are_refused():
    figure = plots.samples(task_of((4, 4, 1)), PICTURES)
    assert [axis.images[0].get_array().shape for axis in figure.axes] == [(40, 40)] * 2
    with pytest.raises(ValueError, match=r"not points of shape \(5,\): give the task `pictures`"):
        plots.samples(task_of((5,)), {"1 step": np.zeros((3, 5))})
