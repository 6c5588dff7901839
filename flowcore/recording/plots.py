"""The few things that every notebook shows, so that all look alike: figures, each a matplotlib Figure, and source."""

import inspect
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown
from matplotlib.figure import Figure

INK, TRUTH, FAINT = "#1f4e79", "#d9822b", "#9aa5b1"
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


def lines(x, runs: dict[str, list[float]], xlabel: str, ylabel: str) -> Figure:
    """One line per run over the values `x`, both axes logarithmic."""
    figure, (axis,) = panels(1, width=5.2, height=2.6)
    for label, values in runs.items():
        axis.plot(x, values, marker="o", markersize=3, label=label)
    axis.set(xlabel=xlabel, ylabel=ylabel, xscale="log", yscale="log", xticks=x, xticklabels=x)
    axis.xaxis.minorticks_off()  # those of y are all there is when it spans less than a decade
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return close(figure)


def bars(
    values: dict[str, float], xlabel: str, *, reference: float | None = None, marks: list[float] | None = None
) -> Figure:
    """One horizontal bar per name; `reference` draws a dashed line, `marks` (one per name) a tick across each bar."""
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
        axis.text(end, row, f" {length:.3g}", va="center", fontsize=8)
    axis.set(xlabel=xlabel)
    return close(figure)


def source(*functions: Callable) -> Markdown:
    """The code of these functions, as it stands in `flowcore`."""
    return Markdown("\n".join(f"```python\n{inspect.getsource(function)}```" for function in functions))


def close(figure: Figure) -> Figure:
    plt.close(figure)  # a notebook shows what a cell returns; left open, it would be drawn twice
    return figure
