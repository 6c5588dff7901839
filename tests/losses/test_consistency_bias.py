"""How wrong consistency training and distillation are on a grid of N intervals, on problems that are solved.

What `ct` makes of f(x, s) = F(x, s, 0) on a grid is a recursion: f at s is the best fit to f at the point below, so it
is the mean of the right side over all that has x_s = x. For Gaussian data f is linear, k(s) x, and k is a product of
regression coefficients. For the mixture it is a table of the posterior means. The right sides are our equality's.
"""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jaxtyping import Array, Float

from flowcore import AbstractFlowMap, EdmHeunMap, GaussianMap, HeunMap, MixtureMap, TangentMap, ct, schedules
from flowcore.path import conditional_velocity, interpolate
from flowcore.sample import equal_steps, jump

# --- Gaussian data: the std of what is generated, as a share of the truth --------------------------------------------

STD = 0.5
GAUSSIAN = GaussianMap(jnp.zeros(1), STD)
INTERVALS = (4, 8, 16, 32, 64, 128, 256, 512)


class Multiple(AbstractFlowMap):
    """F(x, s, 0) = k x. Only jumps to 0 are defined."""

    k: Float[Array, ""]

    def average_velocity(self, x, s, t):
        return (1 - self.k) * x / jnp.where(s == 0, 1.0, s)

    def velocity(self, x, t):
        raise NotImplementedError


@eqx.filter_jit
def regression(k, s, u, solver, teacher_velocity):
    """The k at s whose k x_s is the least-squares fit to the right side of `ct`, when k is the one at u.

    Both sides are linear in x0 and eps, so the four points x0 = +-c, eps = +-1 have all the moments that count.
    """

    def both(point):
        x0, eps = point[:1], point[1:]
        v = GAUSSIAN.velocity if teacher_velocity else lambda x, s: conditional_velocity(x0, eps)
        model = Multiple(jnp.ones(()))
        return ct(model, interpolate(x0, eps, s), s, u, 0.0, v=v, target=Multiple(k), solver=solver)

    left, right = jax.vmap(both)(jnp.array(list(itertools.product((-STD, STD), (-1.0, 1.0)))))
    return jnp.sum(left * right) / jnp.sum(left**2)


@eqx.filter_jit
def std_ratio(grid, solver, teacher_velocity):
    def up(k, interval):
        u, s = interval
        return regression(k, s, u, solver, teacher_velocity), None

    return jax.lax.scan(up, jnp.ones(()), (grid[:-1], grid[1:]))[0] / STD


def std_ratios(solver, teacher_velocity, intervals=INTERVALS):
    return [
        float(std_ratio(schedules.even(jnp.linspace(0.0, 1.0, n + 1)), solver, teacher_velocity)) for n in intervals
    ]


def test_for_linear_f_consistency_training_is_distillation_by_euler_steps():
    """No bias of its own: the conditional velocity enters linearly until f is curved."""
    trained, distilled = std_ratios(TangentMap, False), std_ratios(TangentMap, True)
    assert trained == pytest.approx(distilled, rel=1e-12)
    assert trained == pytest.approx([0.681, 0.830, 0.911, 0.955, 0.977, 0.988, 0.994, 0.997], abs=6e-4)


def test_the_gaussian_fixed_point_is_the_product_of_regression_coefficients():
    """Cov(x_u, x_s) / Var(x_s) over the grid: an independent formula for the same numbers."""
    grid = np.linspace(0, 1, 9)
    u, s = grid[:-1], grid[1:]
    product = np.prod(((1 - u) * (1 - s) * STD**2 + u * s) / ((1 - s) ** 2 * STD**2 + s**2))
    assert std_ratios(TangentMap, False, (8,))[0] == pytest.approx(float(product) / STD, rel=1e-12)


def test_distillation_by_heun_steps_is_of_second_order():
    """Heun in our time: a grid that contains s = 1 has no step in sigma."""
    found = std_ratios(HeunMap, True, (4, 8, 16, 32, 64))
    assert found == pytest.approx([1.0097, 1.0049, 1.0015, 1.0004, 1.0001], abs=6e-5)
    last, before = (abs(std_ratios(HeunMap, True, (n,))[0] - 1) for n in (512, 256))
    assert before / last == pytest.approx(4, rel=0.05)


def test_on_karras_grid_the_released_step_is_of_second_order_too():
    """Between sigma = .002 and 80, where 17 steps are few: the std is 15 % short with Euler, 6 % long with Heun."""

    def errors(solver, exact=GAUSSIAN):
        grids = [schedules.karras(jnp.linspace(0.0, 1.0, n + 1)) for n in (17, 136, 272)]
        return [
            std_ratio(grid, solver, True) * STD / exact.spread(grid[0]) * exact.spread(grid[-1]) - 1 for grid in grids
        ]

    euler, heun = errors(TangentMap), errors(EdmHeunMap)
    assert (euler[0], heun[0]) == pytest.approx((-0.1539, 0.0553), abs=1e-4)
    assert euler[1] / euler[2] == pytest.approx(2, rel=0.02)
    assert heun[1] / heun[2] == pytest.approx(4, rel=0.02)


# --- a mixture on the line, means +-1, std .2: the RMSE of the one-step map to the exact one -------------------------

