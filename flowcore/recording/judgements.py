"""What a replication that states no margins says of its paper: a sentence, what was measured for it, and a verdict.

Replications under the protocol state `claims.Claim`s; this is here until the last of the others does.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

VERDICTS = ("holds", "does not hold here", "not tested")


@dataclass(frozen=True)
class Judgement:
    """One checkable claim of a paper, what was measured for it, and one of `VERDICTS` (else ValueError)."""

    claim: str
    measured: str
    verdict: str

    def __post_init__(self):
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict {self.verdict!r} of claim {self.claim!r} must be one of {', '.join(VERDICTS)}")

    @classmethod
    def judge(cls, claim: str, measured: str, holds: bool) -> "Judgement":
        """A claim that was tested."""
        return cls(claim, measured, "holds" if holds else "does not hold here")


@dataclass(frozen=True)
class Table:
    """Judgements as a table: Markdown in a notebook, aligned text elsewhere."""

    judgements: tuple[Judgement, ...]

    def _repr_markdown_(self) -> str:
        rows = [[cell.replace("|", "\\|") for cell in asdict(one).values()] for one in self.judgements]
        return "\n".join(f"| {' | '.join(row)} |" for row in [["claim", "measured", "verdict"], ["---"] * 3, *rows])

    def __repr__(self) -> str:
        return "\n".join(f"{one.verdict:<18}  {one.claim}: {one.measured}" for one in self.judgements)


def table(judgements: Sequence[Judgement]) -> Table:
    """The judgements, ready to be the last expression of a cell."""
    return Table(tuple(judgements))
