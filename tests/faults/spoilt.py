"""Repositories and machines that are spoilt in one way each: what rows of the table call `prepare`."""

import errno
import os
import resource
import subprocess
from pathlib import Path

import nbformat
from trees import CHECK, notebook, put

from commands import files
from commands.tree import Tree
from flowcore import record


def paper(root: Path, suffix: str = ".ipynb") -> Path:
    return root / "replications" / f"paper{suffix}"


def replaced(old: str, new: str, suffix: str = ".ipynb"):
    """The notebook or record with one text for another."""

    def prepare(root, _):
        text = paper(root, suffix).read_text()
        assert old in text
        paper(root, suffix).write_text(text.replace(old, new))

    return prepare


def holding(content: bytes, suffix: str = ".ipynb"):
    return lambda root, _: paper(root, suffix).write_bytes(content)


def folder(suffix: str):
    """A folder where a file should be."""

    def prepare(root, _):
        paper(root, suffix).unlink()
        paper(root, suffix).mkdir()

    return prepare


def executed(root: Path, **changes) -> None:
    """Notebook and record as if they had been recorded; `changes` are of the last cell."""
    made = notebook()
    for count, cell in enumerate(cell for cell in made.cells if cell.cell_type == "code"):
        cell.execution_count = count + 1
    made.cells[-1].outputs = [nbformat.v4.new_output("display_data", data={"text/plain": "cost  4  exact  ok"})]
    made.cells[-1].update(changes)
    nbformat.write(made, paper(root))
    kept = record.read(paper(root, ".json"))
    cost = {"mean": 4, "spread": 0.0, "band": None, "seeds": [4, 4, 4]}
    measured = {"metrics": {"cost": cost}, "claims": [], "recorded": {"date": "2026-01-01", "device": "cpu"}}
    kept["presets"]["mixture"] |= measured
    record.write(paper(root, ".json"), kept)


def recorded_but(suffix: str, content: bytes):
    def prepare(root, _):
        executed(root)
        paper(root, suffix).write_bytes(content)

    return prepare


def not_executed(root, _):
    executed(root, execution_count=None)


def no_output(root, _):
    executed(root, outputs=[])


def printed(text: str):
    """The last cell as if it had printed this."""
    return lambda root, _: executed(root, outputs=[nbformat.v4.new_output("stream", text=text)])


def never_recorded(root, _):
    """What the first execution of a new replication leaves."""
    kept = paper(root, ".json").read_bytes()
    executed(root)
    paper(root, ".json").write_bytes(kept)


def with_cell(number: int, **changes):
    """A code cell of a recorded notebook changed."""

    def prepare(root, _):
        executed(root)
        made = nbformat.read(paper(root), as_version=4)
        cell = [cell for cell in made.cells if cell.cell_type == "code"][number]
        for key, value in changes.items():
            cell[key] = value(cell[key])
        paper(root).write_text(nbformat.writes(made))

    return prepare


def with_tag(number: int, tag: str):
    return with_cell(number, metadata=lambda found: found | {"tags": [*found.get("tags", []), tag]})


def with_comment(number: int, comment: str):
    return with_cell(number, source=lambda found: f"{found}\n{comment}")


def no_code(root, _):
    nbformat.write(nbformat.v4.new_notebook(cells=[]), paper(root))


def without_seed(root, _):
    put(
        root,
        parameters="steps: int = 10  # steps\nrate: float = 0.5  # r\nname: str = 'a'  # a\nsizes: tuple = (1, 2)  # s",
    )


# --- git -----------------------------------------------------------------------------------------------------------


def repository(root, monkeypatch):
    for arguments in (
        ["init", "-q"],
        ["add", "."],
        ["-c", "user.name=n", "-c", "user.email=e@e", "commit", "-qm", "m"],
    ):
        subprocess.run(["git", *arguments], cwd=root, check=True)


def alone(root, monkeypatch):
    """Not within the repository of somebody else."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(root.parent))


def without_git(root, monkeypatch):
    monkeypatch.setenv("PATH", str(root / "nothing"))


def foreign(root, monkeypatch):
    """What git says of a clone of somebody else."""
    (root / "build" / "bin").mkdir(parents=True)
    script = root / "build" / "bin" / "git"
    said = f"fatal: detected dubious ownership in repository at '{root}'\nTo add an exception for this directory, call:"
    script.write_text(f'#!/bin/sh\necho "{said}" >&2\nexit 128\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)


# --- the machine ---------------------------------------------------------------------------------------------------

README = "before\n<!-- landscape -->\nold\n<!-- /landscape -->\nafter\n"


def with_readme(root):
    (root / "README.md").write_text(README)


def full(name: str):
    """A full disk under this file: what is written beside it goes to /dev/full."""

    def prepare(root, monkeypatch):
        with_readme(root)
        with_template(root)
        record.part_of(root / name).symlink_to("/dev/full")

    return prepare


def small_files(root, monkeypatch):
    """A limit that is met in the middle of README.md; `undo` lifts it."""
    with_readme(root)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    write = files.Path.write_bytes

    def limited(path, content):
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
        try:
            return write(path, content)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(files.Path, "write_bytes", limited)


def full_under_papermill(root, monkeypatch):
    """A full disk where papermill saves what it has executed."""
    import papermill

    def refused(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(root / "build" / "paper.ipynb"))

    monkeypatch.setattr(papermill, "execute_notebook", refused)


def refusing(name: str, method: str, number: int, *more):
    """The operating system's no to one method on files of this name."""

    def prepare(root, monkeypatch):
        for each in more:
            each(root, monkeypatch)
        allowed = getattr(Path, method)

        def refused(path, *arguments, **settings):
            if name in path.name:
                raise OSError(number, os.strerror(number), str(path))
            return allowed(path, *arguments, **settings)

        monkeypatch.setattr(Path, method, refused)

    return prepare


def with_template(root):
    (root / "notebooks").mkdir(exist_ok=True)
    template = notebook(check=CHECK.replace("paper", "900_template", 1))
    nbformat.write(template, root / "notebooks" / "900_template.ipynb")


def with_front(root, monkeypatch=None):
    """A site that was made before, and what it is made of."""
    (root / "notebooks").mkdir(exist_ok=True)
    nbformat.write(notebook(), root / "notebooks" / "100_landscape.ipynb")
    (root / "build" / "site").mkdir(parents=True)
    (root / "build" / "site" / "index.html").write_text("the old one")


def with_bench(root, monkeypatch=None):
    (root / "README.md").write_text("<!-- bench -->\n<!-- /bench -->\n")
    (root / "ci").mkdir()


def build_is_a_file(root, _):
    (root / "build").write_text("")


held_locks = []


def taken(name: str, *more):
    """The lock in another's hands: of this process too, for a lock belongs to whoever opened its file."""

    def prepare(root, monkeypatch):
        for each in more:
            each(root, monkeypatch)
        lock = Tree(root).lock(name, "")
        lock.__enter__()
        held_locks.append(lock)

    return prepare


def bench_spoilt(root, monkeypatch):
    with_bench(root)
    (root / "ci" / "bench.json").write_text("{")


def interrupting(owner, name: str, *more):
    """Ctrl-C in the middle."""

    def prepare(root, monkeypatch):
        for each in more:
            each(root, monkeypatch)

        def interrupted(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(owner, name, interrupted)

    return prepare


def readme_there(root, _):
    with_readme(root)


def template_there(root, _):
    with_template(root)
