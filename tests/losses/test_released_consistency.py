"""The released losses of the consistency line, from our equality, solver, distance and weight: equal in value AND in
gradient.

Each release is written out here from its formulas, in its own letters, clock and network output, and shares no code
with `flowcore`. Nothing but the parameters of one small network is common to both sides.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jax.lax import stop_gradient
from problems import AVERAGED, LIVE, assert_equal, drawn_noise, network, value_and_slope, weights

from flowcore import (
    AbstractFlowMap,
    AverageVelocityMap,
    EdmHeunMap,
    HeunMap,
    Objective,
    Term,
    adaptive,
    conditional,
    ct,
    ctm,
    flow_matching,
    method,
    objective,
    per_entry,
    pseudo_huber,
    soflow,
    squared,
    teacher_velocity,
)
from flowcore.sample import jump

ROWS, KEY = 16, jax.random.key(3)
TEACHER = weights(3)
DATA = jax.random.normal(jax.random.key(4), (ROWS, 2))
NOISE = drawn_noise(KEY, 0, ROWS)
SIGMA_MIN, SIGMA_MAX, SIGMA_DATA = 0.002, 80.0, 0.5
T_MIN = SIGMA_MIN / (1 + SIGMA_MIN)


# --- ours ------------------------------------------------------------------------------------------------------------


class Net(eqx.Module):
    """V(x, s, t), the network that all releases are translated to."""

    theta: dict

    def __call__(self, x, s, t):
        return network(self.theta, x, s, t)


def flow_map(theta):
    return AverageVelocityMap(Net(theta))


def given(*times):
    """The law that always deals these."""
    return lambda key, n, progress: times


def ours(*terms, target=None):
    """The objective of these terms as a function of theta; the target is the live map, or one of other weights."""

    def loss(theta):
        frozen = flow_map(theta if target is None else target)
        return Objective(terms)(flow_map(theta), DATA, target=frozen, teacher=flow_map(TEACHER), key=KEY)[0]

    return loss


# --- EDM: x~ = y + sigma n, and what the released networks output where V(x, s, t) is our network --------------------


def sigma_grid(levels, low=SIGMA_MIN, high=SIGMA_MAX, rho=7):
    """Karras' levels, falling."""
    i = jnp.arange(levels, dtype=float) / (levels - 1)
    return (high ** (1 / rho) + i * (low ** (1 / rho) - high ** (1 / rho))) ** rho


def clock(sigma):
    """Our time at theirs."""
    return sigma / (1 + sigma)


def denoised(theta, x, sigma, towards, skip):
    """c_skip x + c_out raw, raw the output of a released network with sigma_data = .5 and this c_skip.

    What raw is, where the preconditioned output is x_s - (s - end) V in their units, is given by the sheet.
    """
    V = network(theta, x / (1 + sigma), clock(sigma), clock(towards))
    d = sigma - skip
    c_skip, c_out = SIGMA_DATA**2 / (d**2 + SIGMA_DATA**2), SIGMA_DATA * d / jnp.sqrt(sigma**2 + SIGMA_DATA**2)
    raw = (
        (x * (-1 / (1 + sigma) + d / (d**2 + SIGMA_DATA**2)) - V / (1 + sigma))
        * jnp.sqrt(sigma**2 + SIGMA_DATA**2)
        / SIGMA_DATA
    )
    return c_skip * x + c_out * raw


def heun(theta, x, t, next_t):
    """`heun_solver`: one step of dx/dt = (x - D) / t with the teacher's denoiser D."""

    def D(x, t):
        return denoised(theta, x, t, t, 0.0)

    d = (x - D(x, t)) / t
    samples = x + d * (next_t - t)
    next_d = (samples - D(samples, next_t)) / next_t
    return x + (d + next_d) * ((next_t - t) / 2)


def mean_over_rows(loss, *rows):
    return jnp.mean(jax.vmap(loss)(DATA, NOISE, *rows))


# --- CT and CD: openai/consistency_models, KarrasDenoiser.consistency_losses -----------------------------------------

