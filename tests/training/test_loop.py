import contextlib
import json
import subprocess
import sys
import tempfile

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
from jax.sharding import PartitionSpec
from problems import disturbed, free_port, gaussian, leaves, lenient, same

from flowcore import (
    AverageVelocityMap,
    ResidualMLP,
    checkpoints,
    training,
)
from flowcore.data import SampledSource, ShuffledSource
from flowcore.training import loop
from flowcore.training.devices import sharded_layout

STEPS = 12
LOSS = runs.LOSS
SOURCE = SampledSource(gaussian().sample, 8)
ADAM = lenient(training.adam(1e-2, STEPS))


def start(key=None, **settings):
    model = AverageVelocityMap(ResidualMLP(2, 8, 1, key=jax.random.key(0)))
    return training.begin(model, ADAM, key=jax.random.key(1) if key is None else key, **settings)


def run(state, loss=LOSS, source=SOURCE, optimiser=ADAM, *, steps=STEPS, chunk=4, **settings):
    """All that is yielded: the states and the logs."""
    return list(training.fit(state, loss, source, optimiser, steps=steps, chunk=chunk, **settings))


class Weight(eqx.Module):
    """The smallest model: one vector."""

    w: jax.Array


def begin_weight(optimiser, w=(0.0, 0.0), **settings):
    return training.begin(Weight(jnp.array(w)), optimiser, key=jax.random.key(0), **settings)


def pull(model, x0, *, target, teacher, progress, key):
    """A loss whose gradient is 3 and 4, of norm 5, wherever the model is."""
    value = model.w @ jnp.array([3.0, 4.0])
    return value, {"pull": value, "progress": progress, "lag": jnp.sum((model.w - target.w) ** 2)}


def joined(yielded, name):
    return np.concatenate([log[name] for _, log in yielded], axis=-1)


def test_training_is_deterministic():
    (one, log_one), (two, log_two) = run(start())[-1], run(start())[-1]
    assert same(one, two)
    assert all(np.array_equal(log_one[name], log_two[name]) for name in log_one)


def test_another_key_is_another_run():
    assert not same(run(start())[-1][0].model, run(start(jax.random.key(2)))[-1][0].model)


def test_every_step_has_data_and_noise_of_its_own():
    """Also across chunks; and the key of the data is not that of the loss."""

    def draws(model, x0, *, target, teacher, progress, key):
        return jnp.sum(model.w), {"data": x0[0, 0], "noise": jax.random.normal(key)}

    sgd = optax.sgd(0.1)
    source = SampledSource(lambda key: jax.random.normal(key, (2,)), 1)
    yielded = run(begin_weight(sgd), draws, source, sgd, steps=6, chunk=3)
    assert len(np.unique(np.concatenate([joined(yielded, "data"), joined(yielded, "noise")]))) == 12


def test_training_lowers_the_loss():
    """On the task that the net can do: predict the mean of the velocity."""
    steps = 200
    optimiser = lenient(training.adam(1e-2, steps))
    state = training.begin(start().model, optimiser, key=jax.random.key(1))
    losses = joined(run(state, optimiser=optimiser, steps=steps, chunk=50), "flow_matching")
    assert np.mean(losses[-50:]) < 0.8 * np.mean(losses[:10])


@pytest.mark.parametrize("chunk", [4, 2])
def test_a_run_resumed_from_a_yielded_state_is_the_uninterrupted_one_bit_for_bit(chunk):
    """Also in other chunks: the key of a step depends on nothing but the run's key and the step."""
    whole = run(start(target_decay=0.9), target_decay=0.9)
    resumed = run(whole[0][0], chunk=chunk, target_decay=0.9)
    assert int(resumed[-1][0].step) == STEPS
    assert same(resumed[-1][0], whole[-1][0])
    assert np.array_equal(joined(resumed, "mean_flow"), joined(whole, "mean_flow")[4:])


