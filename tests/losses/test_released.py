"""The losses of the official releases, built from our equality, distance and weight: equal in value AND in gradient.

Each release is written out here from its formulas, in its own letters and its own direction of time, and shares no
code with `flowcore`. Nothing but the parameters of one small network is common to both sides.
"""

import functools

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import pytest
from jax.lax import stop_gradient
from problems import AVERAGED, LIVE, assert_equal, drawn_noise, network

from flowcore import AverageVelocityMap, Objective, emd, esd, lmd, lsd, method, objective, psd, squared

ROWS, DIAGONAL = 16, 12  # rows of a batch, and those of them on the diagonal: 75 %


# --- LSD, PSD, ESD: the flow-maps release of "How to build a consistency model" --------------------------------------
#
# Their time runs from noise x0 at 0 to data x1 at 1:  I_s = (1-s) x0 + s x1,  X_{s,t}(x) = x + (t-s) v_{s,t}(x),
# 0 <= s <= t <= 1.  `teacher` are the weights in the targets: the live ones, or their average. Their learned weight is
# the constant 1 in the plane, so a row is e^-1 |R|^2 + 1.


def v_theirs(theta, s, t, x):
    """v_{s,t}(x): from here on, the network is theirs."""
    return network(theta, x, s, t)


def X(theta, s, t, x):
    return x + (t - s) * v_theirs(theta, s, t, x)


def lsd_convex(theta, teacher, s, t, h, x):
    end = stop_gradient(X(theta, s, t, x))
    return jax.jacfwd(X, 2)(theta, s, t, x) - stop_gradient(v_theirs(teacher, t, t, end))


def lsd_none(theta, teacher, s, t, h, x):
    return jax.jacfwd(X, 2)(theta, s, t, x) - v_theirs(theta, t, t, X(theta, s, t, x))


def esd_full(theta, teacher, s, t, h, x):
    transported = jax.jacfwd(X, 3)(teacher, s, t, x) @ v_theirs(teacher, s, s, x)
    return jax.jacfwd(X, 1)(theta, s, t, x) + stop_gradient(transported)


def esd_convex(theta, teacher, s, t, h, x):
    b = stop_gradient(v_theirs(teacher, s, s, x))
    return jax.jacfwd(X, 1)(theta, s, t, x) + jax.jacfwd(X, 3)(theta, s, t, x) @ b


def esd_none(theta, teacher, s, t, h, x):
    return jax.jacfwd(X, 1)(theta, s, t, x) + jax.jacfwd(X, 3)(theta, s, t, x) @ v_theirs(theta, s, s, x)


def psd_uniform(theta, teacher, s, t, h, x):
    u = h * s + (1 - h) * t
    first = v_theirs(teacher, s, u, x)
    second = v_theirs(teacher, u, t, X(teacher, s, u, x))
    return v_theirs(theta, s, t, x) - stop_gradient((1 - h) * first + h * second)


def psd_midpoint(theta, teacher, s, t, h, x):
    return psd_uniform(theta, teacher, s, t, 0.5, x)


def released(residual, theta, teacher, s, t, h, x):
    """The mean over rows of e^-w |R|^2 + w at w = 1."""
    R = jax.vmap(functools.partial(residual, theta, teacher))(s, t, h, x)
    return jnp.mean(jnp.exp(-1.0) * jnp.sum(R**2, axis=1) + 1.0)


# ours: the same network in our direction of time, and the released weighting as a distance


class Reversed(eqx.Module):
    """V(x, s, t) = -v_{1-s, 1-t}(x)."""

    theta: dict

    def __call__(self, x, s, t):
        return -network(self.theta, x, 1 - s, 1 - t)


def ours(theta):
    return AverageVelocityMap(Reversed(theta))


def weighted(left, right):
    """e^-1 |left - right|^2 + 1: a learned weight before it has learned."""
    return jnp.exp(-1.0) * squared(left, right) + 1.0


def with_equality(equality, live=False, midpoint=False):
    """The loss on given rows, the velocity from the target's weights, or from the live ones with their gradient."""

    def loss(theta, teacher, s, t, h, x):
        model, target = ours(theta), ours(teacher)
        v = (model if live else target).velocity
        between = h * s + (1 - h) * t if not midpoint else 0.5 * (s + t)
        times = (1 - s, 1 - between, 1 - t) if equality is psd else (1 - s, 1 - t)
        left, right = jax.vmap(lambda x, *times: equality(model, x, *times, v=v, target=target))(x, *times)
        return jnp.mean(jax.vmap(weighted)(left, right))

    return loss


def off_diagonal(rows):
    """(s, t, h, x) in their time: s < t, and the share h of the way back to s at which a jump is split."""
    keys = jax.random.split(jax.random.key(3), 3)
    s, t = jnp.sort(jax.random.uniform(keys[0], (2, rows)), axis=0)
    return s, t, jax.random.uniform(keys[1], (rows,)), jax.random.normal(keys[2], (rows, 2))


