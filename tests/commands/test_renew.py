"""`renew`: a change that moves no bit renews the hashes of records, and whatever else leaves them stale."""

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from trees import CHECK, put

from commands import code, renew, trace
from commands.__main__ import main
from commands.tree import Tree
from flowcore import record

FLOWCORE = Path(__file__).resolve().parents[2] / "flowcore"
TRAIN = """import flowcore
from flowcore import data, training
recipe = training.Recipe("mlp", 4, 0, 200, 4)
state, optimiser = recipe.begin((2,))
objective = flowcore.Objective(flowcore.methods.flow_matching_terms())
source = data.SampledSource(flowcore.ring().sample, 4)
loop = flowcore.fit(state, objective, source, optimiser, steps=recipe.steps)
error = float(training.collect(loop)[1]["gradient_norm"].mean())"""
ALONG = '''def along(x, t=1.0):
    """On the path."""
    return 2 * x + t
'''


def commit(root):
    settings = ["-c", "user.name=n", "-c", "user.email=e@e"]
    for arguments in (["init", "-q"], ["add", "."], [*settings, "commit", "-qm", "m"]):
        subprocess.run(["git", *arguments], cwd=root, check=True)


def keep(root, paper="paper"):
    """A record under the code at hand, as if it had just been made."""
    path = Tree(root).record(paper)
    kept = json.loads(path.read_text())
    entry = {"metrics": {}, "claims": [], "recorded": {"date": "2026-01-01", "device": "cpu"}}
    kept["presets"]["mixture"] |= entry | {"code": code.of(Tree(root), paper)}
    record.write(path, kept)


@pytest.fixture
def small(tree):
    """A recorded notebook on a flowcore of two modules, committed."""
    (tree / "flowcore").mkdir()
    (tree / "flowcore" / "__init__.py").write_text("MODULES = ('flowcore.path', 'flowcore.record')\n")
    (tree / "flowcore" / "path.py").write_text(ALONG)
    (tree / "flowcore" / "record.py").write_text("")
    put(tree, train="from flowcore import path\nerror = path.along(rate)")
    keep(tree)
    commit(tree)
    return tree


def change(root, old, new, name="flowcore/path.py"):
    path = root / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def compares(monkeypatch, old, new):
    """As if tracing had found these."""

    def traced(tree, paper, output, cache):
        output.write_text(json.dumps(new if tree.root.name != "old" else old))

    monkeypatch.setattr(renew, "traced", traced)


def fresh(root):
    return Tree(root).default_entry("paper")["code"] == code.of(Tree(root), "paper")


def test_what_moves_no_bit_is_renewed(small, monkeypatch, capsys):
    change(small, "2 * x + t", "t + 2 * x")
    compares(monkeypatch, {"metrics, cost": "4"}, {"metrics, cost": "4"})
    before = record.read(small / "replications" / "paper.json")
    assert main(["renew"], small) == 0
    assert "renewed paper: flowcore.path moved no bit of it" in capsys.readouterr().out
    assert fresh(small)
    after = record.read(small / "replications" / "paper.json")
    assert before["presets"]["mixture"] | {"code": None} == after["presets"]["mixture"] | {"code": None}
    assert main(["renew"], small) == 0
    assert "nothing to renew" in capsys.readouterr().out


def test_the_first_difference_is_named_and_the_record_stays_stale(small, monkeypatch, capsys):
    change(small, "2 * x + t", "2 * x - t")
    compares(monkeypatch, {"metrics, cost": "4", "a": "1"}, {"metrics, cost": "5", "a": "2"})
    before = (small / "replications" / "paper.json").read_bytes()
    assert main(["renew", "paper"], small) == 1
    said = "replicate: paper: metrics, cost is 5, and was 4; ci/replicate refresh paper reruns it\n"
    assert capsys.readouterr().err == said
    assert (small / "replications" / "paper.json").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("flowcore/path.py", "t=1.0", "t=1.5", "a number of flowcore.path is new or gone: 1.0"),
        ("flowcore/path.py", "2 * x", "3 * x", "a number of flowcore.path is new or gone: 2"),
        ("replications/paper.ipynb", "path.along(rate)", "path.along(-rate)", "changed is its own notebook"),
        ("replications/paper.ipynb", "steps: int = 10", "steps: int = 11", "changed is its own parameters"),
        ("replications/paper.json", "2026-01-01", "2026-01-02", "its record has changed since"),
    ],
)
def test_what_a_short_run_cannot_show_is_refused_untraced(small, monkeypatch, capsys, name, old, new, expected):
    change(small, old, new, name)
    if name.endswith(".json"):
        change(small, "2 * x + t", "t + 2 * x")
    monkeypatch.setattr(renew, "traced", None)
    before = (small / "replications" / "paper.json").read_bytes()
    assert main(["renew"], small) == 1
    assert expected in capsys.readouterr().err
    assert (small / "replications" / "paper.json").read_bytes() == before


