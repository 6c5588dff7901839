"""What a notebook's recorded numbers depend on, a hash for each part: so that a stale record can say what changed.

    {"notebook": its code, "parameters": their values, "packages": their versions, "flowcore": its index,
     "flowcore.path": a module that the notebook reaches, with the data that it names, ...}

What only records, judges and draws (`flowcore.recording`) moves no number and is no part of it; its tests hold it.
Comments, docstrings and layout are none either, nor is the version of Python: the syntax tree is hashed, field by
field. It takes milliseconds, and imports nothing of what it reads.
"""

import ast
import hashlib
import itertools
import json
import re
from collections.abc import Iterable
from pathlib import Path

from commands import files, notebooks, parameters
from commands.errors import BadInput
from commands.modules import INDEX, House, assigned, says_nothing
from commands.tree import Tree
from flowcore import record

LENGTH = 12  # hexadecimal digits
PACKAGES = ("jax", "jaxlib", "equinox", "optax", "diffrax", "numpy", "grain")
NO_PART = ("ctx", "kind", "type_comment", "type_ignores")  # fields of a syntax tree that follow from the others
JUDGES = "flowcore.recording."
OURS = ("notebook", "parameters", "packages")  # the parts that are no module


class Code:
    """The code of a repository, read once for as many notebooks as are asked for."""

    def __init__(self, tree: Tree):
        self.tree, self.house = tree, House(tree.root / "flowcore")
        self.data = {path.name: path for path in tree.root.glob("flowcore/**/*") if path.suffix in (".npz", ".tsv")}
        self.hashes: dict[str, str] = {}

    def of(self, paper: str, given: dict[str, object] | None = None) -> dict[str, str]:
        """The hashes; `given` are the parameters of the default preset, by default as the record has them."""
        path = self.tree.notebook(paper)
        cells = notebooks.code_cells(notebooks.read(path))
        trees = [parsed(without_values(cell)) for cell in cells]
        if None in trees:  # a cell that is not Python may name anything
            reached, source = set(self.house.files), "\n".join(cell["source"] for cell in cells)
        else:
            whole = ast.Module([line for tree in trees for line in tree.body], [])
            reached, source = self.house.reached(whole), text(whole)
        given = self.tree.default_entry(paper).get("parameters", {}) if given is None else given
        try:
            here = parameters.defaults(path)
        except BadInput:  # none are stated: they are code
            here = {}
        found = {"notebook": digest(source), "parameters": digest(json.dumps([here, given], sort_keys=True))}
        found["packages"] = digest("\n".join(self.versions()))
        return found | {name: self.hash(name) for name in sorted(reached) if not name.startswith(JUDGES)}

    def versions(self) -> Iterable[str]:
        """The pins of what the numbers are made with."""
        pins = self.tree.root / "ci" / "requirements.txt"
        lines = pins.read_text(encoding="utf-8").splitlines() if pins.exists() else []
        found = [line.split()[0] for line in lines if re.match(rf"({'|'.join(PACKAGES)})==", line)]
        return found or ["unpinned"]

    def hash(self, name: str) -> str:
        """Of a module with the data that it names; of the index without its tables, which are followed."""
        if name not in self.hashes:
            tree = self.house.trees[name]
            if name == self.house.name:
                tree = ast.Module([line for line in tree.body if assigned(line) not in INDEX], [])
            words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
            words = {word for word in words if isinstance(word, str)}
            named = [path for file, path in sorted(self.data.items()) if any(file in word for word in words)]
            self.hashes[name] = digest(text(tree), *(path.read_bytes() for path in named))
        return self.hashes[name]


def of(tree: Tree, paper: str, given: dict[str, object] | None = None) -> dict[str, str]:
    """What one notebook's numbers depend on. Raises NotebookFailed and Failed for what cannot be read."""
    return Code(tree).of(paper, given)


def renewed(tree: Tree, paper: str, depends: dict[str, str], work: Path) -> dict[Path, Path]:
    """The record under this code, written into the folder `work`, and the place that it has to move to."""
    path = tree.record(paper)
    kept = record.read(path)
    kept["presets"][record.default_preset(kept)]["code"] = depends
    with files.naming(work / path.name):
        record.write(work / path.name, kept)
    return {work / path.name: path}


def changes(there: dict[str, str] | None, here: dict[str, str]) -> list[str]:
    """The parts of the code that are not what they were when it was recorded: all, where that is not known."""
    there = there or {}
    return [part for part in sorted(there.keys() | here.keys(), key=order) if there.get(part) != here.get(part)]


def order(part: str) -> tuple[bool, str]:
    """Modules before what belongs to the notebook itself."""
    return part in OURS, part


def digest(*parts: str | bytes) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(part.encode() if isinstance(part, str) else part)
    return found.hexdigest()[:LENGTH]


def without_values(cell: dict) -> str:
    """The source of a cell; of the parameters only their names."""
    if not notebooks.tagged(cell, "parameters"):
        return cell["source"]
    lines = ast.parse(cell["source"]).body
    return "\n".join(line.target.id if isinstance(line, ast.AnnAssign) else ast.unparse(line) for line in lines)


def parsed(source: str) -> ast.Module | None:
    """None for what is not Python, even without its magic lines."""
    for lines in (source, "\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!")))):
        try:
            return ast.parse(lines)
        except (SyntaxError, ValueError):
            continue
    return None


def text(node: object) -> str:
    """A syntax tree in words: the kind of each node with the fields that hold something."""
    if isinstance(node, list):
        return "[" + ",".join(text(each) for each in node if not says_nothing(each)) + "]"
    if isinstance(node, ast.JoinedStr):  # 3.12 cuts it otherwise, and leaves empty parts
        parts = itertools.groupby(node.values, lambda part: isinstance(part, ast.Constant))
        texts = (repr("".join(p.value for p in some)) if plain else ",".join(map(text, some)) for plain, some in parts)
        return f"JoinedStr({','.join(each for each in texts if each != repr(''))})"
    if isinstance(node, ast.Constant):
        return f"{type(node.value).__name__} {node.value!r}"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, value) for name, value in ast.iter_fields(node) if name not in NO_PART]
    held = [f"{name}={text(value)}" for name, value in fields if value is not None and value != []]
    return f"{type(node).__name__}({','.join(held)})"