SPREAD, MEANS = 0.2, jnp.array([1.0, -1.0])
MIXTURE = MixtureMap(MEANS[:, None], SPREAD)
POINTS = jnp.linspace(-6.0, 6.0, 2401)
FINE = jnp.linspace(-6.0, 6.0, 24001)  # the exact map is so steep at 0 that the RMSE needs them
NODES, NODE_WEIGHTS = map(jnp.asarray, np.polynomial.hermite_e.hermegauss(16))


def exact_endpoints(points):
    """By quantiles: in one dimension the map is monotone, so cdf of data (F(x)) = cdf of noise (x)."""
    low, high = np.full(points.shape, -4.0), np.full(points.shape, 4.0)
    quantile = scipy.special.ndtr(points)
    for _ in range(60):
        middle = (low + high) / 2
        short = sum(scipy.special.ndtr((middle - m) / SPREAD) for m in (-1, 1)) / 2 < quantile
        low, high = np.where(short, middle, low), np.where(short, high, middle)
    return (low + high) / 2


def rmse(points, ends):
    """Over standard normal noise, by weights at even points."""
    points, ends = np.asarray(points), np.asarray(ends)
    weights = np.exp(-(points**2) / 2)
    return float(np.sqrt(np.sum(weights * (ends - exact_endpoints(points)) ** 2) / np.sum(weights)))


class Table(AbstractFlowMap):
    """F(x, s, 0) at the given points, straight between them. Only jumps to 0 are defined."""

    ends: Float[Array, " points"]

    def average_velocity(self, x, s, t):
        return (x - jnp.interp(x, POINTS, self.ends)) / jnp.where(s == 0, 1.0, s)

    def velocity(self, x, t):
        raise NotImplementedError


@jax.jit
def trained_from(ends, s, u):
    """The table at s from that at u: the mean of ct's right side over the posterior of x0 (and eps) given x_s.

    The posterior is a mixture of two Gaussians, so the mean is Gauss-Hermite quadrature in each.
    """
    table, variance = Table(ends), (1 - s) ** 2 * SPREAD**2 + s**2

    def at(x):
        off = x - (1 - s) * MEANS
        share = jax.nn.softmax(-(off**2) / (2 * variance))
        x0 = (MEANS + (1 - s) * SPREAD**2 / variance * off)[:, None] + SPREAD * s / variance**0.5 * NODES[None]

        def right(x0):
            c = jnp.atleast_1d((x - (1 - s) * x0) / s - x0)
            return ct(table, jnp.atleast_1d(x), s, u, 0.0, v=lambda x, s: c, target=table)[1][0]

        return share @ (jax.vmap(jax.vmap(right))(x0) @ (NODE_WEIGHTS / jnp.sum(NODE_WEIGHTS)))

    return jax.vmap(at)(POINTS)


def trained(grid):
    ends = POINTS
    for u, s in itertools.pairwise(grid):
        ends = trained_from(ends, s, u)
    return ends


class Rest(AbstractFlowMap):
    """F(x, s, 0) by one step of the solver per level, `levels` falling from s to 0: what distillation converges to."""

    solver: AbstractFlowMap
    levels: Float[Array, " levels"]

    def average_velocity(self, x, s, t):
        return (x - jump(self.solver, x, self.levels)) / (s - t)

    def velocity(self, x, t):
        raise NotImplementedError


@pytest.mark.parametrize("solver", [TangentMap, HeunMap])
def test_what_distillation_converges_to_is_the_solver_over_the_whole_grid(solver):
    """Its sides agree exactly, in the table of no net: the bias of CD is that of the teacher's steps."""
    levels, x = equal_steps(8), jnp.array([0.3])
    step = solver(MIXTURE.velocity)
    model, target = Rest(step, levels), Rest(step, levels[1:])
    left, right = ct(model, x, levels[0], levels[1], 0.0, v=MIXTURE.velocity, target=target, solver=solver)
    assert jnp.allclose(left, right, rtol=1e-12)


@eqx.filter_jit
def distilled(solver, levels):
    return jax.vmap(lambda x: jump(solver(MIXTURE.velocity), x[None], levels)[0])(FINE)


FOUR_GRIDS = {8: 0.341, 16: 0.261, 32: 0.206, 64: 0.164}
KARRAS = {9: 0.453, 17: 0.334, 39: 0.246}


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (schedules.even, FOUR_GRIDS),
        (schedules.karras, KARRAS),
        pytest.param(schedules.even, {128: 0.131, 256: 0.106}, marks=pytest.mark.slow),
    ],
    ids=["even", "karras", "even and fine"],
)
def test_where_f_is_curved_training_is_biased_far_beyond_the_step(levels, expected):
    """The posterior mean smooths f at every level: the error falls as about N^-.35 only."""
    found = {n: rmse(POINTS, trained(levels(jnp.linspace(0.0, 1.0, n + 1)))) for n in expected}
    assert found == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("solver", "order", "expected"),
    [(TangentMap, 1, [0.0697, 0.0357, 0.0181]), (HeunMap, 2, [0.0121, 0.0045, 0.00145])],
    ids=["euler", "heun"],
)
def test_distillation_converges_at_the_order_of_its_solver(solver, order, expected):
    """No table is needed, so no resolution of one is in the way of the order."""
    found = {n: rmse(FINE, distilled(solver, equal_steps(n))) for n in (8, 16, 32, 64, 128)}
    assert [found[n] for n in (8, 16, 32)] == pytest.approx(expected, rel=0.02)
    assert found[64] / found[128] == pytest.approx(2**order, rel=0.1)
