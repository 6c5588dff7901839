"""What a replication recorded, and whether a rerun still agrees with it.

Beside every `replications/<paper>.ipynb` lies `<paper>.json`. Per preset (a named set of parameters) it keeps each
metric over K seeds, its band, and the verdicts on the paper's claims. The band is where ONE more run is expected,

    mean +- (t_{0.995, K-1} * sd * sqrt(1 + 1/K) + FLOOR * |mean|),

so that any seed on any machine should fall inside; an integer cost has no band and must be equal. `check`, the last
cell of every notebook, prints what was recorded and never the fresh value while that is in band: the text is the same
on every machine, and any change of it is news. The fresh values travel in the metadata of that output, where
`ci/replicate record` finds them.
"""

import datetime
import importlib.metadata
import json
import math
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

MIME = "application/vnd.flowmaps.record+json"
DEFAULT_PRESET = "mixture"
VERDICTS = ("holds", "does not hold here", "not tested")
# The relative drift allowed between machines, on top of the spread over seeds. Measured: at most 0.015 % over the
# metrics of mean_flow (one core; AVX2 instead of AVX-512), 0.4 % for a chaotic run without fused multiply-add. The rest
# is room for processors that were not at hand; it may not be raised to make a red check green.
FLOOR = 0.01


class RecordError(ValueError):
    """A record that cannot be read; the message is one line naming the file and the key."""


class OutOfBand(AssertionError):
    """A rerun that disagrees with its record; the message names every metric and claim that does."""


@dataclass(frozen=True)
class Claim:
    """One checkable claim of a paper, what was measured for it, and one of `VERDICTS` (else ValueError)."""

    claim: str
    measured: str
    verdict: str

    def __post_init__(self):
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict {self.verdict!r} of claim {self.claim!r} must be one of {', '.join(VERDICTS)}")

    @classmethod
    def judged(cls, claim: str, measured: str, holds: bool) -> "Claim":
        """A claim that was tested."""
        return cls(claim, measured, "holds" if holds else "does not hold here")


@dataclass(frozen=True)
class Table:
    """Claims as a table: Markdown in a notebook, aligned text elsewhere."""

    claims: tuple[Claim, ...]

    def _repr_markdown_(self) -> str:
        rows = [[cell.replace("|", "\\|") for cell in asdict(claim).values()] for claim in self.claims]
        return "\n".join(f"| {' | '.join(row)} |" for row in [["claim", "measured", "verdict"], ["---"] * 3, *rows])

    def __repr__(self) -> str:
        return "\n".join(f"{claim.verdict:<18}  {claim.claim}: {claim.measured}" for claim in self.claims)


def table(claims: Sequence[Claim]) -> Table:
    """The claims, ready to be the last expression of a cell."""
    return Table(tuple(claims))


# --- bands ---------------------------------------------------------------------------------------------------------


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


# --- the JSON file -------------------------------------------------------------------------------------------------


