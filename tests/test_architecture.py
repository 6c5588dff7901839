"""The house from its imports: arrows go one way, a listing shows the architecture, files are short."""

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import flowcore

ROOT = Path(__file__).resolve().parent.parent
HOUSE = ROOT / "flowcore"
FLOORS = (  # from the bottom: a room knows those before it, and none behind it
    "checks",
    "path",
    "calculus",
    "maps",
    "exact",
    "sample",
    "metrics",
    "losses",
    "data",
    "networks",
    "objectives",
    "methods",
    "training",
    "tasks",
    "recording",
)
FILES = sorted(HOUSE.rglob("*.py"))
LONGEST = 300  # lines


def room(path: Path) -> str:
    return path.relative_to(HOUSE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Modules of flowcore that a file imports or uses as `flowcore.name`, inside of functions too."""
    return imported_of(path.read_text(encoding="utf-8"), ".".join(path.relative_to(ROOT).parent.parts))


def imported_of(source: str, package: str = "flowcore") -> set[str]:
    """`package` is where the source is: what its relative imports start from."""
    found, whole = set(), set()  # whole: the names that flowcore itself goes by
    nodes = list(ast.walk(ast.parse(source)))
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            ours = [alias for alias in node.names if alias.name.split(".")[0] == "flowcore"]
            whole |= {alias.asname or "flowcore" for alias in ours if alias.name == "flowcore" or not alias.asname}
        if isinstance(node, ast.ImportFrom):
            module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            found.add(module)
            if module == "flowcore":
                found |= {of_index(alias.name) for alias in node.names}
            elif node.level and not node.module:
                found |= {f"{module}.{alias.name}" for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in whole:
            found.add(of_index(node.attr))
    return {name for name in found if name.startswith("flowcore.")}


def of_index(name: str) -> str:
    """The module that `flowcore.name` is in; nothing of ours for what the index does not have."""
    return flowcore.INDEX.get(name) or (f"flowcore.{name}" if name in FLOORS else name)


def arrows() -> set[tuple[str, str]]:
    """(from, to) between rooms, without the index."""
    pairs = {(room(path), name.split(".")[1]) for path in FILES for name in imported(path)}
    return {(start, end) for start, end in pairs if start not in (end, "__init__")}


def upward(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    return {(start, end) for start, end in pairs if FLOORS.index(start) < FLOORS.index(end)}


def test_no_room_imports_one_that_is_built_on_it():
    assert upward(arrows()) == set()


def test_an_arrow_up_would_be_seen():
    found = imported_of("from flowcore import training\ndef f():\n    from flowcore.networks import attention")
    assert found == {"flowcore.training", "flowcore.networks"}
    assert imported_of("import flowcore\ndef f():\n    return flowcore.fit, flowcore.brought") == {"flowcore.training"}
    assert imported_of("import flowcore as fc\nfc.times.ordered, flowcore.maps") == {"flowcore.objectives.times"}
    assert imported_of("import flowcore.path\nflowcore.exact") == {"flowcore.path", "flowcore.exact"}
    assert imported_of("import jax\njax.numpy, flowcore.maps") == set()
    assert imported_of("from .. import tasks", "flowcore.losses") == {"flowcore.tasks"}
    assert imported_of("from ..training.loop import fit", "flowcore.losses") == {"flowcore.training.loop"}
    beside = {"flowcore.losses", "flowcore.losses.diagonal"}
    assert imported_of("from . import diagonal", "flowcore.losses") == beside
    assert imported_of("from . import fit") == {"flowcore.training"}
    assert upward({("maps", "networks"), ("training", "networks")}) == {("maps", "networks")}


def test_a_listing_shows_the_architecture():
    entries = {path.name.removesuffix(".py") for path in HOUSE.iterdir() if path.name != "__pycache__"}
    assert entries - {"__init__"} == set(FLOORS)
    assert len(FLOORS) <= 15


def test_the_readme_leads_through_the_rooms_in_their_order():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    read = text[text.index("\n## Read\n") : text.index("\n## Rerun\n")]
    rows = re.findall(r"^\| \[`(\w+)(/?)`\]\((.+?)\) \|", read, re.MULTILINE)
    assert tuple(name for name, _, _ in rows) == FLOORS
    for name, folder, link in rows:
        assert link == f"flowcore/{name}" + ("" if folder else ".py")
        assert (ROOT / link).is_dir() if folder else (ROOT / link).is_file()


def test_files_of_a_room_do_not_go_round_in_circles():
    """Between files too: what one imports when it is imported must be there."""
    needs = {path: {name for name in imported(path)} for path in FILES}
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
    done, order = set(), []

    def visit(path, above):
        assert path not in above, f"a circle: {' -> '.join(p.name for p in (*above, path))}"
        if path not in done:
            for name in needs[path]:
                if name in modules and modules[name] != path and modules[name].name != "__init__.py":
                    visit(modules[name], (*above, path))
            done.add(path)
            order.append(path)

    for path in FILES:
        visit(path, ())


@pytest.mark.parametrize(
    "path",
    [*FILES, *sorted((ROOT / "ci").rglob("*.py"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_file_is_readable_in_one_sitting(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST
    assert ast.get_docstring(ast.parse(text)), "it begins with what it is"


# --- the index -------------------------------------------------------------------------------------------------------


def test_every_name_of_the_index_is_there():
    for name in flowcore.__all__:
        assert getattr(flowcore, name) is not None
    assert set(flowcore.__all__) <= set(dir(flowcore))


def test_the_index_has_every_room_and_equality():
    assert set(FLOORS) - {"checks"} <= set(flowcore.__all__)
    from flowcore.losses import compositional, diagonal, eulerian, lagrangian

    for module in (compositional, diagonal, eulerian, lagrangian):
        functions = [
            node.name for node in ast.parse(Path(module.__file__).read_text()).body if isinstance(node, ast.FunctionDef)
        ]
        assert set(functions) <= set(flowcore.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'flowcore' has no attribute 'nonsense'"):
        flowcore.nonsense  # noqa: B018


def modules_after(statement: str) -> set[str]:
    """What is loaded in a fresh process after a statement."""
    code = f"{statement}\nimport sys\nprint(' '.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(run.stdout.split())


def test_the_index_imports_nothing_before_it_is_asked():
    assert not {"jax", "numpy", "equinox"} & modules_after("import flowcore")
    assert "jax" not in modules_after("from flowcore import record; record.RecordError")


@pytest.mark.parametrize(
    "heavy", ["grain", "tensorflow_datasets", "orbax", "matplotlib", "IPython", "sklearn", "diffrax", "tqdm"]
)
def test_training_a_flow_map_takes_no_more_than_the_core(heavy):
    used = "import flowcore; flowcore.fit, flowcore.METHODS, flowcore.ResidualMLP, flowcore.data.SampledSource"
    assert heavy not in modules_after(used)
    assert importlib.util.find_spec(heavy), "else this proves nothing"
    assert "jax" in modules_after(used)


@pytest.mark.parametrize(
    ("statement", "missing", "extra"),
    [
        ("import flowcore; flowcore.checkpoints", "orbax", "checkpoints"),
        ("from flowcore import checkpoints", "orbax", "checkpoints"),
        ("import flowcore; flowcore.data.load", "tensorflow_datasets", "data"),
        ("from flowcore.data import load", "array_record", "data"),
        ("import flowcore; flowcore.plots", "matplotlib", "notebooks"),
        ("from flowcore import plots", "IPython", "notebooks"),
    ],
)
def test_without_its_extra_a_module_says_which(statement, missing, extra):
    """In a fresh process in which the package cannot be imported; the remedy is the last line."""
    code = f"import sys; sys.modules[{missing!r}] = None\n{statement}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    said = run.stderr.strip().splitlines()[-1]
    assert said.startswith("ModuleNotFoundError: flowcore.")
    assert said.endswith(f" needs {missing}: pip install 'flowcore[{extra}]'")


def test_a_module_of_ours_that_is_missing_has_no_remedy(monkeypatch):
    monkeypatch.setitem(flowcore.EXTRAS, "flowcore.nonsense", "data")
    with pytest.raises(ModuleNotFoundError, match="^No module named 'flowcore.nonsense'$"):
        flowcore.brought("flowcore.nonsense")


def test_what_the_extras_are_for_is_there():
    for module in flowcore.EXTRAS:
        assert flowcore.brought(module).__name__ == module
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(flowcore.EXTRAS.values()) <= set(extras)
