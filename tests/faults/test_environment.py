"""What a set-up can meet, with an interpreter that only pretends: the exit code, and the one line with the remedy.

`ci/environment` is sourced in a small repository of its own. `PYTHON` is a shell script that answers as Python, venv
and pip would, fails as a row of the table says, and writes down what it was asked to do.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# The interpreter of PYTHON, and that of .venv, where a copy of it lies. FAULT names the step that fails, SAYS how.
FAKE = """#!/usr/bin/env bash
[ "$0" = "$ENVIRONMENT/.venv/bin/python" ] && made=yes || made=
fail() { printf '%b\\n' "$SAYS" >&2; exit 1; }
slowly() { [ "$1" != "${SLOW_STEP:-$1}" ] || sleep "${SLOW:-0}"; }
case "$*" in
  --version) echo "Python ${VERSION:-3.11.7}" ;;
  *version_info*) [ -n "$made" ] || [ -z "${VERSION:-}" ] ;;
  *flock*) exec REAL "$@" ;;
  *find_spec*) [ -e "$ENVIRONMENT/.venv/flowcore" ] ;;
  "-m venv --clear "*)
    folder="${!#}"
    if [ "$folder" = "$ENVIRONMENT/.venv" ]; then step=venv; else step=pip; fi
    echo "$step" >>"$ENVIRONMENT/asked"
    [ "${FAULT:-}" != "$step" ] || fail
    rm -rf "$folder" && mkdir -p "$folder/bin" && cp "$0" "$folder/bin/python" ;;
  "-m pip wheel "*"--require-hashes -r "*)
    echo download >>"$ENVIRONMENT/asked"
    [ "$0" = "$ENVIRONMENT/build/wheels/pip/bin/python" ] || exit 4
    slowly download
    [ "${FAULT:-}" != download ] || fail
    touch "$ENVIRONMENT/build/wheels/jax.whl" ;;
  *"--no-index $ENVIRONMENT/build/wheels/jax.whl")
    echo packages >>"$ENVIRONMENT/asked"
    [ -n "$made" ] || exit 4
    slowly packages
    [ "${FAULT:-}" != packages ] || fail ;;
  *"--no-index --no-build-isolation --editable "*)
    echo flowcore >>"$ENVIRONMENT/asked"
    slowly flowcore
    [ "${FAULT:-}" != flowcore ] || fail
    touch "$ENVIRONMENT/.venv/flowcore" ;;
  *) echo "asked for something else: $*" >>"$ENVIRONMENT/asked"; exit 3 ;;
