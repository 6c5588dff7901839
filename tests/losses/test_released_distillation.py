"""The losses that lumalabs/tvm (82e8e5d) and pantheon5100/pid_diffusion (b99605b) compute, from our equality, distance
and weight: equal in value and in gradient to 1e-12.

The right-hand sides are written from the formula sheet in the releases' own variables: TVM with its guided weight w,
PID in sigma and with points x0 + sigma eps. Nothing is shared but the weights of the networks.
"""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import pytest
from jax.lax import stop_gradient
from problems import small_net

from flowcore import (
    AverageVelocityMap,
    Objective,
    Term,
    flow_matching,
    from_noise,
    lsd,
    per_entry,
    pid,
    squared,
    teacher_velocity,
)
from flowcore.objectives.context import self_velocity

ROWS, KEY = 24, jax.random.key(11)
NET, AVERAGE, TEACHER = small_net(), small_net(2), small_net(1)


def given(*fixed):
    """The law of times that always deals these."""
    return lambda key, n, progress: fixed


def drawn():
    """Data, and the noise that every term of draw 0 sees."""
    x0 = jax.random.normal(jax.random.key(12), (ROWS, 2))
    key_noise = jax.random.split(jax.random.fold_in(KEY, 0))[1]
    return x0, jax.random.normal(key_noise, x0.shape)


def times():
    key_s, key_t, key_q = jax.random.split(jax.random.key(13), 3)
    s, t = jax.random.uniform(key_s, (ROWS,)), jax.random.uniform(key_t, (ROWS,))
    s, t = jnp.maximum(s, t), jnp.minimum(s, t)
    return s, t.at[:2].set(s[:2]), jax.random.uniform(key_q, (ROWS,))


def assert_equal(ours, theirs):
    """Two losses of the network, value and gradient."""
    (value, slope), (wanted, wanted_slope) = (eqx.filter_jit(eqx.filter_value_and_grad(f))(NET) for f in (ours, theirs))
    flat, flat_wanted = (jax.flatten_util.ravel_pytree(tree)[0] for tree in (slope, wanted_slope))
    assert wanted > 1e-2
    assert value == pytest.approx(float(wanted), rel=1e-12)
    assert jnp.linalg.norm(flat_wanted) > 1e-2
    assert jnp.linalg.norm(flat - flat_wanted) < 1e-12 * jnp.linalg.norm(flat_wanted)


# --- TVM ------------------------------------------------------------------------------------------------------------


def released_tvm(net, w, detach=False):
    """One row: the terminal term and the flow-matching term, each a mean over dimensions, over w^2."""

    def row(x0, eps, s, t, q):
        x_s, x_q, c = (1 - s) * x0 + s * eps, (1 - q) * x0 + q * eps, eps - x0

        def displacement(t):
            return (t - s) * w * net(x_s, s, t)

        def F(t):
            return x_s + displacement(t)

        slope = jax.jacfwd(F)(t)
        if detach:
            V_w, dV_w = w * net(x_s, s, t), jax.jacfwd(lambda t: w * net(x_s, s, t))(t)
            slope = V_w + (t - s) * stop_gradient(dV_w)
        end = stop_gradient(F(t))
        terminal = jnp.mean((slope - stop_gradient(w * AVERAGE(end, t, t))) ** 2)
        guided = stop_gradient(w * c + (1 - w) * AVERAGE(x_q, q, q))
        flow = jnp.mean((w * net(x_q, q, q) - guided) ** 2)
        return (jnp.where(s != t, terminal, 0.0) + flow) / w**2

    return jnp.mean(jax.vmap(row)(*drawn(), *times()))


class Scaled(eqx.Module):
    """The release's parametrisation: w times the network."""

    net: eqx.Module
    w: float = eqx.field(static=True)

    def __call__(self, x, s, t):
        return self.w * self.net(x, s, t)


def our_tvm(net, w, equality=lsd):
    s, t, q = times()

    def guided(context):
        c = context.eps - context.x0
        return lambda x, t: w * c + (1 - w) * AVERAGE(x, t, t)

    # the release leaves a terminal row out when s = t; ours is flow matching to the average there
    terminal = Term(
        equality, given(s, t), velocity=self_velocity, distance=per_entry(squared), draw=0,
        weight=lambda s, t: jnp.where(s != t, 1.0, 0.0) / w**2,
    )  # fmt: skip
    flow = Term(
        flow_matching, given(q, q), velocity=guided, distance=per_entry(squared), draw=0, weight=lambda s, t: w**-2.0
    )
    model, target = AverageVelocityMap(Scaled(net, w)), AverageVelocityMap(Scaled(AVERAGE, w))
    return Objective((flow, terminal))(model, drawn()[0], target=target, key=KEY)[0]


