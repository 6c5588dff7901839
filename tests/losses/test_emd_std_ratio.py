"""Eulerian map distillation with eps - x0 in place of the marginal velocity: how wrong, on a problem that is solved.

Data N(0, c^2) on the line, target t = 0, maps F(x, s, 0) = k(s) x with k(0) = 1. The residual is k' x_s + k v, so

    E |k' x_s + k v|^2 = k'^2 S^2 + 2 k k' E[x_s v] + k^2 E[v^2],      S^2 = (1-s)^2 c^2 + s^2,

with E[x_s v] = s - (1-s) c^2 and E[v^2] = 1 + c^2 for v = eps - x0, but E[x_s v]^2 / S^2 for the marginal velocity: the
difference is the variance of eps - x0 given x_s. Both are quadratic in k on a grid, and so solved as a linear system.
"""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jaxtyping import Array, Float

from flowcore import AbstractFlowMap, GaussianMap, emd
from flowcore.path import conditional_velocity, interpolate

STD = 0.5
EXACT = GaussianMap(jnp.zeros(1), STD)


def minimiser(n, conditional):
    """k at the n + 1 nodes of a grid on [0, 1]: the minimum of the midpoint rule for the integral above."""
    h = 1 / n
    s = (np.arange(n) + 0.5) * h
    spread2, cross = (1 - s) ** 2 * STD**2 + s**2, s - (1 - s) * STD**2
    v2 = 1 + STD**2 if conditional else cross**2 / spread2
    # per cell, with k' = (b - a) / h and k = (a + b) / 2: the form aa a^2 + 2 ab a b + bb b^2
    aa, bb = (spread2 / h**2 + sign * cross / h + v2 / 4 for sign in (-1, 1))
    ab = -spread2 / h**2 + v2 / 4
    diagonal = bb + np.append(aa[1:], 0.0)
    banded = np.stack([np.append(0.0, ab[1:]), diagonal, np.append(ab[1:], 0.0)])
    right = np.zeros(n)
    right[0] = -ab[0]  # k(0) = 1 is given
    return np.append(1.0, scipy.linalg.solve_banded((1, 1), banded, right))


class Linear(AbstractFlowMap):
    """F(x, s, 0) = k(s) x, k straight between its nodes. Only jumps to 0 are defined."""

    nodes: Float[Array, " nodes"]

    def average_velocity(self, x, s, t):
        grid = jnp.linspace(0.0, 1.0, self.nodes.shape[0])
        return (1 - jnp.interp(s, grid, self.nodes)) * x / s

    def velocity(self, x, t):
        raise NotImplementedError


@eqx.filter_jit
def expected_square(map, conditional, n=1000):
    """E |left - right|^2 of our `emd` over s, x0 and eps, without sampling: its sides are linear in x0 and eps, so the
    four points x0 = +-c, eps = +-1 have all the moments that count."""
    points = jnp.array(list(itertools.product((-STD, STD), (-1.0, 1.0))))

    def square(s, point):
        x0, eps = point[:1], point[1:]
        v = (lambda x, s: conditional_velocity(x0, eps)) if conditional else EXACT.velocity
        left, right = emd(map, interpolate(x0, eps, s), s, jnp.zeros(()), v=v, target=None)
        return jnp.sum((left - right) ** 2)

    s = (jnp.arange(n, dtype=float) + 0.5) / n
    return jnp.mean(jax.vmap(lambda s: jax.vmap(lambda point: square(s, point))(points))(s))


def test_with_the_marginal_velocity_the_spread_is_right():
    assert minimiser(4000, conditional=False)[-1] == pytest.approx(STD, rel=1e-4)


def test_with_the_conditional_velocity_it_is_48_percent_of_the_truth():
    """What is generated from N(0, 1) has the standard deviation k(1); the truth is c."""
    assert minimiser(4000, conditional=True)[-1] / STD == pytest.approx(0.483, abs=0.005)


def test_the_bias_is_that_of_our_equality():
    """It prefers the shrunken map with the conditional velocity, the exact map with the marginal one."""
    shrunken = Linear(jnp.asarray(minimiser(4000, conditional=True)))
    assert expected_square(shrunken, conditional=True) < 0.95 * expected_square(EXACT, conditional=True)
    assert expected_square(EXACT, conditional=False) < 1e-20
    assert expected_square(shrunken, conditional=False) > 0.01
