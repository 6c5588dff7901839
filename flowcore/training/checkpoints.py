"""Checkpoints: a run that was killed goes on from its last chunk and ends as if it had not been, bit for bit.

    state, source = checkpoints.restore(folder, state, source)
    for state, log in checkpoints.save(fit(state, objective, source, ...), folder, source):
        ...

The same two lines begin a run and take it up again. A checkpoint holds every array of the state (model, averages,
optimiser, step, key) and the place of the source; what is no array, a function or a size, is code and comes from the
state that is given. It is written before its chunk is yielded, and is there whole or not at all.

Verified by SIGKILL at random moments, on a local disk, on CPU devices; not by power cuts, nor on a network disk.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as orbax

from flowcore.training import State


def save(
    training: Iterable[tuple[State, dict]], folder: str | os.PathLike, source, *, newest: int = 2
) -> Iterator[tuple[State, dict[str, np.ndarray]]]:
    """What `fit` yields, each state written to `folder` first, of which the `newest` few stay.

    `source` is the one that `fit` deals from. On several processes the folder must be one that all of them see. Raises
    ValueError if the folder holds a run that this one does not go on from, and if the source is not the one that is
    indices from.
    """
    place = source.state()
    with open_manager(folder, max_to_keep=newest, cleanup_tmp_directories=True) as checkpoints:
        for state, log in training:
            step = int(np.ravel(state.step)[0])
            last = checkpoints.latest_step()
            begun = step - next(iter(log.values())).shape[-1]  # where this chunk did
            if last is not None and last != begun:
                raise ValueError(
                    f"{folder} holds step {last} of a run, and this one goes on from step {begun}: take that run up "
                    "with `checkpoints.restore`, or keep this one in another folder"
                )
            before, place = place, source.state()
            if place and place == before:
                raise ValueError("the source has not moved: give `save` the very source that `fit` deals from")
            arrays = named_arrays(state)
            written = orbax.args.Composite(
                state=orbax.args.StandardSave(arrays),
                about=orbax.args.JsonSave({"arrays": describe(arrays), "source": place}),
            )
            checkpoints.save(step, args=written)
            yield state, log


def restore(folder: str | os.PathLike, state: State, source) -> tuple[State, object]:
    """(state, source) of the newest whole checkpoint in `folder`; those that are given if there is none.

    Each array comes to lie where that of the given state does, which for a run on several processes, or for a model
    that one device cannot hold, is first laid out: `training.fully_sharded().place(state)`. Raises ValueError if the
    checkpoint is of another run: of other shapes, of another key or of another sequence of batches. Other optimisers,
    objectives and numbers of steps cannot be told apart: one folder is for one run.
    """
    if not Path(folder).expanduser().is_dir():
        return state, source
    with open_manager(folder) as checkpoints:
        step = checkpoints.latest_step()
        if step is None:
            return state, source
        here, found = named_arrays(state), f"the checkpoint of step {step} in {folder}"
        about = checkpoints.restore(step, args=orbax.args.Composite(about=orbax.args.JsonRestore())).about
        refuse_other_arrays(about["arrays"], describe(here), found)
        wanted = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for name, x in here.items()}
        there = checkpoints.restore(step, args=orbax.args.Composite(state=orbax.args.StandardRestore(wanted))).state
    # what lay nowhere in particular shall not be bound to its device now
    there = {name: x if here[name].committed else jnp.asarray(np.asarray(x)) for name, x in there.items()}
    if not np.array_equal(there["key"], here["key"]):
        raise ValueError(f"{found} is of another run: its key is not this one's. Begin with its key, or keep elsewhere")
    return with_arrays(state, there), source.restore(about["source"])


def open_manager(folder: str | os.PathLike, **options) -> orbax.CheckpointManager:
    """The checkpoints of a folder, each named by its step. Writing waits, so that what was yielded is on disk."""
    options = orbax.CheckpointManagerOptions(enable_async_checkpointing=False, **options)
    return orbax.CheckpointManager(Path(folder).expanduser().resolve(), options=options)


def named_arrays(state: State) -> dict[str, jax.Array]:
    """Every array of the state under its path, e.g. "model.net.into.weight"; of a key, its numbers."""
    paths, _ = jax.tree_util.tree_flatten_with_path(eqx.filter(state, eqx.is_array))
    return {jax.tree_util.keystr(path, simple=True, separator="."): numbers(leaf) for path, leaf in paths}


def with_arrays(state: State, arrays: dict[str, jax.Array]) -> State:
    """The state with these arrays: the inverse of `named_arrays`."""
    old, static = eqx.partition(state, eqx.is_array)
    leaves, structure = jax.tree.flatten(old)
    named = zip(named_arrays(state), leaves, strict=True)
    new = [as_key(arrays[name], leaf) if is_key(leaf) else arrays[name] for name, leaf in named]
    return eqx.combine(jax.tree.unflatten(structure, new), static)


def is_key(leaf) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def numbers(leaf) -> jax.Array:
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def as_key(x: jax.Array, like) -> jax.Array:
    return jax.random.wrap_key_data(x, impl=jax.random.key_impl(like))


def describe(arrays: dict[str, jax.Array]) -> dict[str, str]:
    """What an array is, e.g. "float32[128, 2]"."""
    return {name: f"{x.dtype}{list(x.shape)}" for name, x in arrays.items()}


def refuse_other_arrays(there: dict[str, str], here: dict[str, str], found: str) -> None:
    """Raise ValueError naming the first array that is not the same in both."""
    for name in [*here, *there]:
        if there.get(name) != here.get(name):
            kinds = f"{name} is {there.get(name, 'absent')} there and {here.get(name, 'absent')} here"
            raise ValueError(f"{found} is of another run: {kinds}. Begin as it was begun, or keep in another folder")
