"""Where a rerun is expected: near to the value of its own seed, or in the band of another.

The prediction interval of one more run, from K seeds, in logarithms where all values are positive:

    mean +- (t_{0.995, K-1} * sd * sqrt(1 + 1/K) + FLOOR * |mean|)

A rerun of a recorded seed must agree with that seed to max(FLOOR * |value|, DRIFTS * drift), where the drift is what
the value moved by when the machine was set up in other ways (`ci/replicate record` tries them).
"""

import math
import re
from collections.abc import Mapping, Sequence

# The relative drift allowed between machines, on top of the spread over seeds. Measured: at most 0.015 % over the
# metrics of mean_flow (one core; AVX2 instead of AVX-512), 0.4 % for a chaotic run without fused multiply-add. The rest
# is room for processors that were not at hand; it may not be raised to make a red check green.
FLOOR = 0.01
DRIFTS = 3


def band(values: Sequence[int | float]) -> tuple[float, float, tuple[float, float]]:
    """(mean, standard deviation, (low, high)) of K >= 3 runs; the interval is the one in the module's docstring.
    Raises ValueError for fewer runs."""
    if len(values) < 3:
        raise ValueError(f"a band needs at least 3 seeds, not {len(values)}")
    mean, spread = moments(values)
    if min(values) <= 0:
        reach = prediction(values) + FLOOR * abs(mean)
        return mean, spread, (mean - reach, mean + reach)
    logs = [math.log(value) for value in values]
    middle, reach = moments(logs)[0], prediction(logs)
    return mean, spread, (math.exp(middle - reach) * (1 - FLOOR), math.exp(middle + reach) * (1 + FLOOR))


def moments(values: Sequence[int | float]) -> tuple[float, float]:
    """Mean and standard deviation."""
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def prediction(values: Sequence[int | float]) -> float:
    """Half the width of the interval in which one more value is expected, 99 times in 100."""
    from scipy import stats  # here, because it is slow to import and notebooks only check

    count = len(values)
    return float(stats.t.ppf(0.995, count - 1)) * moments(values)[1] * math.sqrt(1 + 1 / count)


def summary(name: str, values: Sequence[int | float], drift: float | None = None) -> dict:
    """The JSON entry of one metric over its seeds. The same integer in every seed is exact: its band is None."""
    measured = {} if drift is None else {"drift": drift}
    integers = all(isinstance(value, int) or (name == "cost" and float(value).is_integer()) for value in values)
    if integers and len(set(values)) == 1:
        return {"mean": int(values[0]), "spread": 0.0, "band": None, "seeds": [int(v) for v in values], **measured}
    mean, spread, interval = band(values)
    return {"mean": mean, "spread": spread, "band": list(interval), "seeds": list(values), **measured}


def tolerance(value: int | float, drift: int | float) -> float:
    """How far a rerun of the same seed may be from its value."""
    return max(FLOOR * abs(value), DRIFTS * drift)


def pooled_drifts(entries: Mapping[str, dict]) -> dict[str, float]:
    """Name -> drift of each entry that has one, at least what its run drifts by in units of the spread over seeds.

    A chaotic run under another set-up is another run, as of another seed; that one of its numbers came out near to what
    it was is luck. Of one run are the metrics with one first word, as lmd_endpoint_error_1, and the entries of a
    statistic that differ in their number of steps, as "LMD, 1 step"."""
    measured = {name: entry for name, entry in entries.items() if "drift" in entry and len(entry["seeds"]) > 1}
    spreads = {name: moments(entry["seeds"])[1] for name, entry in measured.items()}
    runs = {name: re.sub(r", \d+ steps?$", "", name).split("_")[0] for name in measured}
    chaos = {run: 0.0 for run in runs.values()}
    for name, entry in measured.items():
        if spreads[name] > 0:
            chaos[runs[name]] = max(chaos[runs[name]], entry["drift"] / spreads[name])
    return {name: max(entry["drift"], chaos[runs[name]] * spreads[name]) for name, entry in measured.items()}


def drift(value: int | float, others: Sequence[int | float]) -> float:
    """The largest distance to the value of the same seed under other set-ups."""
    return max((abs(other - value) for other in others), default=0.0)