def test_a_run_on_dealt_data_resumes_with_its_source():
    images = jax.random.normal(jax.random.key(3), (20, 2))
    source = ShuffledSource(images, 8)
    runner = training.fit(start(), LOSS, source, ADAM, steps=STEPS, chunk=4)
    state, _ = next(runner)
    place = source.state()
    *_, (last, _) = runner
    resumed = run(state, source=ShuffledSource(images, 8).restore(place))[-1][0]
    assert same(resumed, last)


def test_a_yielded_state_is_unharmed_by_later_steps():
    """No donated buffers: the notebook may keep it, sample from it, go back to it."""
    runner = training.fit(start(), LOSS, SOURCE, ADAM, steps=STEPS, chunk=4)
    state, _ = next(runner)
    before = [np.array(leaf) for leaf in leaves(state)]
    list(runner)
    assert all(np.array_equal(a, b) for a, b in zip(before, leaves(state), strict=True))


def test_several_seeds_at_once_are_the_single_runs():
    keys = jax.random.split(jax.random.key(5), 3)
    together = run(eqx.filter_vmap(start)(keys))[-1]
    for seed, key in enumerate(keys):
        single = run(start(key))[-1]
        weights = zip(leaves(together[0].average), leaves(single[0].average), strict=True)
        assert all(jnp.allclose(a[seed], b, rtol=1e-12, atol=1e-12) for a, b in weights)
        assert np.allclose(together[1]["mean_flow"][seed], single[1]["mean_flow"], rtol=1e-10)


def test_the_averages_follow_their_recursion():
    """average <- d average + (1 - d) model, d = min(decay, (1 + step) / (10 + step)); the target's d is constant."""
    sgd = optax.sgd(0.1)
    decays = {"average_decay": 0.2, "target_decay": 0.9}
    yielded = run(begin_weight(sgd, target_decay=0.9), pull, optimiser=sgd, steps=6, chunk=1, **decays)
    average = target = np.zeros(2)
    for step, (state, _) in enumerate(yielded):
        model = -0.1 * (step + 1) * np.array([3.0, 4.0])
        decay = min(0.2, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * model
        target = 0.9 * target + 0.1 * model
        assert np.allclose(state.model.w, model, rtol=1e-12)
        assert np.allclose(state.average.w, average, rtol=1e-12)
        assert np.allclose(state.target.w, target, rtol=1e-12)


def slower(progress):
    """A decay that depends on the progress."""
    return 0.5 + 0.4 * progress


def test_a_targets_decay_may_be_a_curriculum():
    """target <- d target + (1 - d) model with d of the progress of that step."""
    sgd = optax.sgd(0.1)
    yielded = run(begin_weight(sgd, target_decay=slower), pull, optimiser=sgd, steps=6, chunk=1, target_decay=slower)
    target = np.zeros(2)
    for step, (state, _) in enumerate(yielded):
        decay = 0.5 + 0.4 * step / 6
        target = decay * target + (1 - decay) * -0.1 * (step + 1) * np.array([3.0, 4.0])
        assert np.allclose(state.target.w, target, rtol=1e-12)


def test_a_run_with_a_curriculum_resumes_bit_for_bit():
    sgd = optax.sgd(0.1)
    begun = begin_weight(sgd, target_decay=slower)
    whole = run(begun, pull, optimiser=sgd, steps=6, chunk=2, target_decay=slower)
    resumed = run(whole[0][0], pull, optimiser=sgd, steps=6, chunk=4, target_decay=slower)
    assert same(resumed[-1][0], whole[-1][0])
    assert np.array_equal(joined(resumed, "lag"), joined(whole, "lag")[2:])


@pytest.mark.parametrize(("begun", "asked"), [(0.0, slower), (slower, 0.0), (0.0, 0.9)])
def test_the_target_must_be_asked_for_from_the_start(begun, asked):
    sgd = optax.sgd(0.1)
    with pytest.raises(ValueError, match="give both the same"):
        run(begin_weight(sgd, target_decay=begun), pull, optimiser=sgd, steps=2, target_decay=asked)


def test_the_target_is_the_live_model_unless_an_average_is_asked_for():
    sgd = optax.sgd(0.1)
    live = run(begin_weight(sgd), pull, optimiser=sgd, steps=4)
    lagging = run(begin_weight(sgd, target_decay=0.9), pull, optimiser=sgd, steps=4, target_decay=0.9)
    assert live[-1][0].target is None
    assert np.all(joined(live, "lag") == 0)
    assert np.all(joined(lagging, "lag")[1:] > 0)


def test_the_target_is_not_differentiated_even_when_it_is_the_live_model():
    """d (w . w_target) / dw is w_target, not 2 w."""

    def product(model, x0, *, target, teacher, progress, key):
        value = model.w @ target.w
        return value, {"product": value}

    sgd = optax.sgd(0.1)
    state = run(begin_weight(sgd, (1.0, 2.0)), product, optimiser=sgd, steps=1)[-1][0]
    assert jnp.allclose(state.model.w, jnp.array([0.9, 1.8]), rtol=1e-12)


def test_the_teacher_reaches_the_objective_and_stays_as_it_was():
    def imitate(model, x0, *, target, teacher, progress, key):
        value = jnp.sum((model.w - teacher.w) ** 2)
        return value, {"imitate": value}

    teacher, sgd = Weight(jnp.array([1.0, -1.0])), optax.sgd(0.25)
    state = run(begin_weight(sgd), imitate, optimiser=sgd, steps=40, teacher=teacher)[-1][0]
    assert jnp.allclose(state.model.w, jnp.array([1.0, -1.0]), atol=1e-6)
    assert jnp.array_equal(teacher.w, jnp.array([1.0, -1.0]))


def test_progress_runs_from_zero_to_almost_one():
    sgd = optax.sgd(0.1)
    assert np.allclose(joined(run(begin_weight(sgd), pull, optimiser=sgd, steps=8), "progress"), np.arange(8) / 8)


def test_the_gradient_norm_that_is_logged_is_the_unclipped_one():
    clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))
    ((state, log),) = run(begin_weight(clipped), pull, optimiser=clipped, steps=1)
    assert log["gradient_norm"] == pytest.approx(5.0)
    assert jnp.linalg.norm(state.model.w) == pytest.approx(1.0)


