"""Which modules of flowcore a piece of code stands on, read from the sources alone: nothing is imported.

`flowcore.fit` is followed through the index, `flowcore.networks.DiT` through the `__init__` of the room, to the file
that defines it; from there on through all that this file imports, inside of functions too. Where a name cannot be
followed, more is taken and never less: a module that is handed on whole counts with all that lies in it.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

from commands.errors import Failed

INDEX = ("MODULES", "NAMES", "EXTRAS")  # the tables of flowcore/__init__: they say where names are, and do nothing
BY_NAME = ("import_module", "__import__", "brought")  # functions that import what a string says


class House:
    """The modules of a package by their dotted names. Raises Failed for a file that is not Python."""

    def __init__(self, folder: Path):
        self.folder, self.name = folder, folder.name
        self.files = {dotted(path, folder): path for path in sorted(folder.rglob("*.py"))}
        self.trees = {name: parsed(path) for name, path in self.files.items()}
        self.tables = self._tables()
        self._stands_on: dict[str, set[str]] = {}

    def _tables(self) -> tuple[set[str], dict[str, str]]:
        """What the index says: modules that go by their last name, and where every other name is."""
        found = {"MODULES": (), "NAMES": {}}
        for line in self.trees[self.name].body if self.name in self.trees else ():
            name = assigned(line)
            if name in found:
                found[name] = ast.literal_eval(line.value)
        names = {name: module for module, names in found["NAMES"].items() for name in names}
        return set(found["MODULES"]), names | {module.rpartition(".")[2]: module for module in found["MODULES"]}

    def reached(self, tree: ast.AST) -> set[str]:
        """All modules that this code stands on, directly or through others."""
        found, left = {self.name} & self.files.keys(), self.uses(tree, "")  # the index is part of every import
        while left := left - found:
            found |= left
            left = set().union(*map(self.stands_on, left))
        return found

    def stands_on(self, name: str) -> set[str]:
        """What a module uses, and what importing it does besides: in a room whose `__init__` is more than a list of
        names that is the whole room, in every room the modules that act when they are imported."""
        if name not in self._stands_on:
            room = name.rpartition(".")[0]
            found = self.uses(self.trees[name], name if self.is_package(name) else room)
            if room not in ("", self.name) and not self.only_lists(room):
                found.add(room)
            elif room not in ("", self.name):
                found |= {each for each in self.uses(self.trees[room], room) if acts(self.trees[each])}
            self._stands_on[name] = found
        return self._stands_on[name]

    def is_package(self, name: str) -> bool:
        return self.files[name].name == "__init__.py"

    def only_lists(self, name: str) -> bool:
        """Whether it is a room that only says where its names are."""
        imports = (ast.Import, ast.ImportFrom)
        body = self.trees[name].body
        return self.is_package(name) and all(
            isinstance(line, imports) or says_nothing(line) or assigned(line) == "__all__" for line in body
        )

    # --- names ---

    def uses(self, tree: ast.AST, package: str) -> set[str]:
        """The modules that hold what this code names; its relative imports start from `package`."""
        modules, found = {}, set()
        for node in ast.walk(tree):
            for alias, source, name in imports(node, package):
                if source != self.name and not source.startswith(f"{self.name}."):
                    continue
                module = source if name is None else self.module(source, name)
                if name == "*":
                    found |= self.whole(source)
                elif module is None:
                    found |= self.home(source, name)
                else:
                    modules.setdefault(alias, set()).add(module if alias != self.name else self.name)
                    found |= {module} & self.files.keys() if not self.only_lists_or_index(module) else set()
        return found | set(self._followed(tree, modules)) | self._by_string(tree)

    def only_lists_or_index(self, module: str) -> bool:
        return module == self.name or module in self.files and self.only_lists(module)

    def _followed(self, node: ast.AST, modules: dict[str, set[str]]) -> Iterator[str]:
        """What chains such as `flowcore.metrics.endpoint_error` lead to, where `modules` are known by these names."""
        chain = names_of(node)
        if chain and chain[0] in modules:
            for module in modules[chain[0]]:
                yield from self.follow(module, chain[1:])
            return
        for child in ast.iter_child_nodes(node):
            yield from self._followed(child, modules)

    def follow(self, module: str, names: list[str]) -> set[str]:
        if not names:
            return self.whole(module)
        deeper = self.module(module, names[0])
        return self.home(module, names[0]) if deeper is None else self.follow(deeper, names[1:])

    def module(self, source: str, name: str) -> str | None:
        """The module that `source.name` is; None when it is something else."""
        modules, names = self.tables
        if source == self.name and names.get(name) in modules and names[name].endswith(f".{name}"):
            return names[name]
        if source in self.trees and self.is_package(source) and name in bound(self.trees[source]):
            return None  # a function that is called as its module
        return f"{source}.{name}" if f"{source}.{name}" in self.files else None

    def home(self, source: str, name: str) -> set[str]:
        """Where `source.name` is defined."""
        if source == self.name:
            if name in self.tables[1]:
                return self.home(self.tables[1][name], name)
            here = self.trees[self.name].body if self.name in self.trees else ()
            return set() if any(getattr(line, "name", None) == name for line in here) else self.whole(source)
        if source not in self.files:
            return set(self.files)
        if not self.only_lists(source):
            return {source}
        places = bound(self.trees[source]).get(name, ())
        found = set()
        for line, original in places:
            origin = absolute(line, source)
            module = self.module(origin, original)
            found |= self.home(origin, original) if module is None else self.whole(module)
        return found or self.whole(source)

    def whole(self, module: str) -> set[str]:
        """A module that is handed on: all that lies in it."""
        return {name for name in self.files if name == module or name.startswith(f"{module}.")}

    def _by_string(self, tree: ast.AST) -> set[str]:
        """Modules named in a string; all of them where a string that is only made later names one."""
        found = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and node.value in self.files:
                found.add(node.value)
            if isinstance(node, ast.Call) and (chain := names_of(node.func)) and chain[-1] in BY_NAME:
                if not (node.args and isinstance(node.args[0], ast.Constant)):
                    return set(self.files)
        return found


# --- reading a tree ------------------------------------------------------------------------------------------------


def dotted(path: Path, folder: Path) -> str:
    parts = path.relative_to(folder.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise Failed(f"{path}: not Python: {error}") from None


def imports(node: ast.AST, package: str) -> Iterator[tuple[str, str, str | None]]:
    """(the name that it goes by, the module, the name in it or None for the module itself) of an import."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.asname or alias.name.partition(".")[0], alias.name, None
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or alias.name, absolute(node, package), alias.name


