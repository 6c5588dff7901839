"""Where one more run is expected: the prediction interval of a metric over K seeds, and the drift between machines.

mean +- (t_{0.995, K-1} * sd * sqrt(1 + 1/K) + FLOOR * |mean|)
"""

import math
from collections.abc import Sequence

# The relative drift allowed between machines, on top of the spread over seeds. Measured: at most 0.015 % over the
# metrics of mean_flow (one core; AVX2 instead of AVX-512), 0.4 % for a chaotic run without fused multiply-add. The rest
# is room for processors that were not at hand; it may not be raised to make a red check green.
FLOOR = 0.01


def band(values: Sequence[int | float]) -> tuple[float, float, tuple[float, float]]:
    """(mean, standard deviation, (low, high)) of K >= 3 runs; the interval is the one in the module's docstring.
    Raises ValueError for fewer runs."""
    from scipy import stats  # here, because it is slow to import and notebooks only check

    count = len(values)
    if count < 3:
        raise ValueError(f"a band needs at least 3 seeds, not {count}")
    mean = math.fsum(values) / count
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    reach = float(stats.t.ppf(0.995, count - 1)) * spread * math.sqrt(1 + 1 / count) + FLOOR * abs(mean)
    return mean, spread, (mean - reach, mean + reach)


def summary(name: str, values: Sequence[int | float]) -> dict:
    """The JSON entry of one metric over its seeds. The same integer in every seed is exact: its band is None."""
    integers = all(isinstance(value, int) or (name == "cost" and float(value).is_integer()) for value in values)
    if integers and len(set(values)) == 1:
        return {"mean": int(values[0]), "spread": 0.0, "band": None, "seeds": [int(value) for value in values]}
    mean, spread, interval = band(values)
    return {"mean": mean, "spread": spread, "band": list(interval), "seeds": list(values)}
