import jax
import jax.numpy as jnp
import pytest

from flowcore import times

N = 100_000
KEY = jax.random.key(0)
SKEWED = times.logit_normal(-0.4, 1.0)
LAWS = {
    "diagonal": times.diagonal(),
    "diagonal, skewed": times.diagonal(SKEWED),
    "ordered": times.ordered(),
    "ordered, skewed": times.ordered(SKEWED),
    "partly diagonal": times.partly_diagonal(times.ordered(), 0.25),
}
every = pytest.mark.parametrize("name", LAWS)


def close(sample, mean, variance):
    """Whether the sample's mean is that of the law, within four standard errors."""
    return bool(jnp.abs(jnp.mean(sample) - mean) < 4 * jnp.sqrt(variance / sample.shape[0]))


@every
def test_times_fall_from_source_to_target_within_the_unit_interval(name):
    drawn = LAWS[name](KEY, 1000, 0.5)
    assert all(time.shape == (1000,) for time in drawn)
    for later, earlier in zip(drawn, drawn[1:], strict=False):
        assert jnp.all(later >= earlier)
    assert jnp.all(drawn[0] <= 1)
    assert jnp.all(drawn[-1] >= 0)


@every
def test_a_law_is_a_function_of_its_key(name):
    once, again, other = (jnp.stack(LAWS[name](jax.random.key(seed), 10, 0.5)) for seed in (1, 1, 2))
    assert jnp.array_equal(once, again)
    assert not jnp.array_equal(once, other)


def test_ordered_uniform_draws_are_uniform_on_the_triangle():
    """Density 2 on s >= t: E s = 2/3, E t = 1/3, E st = 1/4, E (s - t)^2 = 1/6."""
    s, t = times.ordered()(KEY, N, 0.0)
    assert close(s, 2 / 3, 1 / 18)
    assert close(t, 1 / 3, 1 / 18)
    assert close(s * t, 1 / 4, 1 / 9 - 1 / 16)
    assert close((s - t) ** 2, 1 / 6, 1 / 15 - 1 / 36)


def test_on_the_diagonal_both_times_are_one():
    s, t = times.diagonal()(KEY, N, 0.0)
    assert jnp.array_equal(s, t)
    assert close(s, 1 / 2, 1 / 12)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_the_diagonal_has_exactly_its_share_of_the_rows_and_they_come_first(share):
    s, t = times.partly_diagonal(times.ordered(), share)(KEY, 64, 0.0)
    assert jnp.array_equal(s == t, jnp.arange(64) < int(64 * share))


def test_the_rows_off_the_diagonal_are_the_given_laws():
    """t is moved to s, not s to t: the sources keep their law."""
    s, t = times.ordered()(KEY, 64, 0.0)
    s_mixed, t_mixed = times.partly_diagonal(times.ordered(), 0.5)(KEY, 64, 0.0)
    assert jnp.array_equal(s, s_mixed)
    assert jnp.array_equal(t[32:], t_mixed[32:])


def test_logit_normal_quantiles():
    """Median sigmoid(mean), and 15.87 % below sigmoid(mean - std)."""
    drawn = times.logit_normal(-0.4, 1.2)(KEY, N)
    for bound, share in [(-0.4, 0.5), (-1.6, 0.158655), (0.8, 0.841345)]:
        assert close((drawn < jax.nn.sigmoid(bound)).astype(float), share, share * (1 - share))


def test_logit_normal_is_the_log_normal_noise_of_edm():
    drawn = times.logit_normal(-1.2, 1.2)(KEY, N)
    log_sigma = jnp.log(drawn / (1 - drawn))
    assert close(log_sigma, -1.2, 1.44)
    assert close((log_sigma + 1.2) ** 2, 1.44, 2 * 1.44**2)


@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_equal_steps_go_from_noise_to_data(n):
    steps = times.equal_steps(n)
    assert steps.shape == (n + 1,)
    assert (steps[0], steps[-1]) == (1, 0)
    assert jnp.allclose(steps[:-1] - steps[1:], 1 / n)


def test_either_way_goes_both_ways():
    s, t = times.either_way()(KEY, 4000, 0.0)
    assert abs(float(jnp.mean(s > t)) - 0.5) < 0.05
    assert jnp.max(jnp.abs(s - t)) > 0.9


def test_within_keeps_every_jump_short_and_in_the_interval():
    s, t = times.within(times.either_way(), 0.25)(KEY, 4000, 0.0)
    assert 0.2 < jnp.max(jnp.abs(s - t)) <= 0.25
    assert jnp.all((t >= 0) & (t <= 1))


@pytest.mark.parametrize(("share", "mean", "spread"), [(None, 0.5, 0.0), (times.uniform, 0.5, 12**-0.5)])
def test_split_puts_u_at_a_share_of_the_way(share, mean, spread):
    s, u, t = times.split(times.ordered(), share)(KEY, 4000, 0.0)
    way = (s - u) / (s - t)
    assert abs(float(jnp.mean(way)) - mean) < 0.02
    assert abs(float(jnp.std(way)) - spread) < 0.02
