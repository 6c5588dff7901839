"""What a replication recorded, and whether a rerun still agrees with it.

Beside every `replications/<paper>.ipynb` lies `<paper>.json`. Per preset (a named set of parameters) it keeps, for each
of K seeds, every metric and every statistic that a claim compares, and the verdicts on the claims. A rerun of one of
these seeds must give *that seed's* numbers again, up to the drift measured between set-ups; that of another seed must
fall into the band (`bands`). An integer cost must be equal.

`check`, the last cell of every notebook, prints what was recorded and never the fresh value while that agrees: the text
is the same on every machine, and any change of it is news. The fresh values travel in the metadata of that output,
where `ci/replicate record` finds them.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path

from flowcore.recording import claims as stated
from flowcore.recording.bands import FLOOR, band, pooled_drifts, summary, tolerance
from flowcore.recording.claims import Claim, Statistics
from flowcore.recording.files import (
    DEFAULT_PRESETS,
    FAMILIES,
    METRICS,
    RecordError,
    default_preset,
    is_number,
    part_of,
    read,
    validate,
    write,
    write_whole,
)
from flowcore.recording.judgements import Judgement, Table, table
from flowcore.recording.margins import VERDICTS
from flowcore.recording.provenance import provenance
from flowcore.recording.result import comparisons, result, result_text

__all__ = [
    "DEFAULT_PRESETS",
    "FAMILIES",
    "FLOOR",
    "METRICS",
    "MIME",
    "VERDICTS",
    "Claim",
    "Judgement",
    "OutOfBand",
    "RecordError",
    "Table",
    "band",
    "check",
    "comparisons",
    "default_preset",
    "is_number",
    "part_of",
    "provenance",
    "read",
    "result",
    "result_text",
    "summary",
    "table",
    "validate",
    "write",
    "write_whole",
]

MIME = "application/vnd.flowmaps.record+json"


class OutOfBand(AssertionError):
    """A rerun that disagrees with its record; the message names every metric, statistic and claim that does."""


def check(
    paper: str,
    *,
    parameters: Mapping[str, object],
    metrics: Mapping[str, object],
    statistics: Statistics | None = None,
    claims: Sequence[Claim | Judgement] = (),
) -> None:
    """Compares a run with `<paper>.json` in the current directory and prints the verdict per metric and claim.

    `parameters` may be `globals()`: only names that a preset lists are compared, and `seed` says which of the recorded
    runs this one repeats, if any. `statistics` hold what the claims compare: statistic -> entry -> number of this seed.
    Parameters that no preset has are named, and nothing is checked.

    Raises OutOfBand, after printing, when a metric or statistic does not agree, is not finite, missing or unknown, when
    a claim is not stated as it is recorded, or when a judgement on which all seeds agreed has changed. Raises
    ValueError for a claim about what is not among the statistics.
    """
    metrics = {name: _plain(value) for name, value in metrics.items()}
    statistics = {s: {name: _plain(value) for name, value in group.items()} for s, group in (statistics or {}).items()}
    stated.check_statistics([claim for claim in claims if isinstance(claim, Claim)], statistics)
    place = Path(f"{paper}.json")
    presets = read(place)["presets"] if place.exists() else {}
    name, differences = _nearest_preset(presets, parameters) if presets else ("", "")
    if not presets:
        lines, failures = [f"{paper}: nothing is checked, there is no {place} beside this notebook yet"], []
    elif differences:
        lines = [f"{paper}: nothing is checked, no preset has these parameters (nearest, {name}: {differences})"]
        failures = []
    elif "metrics" not in presets[name]:
        lines, failures = [f"{paper}: nothing is checked, preset {name} is not recorded yet"], []
    else:
        title = f"{paper}, preset {name}"
        lines, failures = _compare(title, presets[name], metrics, statistics, claims, parameters.get("seed"))
    fresh = {"metrics": metrics, "statistics": statistics, "claims": [dict(vars(claim)) for claim in claims]}
    _publish("\n".join(lines), fresh)
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


def _compare(title: str, preset: dict, metrics: dict, statistics: dict, claims: Sequence, seed: object):
    """Lines to print and failures: of metrics, of statistics, and then of claims."""
    was = preset["recorded"]
    lines = [f"{title}, recorded {was['date']} on {was['device']}"]
    wide = max(map(len, [*preset["metrics"], *metrics, "metric"]))
    lines.append(f"{'metric':<{wide}}  {'recorded':>10}  band")
    failures, agreed, drifts = [], 0, pooled_drifts(preset["metrics"])
    for name in [*preset["metrics"], *(name for name in metrics if name not in preset["metrics"])]:
        repeated = (seed, drifts[name]) if name in drifts else None
        shown, verdict = _judge_metric(preset["metrics"].get(name), metrics.get(name), name in metrics, repeated)
        lines.append(f"{name:<{wide}}  {shown}  {verdict}")
        failures += [f"{name}: {verdict}"] if verdict != "ok" else []
        agreed += verdict == "ok"
    total = len(preset["metrics"].keys() | metrics.keys())
    wrong = list(_judge_statistics(preset.get("statistics", {}), statistics, seed))
    lines += [f"{where}  {verdict}" for where, verdict in wrong]
    failures += [f"{where}: {verdict}" for where, verdict in wrong]
    outcomes = _judge_judgements(preset, claims) | _judge_claims(preset, claims)
    wide = max(map(len, outcomes.values()), default=0)
    lines += [f"{outcome:<{wide}}  {text}" for text, outcome in outcomes.items()]
    changed = {text: outcome for text, outcome in outcomes.items() if "CHANGED" in outcome}
    failures += [f"claim {text!r}: {outcome}" for text, outcome in changed.items()]
    kept = f"{len(outcomes) - len(changed)} of {len(outcomes)} claims as recorded"
    return [*lines, f"{agreed} of {total} metrics in band, {kept}"], failures


def _judge_metric(recorded: dict | None, value: object, measured: bool, repeated: tuple | None) -> tuple[str, str]:
    """Columns `recorded` and `band`, and the verdict: 'ok' or what is wrong."""
    if recorded is None:
        return f"{'-':>10}  {'-':<24}", f"measured {_short(value)} NOT RECORDED"
    low, high = recorded["band"] or (recorded["mean"], recorded["mean"])
    limits = f"[{low:.4g}, {high:.4g}]" if recorded["band"] else "exact"
    shown = f"{recorded['mean']:>10.4g}  {limits:<24}"
    return shown, _verdict(recorded, value, low, high, repeated) if measured else "NOT MEASURED"


def _verdict(recorded: dict, value: object, low: int | float, high: int | float, repeated: tuple | None) -> str:
    """A value against the band, and against that of its own seed where that is recorded; `repeated` are the seed and
    the drift."""
    if not is_number(value) or not low <= value <= high:
        return f"measured {_short(value)} OUT OF BAND"
    seed, drift = repeated or (None, 0.0)
    if isinstance(seed, int) and 0 <= seed < len(recorded["seeds"]):
        was = recorded["seeds"][seed]
        within = tolerance(was, drift) if recorded.get("band", True) else 0.0
        if not abs(value - was) <= within:
            return f"measured {value:.6g}, seed {seed} had {was:.6g}, within {within:.2g}: NOT THE SAME"
    return "ok"


def _judge_statistics(recorded: dict, statistics: dict, seed: object):
    """What disagrees, each with its place: a statistic has no band, so that another seed is not compared."""
    for statistic in recorded.keys() | statistics.keys():
        old, new = recorded.get(statistic, {}), statistics.get(statistic, {})
        drifts = pooled_drifts(old)
        for name in old.keys() | new.keys():
            where = f"{statistic} of {name}"
            if name not in old or name not in new:
                yield where, "NOT RECORDED" if name not in old else "NOT MEASURED"
            elif (verdict := _verdict(old[name], new[name], -inf, inf, (seed, drifts.get(name, 0.0)))) != "ok":
                yield where, verdict


def _judge_claims(preset: dict, claims: Sequence) -> dict[str, str]:
    """Claim -> its recorded verdict, or how what the notebook states differs from what is recorded."""
    fresh = {claim.id: claim.definition() for claim in claims if isinstance(claim, Claim)}
    found = {}
    for key, entry in stated.recorded({"": preset}, "").items():
        was = stated.stated(entry)
        text = f"{key}: {entry['sentence']}"
        if key not in fresh:
            found[text] = "CHANGED: no longer claimed"
        elif was != fresh[key]:
            found[text] = "CHANGED: it is stated in other words, or compares something else"
        elif "ratio" in entry:
            low, high = entry["interval"]
            found[text] = f"{entry['verdict']:<12}  {entry['ratio']:.3g} [{low:.3g}, {high:.3g}]"
        else:
            found[text] = entry["verdict"]
    new = fresh.keys() - {entry.get("id") for entry in preset["claims"]}
    return found | {f"{key}: {fresh[key]['sentence']}": "CHANGED: not recorded" for key in fresh if key in new}


def _judge_judgements(preset: dict, claims: Sequence) -> dict[str, str]:
    recorded = {claim["claim"]: claim for claim in preset["claims"] if "claim" in claim}
    verdicts = {claim.claim: claim.verdict for claim in claims if isinstance(claim, Judgement)}
    return {text: _judge_judgement(recorded.get(text), verdicts.get(text)) for text in [*recorded, *verdicts]}


def _judge_judgement(recorded: dict | None, verdict: str | None) -> str:
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
