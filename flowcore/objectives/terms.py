r"""From an equality to a loss.

    term = equality + law of the times + source of the velocity + distance + weight + share of the batch

An objective is a few terms. This is where single examples become a batch: `vmap` is applied here and nowhere below.
"""

import functools
import inspect
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from flowcore.calculus import stop_gradients
from flowcore.checks import check
from flowcore.data.examples import Examples, parts
from flowcore.losses.distances import squared
from flowcore.objectives.context import Context, conditional, no_extra, on_path, self_target


def unit_weight(*times):
    """Every row counts the same."""
    return 1.0


def accepts(function: Callable, name: str) -> bool:
    """Whether the function asks for a keyword of that name: it is among its parameters, and not bound already.

    One that would take any keyword (`**others`) does not ask."""
    if isinstance(function, eqx.Partial | functools.partial):
        return name not in function.keywords and accepts(function.func, name)
    return name in inspect.signature(function).parameters


class Term(eqx.Module):
    """One equality asked for at random times; see the module docstring. `share` is the part of the batch it gets.

    `start` makes the point that the equality is asked for at, and `extra` its keyword arguments beyond `v` and
    `target`, each from the row's context; so does `condition` what model, target and teacher are all asked under, e.g.
    a scale of guidance. `weight` is given all the times of the row, and the `progress` if it takes it. Terms of one
    `draw` see the same noise, and the same source times where their laws share a marginal (so that what they have in
    common is computed once); without one a term draws its own.

    A `group` of M rows shares its times, and `distance` compares two clouds (M, *shape) in place of two points, as
    inductive moment matching does (Zhou et al. 2025). `uncertainty(model, *times)` is a learned log-weight u: the loss
    is e^-u weight distance + u (Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion
    Models", eq. 14). With `every` = k the term is asked for at steps 0, k, 2k, ... only: between them it is not
    computed, has no gradient and logs 0 (an optimiser with momentum goes on moving what the term alone trains).

    Raises ValueError for a share, a group or an `every` that cannot be.
    """

    equality: Callable
    times: Callable
    velocity: Callable = conditional
    target: Callable = self_target
    start: Callable = on_path
    extra: Callable = no_extra
    condition: Callable | None = None
    distance: Callable = squared
    weight: Callable = unit_weight
    uncertainty: Callable | None = None
    share: float = 1.0
    draw: int | None = None
    group: int | None = None
    every: int = 1

    def __check_init__(self):
        check("every of a Term", self.every, least=1, whole=True)
        if self.group is not None:
            check("group of a Term", self.group, least=1, whole=True)
        check("share of a Term", self.share, least=0, most=1)

    @property
    def name(self) -> str:
        return getattr(self.equality, "func", self.equality).__name__  # an `eqx.Partial` binds what else it needs

    def __call__(self, model, examples: Examples, *, target, teacher, progress, key: PRNGKeyArray) -> Array:
        """Mean over the rows of weight(*times) * distance(left, right): a scalar.

        No gradient reaches `target` or `teacher`, whoever differentiates what. Raises ValueError for a batch that
        groups do not divide.
        """
        x0, eps, label = parts(examples)
        target, teacher = stop_gradients(target), stop_gradients(teacher)
        key_times, key_noise = jax.random.split(key)
        noise = jax.random.normal(key_noise, x0.shape, x0.dtype) if eps is None else eps
        keys = jax.random.split(jax.random.fold_in(key, 1), x0.shape[0])
        weight = self.weight if not accepts(self.weight, "progress") else lambda *t: self.weight(*t, progress=progress)

        def sides(x0, label, eps, key, *times):
            return self.sides(model, Context(target, teacher, x0, eps, times, progress, key, label, model))

        def loss(left, right, *times):
            apart = weight(*times) * self.distance(left, right)
            if self.uncertainty is None:
                return apart
            log_weight = self.uncertainty(model, *times)
            return jnp.exp(-log_weight) * apart + log_weight

        if self.group is None:
            times = self.times(key_times, x0.shape[0], progress)
            rows = jax.vmap(lambda x0, label, eps, key, *times: loss(*sides(x0, label, eps, key, *times), *times))
            return jnp.mean(rows(x0, label, noise, keys, *times))

        if x0.shape[0] % self.group:
            raise ValueError(
                f"groups of {self.group} do not divide the {x0.shape[0]} rows of {self.name}: change the batch, the "
                "share or the group"
            )
        times = self.times(key_times, x0.shape[0] // self.group, progress)

        def cloud(x0, label, eps, keys, *times):
            shared = (None,) * len(times)
            left, right = jax.vmap(sides, (0, 0, 0, 0, *shared))(x0, label, eps, keys, *times)
            return loss(left, right, *times)

        grouped = jax.tree.map(lambda leaf: leaf.reshape(-1, self.group, *leaf.shape[1:]), (x0, label, noise, keys))
        return jnp.mean(jax.vmap(cloud)(*grouped, *times))

    def sides(self, model, context: Context) -> tuple[Array, Array]:
        """Both sides of the equality, for one row."""
        if self.condition is not None:
            key, key_condition = jax.random.split(context.key)
            condition = self.condition(context._replace(key=key_condition))
            stopped = stop_gradients(condition)  # it may be of the live model: a learned embedding
            model, target = model.condition_on(condition), context.target.condition_on(stopped)
            teacher = None if context.teacher is None else context.teacher.condition_on(stopped)
            context = context._replace(target=target, teacher=teacher, key=key, model=model)
        arguments = {"v": self.velocity(context), "target": self.target(context), **self.extra(context)}
        return self.equality(model, self.start(context), *context.times, **arguments)


class Objective(eqx.Module):
    """The sum of its terms, each times its share. Shares that add up to at most 1 split the batch, in order.

    Raises ValueError for no terms."""

    terms: tuple[Term, ...]

    def __check_init__(self):
        if not isinstance(self.terms, tuple | list) or not self.terms:
            given = "()" if isinstance(self.terms, tuple | list) else f"one {type(self.terms).__name__}"
            raise ValueError(f"terms of an Objective must be a tuple of at least one Term, not {given}")

    def __call__(self, model, examples: Examples, *, target, teacher=None, progress=0.0, step=0, key: PRNGKeyArray):
        """(loss, {term name: its mean loss}). Differentiate in `model`: `target` and `teacher` get no gradient. A term
        that rests at this step counts and logs 0. Raises ValueError for a batch that leaves a term without rows."""
        batch, losses, total, start = jax.tree.leaves(examples)[0].shape[0], {}, 0.0, 0
        split = sum(term.share for term in self.terms) < 1 + 1e-9
        for i, term in enumerate(self.terms):
            rows = max(1, round(term.share * batch))
            if split and start >= batch:
                shares = ", ".join(f"{each.share:g}" for each in self.terms)
                raise ValueError(f"a batch of {batch} rows leaves none for {term.name}: shares {shares} want more rows")
            mine = rows_of(examples, start if split else 0, rows)
            start += rows
            key_term = jax.random.fold_in(key, i if term.draw is None else term.draw)
            loss = at_its_steps(
                term, step, model, mine, target=target, teacher=teacher, progress=progress, key=key_term
            )
            losses[term.name if term.name not in losses else f"{term.name}_{i + 1}"] = loss
            total = total + term.share * loss
        return total, losses


def at_its_steps(term: Term, step, model, examples: Examples, **arguments) -> Array:
    """The term's loss, or 0 without computing anything where it rests."""
    if term.every == 1:
        return term(model, examples, **arguments)
    asked = eqx.filter_eval_shape(term, model, examples, **arguments)
    rests = lambda: jnp.zeros(asked.shape, asked.dtype)  # noqa: E731
    return jax.lax.cond(jnp.asarray(step) % term.every == 0, lambda: term(model, examples, **arguments), rests)


def rows_of(examples: Examples, first: int, count: int):
    """`count` rows of a batch, from row `first` on."""
    return jax.tree.map(lambda leaf: leaf[first : first + count], examples)
