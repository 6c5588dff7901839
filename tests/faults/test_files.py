"""Outputs, moves, locks and devices: what a row does not reach."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from spoilt import executed, holding
from table import Row, judge
from trees import CI

from commands import check, files, readme
from commands.run import named
from commands.tree import Tree


def test_a_revision_of_zeros_means_everything(tree):
    assert check.touched(Tree(tree), "0" * 40) == check.touched(Tree(tree), "0" * 64) == (["paper"], [])


def test_a_record_is_read_before_any_kernel_is_started(tree, monkeypatch, capsys):
    executed(tree)
    monkeypatch.setattr(check.subprocess, "run", lambda *_, **__: pytest.fail("something was started"))
    judge(Row("cut", ["check"], 1, ["paper.json"], holding(b"{", ".json")), tree, monkeypatch, capsys)


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


def test_a_second_writer_that_is_interrupted_leaves_what_the_first_has_written(tmp_path):
    code = "import sys; from commands import files; from pathlib import Path\n"
    code += "with files.naming(Path(sys.argv[1])) as part: part.write_text('second'); raise KeyboardInterrupt"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(CI), str(CI.parent)])}
    with files.naming(tmp_path / "file") as part:
        part.write_text("first")
        done = subprocess.run([sys.executable, "-c", code, tmp_path / "file"], env=environment, capture_output=True)
        assert b"KeyboardInterrupt" in done.stderr
        assert part.read_text() == "first" and list(tmp_path.iterdir()) == [part]


def test_two_writers_of_readme_keep_the_block_of_each_other(tmp_path, monkeypatch):
    """The second comes while the first is about to move its file to its place."""
    (tmp_path / "README.md").write_text("<!-- a -->\n<!-- /a -->\n<!-- b -->\n<!-- /b -->\n")
    second = threading.Thread(target=readme.rewrite, args=(Tree(tmp_path), "b", "of b"))
    replace = os.replace

    def late(*paths):
        if second.ident is None:
            second.start()
            second.join(0.5)
        replace(*paths)

    monkeypatch.setattr(files.os, "replace", late)
    readme.rewrite(Tree(tmp_path), "a", "of a")
    second.join(10)
    assert (tmp_path / "README.md").read_text() == "<!-- a -->\nof a\n<!-- /a -->\n<!-- b -->\nof b\n<!-- /b -->\n"


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


def test_a_file_that_is_replaced_keeps_its_mode_and_a_link_its_target(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "file").chmod(0o640)
    (tmp_path / "link").symlink_to(tmp_path / "file")
    files.write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_folder_that_cannot_take_the_place_of_another_leaves_it(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "page").write_text("old")
    with pytest.raises(OSError):
        files.swap(tmp_path / "missing", tmp_path / "site")
    assert (tmp_path / "site" / "page").read_text() == "old"
    (tmp_path / "part").mkdir()
    files.swap(tmp_path / "part", tmp_path / "site")
    assert [path.name for path in tmp_path.iterdir()] == ["site"] and not list((tmp_path / "site").iterdir())


def test_ctrl_c_waits_for_the_last_of_a_pair(tmp_path, monkeypatch):
    """It comes while the first is put in its place, and is heard when the second is."""
    for name in ("a", "b"):
        (tmp_path / name).write_text("new")
    replace = os.replace

    def interrupted(*paths):
        signal.raise_signal(signal.SIGINT)
        replace(*paths)

    monkeypatch.setattr(files.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.move({tmp_path / name: tmp_path / name.upper() for name in ("a", "b")})
    assert [(tmp_path / name).read_text() for name in ("A", "B")] == ["new", "new"]


def test_the_shell_hands_over_to_the_package_and_to_nothing_that_lies_around(tmp_path):
    """ci/replicate in a tree whose environment is this one's, called where a json.py lies."""
    shutil.copytree(CI / "commands", tmp_path / "ci" / "commands")
    shutil.copy(CI / "replicate", tmp_path / "ci")
    (tmp_path / "ci" / "environment").write_text("")  # nothing to make
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (tmp_path / ".venv" / "bin" / "python").chmod(0o755)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "json.py").write_text("raise SystemExit('a stranger')")
    command = ["bash", str(tmp_path / "ci" / "replicate"), "run", "papre"]
    environment = os.environ | {"PYTHONPATH": str(CI.parent)}
    done = subprocess.run(command, cwd=tmp_path / "elsewhere", env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "replicate: no replication papre; there are: none yet\n")