def test_adam_clips_and_lets_its_rate_fall_to_nothing():
    """Under a constant gradient Adam moves each weight by the rate: 1e-2 at first, 0 after the last step."""
    steps = 10
    optimiser = lenient(training.adam(1e-2, steps))
    path = [state.model.w for state, _ in run(begin_weight(optimiser), pull, optimiser=optimiser, steps=12, chunk=1)]
    moved = np.abs(np.diff(np.stack([np.zeros(2), *path]), axis=0))
    assert np.allclose(moved[0], 1e-2, rtol=1e-4)
    assert np.allclose(moved[5], 0.5e-2, rtol=1e-4)  # half way down the cosine
    assert np.all(moved[10:] < 1e-12)


@pytest.mark.parametrize(
    ("n", "at_most", "length"), [(12, 5, 4), (12, 12, 12), (12, 100, 12), (7, 3, 1), (1, 500, 1), (1000, 500, 500)]
)
def test_the_chunk_length(n, at_most, length):
    assert training.chunk_length(n, at_most) == length


def test_chunks_are_of_equal_length_and_end_at_the_last_step():
    sgd = optax.sgd(0.1)
    yielded = run(begin_weight(sgd), pull, optimiser=sgd, steps=12, chunk=5)
    assert [int(state.step) for state, _ in yielded] == [4, 8, 12]
    assert all(values.shape == (4,) for _, log in yielded for values in log.values())


def test_a_finished_run_has_nothing_left_to_do():
    sgd = optax.sgd(0.1)
    state = run(begin_weight(sgd), pull, optimiser=sgd, steps=4)[-1][0]
    assert run(state, pull, optimiser=sgd, steps=4) == []


def test_a_run_is_traced_once_and_an_equal_run_not_at_all():
    """Chunks, a second run and a resumed one share one compilation."""
    traces = []

    def counted(model, x0, **rest):
        traces.append(1)
        return LOSS(model, x0, **rest)

    yielded = run(start(), counted)
    assert len(yielded) == 3
    run(start(jax.random.key(9)), counted)
    run(yielded[0][0], counted)
    assert len(traces) == 1


