"""A repository of small notebooks that need no JAX, for the command line to work on."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from commands.__main__ import main
from flowcore import record

CI = Path(__file__).resolve().parent.parent / "ci"
PARAMETERS = (
    "steps: int = 10  # training steps, >= 1\nrate: float = 0.5  # learning rate, > 0\nname: str = 'a'  # a word\n"
    "sizes: tuple = (1, 2)  # sizes, >= 0\nseed: int = 0  # of all draws"
)
TRAIN = "import sys\nerror = sizes[0] + rate / steps + seed / 1000\nprint('noise', file=sys.stderr)\nprint('trained')"
CLAIMS = """from flowcore import record
claims = [
    record.Judgement.judge("small", f"{error:.3f}", error < 2),
    record.Judgement.judge("even seed", str(seed), seed % 2 == 0),
]
record.table(claims)"""
CHECK = "record.check('paper', parameters=globals(), metrics={'cost': 4, 'endpoint_error_1': error}, claims=claims)"


def notebook(train=TRAIN, check=CHECK, parameters=PARAMETERS):
    """A replication in four code cells, not executed."""
    code, markdown = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    cells = [
        markdown("# 900_template: TITLE OF THE PAPER\n\nhttps://example.org/paper", id="title"),
        markdown("## 3 Parameters", id="h3"),
        code(parameters, id="parameters", metadata={"tags": ["parameters"]}),
        markdown("## 6 Training", id="h6"),
        code(train, id="train"),
        code(CLAIMS, id="claims"),
        markdown("## 9 Recorded metrics", id="h9"),
        code(check, id="check", metadata={"tags": ["nbval-check-output"]}),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def put(root, paper="paper", **sources):
    """A tree with one replication that has a preset `other` and is not recorded yet."""
    (root / "replications").mkdir(exist_ok=True)
    sources.setdefault("check", CHECK.replace("paper", paper, 1))
    nbformat.write(notebook(**sources), root / "replications" / f"{paper}.ipynb")
    parameters = {"steps": 10, "rate": 0.5, "name": "a", "sizes": [1, 2]}
    presets = {"mixture": {"parameters": parameters}, "other": {"parameters": parameters | {"steps": 20}}}
    record.write(root / "replications" / f"{paper}.json", {"title": "T", "url": "U", "presets": presets})
    return root


def contents(root):
    return {path.name: path.read_bytes() for path in sorted((root / "replications").iterdir())}


@pytest.fixture
def tree(tmp_path):
    return put(tmp_path)


@pytest.fixture(scope="module")
def recorded_once(tmp_path_factory):
    root = put(tmp_path_factory.mktemp("{recorded} tree"))  # with a space, and braces
    assert main(["record", "paper", "--seeds", "3"], root) == 0
    return root


@pytest.fixture
def recorded(recorded_once, tmp_path):
    return Path(shutil.copytree(recorded_once, tmp_path / "a tree"))


def one_line(capsys, *expected):
    """The only line on stderr, which holds each of `expected`."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    for text in expected:
        assert text in lines[0]


def start(root, *arguments):
    """The command as the shell starts it, in a tree of its own."""
    shutil.copytree(CI, root / "ci")
    # a runner in the background ignores Ctrl-C and hands that down; a person's shell does not
    listen = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    path = os.pathsep.join(filter(None, [str(root / "ci"), os.environ.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        [sys.executable, "-c", listen, sys.executable, "-P", "-m", "commands", *arguments],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def change_record(root, metric, **entries):
    path = root / "replications" / "paper.json"
    kept = json.loads(path.read_text())
    kept["presets"]["mixture"]["metrics"][metric] |= entries
    path.write_text(json.dumps(kept))


MEAN_FLOW = {"mean": 4, "spread": 0.0, "band": None, "seeds": [4]}
ERROR = {"mean": 0.18123, "spread": 0.0123, "band": [0.1, 0.3], "seeds": [0.18]}


@pytest.fixture
def landscape(tree):
    """A tree with a recorded MeanFlow and a README."""
    put(tree, "mean_flow")
    path = tree / "replications" / "mean_flow.json"
    kept = json.loads(path.read_text())
    entry = {"metrics": {"cost": MEAN_FLOW, "endpoint_error_1": ERROR}, "claims": []}
    kept["presets"]["mixture"] |= entry | {"recorded": {"date": "2026-01-01", "device": "cpu"}}
    record.write(path, kept)
    (tree / "README.md").write_text("before\n<!-- landscape -->\nold\n<!-- /landscape -->\nafter\n")
    return tree
