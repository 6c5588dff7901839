"""The record of a preset from what each of its seeds measured."""

from collections import Counter

from commands.errors import NotebookFailed
from flowcore import record
from flowcore.recording import bands, claims


def under_protocol(runs: list[dict]) -> bool:
    """Whether the notebook states claims with margins, whose numbers a rerun of a seed must give again."""
    return any("id" in claim for claim in runs[0]["claims"])


def combine(given: dict[str, object], runs: list[dict], others: list[dict]) -> dict:
    """The record of a preset from its seeds, and from the runs of seed 0 under other set-ups: a band and a drift per
    metric, a drift per statistic, the verdict on each claim; of judgements the majority's."""
    first = runs[0]
    for what in ("metrics", "statistics"):
        if any(shape(run[what]) != shape(first[what]) for run in runs):
            raise NotebookFailed(f"the seeds do not report the same {what}")
    numbers = [[value for value in run["metrics"].values() if isinstance(value, float)] for run in runs]
    if under_protocol(runs) and any(one == other for i, one in enumerate(numbers) for other in numbers[:i]):
        raise NotebookFailed("two seeds gave the very same numbers: the seed decides nothing")
    definitions = [claim for claim in first["claims"] if "id" in claim]
    if any([claim for claim in run["claims"] if "id" in claim] != definitions for run in runs):
        raise NotebookFailed("the seeds do not state the same claims: a claim may not hold a measured value")
    metrics = {
        name: record.summary(name, [run["metrics"][name] for run in runs], drift_of(others, first, "metrics", name))
        for name in first["metrics"]
    }
    statistics = {
        statistic: {
            name: {
                "seeds": [run["statistics"][statistic][name] for run in runs],
                "drift": drift_of(others, first, "statistics", statistic, name) or 0.0,
            }
            for name in entries
        }
        for statistic, entries in first["statistics"].items()
    }
    judged = [claims.judge(claims.Claim(**claim).definition(), statistics) for claim in definitions]
    return {"parameters": given, "metrics": metrics, "statistics": statistics, "claims": judged + majority(runs)}


def shape(content: dict) -> dict:
    """The names in it, without the numbers."""
    return {name: shape(value) if isinstance(value, dict) else None for name, value in content.items()}


def drift_of(others: list[dict], first: dict, *way: str) -> float | None:
    """What a number of seed 0 moved by under the other set-ups; None where none was tried."""

    def number(run: dict) -> float:
        for key in way:
            run = run[key]
        return run

    return bands.drift(number(first), [number(run) for run in others]) if others else None


def majority(runs: list[dict]) -> list[dict]:
    """Judgements with the verdict of most seeds."""
    texts = [[claim["claim"] for claim in run["claims"] if "claim" in claim] for run in runs]
    if any(text != texts[0] for text in texts):
        raise NotebookFailed("the seeds do not report the same claims: a claim's text may not hold a measured value")
    found = []
    for index, claim in enumerate(claim for claim in runs[0]["claims"] if "claim" in claim):
        said = [[claim for claim in run["claims"] if "claim" in claim][index]["verdict"] for run in runs]
        (verdict, agree), *_ = Counter(said).most_common()
        found.append({**claim, "verdict": verdict, "agree": f"{agree}/{len(runs)}"})
    return found
