"""Whether a number is one that can be: asked where things are made, of what is known then.

Never of what is traced, and never while something runs: a check costs nothing and changes no bit.
"""

import math
import numbers

import jax
import numpy as np

Bound = float | int


def check(
    what: str,
    value,
    *,
    whole: bool = False,
    least: Bound = -math.inf,
    above: Bound = -math.inf,
    most: Bound = math.inf,
    below: Bound = math.inf,
) -> None:
    """Raise ValueError, as "`what` must be in [0, 1], not 2", unless the value is a finite number in these bounds.

    Passed over is what is known only later, or in more than one number: what is traced, a curriculum, an array.
    """
    if callable(value) or isinstance(value, jax.core.Tracer) or getattr(value, "ndim", 0):
        return
    number = value.item() if hasattr(value, "item") else value
    kind = numbers.Integral if whole else numbers.Real
    if not (isinstance(number, kind) and math.isfinite(number) and least <= number <= most and above < number < below):
        raise ValueError(f"{what} must be {wanted(whole, least, above, most, below)}, not {number!r}")


def check_ordered(what: str, values) -> None:
    """Raise ValueError unless the values rise or fall (they may stand still). Passed over is what is traced."""
    if isinstance(values, jax.core.Tracer):
        return
    values = np.asarray(values)
    steps = np.diff(values)
    if not values.size or np.isnan(values).any() or not (np.all(steps >= 0) or np.all(steps <= 0)):
        shown = np.array2string(values, precision=4, threshold=6, edgeitems=3, separator=", ").replace("\n", "")
        raise ValueError(f"{what} must rise or fall, not {shown}")


def wanted(whole: bool, least: Bound, above: Bound, most: Bound, below: Bound) -> str:
    """The bounds in words, e.g. "in [0, 1)" or "a whole number of at least 1"."""
    low, high = max(least, above), min(most, below)
    if math.isinf(high):
        bounds = "finite" if math.isinf(low) else f"at least {low:g}" if low == least else f"above {low:g}"
    else:
        bounds = f"in {'[' if low == least else '('}{low:.17g}, {high:.17g}{']' if high == most else ')'}"
    if not whole:
        return bounds
    return f"a whole number {'of ' if bounds.startswith('at') else ''}{bounds}"
