import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from problems import disturbed, gaussian, gradient, lively, small_net

from flowcore import (
    AverageVelocityMap,
    GuidedMap,
    Objective,
    TangentMap,
    Term,
    adaptive,
    conditional,
    flow_matching,
    mean_flow,
    self_velocity,
    squared,
    teacher_velocity,
    times,
)
from flowcore.networks import ResidualMLP

KEY = jax.random.key(0)
LAWS = {
    "diagonal": times.diagonal(),
    "ordered": times.ordered(),
    "logit-normal": times.ordered(times.logit_normal(-2.0, 2.0)),
    "partly diagonal": times.partly_diagonal(times.ordered(), 0.75),
}


def at_the_data(key, n, progress):
    """s = t = 0, where x_s is the datum."""
    return jnp.zeros(n), jnp.zeros(n)


def steadily(key, n, progress):
    """(s, u, t), the same in every row."""
    return jnp.full(n, 0.8), jnp.full(n, 0.5), jnp.full(n, 0.25)


def first(model, x, *times, v, target):
    return x, jnp.zeros_like(x)


def second(model, x, *times, v, target):
    return x, jnp.zeros_like(x)


def loss(term, x0=None, model=None, teacher=None, key=KEY):
    x0 = jnp.ones((4, 2)) if x0 is None else x0
    return eqx.filter_jit(lambda x0: term(model, x0, target=model, teacher=teacher, progress=0.0, key=key))(x0)


def rows_seen(shares, batch):
    """Which rows of the batch each term is given: row i is the i-th unit vector, which the distance reads as 2^i."""
    bits = 2.0 ** jnp.arange(batch, dtype=float)
    equalities = (first, second)[: len(shares)]
    terms = [
        Term(equality, at_the_data, distance=lambda left, right: left @ bits, share=share)
        for equality, share in zip(equalities, shares, strict=True)
    ]
    total, means = Objective(tuple(terms))(None, jnp.eye(batch), target=None, key=KEY)
    counts = [max(1, int(share * batch)) for share in shares]
    seen = [round(float(means[e.__name__]) * count) for e, count in zip(equalities, counts, strict=True)]
    return [{i for i in range(batch) if bitmask >> i & 1} for bitmask in seen], total, means


def test_shares_up_to_one_split_the_batch_in_order():
    seen, _, _ = rows_seen((0.25, 0.75), 8)
    assert seen == [{0, 1}, {2, 3, 4, 5, 6, 7}]


def test_shares_below_one_leave_rows_unused_and_none_twice():
    seen, _, _ = rows_seen((0.25, 0.5), 8)
    assert seen == [{0, 1}, {2, 3, 4, 5}]


def test_shares_above_one_reuse_the_batch():
    seen, _, _ = rows_seen((1.0, 0.5), 8)
    assert seen == [set(range(8)), {0, 1, 2, 3}]


def test_a_small_share_of_a_small_batch_is_still_a_row():
    seen, _, _ = rows_seen((0.1,), 4)
    assert seen == [{0}]


def test_the_total_is_the_sum_of_the_terms_times_their_shares():
    _, total, means = rows_seen((0.25, 0.75), 8)
    assert total == pytest.approx(float(0.25 * means["first"] + 0.75 * means["second"]))


def test_terms_draw_their_own_times_and_noise():
    """The same law under another place in the objective is another draw."""
    terms = tuple(Term(equality, times.diagonal(), distance=lambda a, b: a[0]) for equality in (first, second))
    _, means = Objective(terms)(None, jnp.zeros((4, 2)), target=None, key=KEY)
    assert means["first"] != means["second"]


def test_a_term_is_the_mean_over_the_rows_of_the_weighted_distance():
    x0 = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    term = Term(first, at_the_data, distance=squared, weight=lambda s, t: 7.0)
    assert loss(term, x0) == pytest.approx(7 * (5 + 25) / 2)


def test_the_weight_is_given_all_times():
    term = Term(first, steadily, distance=lambda a, b: jnp.asarray(1.0), weight=lambda s, u, t: s - t + 10 * u)
    assert loss(term) == pytest.approx(5.55)


