import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flowcore import schedules, times
from flowcore.sample import equal_steps

N = 100_000
KEY = jax.random.key(0)
SKEWED = times.logit_normal(-0.4, 1.0)
LAWS = {
    "diagonal": times.diagonal(),
    "diagonal, skewed": times.diagonal(SKEWED),
    "ordered": times.ordered(),
    "ordered, skewed": times.ordered(SKEWED),
    "partly diagonal": times.partly_diagonal(times.ordered(), 0.25),
    "to data": times.to_data(),
    "to data, arctan": times.to_data(times.arctan()),
    "split": times.split(times.ordered(), times.uniform),
    "shrinking": times.shrinking_step(times.ordered(), schedules.exponential(1.0, 0.002)),
    "neighbours": times.neighbours(schedules.even, 17),
    "neighbours, growing": times.neighbours(schedules.karras, schedules.consistency_intervals(), end=0.001),
    "tuned": times.easy_consistency(times.logit_normal(-1.1, 2.0), 1),
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
    steps = equal_steps(n)
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


def test_dyadic_jumps_lie_on_the_grid_of_their_length_and_every_length_and_place_is_as_likely():
    s, u, t = times.dyadic(3)(KEY, 6000, 0.0)
    lengths, counts = np.unique(np.asarray(s - t), return_counts=True)
    assert np.array_equal(lengths, [0.25, 0.5, 1.0])
    assert np.all(np.abs(counts / 6000 - 1 / 3) < 0.03)
    assert np.array_equal(np.unique(np.asarray(t / (s - t))), [0.0, 1.0, 2.0, 3.0])
    quarters = np.asarray(t)[np.asarray(s - t) == 0.25]
    assert np.all(np.abs(np.unique(quarters, return_counts=True)[1] / len(quarters) - 0.25) < 0.05)
    assert jnp.allclose(u, (s + t) / 2, rtol=1e-14)


def test_to_data_puts_every_target_at_its_end():
    s, t = times.to_data(end=0.01)(KEY, 1000, 0.0)
    assert jnp.all(t == 0.01)
    assert close(s, 1 / 2, 1 / 12)


def test_arctan_quantiles():
    """Median 2/pi arctan(exp mean), and 15.87 % below that of mean - std."""
    drawn = times.arctan(-0.8, 1.6)(KEY, N)
    for z, share in [(0.0, 0.5), (-1.0, 0.158655), (1.0, 0.841345)]:
        bound = 2 / jnp.pi * jnp.arctan(jnp.exp(-0.8 + 1.6 * z))
        assert close((drawn < bound).astype(float), share, share * (1 - share))


def test_a_number_is_a_curriculum_that_never_changes():
    assert [schedules.value_at(0.3, progress) for progress in (0.0, 1.0)] == [0.3, 0.3]
    assert [schedules.value_at(lambda progress: 2 * progress, progress) for progress in (0.0, 1.0)] == [0.0, 2.0]


def test_neighbours_are_the_ends_of_one_interval_and_every_interval_is_as_likely():
    s, u, t = times.neighbours(schedules.even, 10, end=0.002)(KEY, N, 0.0)
    assert jnp.all(t == 0.002)
    assert jnp.allclose(s - u, 0.1, atol=1e-15)
    assert (jnp.max(s), jnp.min(u)) == (1, 0)  # both ends of the grid are reached
    index = jnp.round(10 * u).astype(int)
    assert jnp.allclose(10 * u, index.astype(float), atol=1e-12)
    for i in range(10):
        assert close((index == i).astype(float), 0.1, 0.09)


def test_a_grid_of_one_interval_has_one_pair():
    s, u, _ = times.neighbours(schedules.even, 1)(KEY, 100, 0.0)
    assert jnp.all((s == 1) & (u == 0))


def test_the_grid_grows_with_its_curriculum():
    law = times.neighbours(schedules.even, lambda progress: 2 + 6 * progress)
    for progress, gap in [(0.0, 1 / 2), (1.0, 1 / 8)]:
        s, u, _ = law(KEY, 1000, progress)
        assert jnp.allclose(s - u, gap, atol=1e-15)
        assert len(jnp.unique(u)) == round(1 / gap)


def test_karras_levels_are_even_in_the_seventh_root_of_sigma():
    level = schedules.karras(jnp.linspace(0.0, 1.0, 18))
    sigma = level / (1 - level)
    assert sigma[0] == pytest.approx(0.002, rel=1e-12)
    assert sigma[-1] == pytest.approx(80.0, rel=1e-12)
    assert jnp.allclose(jnp.diff(sigma ** (1 / 7)), (80 ** (1 / 7) - 0.002 ** (1 / 7)) / 17, rtol=1e-9)


def test_shrinking_moves_u_towards_s():
    s, t = times.ordered()(KEY, 1000, 0.0)
    law = times.shrinking_step(times.ordered(), schedules.exponential(1.0, 0.01))
    for progress, share in [(0.0, 1.0), (0.5, 0.1), (1.0, 0.01)]:
        s_now, u, t_now = law(KEY, 1000, progress)
        assert jnp.array_equal(jnp.stack([s, t]), jnp.stack([s_now, t_now]))  # the pair is the given law's
        assert jnp.allclose(s - u, share * (s - t), atol=1e-15)


def released_t_to_r(sigma, stage):
    """ECT: r = t (1 - n(t) / 2^(stage + 1)), n(t) = 1 + 8 sigmoid(-t), not below 0; t and r are sigmas."""
    return np.maximum(sigma * (1 - 2.0 ** -(stage + 1) * (1 + 8 / (1 + np.exp(sigma)))), 0)


@pytest.mark.parametrize("stage", [0, 1, 4, 7])
def test_tuned_is_the_released_step_of_ect(stage):
    s, u, t = times.easy_consistency(times.logit_normal(-1.1, 2.0), stage)(KEY, 1000, 0.0)
    assert jnp.all(t == 0)
    assert np.allclose(u / (1 - u), released_t_to_r(np.asarray(s / (1 - s)), stage), rtol=1e-9, atol=1e-15)


def test_ect_begins_with_denoising_below_sigma_ln_7():
    s, u, _ = times.easy_consistency(times.logit_normal(-1.1, 2.0), 0)(KEY, N, 0.0)
    sigma = s / (1 - s)
    assert jnp.array_equal(u > 0, sigma > jnp.log(7.0))
    assert 0.1 < jnp.mean(u > 0) < 0.3  # both sides occur
    _, later, _ = times.easy_consistency(times.logit_normal(-1.1, 2.0), 2)(KEY, N, 0.0)
    assert jnp.all(later > 0)


def test_tuned_is_finite_at_the_noise_end():
    assert jnp.all(jnp.isfinite(jnp.stack(times.easy_consistency(lambda key, n: jnp.ones(n), 3)(KEY, 4, 0.0))))


@pytest.mark.parametrize(("first", "last"), [(2, 150), (2, 200)])
def test_growing_is_the_released_schedule_of_consistency_training(first, last):
    """N(k) = ceil(sqrt(k/K ((s1 + 1)^2 - s0^2) + s0^2) - 1) + 1 levels."""
    k = np.arange(0, 1001)
    levels = np.ceil(np.sqrt(k / 1000 * ((last + 1) ** 2 - first**2) + first**2) - 1) + 1
    assert np.array_equal(schedules.consistency_intervals(first, last)(jnp.asarray(k / 1000)) + 1, levels)
    assert (levels[0], levels[-1]) == (first, last + 1)


def test_slowing_is_the_released_decay_of_the_target():
    """mu(k) = exp(s0 ln mu0 / (N(k) - 1))."""
    grid = schedules.consistency_intervals(2, 150)
    decay = schedules.consistency_decay(grid, first=2, decay=0.9)
    for progress in (0.0, 0.1, 0.5, 1.0):
        intervals = float(grid(progress))
        assert decay(progress) == pytest.approx(float(np.exp(2 * np.log(0.9) / intervals)), rel=1e-14)
    assert decay(1.0) > 0.998  # slower and slower


def test_doubling_is_the_curriculum_of_ict():
    """11, 21, 41, ..., 1281 levels, each for an eighth of training; no step beyond."""
    middle = (jnp.arange(8, dtype=float) + 0.5) / 8
    assert (schedules.improved_consistency_intervals()(middle) + 1).tolist() == [11, 21, 41, 81, 161, 321, 641, 1281]
    start = jnp.arange(8, dtype=float) / 8
    assert jnp.array_equal(
        schedules.improved_consistency_intervals()(start), schedules.improved_consistency_intervals()(middle)
    )
    assert schedules.improved_consistency_intervals()(1.0) == 1280


def test_exponential_falls_by_equal_factors():
    share = schedules.exponential(1.0, 1e-4)
    assert [share(p) for p in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([1.0, 0.1, 0.01, 1e-4], rel=1e-12)
