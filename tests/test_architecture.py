"""The house from its imports: arrows go one way, a listing shows the architecture, files are short."""

import ast
import importlib.util
import os
import subprocess
import sys
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
    """Modules of flowcore that a file imports, inside of functions too."""
    return imported_of(path.read_text(encoding="utf-8"))


def imported_of(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {flowcore.INDEX.get(alias.name, alias.name) for alias in node.names if node.module == "flowcore"}
            found.add(node.module)
    names = {f"flowcore.{name}" if name in FLOORS else name for name in found}
    return {name for name in names if name.startswith("flowcore.")}


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
    assert upward({("maps", "networks"), ("training", "networks")}) == {("maps", "networks")}


def test_a_listing_shows_the_architecture():
    entries = {path.name.removesuffix(".py") for path in HOUSE.iterdir() if path.name != "__pycache__"}
    assert entries - {"__init__"} == set(FLOORS)
    assert len(FLOORS) <= 15


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
    assert "jax" in modules_after(used) and os.environ is not None