LEVELS = sigma_grid(18)
INDEX = jnp.arange(ROWS) % 17  # t = LEVELS[INDEX], t2 the next one, the smaller
INDEX = INDEX.at[-1].set(16)  # its t2 is sigma_min


def released_consistency(target, data_step, norm, weight, levels=LEVELS, low=SIGMA_MIN):
    def loss(theta):
        def row(y, noise, t, t2):
            x_t = y + noise * t
            distiller = denoised(theta, x_t, t, low, low)
            x_t2 = data_step(y, x_t, t, t2)
            distiller_target = denoised(theta if target is None else target, x_t2, t2, low, low)
            return weight(t) * norm(distiller - stop_gradient(distiller_target))

        return mean_over_rows(row, levels[INDEX], levels[INDEX + 1])

    return loss


def euler_to_data(y, x, t, t2):
    """`euler_solver` without a teacher: the denoiser is the datum."""
    return x + (x - y) / t * (t2 - t)


def heun_of_teacher(y, x, t, t2):
    return heun(TEACHER, x, t, t2)


def l2(difference):
    return jnp.mean(difference**2)


def l1(difference):
    return jnp.mean(jnp.abs(difference))


def uniform(t):
    return 1.0


def karras(t):
    return t**-2 + 1.0 / SIGMA_DATA**2


def consistency_term(distance, power, levels=LEVELS, end=T_MIN, weight=uniform, **settings):
    """Ours at the same levels: the release lands at sigma_min, where x~ is x / (1 - t_min)."""
    times = given(clock(levels[INDEX]), clock(levels[INDEX + 1]), jnp.full(ROWS, end))
    return Term(
        distance=distance,
        times=times,
        weight=lambda s, u, t: weight(s / (1 - s)) / (1 - t) ** power,
        **{"equality": ct, "velocity": conditional} | settings,
    )


def absolute(left, right):
    return jnp.mean(jnp.abs(left - right))


MEAN_SQUARE = per_entry(squared)
HEUN = {"equality": eqx.Partial(ct, solver=EdmHeunMap), "velocity": teacher_velocity}
AT_ZERO = sigma_grid(18, low=0.0)
CONSISTENCY = {
    "ct l2": (
        ours(consistency_term(MEAN_SQUARE, 2), target=AVERAGED),
        released_consistency(AVERAGED, euler_to_data, l2, uniform),
    ),
    "ct l2, sigma_min 0": (
        ours(consistency_term(MEAN_SQUARE, 2, AT_ZERO, 0.0), target=AVERAGED),
        released_consistency(AVERAGED, euler_to_data, l2, uniform, AT_ZERO, 0.0),
    ),
    "ct l2, live target": (
        ours(consistency_term(MEAN_SQUARE, 2)),
        released_consistency(None, euler_to_data, l2, uniform),
    ),
    "ct l1": (
        ours(consistency_term(absolute, 1), target=AVERAGED),
        released_consistency(AVERAGED, euler_to_data, l1, uniform),
    ),
    "cd l2": (
        ours(consistency_term(MEAN_SQUARE, 2, **HEUN), target=AVERAGED),
        released_consistency(AVERAGED, heun_of_teacher, l2, uniform),
    ),
    "cd l2, karras weight": (
        ours(consistency_term(MEAN_SQUARE, 2, weight=karras, **HEUN), target=AVERAGED),
        released_consistency(AVERAGED, heun_of_teacher, l2, karras),
    ),
}


@pytest.mark.parametrize("name", CONSISTENCY)
def test_consistency_models(name):
    assert_equal(*CONSISTENCY[name])


def test_heun_in_our_time_is_another_loss():
    """Why the release's step has a class of its own."""
    settings = HEUN | {"equality": eqx.Partial(ct, solver=HeunMap)}
    value = ours(consistency_term(MEAN_SQUARE, 2, **settings), target=AVERAGED)(LIVE)
    theirs = CONSISTENCY["cd l2"][1](LIVE)
    assert abs(value - theirs) > 1e-6 * theirs  # equal is 1e-12


# --- ECT: locuslab/ect, ECMLoss --------------------------------------------------------------------------------------

