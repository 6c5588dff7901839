"""What `check` reruns: notebooks whose code has changed since they were recorded, and of the others three a day."""

import datetime
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field

from commands import code
from commands.tree import Tree

ROTATING = 3  # of what is skipped, rerun all the same: a hash cannot see a package or a processor that has changed
SECONDS = 120.0  # that a notebook takes of which nothing else is known


@dataclass
class Plan:
    """The notebooks that are rerun, in their order; those that wait; and what is said of it, a line each."""

    rerun: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def plan(
    tree: Tree,
    chosen: Sequence[str],
    named: Sequence[str],
    *,
    jobs: int,
    budget: float | None = None,
    today: datetime.date | None = None,
) -> Plan:
    """Those that are `named` run in any case; of the others the stale ones, those most affected first and among them
    the slowest last, and then the rotating ones, as far as the `budget` (minutes, estimated from what was recorded) of
    `jobs` at a time goes."""
    found, read = Plan(), code.Code(tree)
    changed = {paper: code.changes(tree.default_entry(paper).get("code"), read.of(paper)) for paper in chosen}
    unknown = [paper for paper in chosen if not tree.default_entry(paper).get("code")]
    stale = [paper for paper in chosen if changed[paper] and paper not in named]
    stale.sort(key=lambda paper: (-len(changed[paper]), seconds(tree, paper), paper))
    fresh = [paper for paper in chosen if not changed[paper] and paper not in named]
    rotating = rotated(fresh, today or datetime.date.today(), revision(tree))
    left = float("inf") if budget is None else 60 * budget * jobs
    for paper in [*(each for each in chosen if each in named), *stale, *rotating]:
        if paper in named or seconds(tree, paper) <= left:
            left -= seconds(tree, paper)
            found.rerun.append(paper)
        elif paper in stale:
            found.left.append(paper)
    for paper in [*(each for each in named if each in chosen and changed[each]), *stale]:
        if paper not in unknown:
            found.said.append(f"{paper} has changed since it was recorded: {', '.join(changed[paper])}")
        elif tree.keeps_record(paper):
            found.said.append(f"{paper} is rerun: its record does not say under which code it was made")
    found.said += skipped(fresh, [paper for paper in rotating if paper in found.rerun])
    if found.left:
        minutes = sum(seconds(tree, paper) for paper in found.left) / 60 / jobs
        found.said.append(f"left for the night, about {minutes:.0f} minutes: {', '.join(found.left)}")
    return found


def skipped(fresh: list[str], rerun: list[str]) -> list[str]:
    rest = [paper for paper in fresh if paper not in rerun]
    lines = [f"{len(rest)} skipped, recorded under the very code at hand: {', '.join(rest)}"] if rest else []
    return lines + ([f"recorded under it too, and today's turn: {', '.join(rerun)}"] if rerun else [])


def rotated(papers: Sequence[str], today: datetime.date, revision: str) -> list[str]:
    """Three of them: the next three every day, from where the revision begins."""
    start = ROTATING * today.toordinal() + int(revision or "0", 16)
    return [papers[(start + turn) % len(papers)] for turn in range(min(ROTATING, len(papers)))]


def revision(tree: Tree) -> str:
    """The commit that is checked out; '' where git has none."""
    try:
        done = subprocess.run(["git", "-C", tree.root, "rev-parse", "HEAD"], capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return "" if done.returncode else done.stdout.strip()


def seconds(tree: Tree, paper: str) -> float:
    """That a default run took when it was recorded."""
    return float(tree.default_entry(paper).get("recorded", {}).get("seconds", SECONDS))
