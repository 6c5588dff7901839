"""The statistics that judge claims: by simulation, where it is known what they should say."""

import jax.numpy as jnp
import numpy as np
import pytest

from flowcore.recording.comparison import agree, compare, interval
from flowcore.recording.margins import CONFIDENCE, MARGINS, REFUTED, SLACK, VERDICTS

RUNS = 2000


def pairs(ratio, seeds, rng, spread=0.1, shared=0.5):
    """a and b of a true ratio, with what seeds do to both and what they do to one."""
    common = np.exp(shared * rng.standard_normal((RUNS, seeds)))
    own = np.exp(spread * rng.standard_normal((2, RUNS, seeds)))
    return ratio * common * own[0], common * own[1]


def verdicts(ratio, margin, seeds=8, **settings):
    """How often each verdict falls, over many experiments."""
    a, b = pairs(ratio, seeds, np.random.default_rng(0), **settings)
    found = [compare(list(x), list(y), margin).verdict for x, y in zip(a, b, strict=True)]
    return {verdict: found.count(verdict) / RUNS for verdict in ("supported", "contradicted", "unresolved")}


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_the_interval_covers_the_true_ratio_as_often_as_it_says(seeds):
    a, b = pairs(0.8, seeds, np.random.default_rng(1))
    found = [compare(list(x), list(y), "better").interval for x, y in zip(a, b, strict=True)]
    covered = np.mean([low < 0.8 < high for low, high in found])
    assert abs(covered - 0.95) < 4 * (0.95 * 0.05 / RUNS) ** 0.5


@pytest.mark.parametrize("margin", MARGINS)
def test_at_the_edge_of_a_margin_a_wrong_verdict_is_rare(margin):
    """The size of the tests: with a true ratio at the edge, either verdict is given in at most 2.5 % of experiments."""
    for edge in (*MARGINS[margin], REFUTED[margin]):
        if edge > 0:
            found = verdicts(edge, margin)
            limit = 0.025 + 4 * (0.025 * 0.975 / RUNS) ** 0.5
            assert found["supported"] < limit and found["contradicted"] < limit


@pytest.mark.parametrize(
    ("ratio", "margin", "expected"),
    [
        (0.7, "better", "supported"),
        (1.1, "better", "contradicted"),
        (1.0, "same", "supported"),
        (1.3, "same", "contradicted"),
        (0.75, "same", "contradicted"),
        (0.35, "much better", "supported"),
        (0.7, "much better", "unresolved"),
        (1.0, "much better", "contradicted"),
        (0.95, "better", "unresolved"),
    ],
)
def test_what_is_far_from_the_edge_is_told(ratio, margin, expected):
    assert verdicts(ratio, margin, spread=0.04)[expected] > 0.9


def test_pairing_is_what_tells_them_apart():
    """The seeds move both by half of their size: unpaired, a difference of a fifth would drown."""
    assert verdicts(0.8, "better", spread=0.03)["supported"] > 0.95
    a, b = pairs(0.8, 8, np.random.default_rng(0), spread=0.03)
    b = b[:, np.random.default_rng(2).permutation(8)]
    found = [compare(list(x), list(y), "better").verdict for x, y in zip(a, b, strict=True)]
    assert found.count("supported") / RUNS < 0.3


def test_few_noisy_seeds_are_unresolved():
    assert verdicts(0.85, "better", seeds=3, spread=0.3)["unresolved"] > 0.8


def test_changing_sides_changes_the_sign():
    a, b = [1.0, 1.1, 0.9, 1.2], [2.0, 2.1, 1.9, 2.3]
    there, back = compare(a, b, "better"), compare(b, a, "better")
    assert there.ratio == pytest.approx(1 / back.ratio)
    assert there.interval == pytest.approx((1 / back.interval[1], 1 / back.interval[0]))
    assert (there.verdict, back.verdict) == ("supported", "contradicted")


def test_a_ruler_has_no_seed():
    found = compare([1.0, 1.1, 0.9], 3.2, "much better")
    for scalar in (np.float64(3.2), np.array(3.2), jnp.asarray(3.2)):
        assert compare([1.0, 1.1, 0.9], scalar, "much better") == found
    for scalar in (np.float32(3.2), jnp.float32(3.2)):
        assert compare([1.0, 1.1, 0.9], scalar, "much better").ratio == pytest.approx(found.ratio, rel=1e-6)
    assert found.verdict == "supported" and found.ratio == pytest.approx(0.31, abs=0.01)


def test_the_interval_is_students():
    low, mean, high = interval([1.0, 2.0, 3.0])
    assert mean == 2 and high - mean == pytest.approx(4.302653 / 3**0.5, rel=1e-6) and mean - low == high - mean


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([1.0] * 3, [1.0] * 3, "faster"), "no margin 'faster'; there are better, much better, same"),
        (([1.0] * 3, [1.0] * 4, "same"), "in pairs: there are 3 and 4"),
        (([1.0] * 2, [1.0] * 2, "same"), "at least 3 seeds, not 2"),
        (([1.0, 0.0, 1.0], 1.0, "same"), "only positive numbers have a ratio, not 0.0"),
        (([1.0, float("nan"), 1.0], 1.0, "same"), "not nan"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        compare(*arguments)


def test_the_same_is_two_one_sided_tests_at_a_fortieth():
    """The verdict `same` against scipy's t-tests of each edge."""
    from scipy import stats

    low, high = np.log(MARGINS["same"]) + np.array([SLACK, -SLACK])
    told = set()
    for shift in np.linspace(0, 0.1, 60):
        ratios = shift + 0.05 * np.array([-1.2, 0.3, -0.4, 1.1, 0.2])
        above = stats.ttest_1samp(ratios, low, alternative="greater").pvalue
        below = stats.ttest_1samp(ratios, high, alternative="less").pvalue
        same = compare(list(np.exp(ratios)), 1.0, "same").verdict == "supported"
        assert same == (max(above, below) < (1 - CONFIDENCE) / 2)
        told.add(same)
    assert told == {True, False}


def test_no_verdicts_do_not_agree():
    with pytest.raises(ValueError, match="no verdicts to agree"):
        agree()


def test_every_verdict_is_one_of_the_margins():
    found = [compare(a, 1.0, "better").verdict for a in ([0.1, 0.11, 0.1], [2.0, 2.1, 2.0], [0.1, 1.0, 9.0])]
    assert found == list(VERDICTS[:3])


def test_budgets_that_disagree_leave_a_claim_unresolved():
    assert agree("supported", "supported") == "supported"
    assert agree("supported", "contradicted") == agree("contradicted", "unresolved") == "unresolved"


def test_the_margins_are_those_that_the_records_were_judged_by():
    """Whoever moves one judges every record anew, and says so."""
    assert MARGINS == {"better": (0.0, 0.9), "much better": (0.0, 0.5), "same": (0.9, 1 / 0.9)}
    assert REFUTED == {"better": 1.0, "much better": 0.9, "same": 1 / 0.9} and (CONFIDENCE, SLACK) == (0.95, 0.01)


def test_a_verdict_survives_what_a_rerun_may_move():
    a = [0.889, 0.890, 0.891]
    assert compare(a, [1.0, 1.0, 1.0], "better").interval[1] < 0.9
    assert compare(a, [1.0, 1.0, 1.0], "better").verdict == "unresolved"
    assert compare([value - 0.01 for value in a], [1.0, 1.0, 1.0], "better").verdict == "supported"


def test_what_does_not_vary_over_the_seeds_is_no_finding():
    with pytest.raises(ValueError, match="the same in every seed: what does not vary is an identity"):
        compare([4.0, 4.0, 4.0], 8.0, "better")
