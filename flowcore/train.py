"""The training loop: it knows no method.

`fit` is a generator over chunks of steps. A chunk is one `lax.scan` under one `jit`; between chunks the notebook has
the word (a progress bar, a picture, a break). What was yielded is whole: training goes on from any yielded state, bit
for bit, because the key of a step is folded from the run's key and the number of the step. (In chunks of the same
length: another is another program, whose rounding is XLA's affair.)

A state made by `eqx.filter_vmap(begin)` over several keys trains all those seeds at once.

On several devices, of one host or of many (`data_parallel`, `fully_sharded`), the program is the same, of the same
whole batch: only where its arrays lie is said, and XLA divides the work. So the losses are those of one device, up to
the order of sums. Verified on CPU devices only (eight of one process, and two processes of one); no accelerator was at
hand.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PRNGKeyArray

from flowcore import attention
from flowcore.times import Curriculum, now

CHUNK = 500
ROWS = "rows"  # the one axis of the mesh: what is split is split along it


class State(eqx.Module):
    """All that training changes, and the key that it draws from."""

    model: Any
    average: Any  # exponential moving average of the model: the one to sample from
    target: Any  # the trusted copy that equalities are given, or None for the live model
    optimiser: Any
    step: Int[Array, "*seeds"]
    key: PRNGKeyArray


@dataclasses.dataclass(frozen=True)
class Devices:
    """What a run is spread over: the rows of every batch are split over the mesh, and each leaf of the state lies as
    `layout(its shape, number of devices)` says. Made by `data_parallel` or `fully_sharded`."""

    mesh: Mesh
    layout: Callable[[tuple[int, ...], int], PartitionSpec]

    def laid_out(self, state: State) -> State:
        """The state where it belongs; with several seeds each of them is laid out as one alone."""
        seeds = state.key.ndim

        def lies(leaf):
            layout = self.layout(leaf.shape[seeds:], self.mesh.size)
            return NamedSharding(self.mesh, PartitionSpec(*[None] * seeds, *layout))

        return moved(state, lies)

    def everywhere(self, tree):
        """Every array whole on every device."""
        return moved(tree, lambda leaf: NamedSharding(self.mesh, PartitionSpec()))

    def split(self, examples):
        """Inside jit: a batch, split along its rows. Raises ValueError if the devices cannot share them evenly."""
        return eqx.filter_shard(examples, self.along(0, len(jax.tree.leaves(examples)[0])))

    def gathered(self, dealt):
        """What each process was dealt, (steps, its rows), as one array of all rows. Raises as `split` does."""

        def whole(local):
            hosts = len({device.process_index for device in self.mesh.devices.flat})
            return jax.make_array_from_process_local_data(self.along(1, hosts * local.shape[1]), local)

        return jax.tree.map(whole, dealt)

    def along(self, axis: int, rows: int) -> NamedSharding:
        """Split along that axis, which has so many rows."""
        if rows % self.mesh.size:
            raise ValueError(f"a batch of {rows} rows cannot be split evenly over {self.mesh.size} devices")
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, ROWS))


def moved(tree, lies: Callable):
    """The tree with every array where it `lies`."""
    arrays, rest = eqx.partition(tree, eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)  # jit would hand back an equal source, which deals from another place
    return eqx.combine(jax.tree.unflatten(structure, placed(leaves, [lies(leaf) for leaf in leaves])), rest)


@eqx.filter_jit
def placed(arrays: list, shardings: list) -> list:
    """All in one program: hosts that move arrays one by one may wait for each other for ever."""
    return jax.lax.with_sharding_constraint(arrays, shardings)


def data_parallel(devices: Sequence[jax.Device] | None = None) -> Devices:
    """Every device holds the whole state and its share of the batch. By default all devices of all processes."""
    return Devices(one_axis(devices), lie_whole)


def fully_sharded(devices: Sequence[jax.Device] | None = None) -> Devices:
    """Every device holds its share of the batch and of the state too: of parameters, averages and moments.

    For models that one device cannot hold; XLA gathers the weights where they are used.
    Reference: Rajbhandari et al. 2020, "ZeRO: memory optimizations toward training trillion parameter models".
    """
    return Devices(one_axis(devices), along_largest_axis)


def one_axis(devices: Sequence[jax.Device] | None) -> Mesh:
    """A mesh of one axis, the devices of a process side by side, as the rows that it is dealt are."""
    chosen = sorted(jax.devices() if devices is None else devices, key=lambda device: device.process_index)
    return Mesh(np.array(chosen), (ROWS,))


def lie_whole(shape: tuple[int, ...], devices: int) -> PartitionSpec:
    """A copy on every device."""
    return PartitionSpec()


def along_largest_axis(shape: tuple[int, ...], devices: int) -> PartitionSpec:
    """Split along the largest axis that the devices share evenly; a copy on each if there is none."""
    even = [axis for axis, size in enumerate(shape) if size % devices == 0]
    axis = max(even, key=shape.__getitem__, default=None)
    return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, ROWS)


class Diverged(FloatingPointError):
    """A loss became infinite or NaN; says in which term and at which step. The last yielded state is still good."""


def adam(rate: float, steps: int, clip: float = 1.0) -> optax.GradientTransformation:
    """Adam with gradients clipped to norm `clip` and a rate that falls from `rate` to 0 along a cosine."""
    return optax.chain(optax.clip_by_global_norm(clip), optax.adam(optax.cosine_decay_schedule(rate, steps)))


def begin(
    model, optimiser: optax.GradientTransformation, *, key: PRNGKeyArray, target_decay: Curriculum = 0.0
) -> State:
    """The state before the first step. A `target_decay` (see `fit`) asks for a target that is an average of its own."""
    trained = eqx.filter(model, eqx.is_inexact_array)
    target = model if target_decay else None
    return State(model, model, target, optimiser.init(trained), jnp.zeros((), jnp.int32), key)


def averaged(average, model, decay):
    """decay * average + (1 - decay) * model, over the floating-point leaves."""
    old, rest = eqx.partition(average, eqx.is_inexact_array)
    new = eqx.filter(model, eqx.is_inexact_array)
    return eqx.combine(optax.incremental_update(new, old, 1 - decay), rest)


def train_step(state: State, x0, dealt_key, objective, teacher, optimiser, decays, steps) -> tuple[State, dict]:
    """One update. `decays` are those of the average and of the target, each a number or a curriculum of the progress;
    returns the state and what to log."""
    target = state.model if state.target is None else state.target
    step = state.step.astype(float)
    progress = step / steps

    def loss(model):
        return objective(model, x0, target=target, teacher=teacher, progress=progress, key=dealt_key)

    (_, losses), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(state.model)
    trained = eqx.filter(state.model, eqx.is_inexact_array)
    update, optimiser_state = optimiser.update(gradient, state.optimiser, trained)
    model = eqx.apply_updates(state.model, update)
    average_decay, target_decay = (now(decay, progress) for decay in decays)
    # at the start the average is short, so that it forgets the untrained weights
    warm = jnp.minimum(average_decay, (1 + step) / (10 + step))
    average = averaged(state.average, model, warm)
    target = None if state.target is None else averaged(state.target, model, target_decay)
    log = losses | {"gradient_norm": optax.tree.norm(gradient)}
    return State(model, average, target, optimiser_state, state.step + 1, state.key), log


@eqx.filter_jit
def run_chunk(state: State, dealt, source, objective, teacher, optimiser, decays, steps, length: int, devices):
    """`length` steps in one scan: (state, {name: (length,)}). At module level, so equal runs share a compilation, and
    what is said of attention is said once for each."""

    def body(objective, state, dealt):
        key_batch, key_loss = jax.random.split(jax.random.fold_in(state.key, state.step))
        x0 = source.batch(dealt, key_batch)
        x0 = x0 if devices is None else devices.split(x0)
        state, log = train_step(state, x0, key_loss, objective, teacher, optimiser, decays, steps)
        return state if devices is None else devices.laid_out(state), log

    def scan(state):
        x0 = jax.eval_shape(source.batch, jax.tree.map(lambda steps: steps[0], dealt), state.key)
        suited = attention.suited(objective, state.model, x0, teacher=teacher)
        arrays, static = eqx.partition(state, eqx.is_array)

        def body_arrays(arrays, dealt):
            state, log = body(suited, eqx.combine(arrays, static), dealt)
            return eqx.filter(state, eqx.is_array), log

        arrays, log = jax.lax.scan(body_arrays, arrays, dealt, length=length)
        return eqx.combine(arrays, static), log

    state, log = eqx.filter_vmap(scan)(state) if state.key.ndim else scan(state)
    return (state, log) if devices is None else (devices.laid_out(state), devices.everywhere(log))


def fit(
    state: State,
    objective: Callable,
    source,
    optimiser: optax.GradientTransformation,
    *,
    steps: int,
    chunk: int = CHUNK,
    teacher=None,
    average_decay: float = 0.999,
    target_decay: Curriculum = 0.0,
    devices: Devices | None = None,
) -> Iterator[tuple[State, dict[str, np.ndarray]]]:
    """Train until `state.step` is `steps`, yielding `(state, log)` after every chunk.

    `objective(model, x0, target=, teacher=, progress=, key=) -> (loss, {term: loss})`; `source` deals the batches
    (`flowcore.data`). `log` maps every term and `gradient_norm` to its values, one per step of the chunk (with several
    seeds: one row per seed). Chunks have equal length, the largest divisor of `steps` up to `chunk` (of the remaining
    steps, where that does not lead through this state), so that there is one compilation. Equalities trust the live
    model as their target, or with a `target_decay` (a number, or a curriculum of the progress) its average. `devices`
    are what to spread the run over (`data_parallel()`, `fully_sharded()`), by default JAX's first alone; on several
    processes all must call `fit` alike. Raises `Diverged` before yielding a chunk in which a loss is not finite, and
    ValueError for a batch that the devices cannot share.
    """
    if (state.target is None) != (target_decay == 0.0):
        raise ValueError(f"target_decay is {target_decay} here and was another for `begin`: give both the same")
    done = int(np.ravel(state.step)[0])
    length = chunk_length(steps, chunk)  # that of a run from the start, where it leads here: the same program
    if done % length:
        length = chunk_length(steps - done, chunk)
    decays = tuple(decay if callable(decay) else jnp.asarray(decay) for decay in (average_decay, target_decay))
    if devices is not None:
        state, given = devices.laid_out(state), devices.everywhere((source, objective, teacher, decays))
        source, objective, teacher, decays = given
    while done < steps:
        dealt = source.deal(length) if devices is None else devices.gathered(source.deal(length))
        settings = source, objective, teacher, optimiser, decays, float(steps), length, devices
        state, log = run_chunk(state, dealt, *settings)
        log = {name: np.asarray(values) for name, values in log.items()}
        refuse_non_finite(log, done)
        done += length
        yield state, log


def chunk_length(steps: int, at_most: int = CHUNK) -> int:
    """The largest divisor of `steps` up to `at_most`: equal chunks compile once."""
    return next((length for length in range(min(steps, at_most), 0, -1) if steps % length == 0), 1)


def chunks(steps: int, at_most: int = CHUNK) -> int:
    """How many times `fit` yields: the total of its progress bar."""
    return steps // chunk_length(steps, at_most)


def refuse_non_finite(log: dict[str, np.ndarray], done: int) -> None:
    """Raise `Diverged` for the first step at which some value is not finite, naming the term before the gradient."""
    bad = {name: ~np.isfinite(values).reshape(-1, values.shape[-1]).all(axis=0) for name, values in log.items()}
    first = {name: int(steps.argmax()) for name, steps in bad.items() if steps.any()}
    if first:
        # once the weights are NaN everything is: the culprit is a term at the first bad step, before the gradient
        name = min(first, key=lambda name: (first[name], name == "gradient_norm"))
        step = done + first[name]
        raise Diverged(f"{name} is not finite at step {step}: lower the rate or clip more; earlier states are good")
