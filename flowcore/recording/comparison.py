"""Two numbers measured over the same seeds, their ratio with its interval, and what that says of a claim.

Seeds are paired: both runs of a seed share their data and noise, and what these do to both cancels in the ratio. The
interval is Student's, of the mean log-ratio over K seeds,

    mean +- t_{0.975, K-1} sd / sqrt(K),        r_i = log(a_i / b_i),

so it is an interval of the geometric mean of a / b. A claim is supported when the whole interval lies where its margin
asks (`margins`), contradicted when all of it lies where the claim is refuted, and else unresolved; either must hold
when the interval is moved by what a rerun is allowed to move (`SLACK`). So `same` by one
interval of 95 % is two one-sided tests at 2.5 % each, stricter than the usual two at 5 %, which take one of 90 %.
"""

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import SupportsFloat

from flowcore.recording.bands import moments
from flowcore.recording.margins import CONFIDENCE, CONTRADICTED, MARGINS, REFUTED, SLACK, SUPPORTED, UNRESOLVED


@dataclass(frozen=True)
class Comparison:
    """The ratio a / b (its geometric mean over the seeds), its interval, and the verdict on a margin."""

    ratio: float
    interval: tuple[float, float]
    margin: str
    verdict: str
    seeds: int


def compare(
    a: Sequence[float],
    b: Sequence[float] | SupportsFloat,
    margin: str,
    floor: SupportsFloat = 0.0,
    slack: SupportsFloat = SLACK,
) -> Comparison:
    """Is a better than (much better than, the same as) b? `a` and `b` are positive numbers of the same seeds, in their
    order; `b` may be one number, a ruler that has no seed (of Python, NumPy or JAX).

    What is below the `floor` of its metric is known to be small and no more. It counts as the floor, so that the ratio
    of a seed lies nearer to one than the truth may: what that could have decided is unresolved.

    `slack` is what a rerun may move the logarithm of the ratio by: the verdict is the one that survives it.

    Raises ValueError for an unknown margin, for fewer than three seeds, for other numbers of them, for numbers that
    are not positive and finite, and for a ratio that does not vary over the seeds.
    """
    if margin not in MARGINS:
        raise ValueError(f"no margin {margin!r}; there are {', '.join(MARGINS)}")
    b = b.item() if getattr(b, "ndim", None) == 0 else b
    b = [b] * len(a) if isinstance(b, numbers.Real) else list(b)
    if len(a) != len(b):
        raise ValueError(f"seeds are compared in pairs: there are {len(a)} and {len(b)}")
    below_a, below_b = (any(value <= floor for value in side) if floor > 0 else False for side in (a, b))
    a, b = ([max(value, floor) if math.isfinite(value) else value for value in side] for side in (a, b))
    if wrong := [value for value in (*a, *b) if not (math.isfinite(value) and value > 0)]:
        raise ValueError(f"only positive numbers have a ratio, not {wrong[0]}: compare a difference with its own ruler")
    ratios = [math.log(x / y) for x, y in zip(a, b, strict=True)]
    low, mean, high = interval(ratios)
    if max(ratios) - min(ratios) < 1e-12 and not (below_a or below_b):
        raise ValueError(
            "the ratio is the same in every seed: what does not vary is an identity, and belongs to a test"
        )
    lowest, highest = MARGINS[margin]
    inside = (lowest == 0 or low - slack > math.log(lowest)) and high + slack < math.log(highest)
    outside = (lowest > 0 and high + slack < math.log(lowest)) or low - slack > math.log(REFUTED[margin])
    verdict = SUPPORTED if inside else CONTRADICTED if outside else UNRESOLVED
    nearness = SUPPORTED if margin == "same" else CONTRADICTED  # the verdict that a ratio near to one gives
    if (below_a and below_b) or (verdict == nearness and (below_a if margin != "same" else below_a or below_b)):
        verdict = UNRESOLVED
    return Comparison(math.exp(mean), (math.exp(low), math.exp(high)), margin, verdict, len(a))


def interval(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """(low, mean, high): Student's interval of the mean. Raises ValueError for fewer than three values."""
    from scipy import stats  # here, because it is slow to import and notebooks only check

    count = len(values)
    if count < 3:
        raise ValueError(f"an interval needs at least 3 seeds, not {count}")
    mean, spread = moments(values)
    reach = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * spread / math.sqrt(count)
    return mean - reach, mean, mean + reach


def agree(*verdicts: str) -> str:
    """One verdict of several budgets or grounds: theirs where they agree, and unresolved where they do not. Raises
    ValueError for none."""
    if not verdicts:
        raise ValueError("there are no verdicts to agree: give one for each budget or ground")
    return verdicts[0] if len(set(verdicts)) == 1 else UNRESOLVED
