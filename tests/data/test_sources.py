"""What the sources promise: seeded order, whole epochs, exact resumption, no dependence on the number of processes."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowcore.data import SampledSource, ShuffledSource, scale, unscale

N = 50
IMAGES = np.arange(N, dtype=np.float32)[:, None, None] * np.ones((1, 2, 3), np.float32)
KEY = jax.random.key(0)


def test_same_seed_same_batches_other_seed_other_batches():
    first, again, other = (ShuffledSource(IMAGES, 8, seed=seed).draw_indices(20) for seed in (1, 1, 2))
    assert first.dtype == np.int32 and first.shape == (20, 8)
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.9


@pytest.mark.parametrize("batch_size", [1, 8, N, 120])
def test_every_epoch_is_another_permutation(batch_size):
    """The batches need not divide the epoch, and may be longer than it."""
    epochs = ShuffledSource(IMAGES, batch_size).draw_indices(5 * N // batch_size + 1).reshape(-1)[: 5 * N].reshape(5, N)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(N), (5, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_how_much_is_dealt_at_once_does_not_matter():
    whole, source = ShuffledSource(IMAGES, 8).draw_indices(12), ShuffledSource(IMAGES, 8)
    np.testing.assert_array_equal(
        np.concatenate([source.draw_indices(5), source.draw_indices(1), source.draw_indices(6)]), whole
    )


def test_resumes_exactly_from_json():
    source = ShuffledSource(IMAGES, 8, seed=3)
    source.draw_indices(9)
    state = json.loads(json.dumps(source.state()))
    expected = source.draw_indices(10)
    np.testing.assert_array_equal(ShuffledSource(IMAGES, 8, seed=3).restore(state).draw_indices(10), expected)
    np.testing.assert_array_equal(source.restore(state).draw_indices(10), expected)


@pytest.mark.parametrize(("batch_size", "seed", "named"), [(8, 4, "seed"), (4, 3, "batch_size")])
def test_a_state_of_another_sequence_is_refused(batch_size, seed, named):
    with pytest.raises(ValueError, match=f"another source: it has .*{named}"):
        ShuffledSource(IMAGES, batch_size, seed=seed).restore(ShuffledSource(IMAGES, 8, seed=3).state())


@pytest.mark.parametrize("processes", [2, 4])
def test_the_shares_of_the_processes_side_by_side_are_the_batches_of_one(processes):
    shares = [
        ShuffledSource(IMAGES, 8, process=process, processes=processes).draw_indices(30) for process in range(processes)
    ]
    assert {share.shape for share in shares} == {(30, 8 // processes)}
    np.testing.assert_array_equal(np.concatenate(shares, axis=1), ShuffledSource(IMAGES, 8).draw_indices(30))


def test_the_state_of_one_process_serves_another():
    """A run may be resumed on another number of processes."""
    source = ShuffledSource(IMAGES, 8)
    source.draw_indices(7)
    moved = ShuffledSource(IMAGES, 8, process=1, processes=2).restore(source.state())
    np.testing.assert_array_equal(moved.draw_indices(3), source.draw_indices(3)[:, 4:])


def test_what_cannot_be_dealt_is_refused():
    with pytest.raises(ValueError, match="multiple of the 3 processes, not 8"):
        ShuffledSource(IMAGES, 8, process=0, processes=3)
    with pytest.raises(ValueError, match=r"process must be in 0\.\.1"):
        ShuffledSource(IMAGES, 8, process=2, processes=2)
    with pytest.raises(ValueError, match="no examples"):
        ShuffledSource(IMAGES[:0], 8)


def test_batch_gathers_the_dealt_images():
    source = ShuffledSource(IMAGES, 8)
    indices = source.draw_indices(3)
    batch = eqx.filter_jit(lambda source, indices: source.batch(indices, KEY))(source, indices[1])
    assert isinstance(batch, jax.Array) and batch.dtype == jnp.float32
    np.testing.assert_array_equal(batch, IMAGES[indices[1]])


@pytest.mark.parametrize(
    "sources",
    [
        pytest.param([ShuffledSource(IMAGES, 8, seed=0), ShuffledSource(IMAGES + 1, 8, seed=1)], id="ShuffledSource"),
        pytest.param([SampledSource(jax.random.normal, 8)] * 2, id="SampledSource"),
    ],
)
def test_a_scan_over_a_source_is_traced_once_and_holds_no_images(sources):
    """For all chunks and for all sources of one shape: the images are an argument of the program, not a part of it."""
    traces = []

    @eqx.filter_jit
    def run(source, indices, key):
        traces.append(None)

        def body(total, step):
            k, indices = step
            return total + source.batch(indices, jax.random.fold_in(key, k)).sum(), None

        return jax.lax.scan(body, jnp.zeros((), source.batch(*first(indices, key)).dtype), (jnp.arange(5), indices))[0]

    def first(indices, key):
        return (None if indices is None else indices[0]), key

    totals = [run(source, source.draw_indices(5), KEY) for source in sources for _ in range(2)]
    assert len(traces) == 1
    if isinstance(sources[0], ShuffledSource):
        arguments = jax.tree.leaves(eqx.filter(sources[0], eqx.is_array))
        assert [leaf.shape for leaf in arguments] == [IMAGES.shape]
        assert totals[2] - totals[0] != 0  # the second source was not read from the first one's images


def test_a_drawn_source_is_nowhere():
    source = SampledSource(jax.random.normal, 8)
    assert source.restore(source.state()) is source
    with pytest.raises(ValueError, match="another source: it has .*'seed': 3"):
        source.restore(ShuffledSource(IMAGES, 8, seed=3).state())
    with pytest.raises(ValueError, match="another source: it has .*'seed': None"):
        ShuffledSource(IMAGES, 8, seed=3).restore(source.state())


def test_drawn_is_a_batch_of_independent_examples():
    source = SampledSource(lambda key: jax.random.normal(key, (2,)), 4000)
    assert source.draw_indices(10) is None
    batch = source.batch(None, KEY)
    assert batch.shape == (4000, 2)
    np.testing.assert_array_equal(batch, source.batch(None, KEY))
    # mean 0 and no correlation from one row to the next, within 5 standard errors
    assert abs(float(batch.mean())) < 5 / np.sqrt(8000)
    assert abs(float((batch[1:] * batch[:-1]).mean())) < 5 / np.sqrt(7998)


def test_scale_and_unscale_are_inverse_on_every_level():
    levels = np.arange(256, dtype=np.uint8)
    scaled = scale(levels)
    assert scaled.dtype == np.float32 and scaled.min() == -1 and scaled.max() == 1
    np.testing.assert_array_equal(unscale(scaled), levels)
    np.testing.assert_array_equal(unscale(jnp.asarray([-3.0, 0.001, 7.0])), [0, 128, 255])