def test_from_a_revision_where_it_was_stale_nothing_is_proven(small, monkeypatch, capsys):
    change(small, "2 * x + t", "t + 2 * x")
    commit(small)
    monkeypatch.setattr(renew, "traced", None)
    assert main(["renew"], small) == 1
    assert "stale in the revision already" in capsys.readouterr().err
    compares(monkeypatch, {"a": "1"}, {"a": "1"})
    assert main(["renew", "--since", "HEAD~1"], small) == 0
    assert fresh(small)


def test_what_cannot_be_traced_stays_stale_and_so_does_what_is_edited_meanwhile(small, monkeypatch, capsys):
    change(small, "2 * x + t", "t + 2 * x")
    monkeypatch.setattr(renew, "traced", lambda *_: "ValueError: no")
    assert main(["renew"], small) == 1
    assert "could not be traced as it was: ValueError: no" in capsys.readouterr().err

    def edited(old, new, papers, folder):
        change(small, "t + 2 * x", "t + x * 2")
        return ((paper, None) for paper in papers)

    monkeypatch.setattr(renew, "compared", edited)
    assert main(["renew"], small) == 1
    assert "edited meanwhile" in capsys.readouterr().err and not fresh(small)


def test_what_was_proven_before_an_interruption_stays(small, monkeypatch):
    put(small, "second", train="from flowcore import path\nerror = path.along(rate)")
    keep(small, "second")
    commit(small)
    change(small, "2 * x + t", "t + 2 * x")

    def interrupted(old, new, papers, folder):
        yield "paper", None
        raise KeyboardInterrupt

    monkeypatch.setattr(renew, "compared", interrupted)
    assert main(["renew"], small) == 130
    assert fresh(small)
    assert Tree(small).default_entry("second")["code"] != code.of(Tree(small), "second")


def test_an_unknown_revision_is_said(small, capsys):
    change(small, "2 * x + t", "t + 2 * x")
    assert main(["renew", "--since", "nowhere"], small) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_run_of_the_real_core_is_traced_under_both(tree, capsys):
    """Another name of a function moves no bit; another sign does, and the first loss says so."""
    shutil.copytree(FLOWCORE, tree / "flowcore", ignore=shutil.ignore_patterns("__pycache__"))
    put(tree, train=TRAIN, check=CHECK)
    keep(tree)
    commit(tree)
    change(tree, "update_average", "averaged", "flowcore/training/loop.py")
    assert main(["renew"], tree) == 0
    assert "renewed paper: flowcore.training.loop moved no bit of it" in capsys.readouterr().out
    assert fresh(tree)
    commit(tree)
    change(tree, "return loss, rest\n", "return -loss, rest\n", "flowcore/training/loop.py")
    assert main(["renew"], tree) == 1
    assert capsys.readouterr().err.startswith("replicate: paper: run 1, flow_matching[1] is ")
    assert not fresh(tree)


# --- what a trace is -------------------------------------------------------------------------------------------------


def run(steps, length, begun=0):
    """The steps that are trained, by a fit whose chunks have this length."""
    seen = []

    def train(state):
        while state.step < steps:
            seen.extend(range(int(state.step), int(state.step) + length))
            state = SimpleNamespace(step=state.step + length)
            yield state, {}

    def after(state, more):
        return SimpleNamespace(step=state.step + more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trace, "after", after)
        list(trace.ends(SimpleNamespace(step=np.array(begun)), train, steps))
    return seen


@pytest.mark.parametrize("length", [25, 5, 1])
def test_the_beginning_and_the_end_of_a_run_are_trained(length):
    assert run(1000, length) == [*range(25), *range(975, 1000)]
    assert run(1000, length, begun=100) == [*range(100, 125), *range(975, 1000)]
    assert run(50, length) == [*range(50)]
    assert run(25, length) == [*range(25)]


def test_the_optimiser_is_told_of_the_steps_between():
    import equinox as eqx
    import jax.numpy as jnp
    import optax

    from flowcore import training

    class State(eqx.Module):
        step: object
        optimiser: object

    optimiser = training.adam(1.0, 100)
    begun = State(jnp.zeros((), jnp.int32), optimiser.init({"w": jnp.ones(2)}))
    moved = trace.after(begun, 90)
    counts = [int(leaf) for leaf in optax.tree.get_all_with_path(moved.optimiser, "count") for leaf in leaf[1:]]
    assert counts and set(counts) == {90} and int(moved.step) == 90


def test_numbers_have_all_their_digits():
    one, next_one = np.float32(0.1), np.nextafter(np.float32(0.1), np.float32(1))
    there = dict(trace.numbers({"metrics": {"a": one}, "values": [np.ones(3), {"b": True}]}))
    here = dict(trace.numbers({"metrics": {"a": next_one}, "values": [np.ones(3), {"b": True}]}))
    assert trace.difference(there, there) is None
    assert trace.difference(there, here).startswith("metrics, a is 0.1000000089")
    assert trace.difference(there, {"metrics, a": there["metrics, a"]}).startswith("values[0] is gone")
