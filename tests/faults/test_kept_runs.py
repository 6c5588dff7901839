"""What a disk, a copy or a changed mind can do to checkpoints: one line, and nothing is lost."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest
from problems import same

from flowcore import GaussianMap, Objective, Term, checkpoints, fit, flow_matching, times, training
from flowcore.data import SampledSource, ShuffledSource
from flowcore.training.settings import describe, differences

STEPS = 6


@pytest.fixture(autouse=True, scope="module")
def as_users_do():
    jaxtyping.config.update("jaxtyping_disable", True)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes integers and floats
        yield
    jaxtyping.config.update("jaxtyping_disable", False)


class Weight(eqx.Module):
    """The smallest model."""

    w: jax.Array


def pull(model, x0, *, target, teacher, progress, key, strength=1.0):
    value = jnp.mean(x0) * strength * jnp.sum(model.w**2)
    return value, {"pull": value}


def source(batch=4):
    return ShuffledSource(np.linspace(-1, 1, 40).reshape(20, 2), batch)


def run(folder, *, chunks=None, source=source, optimiser=None, objective=pull, changed=False, **settings):
    """The last state of such a run, begun or taken up in the folder and stopped after some chunks."""
    optimiser = optimiser or training.adam(0.1, STEPS)
    state = training.begin(Weight(jnp.ones(2)), optimiser, key=jax.random.key(0))
    state, moved = checkpoints.restore(folder, state, source())
    training_run = fit(state, objective, moved, optimiser, **{"steps": STEPS, "chunk": 2} | settings)
    kept = itertools.islice(checkpoints.save(training_run, folder, moved, changed=changed), chunks)
    return [state, *(state for state, _ in kept)][-1]


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """The folder of a run that holds steps 2 and 4 of 6: not to be written to."""
    folder = tmp_path_factory.mktemp("run") / "kept"
    run(folder, chunks=2)
    return folder


@pytest.fixture
def own(two_steps, tmp_path):
    return shutil.copytree(two_steps, tmp_path / "own")


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "one bit": flip,
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "missing": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_for_a_damaged_newest_step_the_older_one_is_taken(own, damage, capfd):
    """Whichever of its files it is: the arrays, what is said of them, what says that it is whole. And the run that goes
    on from there ends as if nothing had happened."""
    for number, path in enumerate(files_of(own / "4")):
        spoilt = shutil.copytree(own, own.with_name(f"{damage}-{number}"))
        DAMAGES[damage](spoilt / path.relative_to(own))
        state, _ = checkpoints.restore(spoilt, begun(), source())
        said = capfd.readouterr().out
        if path.name == checkpoints.CHECKSUMS and damage == "missing":  # as a kill just before would leave it
            assert int(state.step) == 4 and said == ""
            continue
        assert int(state.step) == 2, path
        assert said == f"{spoilt}: step 4 is damaged and set aside as damaged-4: going on from step 2\n"
    assert same(run(spoilt), run(own))
    assert (spoilt / "damaged-4").is_dir()


def begun():
    return training.begin(Weight(jnp.ones(2)), training.adam(0.1, STEPS), key=jax.random.key(0))


def test_without_any_whole_step_the_folder_is_named_and_left_as_it_is(own):
    for step in ("2", "4"):
        flip(own / step / "about" / "metadata")
    before = sorted(path.name for path in own.iterdir())
    with pytest.raises(
        ValueError, match=r"own holds no whole checkpoint \(step 4: about/metadata is not .*; step 2: "
    ) as e:
        checkpoints.restore(own, begun(), source())
    assert "put a copy back" in str(e.value) and len(str(e.value)) < 300
    assert sorted(path.name for path in own.iterdir()) == before


def test_a_step_that_cannot_be_read_is_told_without_its_checksums_too(own, capfd):
    """As one that another version has written."""
    (own / "4" / checkpoints.CHECKSUMS).unlink()
    (own / "4" / "about" / "metadata").write_text("{")
    assert int(checkpoints.restore(own, begun(), source())[0].step) == 2
    assert "step 4 is damaged" in capfd.readouterr().out


def test_a_folder_that_is_none_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "things").mkdir()
    (tmp_path / "things" / "notes.txt").write_text("")
    for name, words in (("file", "is a file: give a folder"), ("things", r"other things \(notes.txt\): give this run")):
        with pytest.raises(ValueError, match=f"{name} .*{words}"):
            checkpoints.restore(tmp_path / name, begun(), source())
        with pytest.raises(ValueError, match=f"{name} .*{words}"):
            run_without_restoring(tmp_path / name)
    assert (tmp_path / "things" / "notes.txt").exists() and (tmp_path / "file").read_text() == ""


def run_without_restoring(folder):
    indices = source()
    list(
        checkpoints.save(fit(begun(), pull, indices, training.adam(0.1, STEPS), steps=STEPS, chunk=2), folder, indices)
    )


def test_notes_beside_a_run_do_no_harm(own):
    (own / "notes.txt").write_text("")
    assert int(run(own).step) == STEPS


def other_source():
    return ShuffledSource(np.linspace(-1, 2, 40).reshape(20, 2), 4)


OTHERS = {
    "rate": (
        {"optimiser": training.adam(0.2, STEPS)},
        "optimiser...learning_rate.init_value is 0.1 there and 0.2 here",
    ),
    "clip": ({"optimiser": training.adam(0.1, STEPS, clip=2.0)}, "max_norm is 1 there and 2 here"),
    "steps": ({"steps": 12}, "steps is 6 there and 12 here"),
    "objective": ({"objective": eqx.Partial(pull, strength=2.0)}, "objective is pull .* there and Partial here"),
    "decay": ({"average_decay": 0.5}, "average_decay is 0.999 there and 0.5 here"),
    "teacher": ({"teacher": GaussianMap(0.0, 1.0)}, "teacher is None there and GaussianMap here"),
    "data": ({"source": other_source}, r"source.examples is float64\[20, 2\] .* there and .* here"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_run_of_other_settings_is_not_taken_up(own, other):
    """Before a step of it is trained; unless that is what is wanted, and then from there on."""
    settings, words = OTHERS[other]
    with pytest.raises(ValueError, match=f"own was begun with other settings: .*{words}.*changed=True"):
        run(own, **settings)
    assert sorted(path.name for path in own.iterdir()) == ["2", "4"]
    if other == "steps":
        assert int(run(own, changed=True, **settings).step) == 12
        assert int(run(own, **settings).step) == 12


def test_other_chunks_and_a_bar_are_the_same_run(own):
    assert same(run(own, chunk=1), run(shutil.copytree(own, own.with_name("again"))))


def test_what_a_setting_is_does_not_depend_on_the_process():
    """Else no run could be taken up: nothing of memory addresses, nor of the order of sets."""
    script = (
        "import flowcore; from flowcore import training; from flowcore.training.settings import describe\n"
        "import json; rows = [flowcore.objective(row) for row in flowcore.METHODS]\n"
        "print(json.dumps(describe({'rows': rows, 'adam': training.adam(0.1, 9), 'ring': flowcore.ring().sample})))"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", script], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert found[0] == found[1] and b"0x" not in found[0]
    assert len(json.loads(found[0])) > 200


def laws(std):
    return Objective((Term(flow_matching, times.diagonal(times.logit_normal(0.0, std)), weight=lambda *t: std),))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (training.adam(0.1, 10), training.adam(0.1, 11)),
        (optax.adam(0.1), optax.adam(0.1, b2=0.9)),
        (laws(1.0), laws(2.0)),
        (lambda x: x + 1, lambda x: x + 2),
        (lambda x: x + 1, lambda x: x - 1),
        (SampledSource(GaussianMap(0.0, 1.0).sample, 4), SampledSource(GaussianMap(0.0, 1.0).sample, 8)),
        (SampledSource(GaussianMap(0.0, 1.0).sample, 4), SampledSource(GaussianMap(0.0, 2.0).sample, 4)),
        (jnp.arange(9.0), jnp.arange(9.0).at[3].set(7.0)),
    ],
)
def test_what_differs_is_seen_and_what_is_equal_is_equal(one, other):
    assert differences(describe(one), describe(other))
    assert differences(describe(one), describe(one)) == ""
    assert differences(describe(laws(1.0)), describe(laws(1.0))) == ""