ECT_SIGMA = jnp.exp(-1.1 + 2.0 * jax.random.normal(jax.random.key(5), (ROWS,)))


def t_to_r(t, stage, q=2, k=8.0, b=1.0, adjusted=True):
    ratio = 1 - q ** -(stage + 1.0) * (1 + k * jax.nn.sigmoid(-b * t) if adjusted else 1.0)
    return jnp.maximum(t * ratio, 0.0)


def released_ect(r, c):
    def loss(theta):
        def row(y, eps, t, r):
            D_yt = denoised(theta, y + t * eps, t, 0.0, 0.0)
            D_yr = stop_gradient(denoised(theta, y + r * eps, r, 0.0, 0.0))
            D_yr = jnp.where(r > 0, D_yr, y)
            total = jnp.sum((D_yt - D_yr) ** 2)
            return (jnp.sqrt(total + c**2) - c) / (t - r)

        return mean_over_rows(row, ECT_SIGMA, r)

    return loss


@pytest.mark.parametrize("c", [0.0, 0.03])
@pytest.mark.parametrize(
    "r",
    [t_to_r(ECT_SIGMA, 0), t_to_r(ECT_SIGMA, 4), t_to_r(ECT_SIGMA, 7, adjusted=False)],
    ids=["stage 0", "stage 4", "constant"],
)
def test_easy_consistency_tuning(r, c):
    """The weight is 1 / (sigma_s - sigma_u); without c the norm is not squared."""
    term = Term(
        ct,
        given(clock(ECT_SIGMA), clock(r), jnp.zeros(ROWS)),
        distance=pseudo_huber(c),
        weight=lambda s, u, t: 1 / (s / (1 - s) - u / (1 - u)),
    )
    assert_equal(ours(term), released_ect(r, c))


# --- CTM: sony/ctm, KarrasDenoiser.ctm_losses ------------------------------------------------------------------------
#
# G(x, t, s) = (s/t) x + (1 - s/t) g(x, t, s), g preconditioned as a denoiser; their time t is sigma, s <= u < t.

CTM_LEVELS = sigma_grid(18)
FIRST = jnp.arange(ROWS) % 14
FROM, UPTO, TO = CTM_LEVELS[FIRST], CTM_LEVELS[FIRST + 3], CTM_LEVELS[jnp.minimum(FIRST + 3 + jnp.arange(ROWS) % 5, 17)]


def G(theta, x, t, s):
    return s / t * x + (1 - s / t) * denoised(theta, x, t, s, 0.0)


def released_ctm(advance, inner=stop_gradient, inner_weights=None, outer=lambda o, x: o(x)):
    def loss(theta):
        def row(y, noise, t, u, s):
            def to_data(x):
                return G(AVERAGED, x, s, SIGMA_MIN)

            x_t = y + t * noise
            estimate = outer(to_data, G(theta, x_t, t, s))
            x_u = advance(x_t, t, u)
            target = to_data(G(theta if inner_weights is None else inner_weights, x_u, u, s))
            return jnp.mean((estimate - inner(target)) ** 2)

        return mean_over_rows(row, FROM, UPTO, TO)

    return loss


def teacher_steps(n):
    """`heun_solver` over n levels of the grid between t and u."""

    def advance(x, t, u):
        root, root_u = t ** (1 / 7), u ** (1 / 7)
        levels = [(root + i / n * (root_u - root)) ** 7 for i in range(n + 1)]
        for t, next_t in zip(levels, levels[1:], strict=False):
            x = heun(TEACHER, x, t, next_t)
        return x

    return advance


class Steps(AbstractFlowMap):
    """Ours: n Heun steps in sigma, at levels that are even in sigma^(1/7)."""

    field: object
    n: int = eqx.field(static=True)

    def average_velocity(self, x, s, t):
        share = jnp.linspace(0.0, 1.0, self.n + 1)
        sigma = ((1 - share) * (s / (1 - s)) ** (1 / 7) + share * (t / (1 - t)) ** (1 / 7)) ** 7
        return (jump(EdmHeunMap(self.field), x, sigma / (1 + sigma)) - x) / (t - s)

    def velocity(self, x, t):
        return self.field(x, t)