def is_number(value: object) -> bool:
    """A finite int or float; a bool is neither."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def validate(record: object, path: Path | str) -> None:
    """Raises RecordError naming `path` and the first key that does not fit the schema."""

    def need(fits: bool, key: str, what: str):
        if not fits:
            raise RecordError(f"{path}: {key} must be {what}")

    need(isinstance(record, dict), "the record", "an object with title, url and presets")
    for key in ("title", "url"):
        need(isinstance(record.get(key), str), key, "a string")
    presets = record.get("presets")
    need(isinstance(presets, dict) and DEFAULT_PRESET in presets, "presets", f'an object with a "{DEFAULT_PRESET}"')
    for name, preset in presets.items():
        _validate_preset(preset, f"presets.{name}", need)


def _validate_preset(preset: object, at: str, need) -> None:
    need(isinstance(preset, dict) and isinstance(preset.get("parameters"), dict), f"{at}.parameters", "an object")
    need("seed" not in preset["parameters"], f"{at}.parameters", "without seed: a band holds for every seed")
    for key in preset:
        known = ("parameters", "metrics", "claims", "recorded")
        need(key in known, f"{at}.{key}", f"one of {', '.join(known)}")
    if len(preset) == 1:
        return  # not recorded yet
    for key, kind in (("metrics", dict), ("claims", list), ("recorded", dict)):
        need(isinstance(preset.get(key), kind), f"{at}.{key}", "an object" if kind is dict else "a list")
    for key in ("date", "device"):
        need(isinstance(preset["recorded"].get(key), str), f"{at}.recorded.{key}", "a string")
    for name, metric in preset["metrics"].items():
        _validate_metric(metric, f"{at}.metrics.{name}", need)
    for index, claim in enumerate(preset["claims"]):
        _validate_claim(claim, f"{at}.claims[{index}]", need)


def _validate_metric(metric: object, at: str, need) -> None:
    keys = ("mean", "spread", "band", "seeds")
    need(isinstance(metric, dict) and set(metric) == set(keys), at, f"an object with {', '.join(keys)}")
    for key in ("mean", "spread"):
        need(is_number(metric[key]), f"{at}.{key}", "a finite number")
    limits, seeds = metric["band"], metric["seeds"]
    pair = isinstance(limits, list) and len(limits) == 2 and all(map(is_number, limits)) and limits[0] <= limits[1]
    need(limits is None or pair, f"{at}.band", "null or [low, high]")
    need(isinstance(seeds, list) and len(seeds) > 0 and all(map(is_number, seeds)), f"{at}.seeds", "a list of numbers")


def _validate_claim(claim: object, at: str, need) -> None:
    keys = ("claim", "measured", "verdict", "agree")
    texts = isinstance(claim, dict) and set(claim) == set(keys) and all(isinstance(claim[key], str) for key in keys)
    need(texts, at, f"an object of strings: {', '.join(keys)}")
    need(claim["verdict"] in VERDICTS, f"{at}.verdict", f"one of {', '.join(VERDICTS)}")
    need(re.fullmatch(r"\d+/\d+", claim["agree"]) is not None, f"{at}.agree", 'like "5/5"')


def read(path: Path | str) -> dict:
    """The record in the file. Raises RecordError, one line, when it is missing, not JSON or does not fit the schema."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{path}: there is no such record") from None
    except ValueError as error:
        raise RecordError(f"{path}: not JSON: {error}") from None
    validate(record, path)
    return record


def write(path: Path | str, record: dict) -> None:
    """Validates, then replaces the file."""
    validate(record, path)
    write_whole(path, record)


def write_whole(path: Path | str, content: dict) -> None:
    """Replaces a JSON file in one move: whoever reads it sees the old one or the new one."""
    part = Path(f"{path}.part")
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def provenance() -> dict:
    """Where and with what a record is made, for its `recorded` entry."""
    import jax

    packages = ("jax", "equinox", "optax", "diffrax", "numpy")
    return {
        "date": datetime.date.today().isoformat(),
        "device": _device(jax.devices()[0]),
        "python": platform.python_version(),
        "versions": {package: importlib.metadata.version(package) for package in packages},
    }


def _device(device) -> str:
    if device.platform != "cpu":
        return f"{device.platform} ({device.device_kind})"
    cpus = Path("/proc/cpuinfo")  # `platform.processor()` is empty on Linux
    model = re.search(r"model name\s*:\s*(.+)", cpus.read_text()) if cpus.exists() else None
    return f"cpu ({model[1] if model else platform.machine()}, {os.cpu_count()} cores)"


# --- the check at the end of a notebook ----------------------------------------------------------------------------


def check(
    paper: str, *, parameters: Mapping[str, object], metrics: Mapping[str, object], claims: Sequence[Claim] = ()
) -> None:
    """Compares a run with `<paper>.json` in the current directory and prints the verdict per metric and claim.

    `parameters` may be `globals()`: only names that a preset lists are compared, and `seed` never is. Parameters that
    no preset has are named, and nothing is checked. Raises OutOfBand, after printing, when a metric is outside its
    band, not finite, missing or unknown, or when a verdict on which all seeds agreed has changed.
    """
    metrics = {name: _plain(value) for name, value in metrics.items()}
    place = Path(f"{paper}.json")
    presets = read(place)["presets"] if place.exists() else {}
    name, differences = _nearest_preset(presets, parameters) if presets else (DEFAULT_PRESET, "")
    if not presets:
        lines, failures = [f"{paper}: nothing is checked, there is no {place} beside this notebook yet"], []
    elif differences:
        lines = [f"{paper}: nothing is checked, no preset has these parameters (nearest, {name}: {differences})"]
        failures = []
    elif "metrics" not in presets[name]:
        lines, failures = [f"{paper}: nothing is checked, preset {name} is not recorded yet"], []
    else:
        lines, failures = _compare(f"{paper}, preset {name}", presets[name], metrics, claims)
    _publish("\n".join(lines), {"metrics": metrics, "claims": [asdict(claim) for claim in claims]})
    if failures:
        raise OutOfBand("; ".join(failures))