def absolute(node: ast.ImportFrom, package: str) -> str:
    """The module that is imported from, seen from `package`."""
    above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
    return ".".join([*above, *([node.module] if node.module else [])])


def bound(tree: ast.Module) -> dict[str, list[tuple[ast.ImportFrom, str]]]:
    """The names that a room takes from elsewhere: in which line, and as what."""
    found = {}
    for line in tree.body:
        for alias in line.names if isinstance(line, ast.ImportFrom) else ():
            found.setdefault(alias.asname or alias.name, []).append((line, alias.name))
    return found


def names_of(node: ast.AST) -> list[str]:
    """['a', 'b', 'c'] of `a.b.c`; [] of anything else, and where a name is only given a value."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    loaded = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    return [node.id, *reversed(names)] if loaded else []


def assigned(line: ast.stmt) -> str | None:
    """The one name that a line gives a value."""
    if isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name):
        return line.targets[0].id
    return None


def says_nothing(line: ast.AST) -> bool:
    """A docstring, or any text that stands for itself."""
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


def acts(tree: ast.Module) -> bool:
    """Whether importing it may change something elsewhere: a line that neither defines nor names anything."""
    defines = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.AnnAssign)

    def only_defines(line: ast.stmt) -> bool:
        if isinstance(line, ast.Assign):
            return all(isinstance(target, ast.Name | ast.Tuple) for target in line.targets)
        main = isinstance(line, ast.If) and "__main__" in [getattr(n, "value", None) for n in ast.walk(line.test)]
        return isinstance(line, defines) or says_nothing(line) or main

    return not all(map(only_defines, tree.body))
