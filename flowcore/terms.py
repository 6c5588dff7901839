r"""From an equality to a loss.

    term = equality + law of the times + source of the velocity + distance + weight + share of the batch

An objective is a few terms. This is where single examples become a batch: `vmap` is applied here and nowhere below.

The three settings of the survey's table are three sources of the velocity, each a small function of what is at hand:
`conditional` (marginal from conditional), `own` (self-distillation) and `taught` (distillation).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from flowcore.data import Examples, Labelled
from flowcore.losses.distances import squared
from flowcore.path import conditional_velocity, interpolate


class Hand(NamedTuple):
    """What one row has at hand when it makes its point and asks for a velocity."""

    target: Any  # the trusted copy of the map: the live model or its average, never differentiated
    teacher: Any  # a frozen flow map, or None
    x0: Array
    eps: Array
    times: tuple  # the source first, the target last
    progress: Any  # the share of training that is done
    key: PRNGKeyArray  # for what else the equality must draw
    label: Any = None  # of the datum, when the data have labels


def conditional(hand: Hand):
    """v = eps - x0, right on average at x_s only: for equalities that are linear in v and ask for it nowhere else."""
    velocity = conditional_velocity(hand.x0, hand.eps)
    return lambda x, t: velocity


def own(hand: Hand):
    """v(x, t) = V(x, t, t) of the map's trusted copy."""
    return hand.target.velocity


def of_samples(hand: Hand):
    """v = noise - F(eps, s, t), at s = 1 and t = 0: the conditional velocity of what the map itself makes of noise.
    The noise is `fresh_noise`."""
    velocity = conditional_velocity(hand.target(hand.eps, hand.times[0], hand.times[-1]), fresh_noise(hand)["noise"])
    return lambda x, t: velocity


def taught(hand: Hand):
    """v(x, t) of the teacher. Raises ValueError when there is none."""
    if hand.teacher is None:
        raise ValueError("this objective distils: pass teacher=... (a flow map, e.g. flowcore.OdeMap or an exact map)")
    return hand.teacher.velocity


def on_path(hand: Hand):
    """x_s = (1 - s) x0 + s eps."""
    return interpolate(hand.x0, hand.eps, hand.times[0])


def from_noise(hand: Hand):
    """x_s = s eps, for methods that see no data and start where there is next to none, at s = 1 or close to it."""
    return hand.times[0] * hand.eps


def nothing(hand: Hand) -> dict:
    return {}


def fresh_noise(hand: Hand) -> dict:
    """A noise that is not the path's."""
    return {"noise": jax.random.normal(hand.key, hand.x0.shape, hand.x0.dtype)}


def trusted(hand: Hand):
    """The target handed to the equality: the live model, or its average when `fit` is given a `target_decay`."""
    return hand.target


def pretrained(hand: Hand):
    """The target is the teacher itself: a frozen map. Raises ValueError when there is none."""
    if hand.teacher is None:
        raise ValueError("this objective distils a flow map: pass teacher=... (a frozen flow map)")
    return hand.teacher


def unweighted(*times):
    return 1.0


class Term(eqx.Module):
    """One equality asked for at random times; see the module docstring. `share` is the part of the batch it gets.

    `start` makes the point that the equality is asked for at, and `extra` its keyword arguments beyond `v` and
    `target`, each from the row's hand; so does `condition` what model, target and teacher are all asked under, e.g. a
    scale of guidance. `weight` is given all the times of the row. Terms of one `draw` see the same noise, and the same
    source times where their laws share a marginal (so that what they have in common is computed once); without one a
    term draws its own.
    """

    equality: Callable
    times: Callable
    velocity: Callable = conditional
    target: Callable = trusted
    start: Callable = on_path
    extra: Callable = nothing
    condition: Callable | None = None
    distance: Callable = squared
    weight: Callable = unweighted
    share: float = 1.0
    draw: int | None = None

    @property
    def name(self) -> str:
        return getattr(self.equality, "func", self.equality).__name__  # an `eqx.Partial` binds what else it needs

    def __call__(self, model, examples: Examples, *, target, teacher, progress, key: PRNGKeyArray) -> Array:
        """Mean over the rows of weight(*times) * distance(left, right): a scalar."""
        x0, label = examples if isinstance(examples, Labelled) else (examples, None)
        key_times, key_noise = jax.random.split(key)
        times = self.times(key_times, x0.shape[0], progress)
        noise = jax.random.normal(key_noise, x0.shape, x0.dtype)
        keys = jax.random.split(jax.random.fold_in(key, 1), x0.shape[0])

        def row(x0, label, eps, key, *times):
            left, right = self.sides(model, Hand(target, teacher, x0, eps, times, progress, key, label))
            return self.weight(*times) * self.distance(left, right)

        return jnp.mean(jax.vmap(row)(x0, label, noise, keys, *times))

    def sides(self, model, hand: Hand) -> tuple[Array, Array]:
        """Both sides of the equality, for one row."""
        if self.condition is not None:
            key, own_key = jax.random.split(hand.key)
            condition = self.condition(hand._replace(key=own_key))
            model, target = model.given(condition), hand.target.given(condition)
            teacher = None if hand.teacher is None else hand.teacher.given(condition)
            hand = hand._replace(target=target, teacher=teacher, key=key)
        given = {"v": self.velocity(hand), "target": self.target(hand), **self.extra(hand)}
        return self.equality(model, self.start(hand), *hand.times, **given)


class Objective(eqx.Module):
    """The sum of its terms, each times its share. Shares that add up to at most 1 split the batch, in order."""

    terms: tuple[Term, ...]

    def __call__(self, model, examples: Examples, *, target, teacher=None, progress=0.0, key: PRNGKeyArray):
        """(loss, {term name: its mean loss}). Differentiate in `model`: `target` and `teacher` are other arguments."""
        batch, losses, total, start = jax.tree.leaves(examples)[0].shape[0], {}, 0.0, 0
        split = sum(term.share for term in self.terms) < 1 + 1e-9
        for i, term in enumerate(self.terms):
            rows = max(1, round(term.share * batch))
            mine = rows_of(examples, start if split else 0, rows)
            start += rows
            own_key = jax.random.fold_in(key, i if term.draw is None else term.draw)
            loss = term(model, mine, target=target, teacher=teacher, progress=progress, key=own_key)
            losses[term.name if term.name not in losses else f"{term.name}_{i + 1}"] = loss
            total = total + term.share * loss
        return total, losses


def rows_of(examples: Examples, first: int, count: int):
    """`count` rows of a batch, from row `first` on."""
    return jax.tree.map(lambda leaf: leaf[first : first + count], examples)
