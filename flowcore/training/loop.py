"""The training loop: it knows no method.

`fit` is a generator over chunks of steps. A chunk is one `lax.scan` under one `jit`; between chunks the notebook has
the word (a progress bar, a picture, a break). What was yielded is whole: training goes on from any yielded state, bit
for bit, because the key of a step is folded from the run's key and the number of the step. (In chunks of the same
length: another is another program, whose rounding is XLA's affair.)

A state made by `eqx.filter_vmap(begin)` over several keys trains all those seeds at once.
"""

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, PRNGKeyArray

from flowcore.checks import check
from flowcore.networks import attention
from flowcore.objectives.schedules import Curriculum, value_at
from flowcore.objectives.terms import accepts
from flowcore.training.devices import Devices

CHUNK = 500


class State(eqx.Module):
    """All that training changes, and the key that it draws from."""

    model: Any
    average: Any  # exponential moving average of the model: the one to sample from
    target: Any  # the trusted copy that equalities are given, or None for the live model
    optimiser: Any
    step: Int[Array, "*seeds"]
    key: PRNGKeyArray
    memory: Any = None  # what an objective carries from step to step that is no parameter, e.g. a queue of features


class Diverged(FloatingPointError):
    """A loss became infinite or NaN; says in which term and at which step. The last yielded state is still good."""


def begin(
    model, optimiser: optax.GradientTransformation, *, key: PRNGKeyArray, target_decay: Curriculum = 0.0, memory=None
) -> State:
    """The state before the first step. A `target_decay` (see `fit`) asks for a target that is an average of its own;
    `memory` is what the objective starts from, if it keeps one. Raises ValueError for an old-style key, and for a decay
    outside of [0, 1]."""
    if not (isinstance(key, jax.Array) and jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)):
        kind = "that of jax.random.PRNGKey" if isinstance(key, jax.Array) else repr(key)
        raise ValueError(f"key must be a typed key, as jax.random.key(0) makes it, not {kind}")
    check("target_decay", target_decay, least=0, most=1)
    trained = eqx.filter(model, eqx.is_inexact_array)
    target = model if target_decay else None
    return State(model, model, target, optimiser.init(trained), jnp.zeros((), jnp.int32), key, memory)


def update_average(average, model, decay):
    """decay * average + (1 - decay) * model, over the floating-point leaves."""
    old, rest = eqx.partition(average, eqx.is_inexact_array)
    new = eqx.filter(model, eqx.is_inexact_array)
    return eqx.combine(optax.incremental_update(new, old, 1 - decay), rest)


def train_step(state: State, examples, key, objective, teacher, optimiser, decays, steps, known) -> tuple[State, dict]:
    """One update. `decays` are those of the average and of the target, each a number or a curriculum of the progress;
    `known` is what else of the state the objective takes. Returns the state and what to log."""
    target = state.model if state.target is None else state.target
    step = state.step.astype(float)
    progress = step / steps

    def loss(model):
        loss, *rest = objective(model, examples, target=target, teacher=teacher, progress=progress, key=key, **known)
        return loss, rest

    (_, (losses, *memory)), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(state.model)
    trained = eqx.filter(state.model, eqx.is_inexact_array)
    update, optimiser_state = optimiser.update(gradient, state.optimiser, trained)
    model = eqx.apply_updates(state.model, update)
    average_decay, target_decay = (value_at(decay, progress) for decay in decays)
    # at the start the average is short, so that it forgets the untrained weights
    warm = jnp.minimum(average_decay, (1 + step) / (10 + step))
    average = update_average(state.average, model, warm)
    target = None if state.target is None else update_average(state.target, model, target_decay)
    log = losses | {"gradient_norm": optax.tree.norm(gradient)}
    new_memory = memory[0] if memory else state.memory
    return State(model, average, target, optimiser_state, state.step + 1, state.key, new_memory), log


def known_to(objective: Callable, step, memory) -> dict:
    """What the objective takes beside the rest: the `step`, the `memory`."""
    offered = {"step": step, "memory": memory}
    return {name: value for name, value in offered.items() if value is not None and accepts(objective, name)}