def test_dealt_data_are_traced_once_too():
    traces = []

    def counted(model, x0, **rest):
        traces.append(1)
        return LOSS(model, x0, **rest)

    images = jax.random.normal(jax.random.key(3), (20, 2))
    run(start(), counted, ShuffledSource(images, 8))
    run(start(), counted, ShuffledSource(images, 8, seed=1))
    assert len(traces) == 1


def broken_at(step):
    """An objective whose second term is NaN at one step of twelve, after which the weights are NaN."""

    def loss(model, x0, *, target, teacher, progress, key):
        fine = jnp.sum(model.w)
        spoilt = jnp.where(jnp.round(progress * 12) == step, jnp.nan, 1.0) * jnp.sum(model.w)
        return fine + spoilt, {"fine": fine, "spoilt": spoilt}

    return loss


def diverging(step):
    """(number of chunks that were yielded, the message)."""
    sgd, yielded = optax.sgd(0.1), []
    with pytest.raises(training.Diverged) as raised:
        for state, _ in training.fit(begin_weight(sgd, (1.0, 1.0)), broken_at(step), SOURCE, sgd, steps=12, chunk=4):
            yielded.append(state)
    return yielded, str(raised.value)


def test_divergence_names_its_step_and_the_chunk_is_not_yielded():
    """NaN at the last step of a chunk, so that only one value is bad."""
    yielded, message = diverging(7)
    assert [int(state.step) for state in yielded] == [4]
    assert "is not finite at step 7" in message
    assert all(np.all(np.isfinite(leaf)) for leaf in leaves(yielded[-1].model))


def test_divergence_names_the_term_before_the_gradient():
    _, message = diverging(7)
    assert message.startswith("spoilt is not finite at step 7")


def test_divergence_names_the_first_step_and_the_term_that_was_bad_then():
    """Not a term that became NaN one step later because the weights had."""
    _, message = diverging(5)
    assert message.startswith("spoilt is not finite at step 5")


def test_divergence_of_one_seed_among_several_is_seen():
    values = np.ones((3, 4))
    values[1, 2] = np.inf
    with pytest.raises(training.Diverged, match="loss is not finite at step 102"):
        loop.refuse_non_finite({"loss": values}, 100)


def test_diverged_is_a_floating_point_error():
    assert issubclass(training.Diverged, FloatingPointError)


def test_only_floating_point_leaves_are_averaged():
    """Integers, keys and functions of the model pass through."""
    old = {"w": jnp.array(1.0), "count": jnp.array(1), "clock": jnp.sin}
    new = {"w": jnp.array(3.0), "count": jnp.array(5), "clock": jnp.cos}
    mixed = loop.update_average(old, new, 0.5)
    assert (mixed["w"], mixed["count"], mixed["clock"]) == (2.0, 1, jnp.sin)


def test_frozen_parts_of_a_model_stay_where_they_are():
    """Training follows the gradient: a part that the model itself stops is not moved."""
    model = disturbed(gaussian())
    sgd = optax.sgd(0.1)
    state = run(training.begin(model, sgd, key=jax.random.key(0)), optimiser=sgd, steps=2)[-1][0]
    assert same(state.model.copy, model.copy)
    assert not same(state.model.net, model.net)


def found_by(*scripts):
    """What these, each in a process of its own and all at once, found out (`tests/runs.py`)."""
    commands = [[sys.executable, runs.__file__, *map(str, script)] for script in scripts]
    with contextlib.ExitStack() as files:
        # not pipes: hosts leave together, and one that waits for its pipe to be read would keep the other
        outputs = [files.enter_context(tempfile.TemporaryFile("w+")) for _ in commands]
        processes = [subprocess.Popen(command, stdout=out) for command, out in zip(commands, outputs, strict=True)]
        try:
            codes = [process.wait(timeout=240) for process in processes]
        finally:
            for process in processes:
                process.kill()  # JAX catches SIGTERM
                process.wait()
        assert codes == [0] * len(codes)
        for out in outputs:
            out.seek(0)
        return [json.loads(next(line for line in out if line.startswith("{"))) for out in outputs]


