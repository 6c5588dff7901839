"""What a notebook's numbers depend on: the modules that it reaches, and hashes that nothing else moves."""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from trees import PARAMETERS, notebook, put

from commands import code
from commands.modules import House
from commands.tree import Tree

ROOT = Path(__file__).resolve().parents[2]
INDEX = '''"""The index."""

MODULES = ("flowcore.losses", "flowcore.path", "flowcore.record", "flowcore.tasks", "flowcore.training.times")
NAMES = {"flowcore.losses": ("lsd",), "flowcore.training": ("fit",)}


def brought(module):
    return module
'''
FILES = {
    "__init__": INDEX,
    "checks": "",
    "path": 'RATE = 0.5  # of all\n\n\ndef along(x, t=1.0):\n    """On the path."""\n    return x + RATE * t\n',
    "record": "",
    "losses/__init__": "from flowcore.losses.lagrangian import lsd\nfrom flowcore.losses.eulerian import esd as emd\n",
    "losses/lagrangian": "from flowcore.path import along\n\n\ndef lsd(x):\n    return along(x)\n",
    "losses/eulerian": "def esd(x):\n    return x\n",
    "tasks/__init__": '"""Tasks."""\nfrom flowcore.tasks.names import TASKS\n',
    "tasks/names": "def ring():\n    from flowcore.tasks.ring import ring\n    return ring()\nTASKS = {'ring': ring}\n",
    "tasks/ring": "from pathlib import Path\nFILE = Path(__file__).parent / 'ring.npz'\ndef ring():\n    return FILE\n",
    "training/__init__": "from flowcore.training.loop import fit\nSEED = 0\n",
    "training/loop": "def fit():\n    return 1\n",
    "training/times": "from . import loop\n",
}
ALL = {"flowcore"} | {
    f"flowcore.{name.removesuffix('/__init__').replace('/', '.')}" for name in FILES.keys() - {"__init__"}
}


@pytest.fixture
def house(tree):
    for name, source in FILES.items():
        path = tree / "flowcore" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    (tree / "flowcore" / "tasks" / "ring.npz").write_bytes(b"1")
    return tree


def reached(root, source):
    found = House(root / "flowcore").reached(code.parsed(source))
    return {name.removeprefix("flowcore").removeprefix(".") for name in found - {"flowcore"}}


LSD, TASKS, TRAINING = {"losses.lagrangian", "path"}, {"tasks.names", "tasks.ring"}, {"training", "training.loop"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import flowcore\nflowcore.lsd(1)", LSD),
        ("from flowcore import lsd", LSD),
        ("import flowcore as fc\nfc.lsd", LSD),
        ("from flowcore import losses\nlosses.lsd", LSD),
        ("import flowcore.losses as l\nl.emd", {"losses.eulerian"}),
        ("from flowcore.losses import emd", {"losses.eulerian"}),
        ("import flowcore\nflowcore.tasks.TASKS['ring']()", TASKS),
        ("from flowcore import tasks\ndef f():\n    return tasks.TASKS", TASKS),
        ("import flowcore.tasks.ring as r", {"tasks.ring"}),
        ("from flowcore import path", {"path"}),
        ("import flowcore\nflowcore.times.ordered", {"training.times", *TRAINING}),
        ("from flowcore import fit", TRAINING),  # its room is more than a list of names
        ("from flowcore import tasks\nprint(tasks)", {"tasks", *TASKS}),  # handed on
        ("from flowcore.losses import *", {"losses", "losses.eulerian", *LSD}),
        ("import importlib\nimportlib.import_module('flowcore.path')", {"path"}),
        ("import jax\njax.lsd, lsd, path", set()),
        ("%matplotlib inline\nfrom flowcore import path", {"path"}),
    ],
)
def test_names_are_followed_to_the_files_that_define_them(house, source, expected):
    assert reached(house, source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "import flowcore\nvars(flowcore)",
        "from flowcore import *",
        "import flowcore\nflowcore.unheard_of",
        "import importlib, sys\nimportlib.import_module('flowcore.' + sys.argv[1])",
        "import flowcore\nflowcore.brought(input())",
    ],
)
def test_in_doubt_it_is_everything(house, source):
    assert reached(house, source) == {name.removeprefix("flowcore.") for name in ALL - {"flowcore"}}


