"""What is killed goes on as if it had not been; what is of another run is refused."""

import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from problems import leaves, same

from flowcore import checkpoints
from flowcore.data import SampledSource


def stepping(source, *steps, begun=0):
    """What `fit` would yield at those steps, without the training in between."""
    state, done = runs.begin(), begun
    for step in steps:
        source.draw_indices(step - done)
        state = eqx.tree_at(lambda state: state.step, state, jnp.asarray(step, jnp.int32))
        log, done = {"loss": np.zeros(step - done)}, step
        yield state, log


def keep(folder, *steps, source=None, begun=0, **settings):
    """The last state of such a run, which is kept."""
    source = source or runs.source()
    return list(checkpoints.save(stepping(source, *steps, begun=begun), folder, source, **settings))[-1][0]


def steps_in(folder) -> list[int]:
    return sorted(int(path.name) for path in Path(folder).iterdir() if path.name.isdecimal())


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """The folder of a run that has come to step 2."""
    folder = tmp_path_factory.mktemp("half")
    keep(folder, 2)
    return folder


def test_a_run_killed_at_a_random_moment_ends_bit_for_bit_as_one_that_was_not(tmp_path):
    """SIGKILL, most often while a checkpoint is being written: the steps of this net take less time than that. Which
    lengths its chunks have does not matter to a run: that is tested elsewhere."""
    drawn = random.Random(time.time_ns())
    chunks, delay = drawn.randint(1, 5), drawn.uniform(0.0, 0.1)
    training = subprocess.Popen([sys.executable, runs.__file__, "train", tmp_path], stdout=subprocess.PIPE, text=True)
    alarm = threading.Timer(120, training.kill)
    alarm.start()
    said = [training.stdout.readline() for _ in range(chunks)]
    time.sleep(delay)
    training.send_signal(signal.SIGKILL)
    said += training.communicate()[0].splitlines()
    alarm.cancel()
    left = sorted(path.name for path in tmp_path.iterdir())
    print(f"killed {delay:.3f} s after checkpoint {chunks}; there are {left}")
    assert training.returncode == -signal.SIGKILL and said[chunks - 1]  # it was training, and had not ended
    state, source = checkpoints.restore(tmp_path, runs.begin(), runs.source())
    assert max(map(int, said)) <= int(state.step) < runs.STEPS  # what was yielded had been written
    ended = runs.ended(runs.fit(state, source, chunk=2))[0]
    unkilled_source = runs.source()
    unkilled = runs.ended(runs.fit(runs.begin(), unkilled_source, chunk=2))[0]
    assert same(ended, unkilled)
    assert source.state() == unkilled_source.state()
    assert np.array_equal(source.draw_indices(1), unkilled_source.draw_indices(1))


def test_the_checkpoint_is_the_yielded_state_and_the_place_of_its_source(tmp_path):
    yielded = keep(tmp_path, 2)
    state, source = checkpoints.restore(tmp_path, runs.begin(), runs.source())
    assert same(state, yielded)
    assert np.array_equal(source.draw_indices(1), runs.source().draw_indices(3)[2:])


def test_a_resumed_state_is_bound_to_no_device(half):
    """It may go on on several: JAX refuses to move an array that was put somewhere."""
    state, _ = checkpoints.restore(half, runs.begin(), runs.source())
    assert not any(leaf.committed for leaf in leaves(state))


def test_where_there_is_no_checkpoint_what_is_given_comes_back(tmp_path):
    state, source = runs.begin(), runs.source()
    for folder in (tmp_path, tmp_path / "absent"):
        assert checkpoints.restore(folder, state, source) == (state, source)
    assert not (tmp_path / "absent").exists()


def test_the_newest_few_stay(tmp_path):
    keep(tmp_path, 1, 2, 3, newest=2)
    assert steps_in(tmp_path) == [2, 3]


def test_half_a_checkpoint_is_none_and_makes_room_for_a_whole_one(half, tmp_path):
    """A kill leaves a folder of this name, without what was still to be written."""
    shutil.copytree(half / "2", tmp_path / "2")
    shutil.copytree(half / "2" / "state", tmp_path / "4.orbax-checkpoint-tmp" / "state.orbax-checkpoint-tmp")
    assert int(checkpoints.restore(tmp_path, runs.begin(), runs.source())[0].step) == 2
    keep(tmp_path, 4, begun=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4"]


def test_a_drawn_source_has_no_place_to_keep(tmp_path):
    source = SampledSource(jax.random.normal, runs.BATCH)
    yielded = keep(tmp_path, 2, source=source)
    state, found = checkpoints.restore(tmp_path, runs.begin(), source)
    assert same(state, yielded) and found is source


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"state": runs.begin(width=24)}, r"model\.net\.into\.weight is float64\[16, 16\] there and float64\[24, 16\]"),
        ({"state": runs.begin(jax.random.key(2))}, "its key is not this one's"),
        ({"source": runs.source(batch=8)}, "another source: it has {'batch_size': 16}"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(half, other, named):
    given = {"state": runs.begin(), "source": runs.source()} | other
    with pytest.raises(ValueError, match=named):
        checkpoints.restore(half, **given)


def test_a_checkpoint_without_a_target_is_not_taken_for_one_with(half):
    state = runs.begin()
    without = type(state)(state.model, state.average, None, state.optimiser, state.step, state.key)
    with pytest.raises(ValueError, match=r"target\.net\.into\.weight is float64\[16, 16\] there and absent here"):
        checkpoints.restore(half, without, runs.source())


@pytest.mark.parametrize("step", [1, 2, 4])
def test_a_folder_that_holds_a_run_takes_no_other(half, step):
    """A second experiment that forgot `restore` would soon have replaced the first."""
    message = re.escape(f"{half} holds step 2 of a run, and this one goes on from step 0")
    with pytest.raises(ValueError, match=message):
        keep(half, step)
    assert steps_in(half) == [2]


def test_a_source_that_is_not_dealt_from_is_refused(tmp_path):
    """Its place would say nothing, and a resumed run would see the first batches again."""
    with pytest.raises(ValueError, match="the source has not moved"):
        next(checkpoints.save(stepping(runs.source(), 2), tmp_path, runs.source()))
    assert steps_in(tmp_path) == []
