"""What a replication recorded, and whether a rerun still agrees with it.

Beside every `replications/<paper>.ipynb` lies `<paper>.json`. Per preset (a named set of parameters) it keeps each
metric over K seeds, its band, and the verdicts on the paper's claims. The band is where ONE more run is expected,

    mean +- (t_{0.995, K-1} * sd * sqrt(1 + 1/K) + FLOOR * |mean|),

so that any seed on any machine should fall inside; an integer cost has no band and must be equal. `check`, the last
cell of every notebook, prints what was recorded and never the fresh value while that is in band: the text is the same
on every machine, and any change of it is news. The fresh values travel in the metadata of that output, where
`ci/replicate record` finds them.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from flowcore.recording.bands import FLOOR, band, summary
from flowcore.recording.claims import VERDICTS, Claim, Table, table
from flowcore.recording.files import (
    DEFAULT_PRESET,
    FAMILIES,
    METRICS,
    RecordError,
    is_number,
    part_of,
    read,
    validate,
    write,
    write_whole,
)
from flowcore.recording.provenance import provenance

__all__ = [
    "DEFAULT_PRESET",
    "FAMILIES",
    "FLOOR",
    "METRICS",
    "MIME",
    "VERDICTS",
    "Claim",
    "OutOfBand",
    "RecordError",
    "Table",
    "band",
    "check",
    "is_number",
    "part_of",
    "provenance",
    "read",
    "summary",
    "table",
    "validate",
    "write",
    "write_whole",
]

MIME = "application/vnd.flowmaps.record+json"


class OutOfBand(AssertionError):
    """A rerun that disagrees with its record; the message names every metric and claim that does."""


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
