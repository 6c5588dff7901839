import jax
import jax.numpy as jnp
import pytest

from flowcore import adaptive, cauchy, directed, per_entry, perceptual, pseudo_huber, squared

LEFT, RIGHT = jnp.array([[1.0, 2.0], [0.0, -1.0]]), jnp.array([[1.0, 0.0], [2.0, 0.0]])  # 9 apart, squared
ALL = {
    "squared": squared,
    "pseudo_huber": pseudo_huber(0.3),
    "cauchy": cauchy(0.3),
    "adaptive": adaptive(),
    "directed": directed,
    "per entry": per_entry(adaptive()),
    "perceptual": perceptual(jnp.sin),
}
every = pytest.mark.parametrize("distance", ALL.values(), ids=ALL)


@every
def test_it_is_one_number_for_a_side_of_any_shape(distance):
    assert distance(LEFT, RIGHT).shape == ()
    assert distance(LEFT, RIGHT) > 0


@every
def test_it_is_zero_between_equal_sides_with_a_finite_zero_gradient(distance):
    value, slope = jax.value_and_grad(distance)(LEFT, LEFT)
    assert value == 0
    assert jnp.array_equal(slope, jnp.zeros_like(LEFT))


def test_squared_sums_over_the_entries():
    assert squared(LEFT, RIGHT) == 9


def test_pseudo_huber_is_quadratic_near_and_linear_far():
    assert pseudo_huber(4.0)(LEFT, RIGHT) == 1  # sqrt(9 + 16) - 4
    far = pseudo_huber(4.0)(1e6 * LEFT, 1e6 * RIGHT)
    assert far == pytest.approx(3e6, rel=1e-5)


def test_cauchy_grows_as_a_logarithm():
    assert cauchy(3.0)(LEFT, RIGHT) == pytest.approx(float(jnp.log(2.0)))


@pytest.mark.parametrize("power", [0.5, 0.75, 1.0])
def test_adaptive_scales_the_gradient_and_gets_none_through_the_scale(power):
    ours = jax.grad(adaptive(power, offset=1.0))(LEFT, RIGHT)
    assert jnp.allclose(ours, jax.grad(squared)(LEFT, RIGHT) / 10.0**power, rtol=1e-12)


def test_adaptive_at_power_one_is_blind_to_the_size_of_the_error():
    """Its value is no measure of progress: close to 1 for errors a thousand times apart."""
    near, far = (float(adaptive()(scale * LEFT, scale * RIGHT)) for scale in (1.0, 1e3))
    assert near == pytest.approx(far, rel=2e-3)


def test_perceptual_compares_features():
    assert perceptual(lambda image: 2 * image)(LEFT, RIGHT) == 36


def test_directed_adds_the_angle_to_the_square():
    """9 + 1 - cos: the inner product is 1, the norms are sqrt 6 and sqrt 5."""
    assert directed(LEFT, RIGHT) == pytest.approx(10 - 1 / 30**0.5, rel=1e-14)


def test_directed_sees_the_direction_whatever_the_size():
    """Opposite sides are 2 apart beyond the square, parallel ones nothing."""
    tiny = 1e-6 * LEFT
    assert directed(tiny, -tiny) == pytest.approx(2.0, rel=1e-9)
    assert directed(tiny, 3 * tiny) == pytest.approx(float(squared(tiny, 3 * tiny)), abs=1e-15)


@pytest.mark.parametrize("right", [RIGHT, jnp.zeros((2, 2))], ids=["beside a side", "beside nothing"])
def test_directed_has_a_finite_gradient_where_a_side_is_zero(right):
    """A network whose last layer begins at zero begins there."""
    value, slope = jax.value_and_grad(directed)(jnp.zeros((2, 2)), right)
    assert value == squared(right, 0 * right) + 1
    assert jnp.all(jnp.isfinite(slope))


def test_per_entry_takes_the_mean_where_the_distance_takes_the_sum():
    assert per_entry(squared)(LEFT, RIGHT) == pytest.approx(9 / 4)
    mean = 9 / 4
    assert per_entry(adaptive(0.5, 1e-3))(LEFT, RIGHT) == pytest.approx(mean / (mean + 1e-3) ** 0.5, rel=1e-14)


def test_per_entry_leaves_the_angle():
    ours, plain = per_entry(directed)(LEFT, RIGHT), directed(LEFT, RIGHT)
    assert ours == pytest.approx(float(plain - 9 + 9 / 4), rel=1e-13)
