"""The losses that nmboffi/flow_map_matching_public (c1432cd) computes, from our equality, distance and weight.

The right-hand sides are written here from the formula sheet, in the release's own notation: its time runs from noise
(0) to data (1), s and t are its times, its network predicts the endpoint of a full jump, X = (1 - (t-s)) x + (t-s) net,
and derivatives are `jacfwd`. Nothing of flowcore is used in them but the weights of the network.
"""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import pytest
from problems import small_net

from flowcore import EndpointMap, Term, conditional, fmm, lmd, psd, squared, teacher_target, teacher_velocity

ROWS = 24


KEY = jax.random.key(11)


def batch():
    """Data, the noise that a term draws from KEY, and OUR times (s, t): both orders, s = t, and the ends of time."""
    key_data, key_s, key_t = jax.random.split(jax.random.key(12), 3)
    x0 = jax.random.normal(key_data, (ROWS, 2))
    eps = jax.random.normal(jax.random.split(KEY)[1], (ROWS, 2))
    s, t = jax.random.uniform(key_s, (ROWS,)), jax.random.uniform(key_t, (ROWS,))
    s = s.at[:4].set(jnp.array([0.3, 1.0, 0.0, 1.0]))
    t = t.at[:4].set(jnp.array([0.3, 0.0, 1.0, 1.0]))
    return x0, eps, s, t


def test_the_batch_has_jumps_both_ways():
    _, _, s, t = batch()
    assert jnp.sum(s < t) > 4
    assert jnp.sum(s > t) > 4
    assert jnp.sum(s == t) == 2


# --- the release ---------------------------------------------------------------------------------------------------


def released_map(net, s, t, x):
    """X_{s,t}(x) in their time. The network is told our times, as a change of clock is no change of the weights."""
    return (1 - (t - s)) * x + (t - s) * net(x, 1 - s, 1 - t)


def released_velocity(net, t, x):
    """b_t(x) = the average velocity at s = t: net - x, towards the data."""
    return net(x, 1 - t, 1 - t) - x


def released_lmd(net, teacher, noise, data, s, t):
    x = (1 - s) * noise + s * data
    d_t = jax.jacfwd(lambda t: released_map(net, s, t, x))(t)
    return jnp.sum((d_t - released_velocity(teacher, t, released_map(net, s, t, x))) ** 2)


def released_fmm(net, teacher, noise, data, s, t):
    """`lagrangian`: jump from s to t, and the derivative of the way back at its end is the interpolant's."""
    y = released_map(net, s, t, (1 - s) * noise + s * data)
    back = jax.jacfwd(lambda r: released_map(net, t, r, y))(s)
    return jnp.sum((back - (data - noise)) ** 2)


def released_pfmm(net, teacher, noise, data, s, t):
    """`distill`: one jump against two half jumps of the teacher, endpoint against endpoint."""
    x, middle = (1 - s) * noise + s * data, 0.5 * (s + t)
    two = released_map(teacher, middle, t, released_map(teacher, s, middle, x))
    return jnp.sum((released_map(net, s, t, x) - jax.lax.stop_gradient(two)) ** 2)


def released(loss, net, teacher):
    x0, eps, s, t = batch()
    return jnp.mean(jax.vmap(lambda *row: loss(net, teacher, *row))(eps, x0, 1 - s, 1 - t))


def value_and_gradient(loss, net):
    """The loss and its gradient in the weights, as one vector."""
    value, slope = eqx.filter_jit(eqx.filter_value_and_grad(loss))(net)
    return value, jax.flatten_util.ravel_pytree(slope)[0]


# --- ours ----------------------------------------------------------------------------------------------------------


def given(*fixed):
    """The law of times that always deals these."""
    return lambda key, n, progress: fixed


def ours(term, net, teacher):
    x0, _, _, _ = batch()
    model = EndpointMap(net)
    return term(model, x0, target=model, teacher=EndpointMap(teacher), progress=0.0, key=KEY)


_, _, S, T = batch()
PAIRS = {
    "lmd": (Term(lmd, given(S, T), velocity=teacher_velocity, distance=squared), released_lmd),
    "fmm": (Term(fmm, given(S, T), velocity=conditional, distance=squared), released_fmm),
    "pfmm": (
        Term(
            psd, given(S, (S + T) / 2, T), target=teacher_target, distance=squared, weight=lambda s, u, t: (s - t) ** 2
        ),
        released_pfmm,
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_value_and_gradient_are_the_releases(name):
    term, theirs = PAIRS[name]
    net, teacher = small_net(), small_net(1)
    value, slope = value_and_gradient(lambda net: ours(term, net, teacher), net)
    wanted, wanted_slope = value_and_gradient(lambda net: released(theirs, net, teacher), net)
    assert wanted > 1e-2
    assert value == pytest.approx(float(wanted), rel=1e-12)
    assert jnp.linalg.norm(wanted_slope) > 1e-2
    assert jnp.max(jnp.abs(slope - wanted_slope)) < 1e-12 * jnp.linalg.norm(wanted_slope)
