"""What an installation gives: a small wheel, which trains on an array with the six packages of the core alone."""

import ast
import email.parser
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata, util
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, BUILD = SETTINGS["project"], SETTINGS["build-system"]["requires"]
CORE = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}

# MeanFlow on an array, as a reader of the wheel's page would write it.
TRAINING = """
import jax
import numpy as np
import flowcore
from flowcore import data, sample, training

points = np.random.default_rng(0).normal(size=(1000, 2)).astype(np.float32)
source = data.SampledSource.of_rows(points, 64)
state, optimiser = training.Recipe(width=16, steps=20, rate=1e-2).begin((2,))
objective = flowcore.objective(flowcore.method("MF"))
for state, log in flowcore.fit(state, objective, source, optimiser, steps=20):
    print(log["mean_flow"][-1])
samples = sample.generate(state.average, jax.random.normal(jax.random.key(1), (8, 2)), 1)
assert samples.shape == (8, 2) and np.isfinite(samples).all()
"""
# Around it: what our modules ask for, at whatever moment, and what there is to be had. (Compiled code imports in the
# name of whichever module called it; it hands over a list, where an import statement has a tuple or None.)
BEFORE = """
import builtins, importlib.util, json, sys
asked, found = set(), builtins.__import__
def noting(name, globals=None, locals=None, fromlist=(), level=0):
    if str((globals or {}).get("__name__")).split(".")[0] == "flowcore" and not isinstance(fromlist, list):
        asked.add(name.split(".")[0])
    return found(name, globals, locals, fromlist, level)
builtins.__import__ = noting
"""
AFTER = """
asked -= {"flowcore", *sys.stdlib_module_names}
there = [name for name in NAMES if importlib.util.find_spec(name)]
print(json.dumps({"asked": sorted(asked), "there": there, "from": flowcore.__file__}))
"""
NOT_IN_THE_CORE = ["grain", "tensorflow_datasets", "array_record", "requests", "sklearn", "orbax", "matplotlib", "tqdm"]
NOT_IN_THE_CORE += ["IPython", "ipywidgets", "jupyterlab", "papermill", "nbformat", "nbconvert", "yaml", "pytest"]


def call(*command):
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed_with(names):
    """The distributions of `names` and all that they require here: {name: distribution}."""
    found, waiting = {}, [Requirement(name) for name in names]
    seen = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                found[name] = metadata.distribution(name)
                further = map(Requirement, found[name].requires or [])
                waiting += [r for r in further if r.marker is None or r.marker.evaluate({"extra": extra})]
    return found


def declared():
    """Every requirement of pyproject.toml, of whatever extra: {name: requirement}."""
    lines = [
        *PROJECT["dependencies"],
        *BUILD,
        *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
    ]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines) if r.name != PROJECT["name"]}


def test_every_requirement_is_pinned_within_its_bounds():
    """And so is what builds flowcore: `ci/environment` installs it without asking an index."""
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "ci" / "requirements.txt").read_text(), re.MULTILINE))
    outside = [str(r) for name, r in declared().items() if name not in pinned or not r.specifier.contains(pinned[name])]
    assert not outside


def test_whatever_flowcore_imports_is_declared():
    known = metadata.packages_distributions()
    for path in (ROOT / "flowcore").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in {name.split(".")[0] for name in names} - {"flowcore", *sys.stdlib_module_names}:
                assert set(map(canonicalize_name, known[name])) & set(declared()), f"{path}: {name}"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, because setuptools leaves its own build/ beside pyproject.toml; without an index."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "flowcore", folder / "flowcore", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    call(*pip, "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation", "-w", folder / "out", folder)
    (built,) = (folder / "out").iterdir()
    return built


def test_the_wheel_is_small_and_holds_flowcore_and_its_data(wheel):
    assert wheel.stat().st_size < 1_000_000
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "flowcore").rglob("*") if path.is_file()}
    assert packed == {name for name in ours if "__pycache__" not in name}
    assert any(name.endswith("checksums.tsv") for name in packed)


def test_the_wheel_requires_the_core_and_offers_the_rest(wheel):
    packed = zipfile.ZipFile(wheel)
    (name,) = [name for name in packed.namelist() if name.endswith(".dist-info/METADATA")]
    about = email.parser.Parser().parsestr(packed.read(name).decode())
    required = [Requirement(line) for line in about.get_all("Requires-Dist")]
    assert {r.name for r in required if r.marker is None} == CORE
    assert CORE == {"jax", "equinox", "optax", "diffrax", "jaxtyping", "numpy"}
    assert set(about.get_all("Provides-Extra")) == {"data", "checkpoints", "notebooks", "test", "all"}


def test_the_wheel_trains_with_the_core_alone(wheel, tmp_path):
    """In an environment of its own, into which the core's packages are linked from this one."""
    call(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    folder = Path(call(python, "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    for distribution in installed_with(CORE).values():
        for top in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            (folder / top).symlink_to(distribution.locate_file(top))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    call(*pip, "install", "-q", "--no-deps", "--no-index", wheel)
    script = BEFORE + TRAINING + AFTER.replace("NAMES", repr(NOT_IN_THE_CORE))
    found = json.loads(call(python, "-I", "-c", script).splitlines()[-1])
    assert Path(found["from"]).is_relative_to(folder)
    assert found["there"] == []  # so nothing of these can have been imported
    assert {canonicalize_name(name) for name in found["asked"]} <= CORE
    assert all(map(util.find_spec, NOT_IN_THE_CORE))  # names that this environment knows: none is misspelt