def test_the_equality_is_given_every_time_and_the_point_at_the_first():
    """x is x_s = (1 - s) x0 + s eps: with the conditional velocity, x - s v is the datum."""
    x0 = jax.random.normal(KEY, (4, 2))

    def equality(model, x, s, u, t, *, v, target):
        assert all(time.shape == () for time in (s, u, t))
        return x - s * v(x, s), jnp.stack([s, u, t])

    def distance(left, right):
        return jnp.sum(left) + 100 * right @ jnp.array([1.0, 10.0, 100.0])

    expected = jnp.mean(jnp.sum(x0, axis=1)) + 100 * (0.8 + 5.0 + 25.0)
    assert loss(Term(equality, steadily, distance=distance), x0) == pytest.approx(float(expected))


def test_the_noise_is_standard_normal_and_new_in_every_row():
    x0 = jnp.zeros((20_000, 2))

    def noise(model, x, *times, v, target):
        return v(x, times[0]), jnp.zeros_like(x)

    def moment(power):
        return loss(Term(noise, times.diagonal(), distance=lambda a, b: jnp.mean(a**power)), x0)

    assert abs(moment(1)) < 4 / 40_000**0.5
    assert abs(moment(2) - 1) < 4 * (2 / 40_000) ** 0.5
    products = loss(Term(noise, times.diagonal(), distance=lambda a, b: a[0] * a[1]), x0)
    assert abs(products) < 4 / 20_000**0.5


def test_the_noise_is_independent_of_the_times():
    """One key for both draws would tie them."""

    def equality(model, x, s, t, *, v, target):
        return v(x, s), s

    term = Term(equality, times.ordered(), distance=lambda eps, s: eps[0] * (s - 2 / 3))
    assert abs(loss(term, jnp.zeros((20_000, 1)))) < 4 * (1 / 18 / 20_000) ** 0.5


def test_self_velocity_is_the_velocity_of_the_trusted_copy_not_of_the_model():
    model, target = disturbed(gaussian(), 0.5), disturbed(gaussian())

    def equality(model, x, s, t, *, v, target):
        return v(x, s), target.velocity(x, s)

    term = Term(equality, times.ordered(), velocity=self_velocity)
    x0 = jnp.ones((4, 2))
    assert term(model, x0, target=target, teacher=None, progress=0.0, key=KEY) == 0
    # with nothing but the right side live, there is nothing to learn
    assert jnp.all(gradient(lambda m: term(m, x0, target=target, teacher=None, progress=0.0, key=KEY), model) == 0)


def test_teacher_velocity_is_the_velocity_of_the_teacher():
    teacher = gaussian()

    def equality(model, x, s, t, *, v, target):
        return v(x, s), teacher.velocity(x, s)

    assert loss(Term(equality, times.ordered(), velocity=teacher_velocity), teacher=teacher) == 0


def test_without_a_teacher_distillation_says_what_to_pass():
    with pytest.raises(ValueError, match="this objective distils: pass teacher="):
        loss(Term(first, times.ordered(), velocity=teacher_velocity))
    with pytest.raises(ValueError, match="pass teacher="):
        Objective((Term(flow_matching, times.ordered(), velocity=teacher_velocity),))(
            gaussian(), jnp.ones((4, 2)), target=None, key=KEY
        )


