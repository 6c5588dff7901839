"""What a paper claims, as data: a notebook states it, `ci/replicate record` measures it over seeds and judges.

A claim compares two numbers of one statistic, a and b, by a margin of the house (`margins`): `a` is better than, much
better than, or the same as `b`. A notebook measures a and b for its seed and says no verdict; the verdict is of all
seeds together (`comparison`), and of two budgets where both are recorded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flowcore.recording.bands import DRIFTS
from flowcore.recording.comparison import Comparison, agree, compare
from flowcore.recording.margins import MARGINS, OUT_OF_SCOPE, SLACK, UNRESOLVED

FLOOR = "floor"  # the entry of a statistic below which its numbers are noise
# what is recorded beside a preset: at four times the training, and on the sharper laws
LONGER = {"garments": "garments_4x"}
SHARPER = {"garments": ("garments_sharp", "garments_sharper")}

Statistics = Mapping[str, Mapping[str, float]]  # statistic -> what it is of -> its number for one seed


@dataclass(frozen=True)
class Claim:
    """`id`, unique in the repository; the sentence; its source with the place; and what is compared.

    `statistic` names an entry of the notebook's statistics, `a` and `b` entries of that: a run, a ruler, a number that
    a paper gives. Less is better. A claim that cannot be tested here says why in `out_of_scope` and compares nothing.
    Raises ValueError for an unknown margin, and for a claim that does both or neither.
    """

    id: str
    sentence: str
    source: str
    statistic: str = ""
    a: str = ""
    margin: str = ""
    b: str = ""
    out_of_scope: str = ""

    def __post_init__(self):
        compared = (self.statistic, self.a, self.margin, self.b)
        if all(compared) == bool(self.out_of_scope) or any(compared) != all(compared):
            raise ValueError(f"claim {self.id}: give statistic, a, margin and b, or else say why it is out of scope")
        if self.margin and self.margin not in MARGINS:
            raise ValueError(f"claim {self.id}: no margin {self.margin!r}; there are {', '.join(MARGINS)}")
        if missing := [name for name in ("id", "sentence", "source") if not getattr(self, name).strip()]:
            raise ValueError(f"claim {self.id or repr(self.sentence)} has no {missing[0]}")

    def definition(self) -> dict[str, str]:
        """All that is stated before anything is measured; what a record keeps of it and a rerun must find unchanged."""
        return {name: value for name, value in vars(self).items() if value}


def check_statistics(claims: Sequence[Claim], statistics: Statistics) -> None:
    """Raises ValueError for a claim about something that is not among the statistics, and for an id that is not unique.

    A trial, which trains no ablation, lacks most of them: it states no claims."""
    ids = [claim.id for claim in claims]
    if twice := {name for name in ids if ids.count(name) > 1}:
        raise ValueError(f"two claims are called {twice.pop()}: an id belongs to one")
    for claim in claims:
        if claim.out_of_scope:
            continue
        entries = statistics.get(claim.statistic, {})
        for name in (claim.a, claim.b):
            if name not in entries:
                raise ValueError(f"claim {claim.id}: no {name!r} in the statistic {claim.statistic!r}: {[*entries]}")


def judge(definition: Mapping[str, str], statistics: Mapping[str, Mapping[str, dict]]) -> dict:
    """The record's entry of a claim: its definition, and the comparison over all seeds of its two numbers.

    `statistics` are recorded ones, each entry with its `seeds` and `drift`. The verdict has to survive what a rerun of
    both numbers is allowed to move."""
    if "out_of_scope" in definition:
        return {**definition, "verdict": OUT_OF_SCOPE}
    group = statistics[definition["statistic"]]
    a, b = (group[definition[name]]["seeds"] for name in ("a", "b"))
    floor = max(group[FLOOR]["seeds"]) if FLOOR in group else 0.0
    sides = (group[definition[name]] for name in ("a", "b"))
    moved = sum(side["drift"] / abs(side["seeds"][0]) for side in sides if side["drift"])
    found: Comparison = compare(a, b, definition["margin"], floor, max(SLACK, DRIFTS * moved))
    return {**definition, "ratio": found.ratio, "interval": list(found.interval), "verdict": found.verdict}


def verdicts(presets: Mapping[str, dict], name: str) -> dict[str, str]:
    """Claim id -> verdict on a preset: that of its record and of the longer runs beside it, where these are recorded
    and agree. A claim that they do not state, or state otherwise, is unresolved."""
    here, longer = (recorded(presets, preset) for preset in (name, LONGER.get(name, "")))
    found = {}
    for key, entry in here.items():
        other = longer.get(key, {})
        if longer and stated(other) != stated(entry):
            found[key] = UNRESOLVED
        else:
            found[key] = agree(entry["verdict"], *([other["verdict"]] if longer else []))
    return found


def companions(name: str) -> tuple[str, ...]:
    """The presets that are recorded beside a preset, on the same claims: longer, then sharper."""
    return (*([LONGER[name]] if name in LONGER else []), *SHARPER.get(name, ()))


def stated(entry: Mapping[str, object]) -> dict[str, object]:
    """What of a recorded claim was there before it was measured."""
    return {key: value for key, value in entry.items() if key not in ("ratio", "interval", "verdict")}


def recorded(presets: Mapping[str, dict], name: str) -> dict[str, dict]:
    """Claim id -> its entry in the record of a preset."""
    return {entry["id"]: entry for entry in presets.get(name, {}).get("claims", []) if "id" in entry}
