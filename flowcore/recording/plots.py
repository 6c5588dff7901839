"""The few things that every notebook shows, so that all look alike: figures, each a matplotlib Figure, and source."""

import inspect
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown
from jaxtyping import Array
from matplotlib.figure import Figure

from flowcore.tasks import Task

INK, TRUTH, FAINT, QUIET = "#1f4e79", "#d9822b", "#9aa5b1", "#5b6670"
FEWER = 5  # pictures a side, of those that are as large as 28 x 28: a notebook stays small
STYLE = {
    "figure.dpi": 72,
    "savefig.dpi": 72,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "legend.frameon": False,
}


def panels(count: int, width: float = 2.6, height: float = 2.8):
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, count, figsize=(width * count, height), layout="constrained", squeeze=False)
    return figure, axes[0]


def samples(task: Task, clouds: dict[str, Array | np.ndarray], *, against_reference: bool = True) -> Figure:
    """One panel per cloud (n, *task.shape), whatever the task: points in the plane, or the images that they stand for,
    of the same first rows in each.

    `against_reference` is for clouds of the task's noise, row by row: in the plane lines join each point to where the
    reference puts it. Raises ValueError for a task that is neither of the plane nor of images."""
    clouds = {title: np.asarray(cloud) for title, cloud in clouds.items()}
    if task.pictures is not None:
        return images({title: task.pictures(cloud[: FEWER**2]) for title, cloud in clouds.items()}, side=FEWER)
    if len(task.shape) == 3:
        return images(clouds)
    if task.shape == (2,):
        return points(clouds, np.asarray(task.endpoints) if against_reference else None)
    raise ValueError(f"samples draws the plane and images, not points of shape {task.shape}: give the task `pictures`")