@pytest.fixture(scope="module")
def one_device():
    state, curve = runs.ended(runs.fit(runs.begin(), runs.source(), steps=6, chunk=2))
    return {"curve": curve, "arrays": runs.arrays(state)}


@pytest.fixture(scope="module")
def eight_devices():
    return found_by(["devices"])[0]


def assert_close(found, expected):
    """To rounding in float64, for the order of sums is another; relative to the largest entry of each array."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert np.allclose(found[name], values, rtol=1e-9, atol=1e-9 * np.max(np.abs(values))), name


@pytest.mark.parametrize("layout", ["data_parallel", "fully_sharded"])
def test_eight_devices_train_as_one(one_device, eight_devices, layout):
    """The losses and the norm of the gradient of every step; in the end weights, averages, and Adam's moments, which
    are the gradients."""
    assert len(one_device["curve"]["gradient_norm"]) == 6
    assert_close(eight_devices[layout]["curve"], one_device["curve"])
    assert_close(eight_devices[layout]["arrays"], one_device["arrays"])


def test_what_each_device_holds_of_the_state(one_device, eight_devices):
    whole = {name: list(x.shape) for name, x in one_device["arrays"].items()}
    assert eight_devices["data_parallel"]["held"] == whole
    held = eight_devices["fully_sharded"]["held"]
    assert held["model.net.times.layers.0.weight"] == [2, 12] and whole["model.net.times.layers.0.weight"] == [16, 12]
    eighths = [name for name in whole if 8 * np.prod(held[name]) == np.prod(whole[name])]
    assert {"key", "step"}.isdisjoint(eighths)
    assert {name for name in whole if whole[name] not in ([], [2])} == set(eighths)  # also averages and moments


def test_several_seeds_on_eight_devices_are_those_on_one(eight_devices):
    _, curve = runs.ended(runs.fit_weight(eqx.filter_vmap(runs.begin_weight)(runs.SEEDS), runs.source()))
    assert curve["pull"].shape == (2, 6)
    assert_close(eight_devices["seeds"]["curve"], curve)
    assert eight_devices["seeds"]["held"]["model.w"] == [2, 1]


def test_a_batch_that_the_devices_cannot_share_is_refused(eight_devices):
    assert eight_devices["refused"] == ["a batch of 12 rows cannot be split evenly over 8 devices"] * 2


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((8, 24, 16), (None, "rows")), ((24, 7), ("rows",)), ((8, 8), ("rows",)), ((7, 9), ()), ((), ()), ((4,), ())],
)
def test_a_leaf_is_split_along_its_largest_axis_that_the_devices_share_evenly(shape, layout):
    assert sharded_layout(shape, 8) == PartitionSpec(*layout)


def test_two_hosts_train_as_one_and_resume(one_device, tmp_path):
    """Two processes of one device each, which talk over the loopback. Each deals its half of every batch, both hold
    halves of the state, and what they have written together goes on bit for bit, there or on one device."""
    port = free_port()
    hosts = found_by(["host", 0, port, tmp_path], ["host", 1, port, tmp_path])
    indices = np.concatenate([host["indices"] for host in hosts], axis=1)
    assert np.array_equal(indices, runs.source().draw_indices(3))
    for host in hosts:
        assert host["devices"] == 2
        assert host["held"]["model.net.times.layers.0.weight"] == [8, 12]
        assert_close(host["curve"], one_device["curve"])
        assert_close(host["arrays"], one_device["arrays"])
        assert host["taken up at"] == 2
        assert host["resumed"] == host["arrays"]
    state, source = checkpoints.restore(tmp_path, runs.begin(), runs.source())
    assert runs.listed(runs.arrays(state)) == hosts[0]["arrays"]
    assert np.array_equal(source.draw_indices(1), runs.source().draw_indices(7)[6:])
