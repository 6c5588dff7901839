"""The survey's table with what the replications recorded: read by README, the command line and `100_landscape`.

Reference: Dieleman 2026, "Learning the integral of a diffusion model", section 5.6, for the left half of the table.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from flowcore.methods import METHODS, Method
from flowcore.recording import record

COLUMNS = {  # metric -> title
    "cost": "cost, measured",
    "endpoint_error_1": "endpoint error, 1 step",
    "endpoint_error_2": "2 steps",
    "endpoint_error_4": "4 steps",
    "energy_distance": "energy distance",
}


def replications() -> Path:
    """The folder of that name beside or above the working directory: where a notebook finds the records, wherever it is
    executed. Raises FileNotFoundError when there is none."""
    for folder in (Path.cwd(), *Path.cwd().parents):
        if (folder / "replications").is_dir():
            return folder / "replications"
    raise FileNotFoundError(f"no folder `replications` in {Path.cwd()} or above: run this inside of the repository")


def measured(records: Path | None = None) -> Iterator[tuple[Method, dict[str, dict]]]:
    """Per row of the survey's table: the row, and its metrics as recorded on the default preset."""
    for row in METHODS:
        path = (records or replications()) / f"{row.paper}.json"
        yield row, metrics_of(row, path) if path.exists() else {}


def metrics_of(row: Method, path: Path) -> dict[str, dict]:
    """Methods that share a notebook prefix their metrics with their name."""
    kept = record.read(path)
    metrics = kept["presets"][record.default_preset(kept)].get("metrics", {})
    prefix = row.name.lower().replace("-", "_") + "_"
    return metrics | {name.removeprefix(prefix): m for name, m in metrics.items() if name.startswith(prefix)}


def step_times() -> dict[str, float]:
    """The time of a training step of every method over that of flow matching, as `ci/replicate bench` recorded it."""
    bench = json.loads((replications().parent / "ci" / "bench.json").read_text(encoding="utf-8"))
    return {name: numbers["time"]["median"] for name, numbers in bench["steps"]["numbers"].items()}


def shown(metric: dict | None) -> str:
    """Mean and standard deviation over seeds, or the integer."""
    if metric is None:
        return ""
    return f"{metric['mean']:g}" if metric["band"] is None else f"{metric['mean']:.3g} ± {metric['spread']:.2g}"


def markdown(titles: list[str], rows: list[list[str]], numbers: int = 0) -> str:
    """A table, its last `numbers` columns set to the right."""
    rule = ["---"] * (len(titles) - numbers) + ["---:"] * numbers
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [titles, rule, *escaped])


def table(records: Path | None = None, link: str = "replications") -> str:
    """The whole table as Markdown; `link` is the folder of the notebooks as the reader's page sees it. Errors compare
    within one task."""
    rows = []
    for row, metrics in measured(records):
        known = [f"[{row.name}]({link}/{row.paper}.ipynb)", row.rule, row.setting, row.output, row.notes]
        known += [task_of(row, records), str(row.cost)]
        rows.append(known + [shown(metrics.get(metric)) for metric in COLUMNS])
    titles = ["method", "rule", "setting", "output", "notes", "task", "cost, survey", *COLUMNS.values()]
    return markdown(titles, rows, numbers=1 + len(COLUMNS))


def task_of(row: Method, records: Path | None = None) -> str:
    """What a row of the table is measured on: the name of its default preset; the ring was once called mixture."""
    path = (records or replications()) / f"{row.paper}.json"
    name = record.default_preset(record.read(path)) if path.exists() else ""
    return "ring" if name == "mixture" else name


def claims(records: Path | None = None, link: str = "replications") -> str:
    """Every claim of every record with its verdict, and what it was measured to be: the ratio of its two numbers with
    the interval over the seeds; of a judgement the first seed's text, and how many seeds say so."""
    rows = []
    for path in sorted((records or replications()).glob("*.json")):
        for preset, kept in record.read(path)["presets"].items():
            for claim in kept.get("claims", []):
                name = f"[{path.stem}]({link}/{path.stem}.ipynb), {preset}"
                rows.append([name, *(of_claim(claim) if "id" in claim else of_judgement(claim))])
    return markdown(["replication", "claim", "measured", "verdict"], rows)


def of_claim(entry: dict) -> list[str]:
    """Sentence, numbers and verdict."""
    found = entry.get("out_of_scope", "")
    if "ratio" in entry:
        low, high = entry["interval"]
        found = f"{entry['a']} / {entry['b']}: {entry['ratio']:.3g} [{low:.3g}, {high:.3g}], {entry['margin']}"
    return [f"{entry['id']}: {entry['sentence']} ({entry['source']})", found, entry["verdict"]]


def of_judgement(entry: dict) -> list[str]:
    return [entry["claim"], f"{entry['measured']} (seed 0)", f"{entry['verdict']} ({entry['agree']})"]
