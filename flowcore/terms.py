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
from jaxtyping import Array, Float, PRNGKeyArray

from flowcore.losses.distances import squared
from flowcore.path import conditional_velocity, interpolate


class Hand(NamedTuple):
    """What one row has at hand when it asks for a velocity."""

    target: Any  # the trusted copy of the map: the live model or its average, never differentiated
    teacher: Any  # a frozen flow map, or None
    x0: Array
    eps: Array


def conditional(hand: Hand):
    """v = eps - x0, right on average at x_s only: for equalities that are linear in v and ask for it nowhere else."""
    velocity = conditional_velocity(hand.x0, hand.eps)
    return lambda x, t: velocity


def own(hand: Hand):
    """v(x, t) = V(x, t, t) of the map's trusted copy."""
    return hand.target.velocity


def taught(hand: Hand):
    """v(x, t) of the teacher. Raises ValueError when there is none."""
    if hand.teacher is None:
        raise ValueError("this objective distils: pass teacher=... (a flow map, e.g. flowcore.OdeMap or an exact map)")
    return hand.teacher.velocity


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

    `weight` is given all the times of the row. Terms of one `draw` see the same noise, and the same source times where
    their laws share a marginal (so what they have in common is computed once); without one a term draws its own.
    """

    equality: Callable
    times: Callable
    velocity: Callable = conditional
    target: Callable = trusted
    distance: Callable = squared
    weight: Callable = unweighted
    share: float = 1.0
    draw: int | None = None

    @property
    def name(self) -> str:
        return getattr(self.equality, "func", self.equality).__name__  # an `eqx.Partial` binds what else it needs

    def __call__(self, model, x0: Float[Array, "rows ..."], *, target, teacher, progress, key: PRNGKeyArray) -> Array:
        """Mean over the rows of weight(*times) * distance(left, right): a scalar."""
        key_times, key_noise = jax.random.split(key)
        times = self.times(key_times, x0.shape[0], progress)
        noise = jax.random.normal(key_noise, x0.shape, x0.dtype)

        def row(x0, eps, *times):
            hand = Hand(target, teacher, x0, eps)
            x = interpolate(x0, eps, times[0])
            left, right = self.equality(model, x, *times, v=self.velocity(hand), target=self.target(hand))
            return self.weight(*times) * self.distance(left, right)

        return jnp.mean(jax.vmap(row)(x0, noise, *times))


class Objective(eqx.Module):
    """The sum of its terms, each times its share. Shares that add up to at most 1 split the batch, in order."""

    terms: tuple[Term, ...]

    def __call__(self, model, x0: Float[Array, "batch ..."], *, target, teacher=None, progress=0.0, key: PRNGKeyArray):
        """(loss, {term name: its mean loss}). Differentiate in `model`: `target` and `teacher` are other arguments."""
        batch, losses, total, start = x0.shape[0], {}, 0.0, 0
        split = sum(term.share for term in self.terms) < 1 + 1e-9
        for i, term in enumerate(self.terms):
            rows = max(1, round(term.share * batch))
            mine = x0[start : start + rows] if split else x0[:rows]
            start += rows
            own_key = jax.random.fold_in(key, i if term.draw is None else term.draw)
            loss = term(model, mine, target=target, teacher=teacher, progress=progress, key=own_key)
            losses[term.name if term.name not in losses else f"{term.name}_{i + 1}"] = loss
            total = total + term.share * loss
        return total, losses
