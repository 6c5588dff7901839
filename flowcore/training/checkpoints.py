"""Checkpoints: a run that was killed goes on from its last chunk and ends as if it had not been, bit for bit.

    state, source = checkpoints.restore(folder, state, source)
    for state, log in checkpoints.save(fit(state, objective, source, ...), folder, source):
        ...

The same two lines begin a run and take it up again. A checkpoint holds every array of the state (model, averages,
optimiser, step, key) and the place of the source; what is no array, a function or a size, is code and comes from the
state that is given. It is written before its chunk is yielded, and is there whole or not at all. Beside the arrays lie
the settings of the run (objective, optimiser, teacher, data, steps, decays) as `flowcore.training.settings` describes
them, and a checksum of every file: what is of another run is refused, and for what was damaged an older one is taken.

Verified by SIGKILL at random moments, on a local disk, on CPU devices; not by power cuts, nor on a network disk.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as orbax

from flowcore.checks import check
from flowcore.training import State
from flowcore.training.settings import describe, differences

CHECKSUMS = "sha256.json"  # beside the files of a step: {path: checksum}
DAMAGED = "damaged-"  # before the name of a step that was set aside


class Damaged(Exception):
    """A checkpoint cannot be read; says why."""


def save(
    training: Iterable[tuple[State, dict]],
    folder: str | os.PathLike,
    source,
    *,
    newest: int = 2,
    changed: bool = False,
) -> Iterator[tuple[State, dict[str, np.ndarray]]]:
    """What `fit` yields, each state written to `folder` first, of which the `newest` few stay.

    `source` is the one that `fit` draws from. On several processes the folder must be one that all of them see. Raises
    ValueError if the folder is none of checkpoints, or holds a run that this one does not go on from; before anything
    is trained if that run had other settings (another rate, method, batch, teacher, number of steps), unless they are
    meant to have `changed`; and if the source is not the one that `fit` draws from. What wraps `fit` hides the
    settings, but for a bar of tqdm: wrap what `save` returns.
    """
    check("newest", newest, least=1, whole=True)
    refuse_other_folder(folder)
    given = getattr(training, "settings", None) or getattr(getattr(training, "iterable", None), "settings", {})
    known = newest_settings(folder)
    settings = describe(given) if given else known
    if known and not given:
        print(f"what wraps `fit` hides its settings: those of the run in {folder} are taken to be the same", flush=True)
    if not changed and known and settings:
        refuse_other_settings(folder, known, settings)
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
                raise ValueError("the source has not moved: give `save` the very source that `fit` draws from")
            arrays = named_arrays(state)
            written = orbax.args.Composite(
                state=orbax.args.StandardSave(arrays),
                about=orbax.args.JsonSave({"arrays": kinds(arrays), "source": place, "settings": settings}),
            )
            checkpoints.save(step, args=written)
            if jax.process_index() == 0:
                write_checksums(Path(folder).expanduser() / str(step))
            yield state, log


def restore(folder: str | os.PathLike, state: State, source) -> tuple[State, object]:
    """(state, source) of the newest whole checkpoint in `folder`; those that are given if there is none.

    Each array comes to lie where that of the given state does, which for a run on several processes, or for a model
    that one device cannot hold, is first laid out: `training.fully_sharded().place(state)`. A newer one that is
    damaged is set aside, in one printed line. Raises ValueError if the checkpoint is of another run: of other shapes,
    of another key or of another sequence of batches (of other settings `save` does); if none is whole, and if the
    folder is none of checkpoints.
    """
    refuse_other_folder(folder)
    if not Path(folder).expanduser().is_dir():
        return state, source
    here, damaged = named_arrays(state), {}
    with open_manager(folder) as checkpoints:
        steps = sorted(checkpoints.all_steps(), reverse=True)
        for step in steps:
            try:
                refuse_damaged(Path(folder).expanduser() / str(step))
                about = read_about(checkpoints, step)
                refuse_other_arrays(about["arrays"], kinds(here), f"the checkpoint of step {step} in {folder}")
                there = read_arrays(checkpoints, step, here)
                break
            except Damaged as error:
                damaged[step] = str(error)
        else:
            if not steps:
                return state, source
            causes = "; ".join(f"step {step}: {cause}" for step, cause in damaged.items())
            raise ValueError(
                f"{folder} holds no whole checkpoint ({causes}): put a copy back, or begin anew in another folder"
            )
    if not np.array_equal(there["key"], here["key"]):
        found = f"the checkpoint of step {step} in {folder}"
        raise ValueError(f"{found} is of another run: its key is not this one's. Begin with its key, or keep elsewhere")
    source = source.restore(about["source"])
    if damaged:
        set_aside(folder, list(damaged), step)
    return with_arrays(state, there), source


def read_about(checkpoints: orbax.CheckpointManager, step: int) -> dict:
    """What is written about the arrays of a step. Raises `Damaged`."""
    try:
        about = checkpoints.restore(step, args=orbax.args.Composite(about=orbax.args.JsonRestore())).about
        return {"arrays": dict(about["arrays"]), "source": dict(about["source"]), "settings": about.get("settings")}
    except Exception as error:  # whatever Orbax, JSON and the disk may make of it
        raise Damaged(cause(error)) from error


def read_arrays(checkpoints: orbax.CheckpointManager, step: int, here: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """The arrays of a step, each where that of `here` lies. Raises `Damaged`."""
    wanted = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for name, x in here.items()}
    try:
        there = checkpoints.restore(step, args=orbax.args.Composite(state=orbax.args.StandardRestore(wanted))).state
    except Exception as error:  # as above
        raise Damaged(cause(error)) from error
    # what lay nowhere in particular shall not be bound to its device now
    return {name: x if here[name].committed else jnp.asarray(np.asarray(x)) for name, x in there.items()}


def cause(error: Exception) -> str:
    """The beginning of what the error says, in one line."""
    return f"{type(error).__name__} {' '.join(str(error).split())[:80]}".strip()


def write_checksums(folder: Path) -> None:
    """Write down what every file of a whole step is. A run that is killed before has a step without."""
    found = {
        path.relative_to(folder).as_posix(): checksum(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
    partial = folder / f".{CHECKSUMS}"
    partial.write_text(json.dumps(found))
    os.replace(partial, folder / CHECKSUMS)


def refuse_damaged(folder: Path) -> None:
    """Raise `Damaged` for a file of the step that is not what was written: Orbax would load some flipped bits."""
    try:
        written = json.loads((folder / CHECKSUMS).read_text())
        for name, expected in written.items():
            if checksum(folder / name) != expected:
                raise Damaged(f"{name} is not what was written")
    except FileNotFoundError as error:
        if Path(error.filename).name != CHECKSUMS:
            raise Damaged(f"{Path(error.filename).name} is missing") from error
    except (OSError, ValueError, AttributeError) as error:
        raise Damaged(cause(error)) from error


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def set_aside(folder: str | os.PathLike, damaged: list[int], step: int) -> None:
    """Rename the damaged steps, so that the run goes on from the older one; say so in one line."""
    root, names = Path(folder).expanduser(), ", ".join(map(str, damaged))
    if jax.process_index():
        return
    try:
        for bad in damaged:
            taken = sum(path.name.startswith(f"{DAMAGED}{bad}") for path in root.iterdir())
            (root / str(bad)).rename(root / f"{DAMAGED}{bad}{f'-{taken + 1}' if taken else ''}")
        place = f"set aside as {DAMAGED}{names}"
    except OSError as error:  # to read from, the folder is good enough
        place = f"could not be set aside ({error.strerror})"
    print(f"{folder}: step {names} is damaged and {place}: going on from step {step}")


def refuse_other_folder(folder: str | os.PathLike) -> None:
    """Raise ValueError for what is no folder, and for a folder that holds other things and no run."""
    root = Path(folder).expanduser()
    if root.exists() and not root.is_dir():
        raise ValueError(f"{folder} is a file: give a folder for the checkpoints of this run")
    inside = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    other = [name for name in inside if not name[0].isdecimal() and not name.startswith((".", DAMAGED))]
    if other and len(other) == len([name for name in inside if not name.startswith(".")]):
        raise ValueError(f"{folder} holds other things ({', '.join(other[:3])}): give this run a folder of its own")


def newest_settings(folder: str | os.PathLike) -> dict[str, str]:
    """Those of the run in the folder, as far as they are known."""
    if not Path(folder).expanduser().is_dir():
        return {}
    with open_manager(folder) as checkpoints:
        step = checkpoints.latest_step()
        try:
            return {} if step is None else read_about(checkpoints, step)["settings"]
        except Damaged:
            return {}  # `restore` tells


def refuse_other_settings(folder: str | os.PathLike, there: dict[str, str], here: dict[str, str]) -> None:
    """Raise ValueError if the settings are not those of the run in the folder."""
    if other := differences(there, here):
        raise ValueError(
            f"the run in {folder} was begun with other settings: {other}. Train as it was begun, keep this run in "
            "another folder, or say that they have: save(..., changed=True)"
        )


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


def kinds(arrays: dict[str, jax.Array]) -> dict[str, str]:
    """What an array is, e.g. "float32[128, 2]"."""
    return {name: f"{x.dtype}{list(x.shape)}" for name, x in arrays.items()}


def refuse_other_arrays(there: dict[str, str], here: dict[str, str], found: str) -> None:
    """Raise ValueError naming the first array that is not the same in both."""
    for name in [*here, *there]:
        if there.get(name) != here.get(name):
            kinds = f"{name} is {there.get(name, 'absent')} there and {here.get(name, 'absent')} here"
            raise ValueError(f"{found} is of another run: {kinds}. Begin as it was begun, or keep in another folder")