def ctm_term(solver):
    return Term(
        eqx.Partial(ctm, solver=solver, end=T_MIN),
        given(clock(FROM), clock(UPTO), clock(TO)),
        velocity=teacher_velocity,
        distance=MEAN_SQUARE,
        weight=lambda s, u, t: 1 / (1 - T_MIN) ** 2,
    )


CTM = {
    "1 step": (lambda v: Steps(v, 1), teacher_steps(1)),
    "3 steps": (lambda v: Steps(v, 3), teacher_steps(3)),
    "self-teacher_velocity": (lambda v: flow_map(AVERAGED), lambda x, t, u: G(AVERAGED, x, t, u)),
}


@pytest.mark.parametrize("name", CTM)
def test_consistency_trajectory_models(name):
    solver, advance = CTM[name]
    assert jnp.any(UPTO == TO)  # the target holds no student there
    assert_equal(ours(ctm_term(solver), target=AVERAGED), released_ctm(advance))


def test_every_stop_gradient_of_ctm_matters():
    """One value and other gradients: with the target differentiated, and with a way back that skips the outer jump."""
    advance = teacher_steps(1)
    value, slope = value_and_slope(released_ctm(advance))
    wrong = {
        "live target": released_ctm(advance, inner=lambda target: target),
        "no way back": released_ctm(advance, outer=lambda o, x: stop_gradient(o(x)) + x - stop_gradient(x)),
    }
    for loss in wrong.values():
        other, slope_other = value_and_slope(loss)
        assert abs(other - value) < 1e-12 * value
        assert jnp.linalg.norm(slope_other - slope) > 1e-2 * jnp.linalg.norm(slope)


def test_the_inner_jump_of_ctms_target_has_the_live_weights():
    """With the average inside it would be another value."""
    value, _ = value_and_slope(released_ctm(teacher_steps(1)))
    other, _ = value_and_slope(released_ctm(teacher_steps(1), inner_weights=AVERAGED))
    assert abs(other - value) > 1e-2 * value


# --- SoFlow: zlab-princeton/SoFlow, get_consistency_loss and get_velocity_loss ---------------------------------------
#
# Their t is the source, l the middle and s the target, in our clock.

T_S = jnp.sort(jax.random.uniform(jax.random.key(6), (2, ROWS)), axis=0)
SOURCE, END = T_S[1], T_S[0]
MIDDLE = SOURCE + (END - SOURCE) * 0.1 * (0.002 / 0.1) ** 0.4  # r = r0 (r1 / r0)^(k/K) at 40 % of training
SOFLOW = {"cifar": (0.75, 1e-3), "imagenet": (1.0, 0.01)}


def released_soflow_rows(theta, p, eps):
    """The signed pseudo-loss, row by row."""

    def f(x, t, s):
        return x + (s - t) * network(theta, x, t, s)

    def row(x0, x1, t, l, s):
        x_t, x_l = t * x1 + (1 - t) * x0, l * x1 + (1 - l) * x0
        q = stop_gradient((f(x_t, t, s) - f(x_l, l, s)) / (t - l))
        return jnp.sign(s - t) * jnp.mean(network(theta, x_t, t, s) * q) * (jnp.mean(q**2) + eps) ** -p

    return jax.vmap(row)(DATA, NOISE, SOURCE, MIDDLE, END)


def released_soflow(p, eps):
    return lambda theta: jnp.mean(released_soflow_rows(theta, p, eps))


def released_velocity(p, eps):
    def loss(theta):
        def row(x0, x1, t):
            m = jnp.mean((network(theta, t * x1 + (1 - t) * x0, t, t) - (x1 - x0)) ** 2)
            return m / stop_gradient((m + eps) ** p)

        return mean_over_rows(row, SOURCE)

    return loss


def soflow_term(p, eps, **settings):
    """Half of the weighted square, whose gradient is the pseudo-loss's."""
    times = given(SOURCE, MIDDLE, END)
    return Term(soflow, times, distance=per_entry(adaptive(p, eps)), weight=lambda s, u, t: 0.5, **settings)