@eqx.filter_jit
def run_chunk(state: State, drawn, source, objective, teacher, optimiser, decays, steps, length: int, devices):
    """`length` steps in one scan: (state, {name: (length,)}). At module level, so equal runs share a compilation, and
    what is said of attention is said once for each."""

    # all seeds are at one step: outside of their vmap it stays one number, and a term that rests is not computed
    first = state.step.ravel()[0]

    def body(selected, state, indices, step):
        key_batch, key_loss = jax.random.split(jax.random.fold_in(state.key, state.step))
        examples = source.batch(indices, key_batch)
        examples = examples if devices is None else devices.split(examples)
        known = known_to(objective, step, state.memory)
        state, log = train_step(state, examples, key_loss, selected, teacher, optimiser, decays, steps, known)
        return state if devices is None else devices.place(state), log

    def scan(state):
        examples = jax.eval_shape(source.batch, jax.tree.map(lambda steps: steps[0], drawn), state.key)
        known = known_to(objective, first, state.memory)
        selected = attention.with_selected_attention(objective, state.model, examples, teacher=teacher, **known)
        arrays, static = eqx.partition(state, eqx.is_array)

        def body_arrays(arrays, step):
            state, log = body(selected, eqx.combine(arrays, static), *step)
            return eqx.filter(state, eqx.is_array), log

        arrays, log = jax.lax.scan(
            body_arrays, arrays, (drawn, first + jnp.arange(length, dtype=first.dtype)), length=length
        )
        return eqx.combine(arrays, static), log

    state, log = eqx.filter_vmap(scan)(state) if state.key.ndim else scan(state)
    return (state, log) if devices is None else (devices.place(state), devices.replicate(log))


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
) -> "Chunks":
    """Train until `state.step` is `steps`, yielding `(state, log)` after every chunk.

    `objective(model, examples, target=, teacher=, progress=, key=) -> (loss, {term: loss})`; one that takes `step=` is
    told the step, and one that takes `memory=` is given `state.memory` and returns the new one behind its losses.
    `source` draws the batches (`flowcore.data`). `log` maps every term and `gradient_norm` to its values, one per step
    of the chunk (with several seeds: one row per seed). Chunks have equal length, the largest divisor of `steps` up to
    `chunk` (of the remaining steps, where that does not lead through this state), so that there is one compilation.
    Equalities trust the live model as their target, or with a `target_decay` (a number, or a curriculum of the
    progress) its average. `devices` are what to spread the run over (`data_parallel()`, `fully_sharded()`), by default
    JAX's first alone; on several processes all must call `fit` alike.

    Raises `Diverged` before yielding a chunk in which a loss is not finite, naming the data if these are not, and
    ValueError for settings that cannot be: no steps, a decay outside of [0, 1], an optimiser or a `target_decay` other
    than `begin`'s, a teacher that is no flow map, a batch that the devices cannot share.
    """
    check("average_decay", average_decay, least=0, most=1)
    refuse_settings(state, optimiser, steps, chunk, teacher, target_decay)
    done = int(np.ravel(state.step)[0])
    length = chunk_length(steps, chunk)  # that of a run from the start, where it leads here: the same program
    if done % length:
        length = chunk_length(steps - done, chunk)
    decays = average_decay, target_decay
    chunks = train_chunks(state, objective, source, optimiser, steps, length, teacher, decays, devices)
    settings = {
        "objective": objective,
        "optimiser": optimiser,
        "teacher": teacher,
        "source": source,
        "steps": steps,
        "average_decay": average_decay,
        "target_decay": target_decay,
    }
    return Chunks(state, chunks, max(0, steps - done) // length, settings)


class Chunks(Iterator):
    """The chunks of a run, `(state, log)` each, and how many are left: so that a progress bar has an end.

    `state` is the last, or the one that was given. `settings` is what else decides the run, by name, as `fit` was given
    it: for a checkpoint to tell runs apart."""

    def __init__(self, state: State, chunks: Iterator, count: int, settings: dict[str, Any] | None = None):
        self.state, self.chunks, self.count, self.settings = state, chunks, count, settings or {}

    def __next__(self) -> tuple[State, dict[str, np.ndarray]]:
        self.count -= 1
        self.state, log = next(self.chunks)
        return self.state, log

    def __len__(self) -> int:
        return max(0, self.count)


def refuse_settings(state: State, optimiser, steps: int, chunk: int, teacher, target_decay: Curriculum) -> None:
    """Raise ValueError for what `fit` cannot do, before anything is compiled."""
    check("steps", steps, least=1, whole=True)
    check("chunk", chunk, least=1, whole=True)
    check("target_decay", target_decay, least=0, most=1)
    if (state.target is None) != (not callable(target_decay) and float(target_decay) == 0.0):
        raise ValueError(f"target_decay is {target_decay} here and was another for `begin`: give both the same")
    if teacher is not None and not isinstance(teacher, eqx.Module):
        raise ValueError(f"teacher must be a flow map (flowcore.OdeMap, an exact map, a trained one), not {teacher!r}")
    trained = eqx.filter(state.model, eqx.is_inexact_array)  # of several seeds: an optimiser looks at no shape
    begun = jax.eval_shape(optimiser.init, trained)
    if jax.tree.structure(begun) != jax.tree.structure(state.optimiser):
        raise ValueError("the state was begun with another optimiser: give `begin` and `fit` the same")


def train_chunks(state, objective, source, optimiser, steps, length, teacher, decays, devices):
    """The generator behind `fit`."""
    done = int(np.ravel(state.step)[0])
    decays = tuple(decay if callable(decay) else jnp.asarray(decay) for decay in decays)
    if devices is not None:
        state = devices.place(state)
        source, objective, teacher, decays = devices.replicate((source, objective, teacher, decays))
    while done < steps:
        drawn = source.draw_indices(length) if devices is None else devices.assemble(source.draw_indices(length))
        settings = source, objective, teacher, optimiser, decays, float(steps), length, devices
        state, log = run_chunk(state, drawn, *settings)
        log = {name: np.asarray(values) for name, values in log.items()}
        refuse_non_finite(log, done, source, drawn)
        done += length
        yield state, log


def chunk_length(steps: int, at_most: int = CHUNK) -> int:
    """The largest divisor of `steps` up to `at_most`: equal chunks compile once."""
    return next((length for length in range(min(steps, at_most), 0, -1) if steps % length == 0), 1)


def refuse_non_finite(log: dict[str, np.ndarray], done: int, source=None, drawn=None) -> None:
    """Raise `Diverged` for the first step at which some value is not finite: for the data where these are not, else
    naming the term before the gradient."""
    bad = {name: ~np.isfinite(values).reshape(-1, values.shape[-1]).all(axis=0) for name, values in log.items()}
    first = {name: int(steps.argmax()) for name, steps in bad.items() if steps.any()}
    if first:
        # once the weights are NaN everything is: the culprit is a term at the first bad step, before the gradient
        name = min(first, key=lambda name: (first[name], name == "gradient_norm"))
        step = done + first[name]
        if source is not None and not finite(source, jax.tree.map(lambda steps: steps[first[name]], drawn)):
            raise Diverged(f"{name} is not finite at step {step} because the data are not: look for NaN in the source")
        raise Diverged(f"{name} is not finite at step {step}: lower the rate or clip more; earlier states are good")


def finite(source, indices) -> bool:
    """Whether a batch of the source is: the very one where the source shuffles, another where it samples."""
    leaves = jax.tree.leaves(source.batch(indices, jax.random.key(0)))
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in leaves if eqx.is_inexact_array(leaf))


def collect(loop: Iterator, label: str = "") -> tuple[State, dict[str, np.ndarray]]:
    """Runs `fit` to its end: the last state, and each log as one array over all steps.

    With a `label` a progress bar shows the chunks, which needs tqdm (`pip install 'flowcore[notebooks]'`). A run that
    has no steps left gives the state that it was given, and no logs; raises ValueError where that is not known."""
    chunks, last, logs = loop, getattr(loop, "state", None), []
    if label:
        from tqdm.auto import tqdm

        chunks = tqdm(loop, desc=label, leave=False)
    for last, log in chunks:  # noqa: B007  the last state is what is wanted
        logs.append(log)
    if last is None:
        raise ValueError("nothing was trained: the run has no steps left, and its state is the one that was restored")
    return last, {name: np.concatenate([log[name] for log in logs], axis=-1) for name in (logs[0] if logs else ())}
