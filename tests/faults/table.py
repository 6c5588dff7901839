"""The harness of the faults: a row says what is done, how it ends, and the words that its one line must name.

    Row("no such replication", ["run", "papre"], 2, ["papre", "there are: paper"])

A command is a list of arguments, or a call without arguments, whose `code` is then the exception that it must raise.
Before it `prepare(root, monkeypatch)` may spoil the repository or the machine.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from commands.__main__ import main

SECONDS = 0.5  # for a refusal


def nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The repository as it is."""


@dataclass(frozen=True)
class Row:
    title: str
    command: Sequence[str] | Callable[[], object]
    code: int | type[Exception]
    names: Sequence[str]
    prepare: Callable[[Path, pytest.MonkeyPatch], object] = nothing
    seconds: float | None = None  # else SECONDS for a refusal, and as long as it takes for a failure

    def __str__(self) -> str:
        return self.title


def table(rows: Sequence[Row]):
    """The mark that gives a test its rows."""
    assert len({row.title for row in rows}) == len(rows), "two rows have one title"
    return pytest.mark.parametrize("row", rows, ids=str)


def judge(row: Row, root: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Fails unless the row ends as it says, in one line, quickly, and leaves all files as they were."""
    row.prepare(root, monkeypatch)
    if callable(row.command):
        with pytest.raises(row.code) as raised:
            row.command()
        return refuse_other_words(row, str(raised.value).splitlines())
    before, built = files(root), (root / "build").exists()
    capsys.readouterr()
    started = time.monotonic()
    code = main(list(row.command), root)
    seconds = time.monotonic() - started
    monkeypatch.undo()
    lines = capsys.readouterr().err.splitlines()
    assert code == row.code, f"exit code {code}: {lines}"
    refuse_other_words(row, lines)
    assert lines[0].startswith("replicate: ") and not lines[0].endswith(":"), lines[0]
    assert files(root) == before, "files have changed"
    if code == 2:
        assert (root / "build").exists() == built, "something was started"
    limit = row.seconds or (SECONDS if code == 2 else None)
    assert limit is None or seconds < limit, f"{seconds:.2f} s"


def refuse_other_words(row: Row, lines: list[str]) -> None:
    assert len(lines) == 1, lines
    assert len(lines[0]) < 600, f"{len(lines[0])} characters"
    missing = [name for name in row.names if name not in lines[0]]
    assert not missing, f"{missing} not in {lines[0]!r}"


def files(root: Path) -> dict[str, bytes]:
    """Every file outside of build/ and git's own; what a link points to does not count."""
    found = {str(path.relative_to(root)): path for path in root.rglob("*") if path.is_file() and not path.is_symlink()}
    return {name: path.read_bytes() for name, path in found.items() if name.split("/")[0] not in ("build", ".git")}