def velocity_term(p, eps, **settings):
    return Term(flow_matching, given(SOURCE, SOURCE), distance=per_entry(adaptive(p, eps)), **settings)


@pytest.mark.parametrize("name", SOFLOW)
def test_soflow_has_our_gradient_and_another_value(name):
    _, slope = value_and_slope(ours(soflow_term(*SOFLOW[name])))
    _, slope_theirs = value_and_slope(released_soflow(*SOFLOW[name]))
    assert jnp.linalg.norm(slope_theirs) > 1e-2
    assert jnp.linalg.norm(slope - slope_theirs) < 1e-12 * jnp.linalg.norm(slope_theirs)


def test_soflows_released_value_is_signed():
    """An inner product: of either sign row by row, while ours is a square."""
    rows = released_soflow_rows(LIVE, 0.75, 1e-3)
    assert jnp.min(rows) < -1e-2
    assert jnp.max(rows) > 1e-2
    assert ours(soflow_term(0.75, 1e-3))(LIVE) > 0


@pytest.mark.parametrize("name", SOFLOW)
def test_soflows_velocity_loss(name):
    assert_equal(ours(velocity_term(*SOFLOW[name])), released_velocity(*SOFLOW[name]))


def test_soflows_two_losses_together():
    """On shares of one batch in our objective, summed with the shares; the noise is one because the draw is."""
    p, eps = SOFLOW["imagenet"]
    both = ours(velocity_term(p, eps, draw=0), soflow_term(p, eps, draw=0))
    _, slope = value_and_slope(both)
    _, theirs = value_and_slope(lambda theta: released_soflow(p, eps)(theta) + released_velocity(p, eps)(theta))
    assert jnp.linalg.norm(slope - theirs) < 1e-12 * jnp.linalg.norm(theirs)


# --- FACM: ali-vilab/FACM, FACMLoss ----------------------------------------------------------------------------------
#
# Their t runs from noise (0) to data (1), velocities point to the data, and the network's clock is doubled: up to 1 it
# is the consistency model at t, beyond it the velocity at 2 - t.

FACM_T = jax.random.uniform(jax.random.key(7), (ROWS,))


def facm_net(theta, x, clock):
    s = jnp.where(clock <= 1, 1 - clock, clock - 1)
    return -network(theta, x, s, jnp.where(clock <= 1, 0.0, s))


def released_facm(distill, clip=1.0):
    def loss(theta):
        def row(data, noise, t):
            x_t = t * data + (1 - t) * noise
            v = -network(TEACHER, x_t, 1 - t, 1 - t) if distill else data - noise

            F_flow = facm_net(theta, x_t, 2 - t)
            cosine = jnp.sum(F_flow * v) / (jnp.linalg.norm(F_flow) * jnp.linalg.norm(v))
            flow = jnp.mean((F_flow - v) ** 2) + 1 - cosine

            F, dF = jax.jvp(lambda x, t: facm_net(theta, x, t), (x_t, t), (v, jnp.ones(())))
            F_minus = stop_gradient(F)
            g = jnp.clip(F_minus - (v + (1 - t) * stop_gradient(dF)), -clip, clip)
            error = jnp.mean((F - (F_minus - (1 - t**0.5) * g)) ** 2)
            weight = jnp.cos(t * jnp.pi / 2)
            return flow + weight * error / stop_gradient(error + 1e-3) ** 0.5

        return mean_over_rows(row, FACM_T)

    return loss


@pytest.mark.parametrize("distill", [True, False], ids=["distill", "train"])
def test_flow_anchored_consistency_models(distill):
    """The row of the table as it stands, its times given."""
    loss = objective(
        method("FACM"), marginal=lambda key, n: 1 - FACM_T, velocity=teacher_velocity if distill else conditional
    )
    assert_equal(ours(*loss.terms), released_facm(distill))


def test_the_clip_of_facm_acts_on_this_batch():
    """So that the test above is one of the clip too."""
    _, slope = value_and_slope(released_facm(True))
    _, unclipped = value_and_slope(released_facm(True, clip=jnp.inf))
    assert jnp.linalg.norm(slope - unclipped) > 1e-3 * jnp.linalg.norm(slope)
