"""The losses of the official releases of MeanFlow, improved MeanFlow and shortcut models, built from our equality,
distance, weight and source of the velocity: equal in value AND in gradient.

Each release is written out here from its formulas and shares no code with `flowcore`. Their time runs as ours but for
shortcut models, whose time is 0 at the noise.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jax.lax import stop_gradient
from problems import AVERAGED, LIVE, assert_equal, drawn_noise, network

from flowcore import (
    AverageVelocityMap,
    Objective,
    Term,
    adaptive,
    conditional,
    flow_matching,
    guidance,
    improved_mean_flow,
    mean_flow,
    per_entry,
    psd,
    self_velocity,
    squared,
)

ROWS, DIAGONAL = 16, 4
KEY = jax.random.key(4)


class Net(eqx.Module):
    """V(x, s, t), and V(x, s, t | condition): the class and the strength move the point."""

    theta: dict

    def __call__(self, x, s, t, condition=None):
        moved = x if condition is None else x + 0.3 * condition[:2]
        return network(self.theta, moved, s, t)


def ours(theta):
    return AverageVelocityMap(Net(theta))


def batch():
    """(x0, s, t): the first rows have s = t."""
    key_data, key_times = jax.random.split(jax.random.key(5))
    t, s = jnp.sort(jax.random.uniform(key_times, (2, ROWS)), axis=0)
    return jax.random.normal(key_data, (ROWS, 2)), s, jnp.where(jnp.arange(ROWS) < DIAGONAL, s, t)


X0, S, T = batch()
CONDITION = jnp.array([1.0, 0.6, 0.2, 0.7])  # of every row: a class, a strength and its interval; zeros are no class


def given(*times):
    return lambda key, n, progress: times


def loss_of(*terms, target=None):
    """An objective as a function of theta; each term sees the noise that it draws."""

    def loss(theta):
        self_target = ours(theta if target is None else target)
        return Objective(terms)(ours(theta), X0, target=jax.tree.map(stop_gradient, self_target), key=KEY)[0]

    return loss


def theirs(row):
    """The mean over rows of `row(V, x, s, t, c)`, with V(x, s, t, condition) the network."""

    def loss(theta):
        eps = drawn_noise(KEY, 0, ROWS)

        def V(x, s, t, condition=None):
            return network(theta, x if condition is None else x + 0.3 * condition[:2], s, t)

        def one(x0, eps, s, t):
            return row(V, (1 - s) * x0 + s * eps, s, t, eps - x0)

        return jnp.mean(jax.vmap(one)(X0, eps, S, T))

    return loss


def total(left, right):
    return jnp.sum((left - right) ** 2)


def powered(error, power, offset):
    return error / stop_gradient((error + offset) ** power)


# --- MeanFlow: `meanflow.py` (JAX) and py-meanflow -------------------------------------------------------------------


def mean_flow_row(V, x, s, t, c, power, offset, condition=None, omega=1.0, kappa=0.0):
    if condition is not None:
        null = jnp.zeros_like(condition)
        c = stop_gradient(omega * c + kappa * V(x, s, s, condition) + (1 - omega - kappa) * V(x, s, s, null))
    u, dudt = jax.jvp(lambda x, s: V(x, s, t, condition), (x, s), (c, jnp.ones_like(s)))
    return powered(total(u, stop_gradient(c - (s - t) * dudt)), power, offset)


@pytest.mark.parametrize(("power", "offset"), [(1.0, 0.01), (0.75, 1e-3), (0.5, 0.01), (0.0, 0.01)])
def test_mean_flow(power, offset):
    term = Term(mean_flow, given(S, T), distance=adaptive(power, offset))
    assert_equal(loss_of(term), theirs(functools.partial(mean_flow_row, power=power, offset=offset)))


@pytest.mark.parametrize(("omega", "kappa"), [(1.0, 0.5), (2.0, 0.0)])
def test_mean_flow_with_guidance(omega, kappa):
    term = Term(
        mean_flow,
        given(S, T),
        velocity=guidance.guided_velocity(omega, kappa),
        condition=lambda context: CONDITION,
        distance=adaptive(1.0, 0.01),
    )
    settings = {"power": 1.0, "offset": 0.01, "condition": CONDITION, "omega": omega, "kappa": kappa}
    assert_equal(loss_of(term), theirs(functools.partial(mean_flow_row, **settings)))


# --- improved MeanFlow: `imf.py`, the velocity on the diagonal as the tangent ----------------------------------------


def improved_row(V, x, s, t, c, power, boundary, condition=None):
    a = stop_gradient(V(x, s, s, condition))
    if condition is not None:
        acts = (condition[2] <= s) & (s <= condition[3])
        c = stop_gradient(c + jnp.where(acts, condition[1], 0.0) * (a - V(x, s, s, jnp.zeros_like(condition))))
    u, dudt = jax.jvp(lambda x, s: V(x, s, t, condition), (x, s), (a, jnp.ones_like(s)))
    first = powered(total(u + (s - t) * stop_gradient(dudt), c), power, 0.01)
    return first + powered(total(V(x, s, s, condition), c), power, 0.01) if boundary else first


@pytest.mark.parametrize("condition", [None, CONDITION], ids=["plain", "guided"])
@pytest.mark.parametrize("boundary", [True, False])
@pytest.mark.parametrize("power", [1.0, 0.0])
def test_improved_mean_flow(power, boundary, condition):
    """`boundary`: the velocity is trained too, on the same rows; else the second term has a value but no gradient."""
    settings = {"velocity": conditional, "distance": adaptive(power, 0.01), "draw": 0}
    if condition is not None:
        settings |= {"velocity": guidance.conditioned_guided_velocity, "condition": lambda context: condition}
    terms = [Term(improved_mean_flow, given(S, T), **settings)]
    terms += [Term(flow_matching, given(S, S), **settings)] if boundary else []
    row = functools.partial(improved_row, power=power, boundary=boundary, condition=condition)
    assert_equal(loss_of(*terms), theirs(row))


def test_the_surveys_sign_has_another_gradient():
    def survey(model, x, s, t, *, v, target):
        left, right = improved_mean_flow(model, x, s, t, v=v, target=target)
        V = model.average_velocity(x, s, t)
        return V - stop_gradient(left - V), right

    ours, printed = (jax.grad(loss_of(Term(equality, given(S, T))))(LIVE) for equality in (improved_mean_flow, survey))
    difference = jax.tree.map(lambda a, b: jnp.linalg.norm(a - b) / jnp.linalg.norm(a), ours, printed)
    assert max(jax.tree.leaves(difference)) > 0.05


# --- shortcut models: `targets_shortcut.py`, and the mean square of `train.py` ---------------------------------------


LEVELS = jnp.array([6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0, 0.0])  # d = 2^-level, of the rows that bootstrap


D = 2.0**-LEVELS
TAU = jnp.floor(jnp.linspace(0.1, 0.95, 8) / D) * D
TAU_FLOW = jnp.arange(8) * 15 / 128


def shortcut(theta, averaged):
    """Their time runs from noise at 0 to data at 1; the network is v = -V, told here where a jump ends, not its level.

    Without the clips at 4, which are for latents, and the 1e-5 of noise that their path keeps in the data.
    """

    def v(theta, x, tau, d):
        return -network(theta, x, 1 - tau, 1 - tau - d)

    def bootstrap(x0, eps, tau, d):
        x = (1 - tau) * eps + tau * x0
        v1 = v(averaged, x, tau, d / 2)
        v2 = v(averaged, x + d / 2 * v1, tau + d / 2, d / 2)
        return jnp.mean((v(theta, x, tau, d) - stop_gradient((v1 + v2) / 2)) ** 2)

    def flow(x0, eps, tau):
        return jnp.mean((v(theta, (1 - tau) * eps + tau * x0, tau, 1 / 128) - (x0 - eps)) ** 2)

    ladder = jax.vmap(bootstrap)(X0[:8], drawn_noise(KEY, 0, 8), TAU, D)
    return jnp.mean(jnp.concatenate([ladder, jax.vmap(flow)(X0[8:], drawn_noise(KEY, 1, 8), TAU_FLOW)]))


def shortest_jump(model, x, s, t, *, v, target):
    """The release takes the shortest jump for the velocity."""
    return model.average_velocity(x, s, t), v(x, s)


@pytest.mark.parametrize("teacher", [LIVE, AVERAGED], ids=["live", "averaged"])
def test_shortcut_models(teacher):
    jumps = (1 - TAU, 1 - TAU - D / 2, 1 - TAU - D)
    flow = (1 - TAU_FLOW, 1 - TAU_FLOW - 1 / 128)
    half = {"distance": per_entry(squared), "share": 0.5}
    terms = (Term(psd, given(*jumps), velocity=self_velocity, **half), Term(shortest_jump, given(*flow), **half))
    assert_equal(loss_of(*terms, target=teacher), lambda theta: shortcut(theta, teacher))
