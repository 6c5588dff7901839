"""What a paper claims, what was measured for it, and the verdict."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

# of records without margins; these three are here until every record states its margins, whose verdicts are those of
# `margins.VERDICTS`
VERDICTS = ("holds", "does not hold here", "not tested")


@dataclass(frozen=True)
class Claim:
    """One checkable claim of a paper, what was measured for it, and one of `VERDICTS` (else ValueError)."""

    claim: str
    measured: str
    verdict: str

    def __post_init__(self):
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict {self.verdict!r} of claim {self.claim!r} must be one of {', '.join(VERDICTS)}")

    @classmethod
    def judge(cls, claim: str, measured: str, holds: bool) -> "Claim":
        """A claim that was tested."""
        return cls(claim, measured, "holds" if holds else "does not hold here")


@dataclass(frozen=True)
class Table:
    """Claims as a table: Markdown in a notebook, aligned text elsewhere."""

    claims: tuple[Claim, ...]

    def _repr_markdown_(self) -> str:
        rows = [[cell.replace("|", "\\|") for cell in asdict(claim).values()] for claim in self.claims]
        return "\n".join(f"| {' | '.join(row)} |" for row in [["claim", "measured", "verdict"], ["---"] * 3, *rows])

    def __repr__(self) -> str:
        return "\n".join(f"{claim.verdict:<18}  {claim.claim}: {claim.measured}" for claim in self.claims)


def table(claims: Sequence[Claim]) -> Table:
    """The claims, ready to be the last expression of a cell."""
    return Table(tuple(claims))