def test_own_velocity_gives_no_gradient_through_the_target():
    """|V - sg V'|^2 with V' a copy that is 1 away: the gradient is that of the left side only."""
    model, target = disturbed(gaussian(), 0.5), disturbed(gaussian())
    term = Term(flow_matching, times.diagonal(), velocity=self_velocity)
    x0 = jnp.ones((4, 2))
    ours = gradient(lambda m: term(m, x0, target=target, teacher=None, progress=0.0, key=KEY), model)
    pulled = Term(flow_matching, times.diagonal(), velocity=self_velocity, distance=lambda left, right: jnp.sum(left))
    by_hand = gradient(lambda m: pulled(m, x0, target=target, teacher=None, progress=0.0, key=KEY), model)
    assert jnp.allclose(ours, 2 * 0.5 * by_hand, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", LAWS)
def test_loss_and_gradient_are_finite_under_every_law(name):
    model = AverageVelocityMap(small_net())
    term = Term(mean_flow, LAWS[name], velocity=conditional, distance=adaptive(0.75))
    x0 = jax.random.normal(KEY, (32, 2))
    assert jnp.all(jnp.isfinite(gradient(lambda m: loss(term, x0, m), model)))


def test_a_term_is_named_after_its_equality():
    assert Term(mean_flow, times.ordered()).name == "mean_flow"


def test_the_law_is_told_the_progress():
    def law(key, n, progress):
        return jnp.full(n, progress), jnp.zeros(n)

    def source_time(model, x, s, t, *, v, target):
        return s, s

    objective = Objective((Term(source_time, law, distance=lambda left, right: left),))
    assert objective(None, jnp.ones((4, 2)), target=None, progress=0.75, key=KEY)[0] == pytest.approx(0.75)


def test_two_terms_of_one_equality_are_both_logged():
    terms = (Term(first, at_the_data, share=0.5), Term(first, times.ordered(), share=0.5))
    _, means = Objective(terms)(None, jnp.ones((4, 2)), target=None, key=KEY)
    assert len(means) == 2


def reading(noise_of, draws):
    """What two terms of these draws see: their mean losses, for a distance that is the noise or the source time."""
    terms = tuple(
        Term(equality, times.diagonal(), distance=noise_of, draw=draw)
        for equality, draw in zip((noise, source), draws, strict=True)
    )
    _, means = Objective(terms)(None, jnp.zeros((4, 2)), target=None, key=KEY)
    return means["noise"], means["source"]


def noise(model, x, s, t, *, v, target):
    return v(x, s), s


def source(model, x, s, t, *, v, target):
    return v(x, s), s


@pytest.mark.parametrize("read", [lambda eps, s: eps[0], lambda eps, s: s], ids=["noise", "times"])
def test_terms_of_one_draw_see_the_same_noise_and_times(read):
    first, second = reading(read, (3, 3))
    assert first == second
    for draws in [(None, None), (0, 1), (1, None), (5, None)]:
        first, second = reading(read, draws)
        # a draw of 1 is that of the term in second place, so (1, None) is one draw again
        assert (first == second) == (draws == (1, None))


def test_on_one_draw_a_law_to_the_data_shares_its_source_with_the_diagonal():
    """As FACM's two terms do: one marginal, one draw, so the teacher is asked once for both."""
    marginal = times.arctan()
    terms = (
        Term(noise, times.diagonal(marginal), distance=lambda eps, s: s, draw=0),
        Term(source, times.to_data(marginal), distance=lambda eps, s: s, draw=0),
    )
    _, means = Objective(terms)(None, jnp.zeros((4, 2)), target=None, key=KEY)
    assert means["noise"] == means["source"]


def test_a_bound_equality_is_named_after_what_it_binds():
    assert Term(eqx.Partial(mean_flow, solver=None), times.ordered()).name == "mean_flow"


def test_a_condition_is_drawn_per_row_and_binds_model_target_and_teacher():
    """An equality that compares the three at the term's own draw: the student's scale is its teacher's."""
    model = AverageVelocityMap(lively(ResidualMLP(2, 16, 1, conditions=1, key=jax.random.key(3))))
    teacher = GuidedMap(gaussian(), TangentMap(lambda x, t: 0.5 * x))

    def uniform_from_one(context):
        return jax.random.uniform(context.key, minval=1.0, maxval=3.0)

    def compared(model, x, s, t, *, v, target):
        scale = model.condition  # the target's too, as its velocity shows
        return model.velocity(x, s), target.velocity(x, s) + v(x, s) - teacher.condition_on(scale).velocity(x, s)

    term = Term(compared, times.diagonal(), velocity=teacher_velocity, condition=uniform_from_one)
    assert loss(term, model=model, teacher=teacher) < 1e-20

    def read(model, x, s, t, *, v, target):
        return model.condition, jnp.zeros(())

    condition = {"condition": lambda context: jax.random.uniform(context.key)}
    draw = Term(read, times.diagonal(), **condition, distance=lambda left, right: left**2)
    mean_square = loss(draw, jnp.ones((4000, 2)), model=model, teacher=teacher)
    assert mean_square == pytest.approx(1 / 3, abs=0.02)  # 4,000 draws: not one for the whole batch


def test_a_batch_that_leaves_a_term_without_rows_is_refused():
    """Its mean would be that of nothing."""
    terms = Term(mean_flow, times.ordered(), share=0.95), Term(flow_matching, times.diagonal(), share=0.05)
    model = AverageVelocityMap(ResidualMLP(2, 8, 1, key=jax.random.key(0)))
    with pytest.raises(ValueError, match="a batch of 8 rows leaves none for flow_matching: shares 0.95, 0.05"):
        Objective(terms)(model, jnp.zeros((8, 2)), target=model, key=jax.random.key(0))
