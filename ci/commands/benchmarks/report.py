"""What the benchmarks say, for README: a table of goals against what was measured, and a figure of the steps.

`recorded` is the content of `ci/bench.json`: per measurement, where and when, and its numbers.
"""

from collections.abc import Callable
from typing import NamedTuple

from matplotlib.figure import Figure

from commands.benchmarks.peer import PROVEN
from flowcore import plots


class Line(NamedTuple):
    """One line of the table: a number at its place in a measurement, how to show it, and the limit that it may not
    exceed, where there is a goal."""

    title: str
    measurement: str
    place: tuple[str, ...]
    shown: Callable[[float], str]
    limit: float | None = None


def plain(value: float) -> str:
    return f"{value:.2f}"


def percent(value: float) -> str:
    return f"{100 * value:.2g} %"


def mebibytes(value: int) -> str:
    return f"{value / 2**20:,.0f} MiB"


def gigaflops(value: float) -> str:
    return f"{value / 1e9:,.0f} GFLOP/s"


def passes(value: bool) -> str:
    return "yes" if value else "no"


THERE = "`rectified-flow-pytorch`, eager"
SMALL, WIDE = "128 units", "512 units"
LINES = (
    Line("MeanFlow's step over flow matching's, 2 layers of 128 units", "steps", ("MF", "time"), plain, 1.4),
    Line("the same, 4 layers of 512 units", "wide_steps", ("time",), plain, 1.4),
    Line("the same in compiled FLOPs, 128 units", "steps", ("MF", "flops"), plain),
    *(Line(f"the same in {THERE}, {size}", "peers", (size, "MeanFlow", "time there"), plain) for size in (SMALL, WIDE)),
    *(
        Line(f"MeanFlow's step here over {THERE}, {size}", "peers", (size, "MeanFlow", "here over there"), plain, 1.0)
        for size in (SMALL, WIDE)
    ),
    *(
        Line(f"{name}'s step here over {THERE}, {SMALL}", "peers", (SMALL, name, "here over there"), plain, 1.0)
        for name in ("SplitMeanFlow", "SoFlow", "LSD")
    ),
    *(
        Line(f"{THERE}: {name} is stationary at the exact map", "peers", ("stationary", name, "passes"), passes)
        for name in PROVEN
    ),
    Line("what `fit` adds to a step of MeanFlow", "overhead", ("share",), percent, 0.05),
    Line("second start over the first, with the compilation cache", "compilation", ("share",), plain, 0.5),
    Line("the same without the import", "compilation", ("share without import",), plain),
    Line("dealing a batch of images over its step", "dealing", ("share",), percent),
    *(
        Line(f"64 Euler steps over {n} jump(s), in time", "sampling", ("times as fast", f"{n}"), plain)
        for n in (1, 2, 4)
    ),
    *(
        Line(f"memory of MeanFlow through {way} attention, {n} tokens", "attention", (f"{n}", "bytes", way), mebibytes)
        for n in (1024, 4096, 16384)
        for way in ("plain", "chunked")
    ),
    Line("chunked over plain attention, in time, 2048 tokens", "attention", ("2048", "time"), plain),
    Line("one large product of matrices", "utilisation", ("peak",), gigaflops),
    *(Line(f"MeanFlow's FLOPs per second over that, {s}", "utilisation", ("share", s), percent) for s in (SMALL, WIDE)),
    *(Line(f"steps per second on {n} devices over 1", "scaling", (f"{n}",), plain) for n in (2, 4, 8)),
)


def table(recorded: dict) -> str:
    """Markdown: what, its median over the rounds, the smallest and the largest, and the goal with its verdict; what was
    not measured is not there. Below it, where each was measured."""
    rows = [["what", "median", "smallest to largest", "rounds", "goal"], ["---", "---:", "---:", "---:", "---"]]
    for line in LINES:
        if line.measurement in recorded:
            rows.append(cells(line, found(recorded[line.measurement]["numbers"], line.place)))
    made = {}
    for name, entry in recorded.items():
        where = entry["recorded"]
        said = f"{where['date']}, {where['device']}, JAX {where['versions']['jax']}, load {where['load']:.1f}"
        made.setdefault(said, []).append(name)
    notes = [f"*{', '.join(names)}: {said}.*" for said, names in made.items()]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), "", *notes])


def cells(line: Line, number) -> list[str]:
    several = isinstance(number, dict)
    median = number["median"] if several else number
    spread = f"{line.shown(number['low'])} to {line.shown(number['high'])}" if several else ""
    goal = ""
    if line.limit is not None:
        goal = f"at most {line.shown(line.limit)}: {'met' if median <= line.limit else 'not met'}"
    return [line.title, line.shown(median), spread, str(number["rounds"]) if several else "", goal]


def found(numbers: dict, place: tuple[str, ...]):
    """The number at a place. Raises KeyError naming the place."""
    for key in place:
        if key not in numbers:
            raise KeyError(f"no {' / '.join(place)} was measured: run ci/replicate bench again")
        numbers = numbers[key]
    return numbers


def figure(recorded: dict) -> Figure:
    """The step of every method over that of flow matching: its time as a bar, its compiled FLOPs as a mark."""
    steps = recorded["steps"]["numbers"]
    order = sorted(steps, key=lambda name: steps[name]["flops"])
    times = {name: steps[name]["time"]["median"] for name in order}
    return plots.bars(
        times, "step over flow matching: time (bar), FLOPs (mark)", marks=[steps[n]["flops"] for n in order]
    )