def points(clouds: dict[str, np.ndarray], reference: np.ndarray | None = None, limit: float = 2.2) -> Figure:
    """One panel per cloud (n, 2), over the reference cloud (n, 2) in the colour of truth.

    With a reference of the same noise, lines join each point to where the exact map puts it: the error, drawn.
    """
    figure, axes = panels(len(clouds))
    for axis, (title, cloud) in zip(axes, clouds.items(), strict=True):
        cloud = np.asarray(cloud)
        if reference is not None:
            exact = np.asarray(reference)
            axis.plot(*np.stack([exact, cloud], axis=1)[:300].T, color=FAINT, linewidth=0.4, zorder=0)
            axis.scatter(*exact.T, s=2, color=TRUTH, linewidths=0)
        axis.scatter(*cloud.T, s=2, color=INK, linewidths=0)
        axis.set(title=title, xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
    return close(figure)


def images(batches: dict[str, np.ndarray], side: int = 8) -> Figure:
    """One panel per batch (n, H, W, C) in [-1, 1]: the first side x side images, apart by a thin line."""
    figure, axes = panels(len(batches), width=2.8)
    for axis, (title, batch) in zip(axes, batches.items(), strict=True):
        axis.imshow(mosaic(np.asarray(batch)[: side * side], side), cmap="gray", vmin=0, vmax=1)
        axis.set(title=title, xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return close(figure)


def mosaic(batch: np.ndarray, side: int) -> np.ndarray:
    """(n, H, W, C) in [-1, 1] to one picture in [0, 1]; gray values for one channel, colours for three."""
    batch = np.clip(batch / 2 + 0.5, 0, 1)
    blank = np.ones((side * side - len(batch), *batch.shape[1:]))
    framed = np.pad(np.concatenate([batch, blank]), [(0, 0), (0, 1), (0, 1), (0, 0)], constant_values=0.35)
    rows = framed.reshape(side, side, *framed.shape[1:]).swapaxes(1, 2)
    return rows.reshape(side * framed.shape[1], side * framed.shape[2], -1).squeeze()


def curves(runs: dict[str, np.ndarray], ylabel: str, *, floor: float | None = None, log: bool = True) -> Figure:
    """One curve per run (values, one per step), smoothed over 1 % of the run; `floor` draws a dashed line."""
    figure, (axis,) = panels(1, width=5.2, height=2.6)
    for label, values in runs.items():
        window = max(1, len(values) // 100)
        whole = np.asarray(values)[: len(values) // window * window]
        axis.plot(np.arange(len(whole) // window) * window, whole.reshape(-1, window).mean(axis=1), label=label)
    if floor is not None:
        axis.axhline(floor, color=FAINT, linestyle="--", linewidth=1)
    axis.set(xlabel="training step", ylabel=ylabel, yscale="log" if log else "linear")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return close(figure)


def lines(
    x, runs: dict[str, list[float]], xlabel: str, ylabel: str, *, rulers: dict[str, float] | None = None
) -> Figure:
    """One line per run over the values `x`, both axes logarithmic. `rulers` draws a dotted line each; those that are
    not within a factor of 3 of what the runs reach are named below."""
    figure, (axis,) = panels(1, width=5.2, height=2.6)
    for label, values in runs.items():
        axis.plot(x, values, marker="o", markersize=3, label=label)
    axis.set(xlabel=xlabel, ylabel=ylabel, xscale="log", yscale="log", xticks=x, xticklabels=x)
    axis.xaxis.minorticks_off()  # those of y are all there is when it spans less than a decade
    if rulers:
        figure.set_size_inches(7.0, 3.4)
        every = [value for values in runs.values() for value in values]
        reached = [value for value in every if np.isfinite(value) and value > 0] or [1.0]  # where all have diverged
        shown = {name: value for name, value in rulers.items() if min(reached) / 3 <= value <= max(reached) * 3}
        low, high = min([*reached, *shown.values()]) / 1.15, max([*reached, *shown.values()]) * 1.15
        axis.set_ylim(low, high)
        name_off_axis(figure, rulers, shown)
        place = np.log(np.array(list(shown.values())) / low) / np.log(high / low)
        for (name, value), at, label in zip(shown.items(), place, apart(place, 0.06), strict=True):
            axis.axhline(value, color=QUIET, linestyle=":", linewidth=0.9, zorder=0)
            line = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 0}
            note = {"xycoords": "axes fraction", "textcoords": "axes fraction", "arrowprops": line}
            axis.annotate(named(name, value), (1, at), (1.03, label), **note, va="center", fontsize=7, color=QUIET)
        figure.legend(loc="outside upper left", ncols=4, frameon=False)
    else:
        axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return close(figure)


def bars(
    values: dict[str, float],
    xlabel: str,
    *,
    reference: float | None = None,
    marks: list[float] | None = None,
    rulers: dict[str, float] | None = None,
) -> Figure:
    """One horizontal bar per name; `reference` draws a dashed line, `marks` (one per name) a tick across each bar.

    `rulers` draws a dotted line each, named above; those beyond 2.5 of the longest bar are named below, for they would
    squash the bars."""
    figure, (axis,) = panels(1, width=6.0, height=0.6 + 0.26 * len(values))
    names, lengths = list(values)[::-1], list(values.values())[::-1]
    ends = lengths
    axis.barh(names, lengths, color=INK, height=0.6)
    if reference is not None:
        axis.axvline(reference, color=TRUTH, linestyle="--", linewidth=1)
    if marks is not None:
        axis.scatter(marks[::-1], names, marker="|", s=90, color=TRUTH, zorder=2)
        ends = np.maximum(lengths, marks[::-1])
    for row, (length, end) in enumerate(zip(lengths, ends, strict=True)):
        behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.5} if rulers else None  # a ruler may pass there
        axis.text(end, row, f" {length:.3g}", va="center", fontsize=8, bbox=behind)
    axis.set(xlabel=xlabel)
    if rulers:
        figure.set_size_inches(6.0, 1.9 + 0.26 * len(values))
        longest = max((abs(end) for end in ends if np.isfinite(end)), default=1.0)
        shown = {name: value for name, value in rulers.items() if abs(value) <= 2.5 * longest}
        high = max([1.12 * longest, *(1.02 * value for value in shown.values())])
        low = min([0.0, *lengths, *shown.values()])
        axis.set_xlim(low, high)
        name_off_axis(figure, rulers, shown)
        place = (np.array(list(shown.values())) - low) / (high - low)
        for (name, value), at, label in zip(shown.items(), place, apart(place, 0.05), strict=True):
            axis.axvline(value, color=QUIET, linestyle=":", linewidth=0.9, zorder=0)
            axis.plot([at, label], [1, 1.06], color=FAINT, linewidth=0.5, transform=axis.transAxes, clip_on=False)
            turned = {"rotation": 45, "rotation_mode": "anchor", "transform": axis.transAxes}
            axis.text(label, 1.08, named(name, value), **turned, fontsize=7, color=QUIET)
    return close(figure)


def apart(places: np.ndarray, gap: float) -> np.ndarray:
    """The places nearest to these, in their order, of which neighbours are at least `gap` apart: where labels fit.

    With multiples of the gap taken off they need only rise, and the nearest rising numbers are means of blocks."""
    order = np.argsort(places, kind="stable")
    steps = gap * np.arange(len(places))
    blocks: list[list[float]] = []
    for value in places[order] - steps:
        blocks.append([value])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    found = np.empty_like(places)
    found[order] = [np.mean(block) for block in blocks for _ in block] + steps
    return found


def named(name: str, value: float) -> str:
    return f"{name} {value:.3g}"


def name_off_axis(figure: Figure, rulers: dict[str, float], shown: dict[str, float]) -> None:
    """Under the figure, the rulers that are not drawn, three to a line."""
    rest = [named(name, value) for name, value in rulers.items() if name not in shown]
    if rest:
        rows = [", ".join(rest[i : i + 3]) for i in range(0, len(rest), 3)]
        figure.supxlabel("off the axis: " + ",\n".join(rows), fontsize=7, color=QUIET)


def table(errors: dict[str, dict[int, float]], rulers: dict[str, float] | None = None) -> Markdown:
    """One row per name, one column per number of steps, as `{"MF": {1: 0.2, 2: 0.1}}`; what is not known is a dash.

    The rulers follow in italics: they have no steps, and stand in every column."""
    columns = sorted({steps for of_steps in errors.values() for steps in of_steps})
    rows = [["", *(f"{steps} step{'s' * (steps > 1)}" for steps in columns)], ["---"] * (1 + len(columns))]
    for name, of_steps in errors.items():
        rows.append([name, *(f"{of_steps[steps]:.3g}" if steps in of_steps else "-" for steps in columns)])
    for name, value in (rulers or {}).items():
        rows.append([f"*{name}*", *[f"*{value:.3g}*"] * len(columns)])
    return Markdown("\n".join("| " + " | ".join(row) + " |" for row in rows))


def source(*functions: Callable) -> Markdown:
    """The code of these functions, as it stands in `flowcore`."""
    return Markdown("\n".join(f"```python\n{inspect.getsource(function)}```" for function in functions))


def close(figure: Figure) -> Figure:
    plt.close(figure)  # a notebook shows what a cell returns; left open, it would be drawn twice
    return figure