def test_a_cell_that_is_not_python_may_name_anything(house):
    put(house, train="%%bash\necho 'a")
    assert code.of(Tree(house), "paper").keys() - set(code.OURS) == ALL


def test_what_acts_when_its_room_is_imported_counts(house):
    (house / "flowcore" / "losses" / "eulerian.py").write_text("import jax\njax.config.update('x', 1)\ndef esd(): pass")
    assert reached(house, "from flowcore import lsd") == LSD | {"losses.eulerian"}


ODD = """
@decorated(1, *a, **b)
async def f(x, /, y: int = -1, *z, k=None, **w) -> str:
    global g
    if (n := 0xFF) < 1e-3 <= 2j or not ...:
        return f"a{x!r:>{n}}b" "c" f"{y=}{{"
    match x:
        case {"k": [1, *_], **rest} | Point(x=0): pass
    async with a as b, c: await (yield)
    try: x[1:2, ::3] += lambda q: (q, *z)
    except* (A, B) as e: raise e from None
    else: del x.y; assert u"u" + b"b"[0], {1: 2, **k}
    finally: nonlocal_ = [i async for i in j if i]

class C(D, metaclass=M):
    '''Said.'''
    x: int
    y: float = 1_000.5; z = True
"""
TRAIN = "from flowcore import lsd, tasks\nerror = lsd(sizes[0]) + rate / steps\ntasks.TASKS"


def moved(root, name, old, new):
    """The parts that another text in a file moves."""
    put(root, train=TRAIN)
    before, path = code.of(Tree(root), "paper"), root / name
    text = path.read_bytes()
    assert old.encode() in text
    path.write_bytes(text.replace(old.encode(), new.encode(), 1))
    after = code.of(Tree(root), "paper")
    return {part for part in before.keys() | after.keys() if before.get(part) != after.get(part)}


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("flowcore/path.py", "# of all", "# of everything"),
        ("flowcore/path.py", '"""On the path."""', '"""Upon it."""'),
        ("flowcore/path.py", '    """On the path."""\n', ""),
        ("flowcore/path.py", "x + RATE * t", "(x\n        + (RATE * t))"),
        ("flowcore/training/loop.py", "return 1", "return 2"),  # not reached
        ("flowcore/losses/eulerian.py", "return x", "return -x"),
        ("flowcore/__init__.py", '("lsd",)', '("lsd", "emd")'),
        ("flowcore/__init__.py", "The index.", "An index."),
    ],
)
def test_comments_docstrings_layout_and_other_modules_move_nothing(house, name, old, new):
    assert moved(house, name, old, new) == set()


@pytest.mark.parametrize(
    ("name", "old", "new", "part"),
    [
        ("flowcore/path.py", "RATE = 0.5", "RATE = 0.51", "flowcore.path"),
        ("flowcore/path.py", "x + RATE", "x - RATE", "flowcore.path"),
        ("flowcore/path.py", "t=1.0", "t=1", "flowcore.path"),
        ("flowcore/path.py", "t=1.0", "*, t=1.0", "flowcore.path"),
        ("flowcore/tasks/ring.npz", "1", "2", "flowcore.tasks.ring"),
        ("flowcore/__init__.py", "return module", "return None", "flowcore"),
        ("replications/paper.ipynb", "rate / steps", "rate * steps", "notebook"),
        ("replications/paper.ipynb", "steps: int = 10", "steps: int = 20", "parameters"),
        ("replications/paper.json", '"steps": 10', '"steps": 30', "parameters"),
        ("replications/paper.ipynb", "seed: int = 0", "seed: int = 1", "parameters"),
    ],
)
def test_a_constant_an_operator_a_default_or_data_move_their_part(house, name, old, new, part):
    assert moved(house, name, old, new) == {part}


