"""The JSON file beside a notebook: its schema, reading it, and replacing it in one move.

    {"title", "url", "family", "presets": {name: {"parameters", "metrics", "statistics", "claims", ..., "recorded"}}}

The family says what the replication is a replication of, and with it which metrics it must record (`METRICS`). The
first preset is the default: the values that stand in the notebook.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path

from flowcore.recording import judgements
from flowcore.recording.margins import MARGINS, OUT_OF_SCOPE, VERDICTS

DEFAULT_PRESETS = ("garments", "mixture")  # the first of a record; the second of those that state no margins yet
FAMILIES = ("flow map", "velocity", "distribution", "steering", "discrete", "manifold", "likelihood")
METRICS = {  # what a record of a family cannot do without, beside `cost`
    "flow map": ("endpoint_error_1", "energy_distance"),
    "velocity": ("endpoint_error_1", "energy_distance"),
    "distribution": ("endpoint_error_1", "energy_distance"),
    "steering": ("energy_distance",),
    "discrete": ("total_variation",),
    "manifold": ("energy_distance",),
    "likelihood": ("log_density_error_1",),
}
REMEDY = "restore it from git, or record anew"


class RecordError(ValueError):
    """A record that cannot be read; the message is one line naming the file, the key and the remedy."""


def default_preset(record: Mapping) -> str:
    """The name of the preset that stands in the notebook."""
    return next(iter(record["presets"]))


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
    need(record.get("family", FAMILIES[0]) in FAMILIES, "family", f"one of {', '.join(FAMILIES)}")
    presets = record.get("presets")
    first = next(iter(presets), None) if isinstance(presets, dict) else None
    need(first in DEFAULT_PRESETS, "presets", f"an object whose first entry is one of {', '.join(DEFAULT_PRESETS)}")
    for name, preset in presets.items():
        _validate_preset(preset, f"presets.{name}", need)


def _validate_preset(preset: object, at: str, need) -> None:
    need(isinstance(preset, dict) and isinstance(preset.get("parameters"), dict), f"{at}.parameters", "an object")
    need("seed" not in preset["parameters"], f"{at}.parameters", "without seed: a band holds for every seed")
    for key in preset:
        known = ("parameters", "metrics", "statistics", "claims", "fingerprint", "code", "recorded")
        need(key in known, f"{at}.{key}", f"one of {', '.join(known)}")
    if len(preset) == 1:
        return  # not recorded yet
    for key, kind in (("metrics", dict), ("claims", list), ("recorded", dict)):
        need(isinstance(preset.get(key), kind), f"{at}.{key}", "an object" if kind is dict else "a list")
    for name, values in preset.get("fingerprint", {}).items():
        need(isinstance(values, list) and all(map(is_number, values)), f"{at}.fingerprint.{name}", "a list of numbers")
    hashes = preset.get("code", {})
    texts = isinstance(hashes, dict) and all(isinstance(value, str) for value in hashes.values())
    need(texts, f"{at}.code", "an object of strings")
    for key in ("date", "device"):
        need(isinstance(preset["recorded"].get(key), str), f"{at}.recorded.{key}", "a string")
    for name, metric in preset["metrics"].items():
        _validate_metric(metric, f"{at}.metrics.{name}", need)
    for statistic, entries in preset.get("statistics", {}).items():
        need(isinstance(entries, dict), f"{at}.statistics.{statistic}", "an object")
        for name, entry in entries.items():
            _validate_statistic(entry, f"{at}.statistics.{statistic}.{name}", need)
    entries = [entry for group in preset.get("statistics", {}).values() for entry in group.values()]
    counts = {len(entry["seeds"]) for entry in [*preset["metrics"].values(), *entries]}
    need(len(counts) <= 1, f"{at}", f"of one number of seeds in all its metrics and statistics, not {sorted(counts)}")
    for index, claim in enumerate(preset["claims"]):
        validate_one = _validate_claim if isinstance(claim, dict) and "id" in claim else _validate_judgement
        validate_one(claim, f"{at}.claims[{index}]", need)


def _validate_metric(metric: object, at: str, need) -> None:
    keys = {"mean", "spread", "band", "seeds"}
    need(isinstance(metric, dict) and set(metric) - {"drift"} == keys, at, "an object with mean, spread, band, seeds")
    for key in ("mean", "spread"):
        need(is_number(metric[key]), f"{at}.{key}", "a finite number")
    limits = metric["band"]
    pair = isinstance(limits, list) and len(limits) == 2 and all(map(is_number, limits)) and limits[0] <= limits[1]
    need(limits is None or pair, f"{at}.band", "null or [low, high]")
    _validate_seeds(metric, at, need)


def _validate_statistic(entry: object, at: str, need) -> None:
    need(isinstance(entry, dict) and set(entry) == {"seeds", "drift"}, at, "an object with seeds and drift")
    _validate_seeds(entry, at, need)


def _validate_seeds(entry: dict, at: str, need) -> None:
    seeds = entry["seeds"]
    need(isinstance(seeds, list) and len(seeds) > 0 and all(map(is_number, seeds)), f"{at}.seeds", "a list of numbers")
    drift = entry.get("drift", 0.0)
    need(is_number(drift) and drift >= 0, f"{at}.drift", "a number, not negative")


def _validate_claim(claim: dict, at: str, need) -> None:
    untested = "out_of_scope" in claim
    keys = {"out_of_scope"} if untested else {"statistic", "a", "margin", "b", "ratio", "interval"}
    keys |= {"id", "sentence", "source", "verdict"}
    need(set(claim) == keys, at, f"an object with {', '.join(sorted(keys))}")
    for key in keys - {"ratio", "interval"}:
        need(isinstance(claim[key], str), f"{at}.{key}", "a string")
    need(claim["verdict"] in VERDICTS, f"{at}.verdict", f"one of {', '.join(VERDICTS)}")
    need((claim["verdict"] == OUT_OF_SCOPE) == untested, f"{at}.verdict", f"{OUT_OF_SCOPE!r} with a reason, or another")
    if not untested:
        need(claim["margin"] in MARGINS, f"{at}.margin", f"one of {', '.join(MARGINS)}")
        limits = claim["interval"]
        ordered = isinstance(limits, list) and len(limits) == 2 and all(map(is_number, limits))
        ordered = ordered and is_number(claim["ratio"]) and limits[0] <= claim["ratio"] <= limits[1]
        need(ordered, f"{at}.interval", "[low, high] around the ratio")


def _validate_judgement(claim: object, at: str, need) -> None:
    keys = ("claim", "measured", "verdict", "agree")
    texts = isinstance(claim, dict) and set(claim) == set(keys) and all(isinstance(claim[key], str) for key in keys)
    need(texts, at, f"an object of strings: {', '.join(keys)}")
    need(claim["verdict"] in judgements.VERDICTS, f"{at}.verdict", f"one of {', '.join(judgements.VERDICTS)}")
    need(re.fullmatch(r"\d+/\d+", claim["agree"]) is not None, f"{at}.agree", 'like "5/5"')


def read(path: Path | str) -> dict:
    """The record in the file. Raises RecordError, one line, when it is missing, not JSON or does not fit the schema."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecordError(f"{path}: there is no such record: restore it from git") from None
    except UnicodeDecodeError as error:
        raise RecordError(f"{path}: not UTF-8: {error}: {REMEDY}") from None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path}: not JSON: {error}: {REMEDY}") from None
    try:
        validate(record, path)
    except RecordError as error:
        raise RecordError(f"{error}: {REMEDY}") from None
    return record


def write(path: Path | str, record: dict) -> None:
    """Validates, then replaces the file."""
    validate(record, path)
    write_whole(path, record)


def part_of(path: Path | str) -> Path:
    """The name beside a file to write to before it is replaced: no other process has the same."""
    return Path(f"{path}.{os.getpid()}.part")


def write_whole(path: Path | str, content: dict) -> None:
    """Replaces a JSON file in one move: whoever reads it sees the old one or the new one."""
    part = part_of(path)
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, path)