def _plain(value: object) -> object:
    """A Python number where it is a finite one, else its text: JSON has no nan."""
    value = value.item() if hasattr(value, "item") else value
    return value if is_number(value) else str(value)


def _nearest_preset(presets: dict, parameters: Mapping[str, object]) -> tuple[str, str]:
    """The preset with the fewest differences, and these in words: '' when there is none."""

    def differences(preset: dict) -> list[str]:
        here = {name: json.loads(json.dumps(parameters.get(name), default=str)) for name in preset["parameters"]}
        return [f"{k} = {here[k]!r}, not {was!r}" for k, was in preset["parameters"].items() if here[k] != was]

    found = {name: differences(preset) for name, preset in presets.items()}
    nearest = min(found, key=lambda name: len(found[name]))
    return nearest, "; ".join(found[nearest])


def _compare(title: str, preset: dict, metrics: dict, claims: Sequence[Claim]) -> tuple[list[str], list[str]]:
    """Lines to print and failures, of metrics and then of claims."""
    was = preset["recorded"]
    lines, failures = [f"{title}, recorded {was['date']} on {was['device']}"], []
    width = max(map(len, [*preset["metrics"], *metrics, "metric"]))
    lines.append(f"{'metric':<{width}}  {'recorded':>10}  band")
    for name in [*preset["metrics"], *(name for name in metrics if name not in preset["metrics"])]:
        shown, verdict = _judge_metric(preset["metrics"].get(name), metrics, name)
        lines.append(f"{name:<{width}}  {shown}  {verdict}")
        failures += [f"{name}: {verdict}"] if verdict != "ok" else []
    wrong = len(failures)
    verdicts = {claim.claim: claim.verdict for claim in claims}
    recorded = {claim["claim"]: claim for claim in preset["claims"]}
    outcomes = {text: _judge_claim(recorded.get(text), verdicts.get(text)) for text in [*recorded, *verdicts]}
    width = max(map(len, outcomes.values()), default=0)
    lines += [f"{outcome:<{width}}  {text}" for text, outcome in outcomes.items()]
    changed = {text: outcome for text, outcome in outcomes.items() if "CHANGED" in outcome}
    failures += [f"claim {text!r}: {outcome}" for text, outcome in changed.items()]
    total = len(preset["metrics"].keys() | metrics.keys())
    kept = f"{len(outcomes) - len(changed)} of {len(outcomes)} claims as recorded"
    return [*lines, f"{total - wrong} of {total} metrics in band, {kept}"], failures


def _judge_metric(recorded: dict | None, metrics: dict, name: str) -> tuple[str, str]:
    """Columns `recorded` and `band`, and the verdict: 'ok' or what is wrong."""
    if recorded is None:
        return f"{'-':>10}  {'-':<24}", f"measured {_short(metrics[name])} NOT RECORDED"
    low, high = recorded["band"] or (recorded["mean"], recorded["mean"])
    limits = f"[{low:.4g}, {high:.4g}]" if recorded["band"] else "exact"
    shown = f"{recorded['mean']:>10.4g}  {limits:<24}"
    if name not in metrics:
        return shown, "NOT MEASURED"
    value = metrics[name]
    return shown, "ok" if is_number(value) and low <= value <= high else f"measured {_short(value)} OUT OF BAND"


def _judge_claim(recorded: dict | None, verdict: str | None) -> str:
    if recorded is None or verdict is None:
        return f"CHANGED: {'not recorded' if recorded is None else 'no longer claimed'}"
    agreed, seeds = recorded["agree"].split("/")
    if agreed != seeds:
        return f"varies over seeds ({recorded['verdict']} {recorded['agree']})"
    if verdict != recorded["verdict"]:
        return f"CHANGED from {recorded['verdict']!r} ({recorded['agree']}) to {verdict!r}"
    return f"{verdict} ({recorded['agree']}) ok"


def _short(value: object) -> str:
    return f"{value:.4g}" if is_number(value) else str(value)


def _publish(text: str, fresh: dict) -> None:
    """One output: the text, which must not change from machine to machine, and the fresh values in its metadata."""
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None:
        sys.modules["IPython"].display.display({"text/plain": text}, metadata={MIME: fresh}, raw=True)
    else:
        print(text)