esac
"""
CALL = """#!/usr/bin/env bash
set -euo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
. "$root/ci/environment"
echo went on
"""
ALL = ["pip", "download", "venv", "packages", "flowcore"]


class Repository:
    """A folder with `ci/environment`, the files that it reads, and the interpreter that pretends."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "ci").mkdir()
        shutil.copy(ROOT / "ci" / "environment", folder / "ci")
        (folder / "ci" / "requirements.txt").write_text("jax==1 --hash=sha256:0\n")
        (folder / "pyproject.toml").write_text("[project]\n")
        for name, text in {"python": FAKE.replace("REAL", sys.executable), "ci/call": CALL}.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)

    def start(self, user=None, **given):
        variables = {"PYTHON": str(self.folder / "python"), "ENVIRONMENT": str(self.folder), **given}
        return subprocess.Popen(
            [self.folder / "ci" / "call"],
            env={"PATH": os.environ["PATH"], **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            user=user,
        )

    def call(self, **given):
        """(exit code, whether the caller went on, the lines on stderr, what was asked of the interpreter)"""
        process = self.start(**given)
        out, said = process.communicate(timeout=30)
        return process.returncode, out == "went on\n", said.splitlines(), self.asked()

    def asked(self):
        asked = self.folder / "asked"
        lines = asked.read_text().split() if asked.exists() else []
        asked.unlink(missing_ok=True)
        return lines

    def edit(self, name):
        with (self.folder / name).open("a") as file:
            file.write("# edited\n")

    def made(self):
        code, went_on, said, asked = self.call()
        assert (code, went_on, asked) == (0, True, ALL) and len(said) == 3 and all(map(is_progress, said))
        (self.folder / ".venv" / "here before").touch()
        return self

    def kept(self):
        return (self.folder / ".venv" / "here before").exists()


@pytest.fixture
def repository():
    # not tmp_path, which other users may not enter: a row is called as one who may read here and not write
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Repository(Path(folder).resolve())


def is_progress(line):
    return line.startswith(("environment: installing ", "environment: ready after "))


def complaint(said):
    """The one line that is not progress."""
    (line,) = [line for line in said if not is_progress(line)]
    assert line.startswith("environment: "), line
    return line


def test_a_set_up_is_made_once_and_then_silent(repository):
    repository.made()
    assert repository.call() == (0, True, [], []) and repository.kept()


NO_SPACE = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
NO_INDEX = (
    "WARNING: Retrying after connection broken by 'NewConnectionError: Failed to establish a new connection'\\n"
    "ERROR: Could not find a version that satisfies the requirement\\nERROR: No matching distribution found for jax"
)
NO_WHEEL = "ERROR: Ignored some versions\\nERROR: No matching distribution found for jax==1"
NO_MATCH = "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\\n    jax==1 from somewhere"
NO_ENSUREPIP = (
    "The virtual environment was not created successfully because ensurepip is not available.\\n\\nOn Debian ..."
)
NO_RIGHT = "Error: [Errno 13] Permission denied: '.venv/bin'"
NO_TOML = (
    "error: subprocess-exited-with-error\\n  note: This error originates from a subprocess\\n"
    "tomllib.TOMLDecodeError: Expected ']' at line 3\\nhint: See above."
)

# what is there before, what goes wrong, whether the caller goes on, what the one line names, what was asked
FAULTS = {
    "full disk": (
        "nothing",
        {"FAULT": "packages", "SAYS": NO_SPACE},
        False,
        "cannot install no space left free call again",
        ALL[:4],
    ),
    "full disk in venv": (
        "nothing",
        {"FAULT": "venv", "SAYS": NO_SPACE},
        False,
        "cannot make .venv no space left",
        ALL[:3],
    ),
    "full disk in build": (
        "nothing",
        {"FAULT": "download", "SAYS": NO_SPACE},
        False,
        "cannot download no space left",
        ALL[:2],
    ),
    "offline": ("nothing", {"FAULT": "download", "SAYS": NO_INDEX}, False, "index connect PIP_INDEX_URL", ALL[:2]),
    "no wheel": ("nothing", {"FAULT": "download", "SAYS": NO_WHEEL}, False, "jax==1 3.11.7 PYTHON=", ALL[:2]),
    "wrong hash": ("nothing", {"FAULT": "download", "SAYS": NO_MATCH}, False, "pinned refused purge", ALL[:2]),
    "no ensurepip": ("nothing", {"FAULT": "pip", "SAYS": NO_ENSUREPIP}, False, "venv python3-venv PYTHON", ALL[:1]),
    "no venv": ("nothing", {"FAULT": "pip", "SAYS": "No module named venv"}, False, "venv python3-venv", ALL[:1]),
    "not ours": ("nothing", {"FAULT": "pip", "SAYS": NO_RIGHT}, False, "cannot write .venv copy", ALL[:1]),
    "old Python": ("nothing", {"VERSION": "3.9.2"}, False, "3.11 or newer Python 3.9.2 PYTHON=", []),
    "no Python": (
        "nothing",
        {"PYTHON": "/nowhere/python"},
        False,
        "3.11 or newer /nowhere/python not there PYTHON=",
        [],
    ),
    "broken pyproject, first": (
        "nothing",
        {"FAULT": "flowcore", "SAYS": NO_TOML},
        False,
        "TOMLDecodeError line 3",
        ALL,
    ),
    "broken pyproject": ("pyproject.toml", {"FAULT": "flowcore", "SAYS": NO_TOML}, True, "line 3 going on as", ALL[4:]),
    "full disk, flowcore": (
        "pyproject.toml",
        {"FAULT": "flowcore", "SAYS": NO_SPACE},
        True,
        "no space going on",
        ALL[4:],
    ),
    "pyproject edited": ("pyproject.toml", {}, True, None, ALL[4:]),
    "edited, old Python": ("pyproject.toml", {"VERSION": "3.9.2"}, True, None, ALL[4:]),
    "pins edited": ("ci/requirements.txt", {}, True, None, ALL),
    # nothing is cleared away before all of the new packages are there
    "pins edited, offline": (
        "ci/requirements.txt",
        {"FAULT": "download", "SAYS": NO_INDEX},
        True,
        "index connect going on",
        ALL[:2],
    ),
    "pins edited, wrong hash": (
        "ci/requirements.txt",
        {"FAULT": "download", "SAYS": NO_MATCH},
        True,
        "going on",
        ALL[:2],
    ),
    "pins edited, no venv": ("ci/requirements.txt", {"FAULT": "pip", "SAYS": NO_ENSUREPIP}, True, "going on", ALL[:1]),
    "pins edited, old Python": ("ci/requirements.txt", {"VERSION": "3.9.2"}, True, "3.11 or newer going on", []),
    "pins edited, full disk": (
        "ci/requirements.txt",
        {"FAULT": "packages", "SAYS": NO_SPACE},
        False,
        "cannot install no space left",
        ALL[:4],
    ),
}


@pytest.mark.parametrize("before, fault, goes_on, names, asked", FAULTS.values(), ids=FAULTS)
def test_what_goes_wrong_is_one_line_with_a_remedy(repository, before, fault, goes_on, names, asked):
    if before != "nothing":
        repository.made().edit(before)
    code, went_on, said, done = repository.call(**fault)
    assert (code, went_on, done) == (0 if goes_on else 1, goes_on, asked)
    if names is None:
        assert all(map(is_progress, said))
    else:
        line = complaint(said)
        assert all(word in line for word in names.split()), line
        assert ("going on" in line) == goes_on
    if before == "pyproject.toml" or goes_on and names:
        assert repository.kept()  # packages that are right, or all that there are, are never cleared away
    assert not (repository.folder / "build" / "wheels").exists()
    # and once the fault has gone, the next call does what is left, and the one after it nothing
    code, went_on, said, done = repository.call()
    left = [] if names is None else ALL[4:] if asked == ALL or before == "pyproject.toml" else ALL
    assert (code, went_on, done) == (0, True, left)
    assert all(map(is_progress, said))
    assert repository.call() == (0, True, [], [])


UNWRITABLE = {
    "build is a file": ("nothing", lambda folder: (folder / "build").touch(), False),
    "read-only": ("nothing", None, False),
    "read-only, made": ("made", None, True),
    "read-only, pyproject edited": ("pyproject.toml", None, True),
    "read-only, pins edited": ("ci/requirements.txt", None, True),
}


@pytest.mark.parametrize("before, hinder, goes_on", UNWRITABLE.values(), ids=UNWRITABLE)
def test_a_repository_that_cannot_be_written(repository, before, hinder, goes_on):
    if before != "nothing":
        repository.made()
    if before not in ("nothing", "made"):
        repository.edit(before)
    another = {}
    if hinder:
        hinder(repository.folder)
    elif os.geteuid() == 0:  # whom no right holds back: somebody else calls
        another["user"] = 65534
    else:
        subprocess.run(["chmod", "-R", "a-w", repository.folder], check=True)
    code, went_on, said, asked = repository.call(**another)
    subprocess.run(["chmod", "-R", "u+w", repository.folder], check=True)  # to be removed
    assert (code, went_on, asked) == (0 if goes_on else 1, goes_on, [])
    if before == "made":
        assert said == []
    else:
        line = complaint(said)
        assert f"cannot write in {repository.folder / 'build'}" in line and "copy the repository" in line
        assert ("going on" in line) == goes_on


@pytest.mark.parametrize("name", ["ci/requirements.txt", "pyproject.toml"])
def test_a_file_that_is_missing_is_named(repository, name):
    repository.made()
    (repository.folder / name).unlink()
    code, went_on, said, asked = repository.call()
    assert (code, went_on, asked) == (1, False, []) and f"git checkout -- {name}" in complaint(said)
    assert repository.kept()


def wait_until_asked(repository, step):
    for _ in range(1000):
        if (repository.folder / "asked").exists() and step in (repository.folder / "asked").read_text():
            return
        time.sleep(0.01)
    raise TimeoutError(step)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", ["download", "packages", "flowcore"])
def test_an_interrupted_set_up_is_never_taken_for_a_finished_one(repository, step, end):
    if step != "packages":
        repository.made().edit("pyproject.toml" if step == "flowcore" else "ci/requirements.txt")
    process = repository.start(SLOW="30", SLOW_STEP=step)
    wait_until_asked(repository, step)
    os.killpg(process.pid, end)  # as Ctrl-C does, everybody in the foreground
    out, said = process.communicate(timeout=10)
    assert process.returncode != 0 and out == ""
    if end == signal.SIGINT:
        assert complaint(said.splitlines()) == "environment: interrupted; the next call goes on"
    repository.asked()
    if step == "download":  # what was there still works, without a network too
        assert repository.call(FAULT="download", SAYS=NO_INDEX)[:2] == (0, True) and repository.kept()
    code, went_on, _, asked = repository.call()
    assert (code, went_on, asked) == (0, True, ALL[4:] if step == "flowcore" else ALL)
    assert repository.kept() == (step == "flowcore")
    assert repository.call() == (0, True, [], [])


def test_an_edit_taken_back_is_installed_again(repository):
    """The stamp of before would fit, and who knows what pip or venv had got to."""
    repository.made()
    for name, fault, asked in (
        ("pyproject.toml", {"FAULT": "flowcore", "SAYS": "error"}, ALL[4:]),
        ("ci/requirements.txt", {"FAULT": "pip", "SAYS": "error"}, []),  # which had touched nothing
        ("ci/requirements.txt", {"FAULT": "download", "SAYS": "error"}, []),
        ("ci/requirements.txt", {"FAULT": "venv", "SAYS": "error"}, ALL),
    ):
        before = (repository.folder / name).read_text()
        repository.edit(name)
        repository.call(**fault)
        (repository.folder / name).write_text(before)
        assert repository.call()[3] == asked


def test_of_two_set_ups_at_once_one_waits(repository):
    first = repository.start(SLOW="1", SLOW_STEP="packages")
    wait_until_asked(repository, "packages")
    code, went_on, said, asked = repository.call()
    assert first.wait(timeout=10) == 0 and first.communicate()[0] == "went on\n"
    assert (code, went_on, asked) == (0, True, ALL)
    assert said == ["environment: waiting for the set-up that is already running"]


def test_one_that_waits_can_be_interrupted(repository):
    first = repository.start(SLOW="1", SLOW_STEP="packages")
    wait_until_asked(repository, "packages")
    second = repository.start()
    assert second.stderr.readline() == "environment: waiting for the set-up that is already running\n"
    os.killpg(second.pid, signal.SIGINT)
    out, said = second.communicate(timeout=10)
    assert (second.returncode, out, said) == (130, "", "environment: interrupted; the next call goes on\n")
    assert first.communicate(timeout=10)[0] == "went on\n" and repository.asked() == ALL