def test_a_note_in_the_notebook_and_another_output_move_nothing(house):
    put(house, train=TRAIN)
    before = code.of(Tree(house), "paper")
    changed = notebook(train=f"# why\n{TRAIN}  # so", parameters=PARAMETERS.replace("training steps", "the steps"))
    changed.cells[4].outputs = [nbformat.v4.new_output("stream", text="other")]
    changed.cells.insert(0, nbformat.v4.new_markdown_cell("more"))
    nbformat.write(changed, house / "replications" / "paper.ipynb")
    assert code.of(Tree(house), "paper") == before | {"notebook": before["notebook"]}


def test_packages_are_those_that_the_numbers_are_made_with(house):
    pins = house / "ci" / "requirements.txt"
    unpinned = code.of(Tree(house), "paper")["packages"]
    pins.parent.mkdir()
    pins.write_text("jax==0.1 \\\n  --hash=1\nnbval==1\n")
    pinned = code.of(Tree(house), "paper")["packages"]
    pins.write_text("jax==0.1 \\\n  --hash=2\nnbval==2\n")
    assert code.of(Tree(house), "paper")["packages"] == pinned != unpinned
    pins.write_text("jax==0.2\n")
    assert code.of(Tree(house), "paper")["packages"] not in (pinned, unpinned)


def test_a_hash_is_that_of_every_python():
    """Pinned: a later one that parses this otherwise would call every record stale."""
    assert code.digest(code.text(ast.parse(ODD))) == "844bc74b5dde"


def test_all_notebooks_are_read_in_a_moment_and_stand_on_what_they_train_with():
    there = Tree(ROOT)
    started = time.process_time()
    read = code.Code(there)
    found = {paper: read.of(paper) for paper in there.papers()}
    assert time.process_time() - started < 5  # one second, and room for a slow machine
    for paper, parts in found.items():
        assert {"flowcore.training.loop", "flowcore.path", "flowcore.tasks.task"} <= parts.keys(), paper
        assert json.dumps(parts) and all(len(value) == code.LENGTH for value in parts.values())
    assert "flowcore.training.checkpoints" not in found["mean_flow"]
    assert not any(part.startswith("flowcore.recording") for part in found["mean_flow"])


CALLED = """
import os, re, sys
from pathlib import Path
from commands import notebooks
path, house, called = Path(sys.argv[1]), sys.argv[2] + os.sep, set()

def seen(frame, event, _):
    if event == "call" and frame.f_code.co_filename.startswith(house) and frame.f_code.co_name != "<module>":
        called.add(frame.f_code.co_filename)

names = {"__name__": "__main__"}
os.chdir(path.parent)
sys.setprofile(seen)
for cell in notebooks.code_cells(notebooks.read(path)):
    source = cell["source"]
    if notebooks.tagged(cell, "parameters"):
        source = re.sub(r"(?m)^(\\w*steps): int = \\d+", r"\\1: int = 20", source)
    exec(compile(source, "cell", "exec"), names)
sys.setprofile(None)
print("\\n".join(called))
"""


@pytest.mark.slow
@pytest.mark.parametrize("paper", ["mean_flow", "flow_map_matching"])
def test_every_module_of_which_a_function_is_called_is_reached(paper):
    """In a run cut short, watched by Python's own profiler."""
    there, read = Tree(ROOT), code.Code(Tree(ROOT))
    given = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "ci")]), "MPLBACKEND": "agg"}
    command = [sys.executable, "-P", "-c", CALLED, str(there.notebook(paper)), str(ROOT / "flowcore")]
    done = subprocess.run(command, env=os.environ | given, capture_output=True, text=True, check=True)
    names = {str(path): name for name, path in read.house.files.items()}
    called = {names[line] for line in done.stdout.splitlines() if line in names}
    called = {name for name in called if not name.startswith("flowcore.recording")}  # it judges and draws numbers
    assert len(called) > 30 and called <= read.of(paper).keys()