# psd without a stop-gradient is released too, and is no equality of ours
STOPS = {
    "lsd convex": (lsd_convex, with_equality(lsd)),
    "lsd none": (lsd_none, with_equality(lmd, live=True)),
    "esd full": (esd_full, with_equality(esd)),
    "esd convex": (esd_convex, with_equality(emd)),
    "esd none": (esd_none, with_equality(emd, live=True)),
    "psd uniform": (psd_uniform, with_equality(psd)),
    "psd midpoint": (psd_midpoint, with_equality(psd, midpoint=True)),
}


@pytest.mark.parametrize("teacher", [LIVE, AVERAGED], ids=["live", "averaged"])
@pytest.mark.parametrize("name", STOPS)
def test_self_distillation_residual(name, teacher):
    residual, loss = STOPS[name]
    rows = off_diagonal(ROWS)
    assert_equal(lambda theta: loss(theta, teacher, *rows), lambda theta: released(residual, theta, teacher, *rows))


def test_the_stop_gradients_of_one_residual_have_one_value_and_three_gradients():
    """Value alone would not tell them apart: what makes the test above strict."""
    rows, found = off_diagonal(ROWS), {}
    for residual in (esd_full, esd_convex, esd_none, lsd_convex, lsd_none):
        value, slope = jax.value_and_grad(functools.partial(released, residual))(LIVE, LIVE, *rows)
        found[residual.__name__] = value, jax.flatten_util.ravel_pytree(slope)[0]
    for pair in [("esd_full", "esd_convex"), ("esd_convex", "esd_none"), ("lsd_convex", "lsd_none")]:
        (value, slope), (other, slope_other) = found[pair[0]], found[pair[1]]
        assert abs(value - other) < 1e-12
        assert jnp.linalg.norm(slope - slope_other) > 1e-2 * jnp.linalg.norm(slope)


def released_batch(residual, theta, teacher, data, noise, s_diagonal, s, t, h):
    """The batch of the release: 12 rows on the diagonal, 4 off it, their sum over 16 (the paper: one to one)."""

    def interpolant(s, x0, x1):
        return (1 - s)[:, None] * x0 + s[:, None] * x1

    def flow(s, x0, x1, x):
        return v_theirs(theta, s, s, x) - (x1 - x0)

    x0, x1 = noise[:DIAGONAL], data[:DIAGONAL]
    b = jax.vmap(flow)(s_diagonal, x0, x1, interpolant(s_diagonal, x0, x1))
    R = jax.vmap(functools.partial(residual, theta, teacher))(
        s, t, h, interpolant(s, noise[DIAGONAL:], data[DIAGONAL:])
    )
    rows = jnp.exp(-1.0) * jnp.sum(jnp.concatenate([b, R]) ** 2, axis=1) + 1.0
    return jnp.sum(rows) / ROWS


@pytest.mark.parametrize("teacher", [LIVE, AVERAGED], ids=["live", "averaged"])
@pytest.mark.parametrize(("name", "residual"), [("LSD", lsd_convex), ("ESD", esd_full), ("PSD", psd_uniform)])
def test_self_distillation_objective(name, residual, teacher):
    """The row of the table as it stands, its times given and its distance the released one: L/e + 1."""
    key_data, key_times, key = jax.random.split(jax.random.key(4), 3)
    data, s_diagonal = jax.random.normal(key_data, (ROWS, 2)), jax.random.uniform(key_times, (DIAGONAL,))
    s, t, h, _ = off_diagonal(ROWS - DIAGONAL)
    noise = jnp.concatenate([drawn_noise(key, 0, DIAGONAL), drawn_noise(key, 1, ROWS - DIAGONAL)])
    laws = [(1 - s_diagonal, 1 - s_diagonal), (1 - s, 1 - t)]
    if name == "PSD":
        laws[1] = (1 - s, 1 - (h * s + (1 - h) * t), 1 - t)
    terms = objective(method(name)).terms
    plain = Objective(tuple(given(term, law, squared) for term, law in zip(terms, laws, strict=True)))
    weighed = Objective(tuple(given(term, law, weighted) for term, law in zip(terms, laws, strict=True)))

    def loss(objective, theta):
        return objective(ours(theta), data, target=ours(teacher), key=key)[0]

    assert_equal(
        lambda theta: loss(weighed, theta),
        lambda theta: released_batch(residual, theta, teacher, data, noise, s_diagonal, s, t, h),
    )
    assert abs(loss(weighed, LIVE) - (loss(plain, LIVE) / jnp.e + 1)) < 1e-12


def given(term, times, distance):
    """The term at these times and with this distance."""
    return eqx.tree_at(lambda term: (term.times, term.distance), term, (lambda key, n, progress: times, distance))
