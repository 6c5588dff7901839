"""Outputs, moves, locks and devices: what a row does not reach."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from spoilt import executed, holding
from table import Row, judge
from trees import CI

from commands import check, files
from commands.run import named
from commands.tree import Tree


def test_a_revision_of_zeros_means_everything(tree):
    assert check.touched(Tree(tree), "0" * 40) == check.touched(Tree(tree), "0" * 64) == ["paper"]


def test_a_record_is_read_before_any_kernel_is_started(tree, monkeypatch, capsys):
    executed(tree)
    monkeypatch.setattr(check.subprocess, "run", lambda *_, **__: pytest.fail("something was started"))
    judge(Row("cut", ["check"], 2, ["paper.json"], holding(b"{", ".json")), tree, monkeypatch, capsys)


def test_a_device_that_is_not_there_is_named(tree, monkeypatch, capsys):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    judge(Row("cuda", ["run", "paper"], 1, ["JAX_PLATFORMS=cuda", "unset it"]), tree, monkeypatch, capsys)
    assert not (tree / "build").exists()


def test_a_full_standard_output_is_said(tree):
    with open("/dev/full", "w") as full_disk:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "commands", "list"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(CI), str(CI.parent)])},
            stdout=full_disk,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (done.returncode, done.stderr) == (1, "replicate: no space left on device: free some and try again\n")


def test_two_requests_are_two_files_and_one_is_one(tree):
    names = [
        named("paper", None, {}),
        named("paper", "other", {}),
        named("paper", None, {"rate": 0.25}),
        named("paper", None, {"rate": 0.5}),
        named("paper", "other", {"rate": 0.5}),
        named("paper", None, {"name": "a/b"}),
        named("paper", None, {"name": "a b"}),
        named("paper", None, {"name": "a" * 300}),
        named("paper", None, {"name": "a" * 301}),
        named("paper", "../x", {}),
    ]
    assert names[:5] == ["paper", "paper.other", "paper.rate=0.25", "paper.rate=0.5", "paper.other.rate=0.5"]
    assert len(set(names)) == len(names)
    assert all("/" not in name and len(name) < 90 for name in names)
    assert named("paper", None, {"b": 1, "a": 2}) == named("paper", None, {"a": 2, "b": 1}) == "paper.a=2.b=1"


def test_what_is_moved_may_lie_on_another_disk_and_moves_whole_or_not_at_all(tmp_path, monkeypatch):
    """A full disk at the second file leaves both as they were."""
    sources = [tmp_path / name for name in ("a", "b")]
    targets = [tmp_path / name for name in ("A", "B")]
    for path in sources + targets:
        path.write_text(path.name)
    copy = files.shutil.copyfile

    def fail_at_b(source, target):
        if Path(source).name == "b":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        return copy(source, target)

    monkeypatch.setattr(files.shutil, "copyfile", fail_at_b)
    with pytest.raises(OSError) as raised:
        files.move(dict(zip(sources, targets, strict=True)))
    assert raised.value.filename == str(targets[1])
    assert [path.read_text() for path in targets] == ["A", "B"] and not list(tmp_path.glob("*.part"))
    monkeypatch.undo()
    files.move(dict(zip(sources, targets, strict=True)))
    assert [path.read_text() for path in targets] == ["a", "b"] and not any(path.exists() for path in sources)


def test_a_lock_ends_with_its_process(tmp_path):
    code = "import sys, time; from commands.files import held; from pathlib import Path\n"
    code += "with held(Path(sys.argv[1]), 'x', 'busy'): print('held', flush=True); time.sleep(60)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(CI), str(CI.parent)])}
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], env=environment, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with (
            pytest.raises(Exception, match=f"busy by process {other.pid}: wait for it"),
            files.held(tmp_path, "x", "busy"),
        ):
            pass
        other.kill()
    with files.held(tmp_path, "x", "busy"):
        pass