def detached(model, x, s, t, *, v, target):
    """lsd with the derivative of V stopped: cheaper, and another gradient."""
    V, dV_dt = jax.jvp(lambda t: model.average_velocity(x, s, t), (t,), (1.0,))
    end = stop_gradient(x + (t - s) * V)
    return V + (t - s) * stop_gradient(dV_dt), stop_gradient(v(end, t))


@pytest.mark.parametrize("w", [1.0, 2.0])
def test_terminal_velocity_matching(w):
    assert_equal(lambda net: our_tvm(net, w), lambda net: released_tvm(net, w))


def test_terminal_velocity_matching_with_its_jvp_detached():
    assert_equal(lambda net: our_tvm(net, 1.0, detached), lambda net: released_tvm(net, 1.0, detach=True))


def test_detaching_the_jvp_changes_the_gradient_and_not_the_value():
    """What makes the two tests above strict."""
    (value, slope), (other, other_slope) = (
        eqx.filter_value_and_grad(lambda net, d=d: released_tvm(net, 1.0, d))(NET) for d in (False, True)
    )
    flat, other_flat = (jax.flatten_util.ravel_pytree(tree)[0] for tree in (slope, other_slope))
    assert value == pytest.approx(float(other), rel=1e-12)
    assert jnp.linalg.norm(flat - other_flat) > 0.02 * jnp.linalg.norm(flat)


# --- PID ------------------------------------------------------------------------------------------------------------

LEVELS = 80 ** (1 / 7) + jnp.linspace(0, 1, 8) * (0.002 ** (1 / 7) - 80 ** (1 / 7))
SIGMA = LEVELS**7  # falling from 80 to 0.002
INDEX = jnp.arange(ROWS) % len(SIGMA)
NEXT = jnp.where(INDEX == len(SIGMA) - 1, INDEX - 1, INDEX + 1)


def released_pid(net, distance):
    """z = 80 eps, y = x_theta(z, sigma): A extrapolates the chord between two levels to sigma = 0, B is the teacher's
    denoised y. In their variables the network's map of the linear path is y = F / (1 - t), t = sigma / (1 + sigma)."""
    _, eps = drawn()

    def trajectory(eps, sigma):
        s, t = 80 / 81, sigma / (1 + sigma)
        x = 80 * eps / 81
        return (x + (t - s) * net(x, jnp.asarray(s), t)) * (1 + sigma)

    def denoised(y, sigma):
        t = sigma / (1 + sigma)
        x = y / (1 + sigma)
        return x - t * TEACHER(x, t, t)

    def row(eps, sigma, neighbour):
        y, y_next = trajectory(eps, sigma), trajectory(eps, neighbour)
        A = y - sigma * (y - y_next) / (sigma - neighbour)
        return jnp.mean(distance(A - stop_gradient(denoised(y, sigma))))

    return jnp.mean(jax.vmap(row)(eps, SIGMA[INDEX], SIGMA[NEXT]))


def our_pid(net, distance):
    u, t = (sigma / (1 + sigma) for sigma in (SIGMA[INDEX], SIGMA[NEXT]))
    law = given(jnp.full(ROWS, 80 / 81), u, t)
    term = Term(pid, law, velocity=teacher_velocity, start=from_noise, distance=distance)
    model, teacher = AverageVelocityMap(net), AverageVelocityMap(TEACHER)
    return Objective((term,))(model, drawn()[0], target=model, teacher=teacher, key=KEY)[0]


def mean_absolute(left, right):
    return jnp.mean(jnp.abs(left - right))


@pytest.mark.parametrize(
    ("theirs", "ours"), [(jnp.square, per_entry(squared)), (jnp.abs, mean_absolute)], ids=["l2", "l1"]
)
def test_physics_informed_distillation(theirs, ours):
    assert_equal(lambda net: our_pid(net, ours), lambda net: released_pid(net, theirs))
