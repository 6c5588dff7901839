"""Where everything is in a repository, and which notebooks a command names."""

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from commands.errors import BadInput
from commands.files import held
from flowcore import record

TEMPLATE = "900_template"


@dataclass(frozen=True)
class Tree:
    """Where everything is, below the root of a repository."""

    root: Path

    @property
    def build(self) -> Path:
        return self.root / "build"

    @property
    def replications(self) -> Path:
        return self.root / "replications"

    def folder(self, name: str) -> Path:
        """Names that begin with a number are the reading path's, which is tied to no paper."""
        return self.root / "notebooks" if name[:1].isdigit() else self.replications

    def notebook(self, name: str) -> Path:
        return self.folder(name) / f"{name}.ipynb"

    def record(self, name: str) -> Path:
        return self.folder(name) / f"{name}.json"

    def keeps_record(self, name: str) -> bool:
        """A replication must have one; of the reading path those that have."""
        return self.folder(name) == self.replications or self.record(name).exists()

    def presets(self, name: str) -> dict[str, dict]:
        return record.read(self.record(name))["presets"] if self.record(name).exists() else {}

    def default_preset(self, name: str) -> str:
        """The name of the preset that stands in the notebook."""
        return record.default_preset(record.read(self.record(name)))

    def default_entry(self, name: str) -> dict:
        """What the record has of the default preset; nothing where there is no record."""
        return next(iter(self.presets(name).values()), {})

    def papers(self) -> list[str]:
        return sorted(path.stem for path in self.replications.glob("*.ipynb"))

    def lock(self, name: str, busy: str) -> AbstractContextManager[None]:
        """Held by one command at a time; the second is refused with `busy` and the remedy."""
        return held(self.build / "locks", name, busy)

    def lock_record(self, paper: str) -> AbstractContextManager[None]:
        """Held by what writes the notebook and the record of a paper."""
        return self.lock(f"record.{paper}", f"{paper} is being recorded or refreshed")

    def choose(self, names: Sequence[str], preset: str | None = None) -> list[str]:
        """These notebooks; `all` is every paper's, with a preset every one's that has it. Raises BadInput for none and
        for an unknown one."""
        there = f"there are: {', '.join(self.papers()) or 'none yet'}"
        if not names:
            raise BadInput(f"say which replication, or all; {there}")
        every = [paper for paper in self.papers() if not preset or preset in self.presets(paper)]
        if "all" in names and preset and not every:
            raise BadInput(f"no replication has a preset {preset!r}")
        named = [each for name in names for each in (every if name == "all" else [name])]
        # a name, not a path: outputs are named after it
        unknown = [name for name in named if not re.fullmatch(r"\w+", name) or not self.notebook(name).exists()]
        if unknown:
            raise BadInput(f"no replication {', '.join(unknown)}; {there}")
        return list(dict.fromkeys(named))
