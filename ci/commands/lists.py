"""`list`: the methods and the replications, and what was measured of them; `table`: the same in README.md, in full."""

import itertools
import textwrap
from collections.abc import Iterator

from commands import readme
from commands.errors import Failed
from commands.tree import Tree
from flowcore import record

WIDTH = 80
FLOW_MAP = record.FAMILIES[0]  # the family of a record that names none
TITLES = ("method", "cost", "here", "1-step error", "replication")
Line = tuple[str, str, str, str, str]


def list_methods(tree: Tree) -> int:
    """The rows of the survey's table by rule, in its order, then the other replications by family, then the presets
    that nobody has recorded; in 80 columns."""
    groups = [*survey(tree), *others(tree)]
    lines = [TITLES, *(line for _, group in groups for line in group)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(fitted(TITLES, widths))
    for title, group in groups:
        print(f"\n{title}"[: WIDTH + 1])
        for line in group:
            print(fitted(line, widths))
    if waiting := not_recorded(tree):
        print("\nnot recorded yet")
        for preset, papers in waiting.items():
            print(textwrap.fill(f"{preset}: {', '.join(papers)}", WIDTH, subsequent_indent="  "))
    return 0


def fitted(cells: Line, widths: list[int]) -> str:
    line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"


def survey(tree: Tree) -> Iterator[tuple[str, list[Line]]]:
    from flowcore import landscape  # here: it imports JAX

    rows = landscape.measured(tree.replications)
    for rule, group in itertools.groupby(rows, key=lambda pair: pair[0].rule):
        lines = []
        for row, metrics in group:
            here = row.paper if tree.record(row.paper).exists() else "not yet"
            lines.append((row.name, str(row.cost), *numbers(metrics), here))
        yield f"{rule} rule", lines


def others(tree: Tree) -> Iterator[tuple[str, list[Line]]]:
    """Of what is not in the survey's table."""
    from flowcore import METHODS

    groups = {family: [] for family in record.FAMILIES}
    for paper in sorted(set(tree.papers()) - {row.paper for row in METHODS}):
        kept = record.read(tree.record(paper))
        family = kept.get("family", FLOW_MAP)
        metrics = kept["presets"][record.default_preset(kept)].get("metrics", {})
        groups[family].append(("-", "", *numbers(metrics), paper))
    for family, group in groups.items():
        if group:
            yield family if family != FLOW_MAP else "flow map, beyond the survey's table", group


def numbers(metrics: dict[str, dict]) -> tuple[str, str]:
    from flowcore import landscape

    return tuple(landscape.shown(metrics.get(name)) for name in ("cost", "endpoint_error_1"))


def not_recorded(tree: Tree) -> dict[str, list[str]]:
    """Preset -> the replications that have it, and no numbers of it."""
    found: dict[str, list[str]] = {}
    for paper in tree.papers():
        for name, preset in tree.presets(paper).items():
            if "metrics" not in preset:
                found.setdefault(name, []).append(paper)
    return found


def table(tree: Tree, check_only: bool) -> int:
    readme.with_block(tree, "landscape", "")  # a README without a place for it is refused before JAX is imported
    from flowcore import landscape

    content = landscape.table(tree.replications)
    if check_only:
        before, after = readme.with_block(tree, "landscape", content)
        if before != after:
            raise Failed("the table in README.md is out of date; ci/replicate table rewrites it")
    else:
        readme.rewrite(tree, "landscape", content)
    print("the table in README.md is up to date")
    return 0


def add(verbs) -> None:
    verb = verbs.add_parser("list", help="the methods and the replications, and what was measured of them")
    verb.set_defaults(command=lambda asked, tree: list_methods(tree))
    verb = verbs.add_parser("table", help="rewrite the landscape table in README.md")
    verb.add_argument("--check", action="store_true", help="only say whether it is up to date")
    verb.set_defaults(command=lambda asked, tree: table(tree, asked.check))
