"""What a replication found, read from its record: the first thing a reader sees, before anything is run.

The picture is a forest plot: a line per claim, the ratio a / b of its two numbers with its interval over the seeds,
against the margin that the claim was given before it was measured.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from flowcore.recording import claims as stated
from flowcore.recording.claims import Claim, Statistics
from flowcore.recording.files import default_preset, read
from flowcore.recording.margins import CONTRADICTED, MARGINS, OUT_OF_SCOPE, SUPPORTED, UNRESOLVED, VERDICTS

COLOURS = {SUPPORTED: "#1f4e79", CONTRADICTED: "#b03a2e", UNRESOLVED: "#9aa5b1"}
NAMED = "blue: supported, red: contradicted, grey: unresolved"
GROUNDS = {"garments_4x": "4 x the training", "garments_sharp": "sharpness 1/4", "garments_sharper": "sharpness 1/16"}


def result(paper: str):
    """Displays what `<paper>.json` in the current directory holds of its default preset: how many claims are supported,
    contradicted, unresolved and out of scope and which, and the forest plot."""
    from IPython.display import Markdown, display

    place = Path(f"{paper}.json")
    record = read(place) if place.exists() else {"presets": {"": {}}}
    name = default_preset(record)
    if not stated.recorded(record["presets"], name):
        display(Markdown("*Not recorded yet.*"))
        return
    display(Markdown(result_text(record["presets"], name)))
    display(forest(record["presets"], name))


def result_text(presets: dict, name: str) -> str:
    """A line per verdict, with the claims that have it."""
    found = stated.verdicts(presets, name)
    entries = stated.recorded(presets, name)
    seeds = max(len(metric["seeds"]) for metric in presets[name]["metrics"].values())
    longer = stated.LONGER.get(name)
    budgets = "two budgets" if longer and stated.recorded(presets, longer) else "one budget"
    lines = [f"**What was found** (preset `{name}`, {seeds} seeds, {budgets}):", ""]
    for verdict, count in sorted(Counter(found.values()).items(), key=lambda pair: VERDICTS.index(pair[0])):
        which = [
            f"{key} {entries[key]['sentence']}{reason(presets, name, key)}" for key in found if found[key] == verdict
        ]
        lines.append(f"- **{verdict}** ({count}): {'; '.join(which)}")
    others = [other for other in presets if other not in (name, *stated.companions(name))]
    return "\n".join(lines + list(filter(None, (elsewhere(presets, name, other) for other in others))))


def elsewhere(presets: dict, name: str, other: str) -> str:
    """A line on a preset with another task: its counts, and the claims whose verdict is another there than here."""
    here, there = stated.recorded(presets, name), stated.recorded(presets, other)
    tested = {key: entry["verdict"] for key, entry in there.items() if entry["verdict"] != OUT_OF_SCOPE}
    if not tested:
        return ""
    counts = ", ".join(f"{count} {verdict}" for verdict, count in Counter(tested.values()).most_common())
    changed = [f"{key} {verdict}" for key, verdict in tested.items() if here.get(key, {}).get("verdict") != verdict]
    return f"- on `{other}`: {counts}; otherwise than above: {', '.join(changed) or 'none'}"


def reason(presets: dict, name: str, key: str) -> str:
    """In brackets: why a claim is unresolved, and where a preset beside the default says otherwise."""
    entry = stated.recorded(presets, name)[key]
    low, high = entry.get("interval", (0.0, 0.0))
    lowest, highest = MARGINS["same"]
    said = []
    if entry["verdict"] == UNRESOLVED:
        small = "no difference of 10 %: " if lowest < low and high < highest else ""
        said.append(f"{small}{low:.2f} to {high:.2f}")
    for ground in stated.companions(name):
        other = stated.recorded(presets, ground).get(key, entry)["verdict"]
        if other != entry["verdict"]:
            said.append(f"{other} at {GROUNDS[ground]}")
    return f" ({'; '.join(said)})" if said else ""


def forest(presets: dict, name: str):
    """The comparisons of a preset in the colours of its verdicts, and thinner those of the presets beside it in the
    colours of theirs, as a matplotlib Figure."""
    from flowcore.recording.plots import close, panels

    grounds = [name, *stated.companions(name)]
    entries = {ground: stated.recorded(presets, ground) for ground in grounds}
    ids = [key for key, entry in entries[name].items() if "ratio" in entry]
    overall = stated.verdicts(presets, name)
    figure, (axis,) = panels(1, width=9.0, height=0.9 + 0.3 * len(ids))
    for row, key in enumerate(ids):
        low, high = MARGINS[entries[name][key]["margin"]]
        axis.barh(row, high - max(low, 1e-3), left=max(low, 1e-3), height=0.8, color="#e8edf2", zorder=0)
        for place, ground in enumerate(ground for ground in grounds if key in entries[ground]):
            entry, first = entries[ground][key], ground == name
            at = row + 0.13 * place
            colour = COLOURS[overall[key] if first else entry["verdict"]]
            axis.plot(entry["interval"], [at, at], color=colour, linewidth=2.2 if first else 0.9)
            marker = "o" if first else ("s" if ground == stated.LONGER.get(name) else "^")
            axis.plot(entry["ratio"], at, marker, color=colour, markersize=5 if first else 3)
    ends = [end for group in entries.values() for key in ids if key in group for end in group[key]["interval"]]
    axis.set(xscale="log", xlim=(min(0.3, *ends) / 1.2, max(1.3, *ends) * 1.2), ylim=(len(ids) - 0.4, -0.6))
    axis.axvline(1, color="#9aa5b1", linewidth=0.8)
    labels = [f"{entries[name][key]['a']}  /  {entries[name][key]['b']}   {key}" for key in ids]
    axis.set_yticks(range(len(ids)), labels, fontsize=7)
    low, high = axis.get_xlim()
    ticks = [tick for tick in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30) if low <= tick <= high]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.xaxis.minorticks_off()
    beside = [GROUNDS[ground] for ground in grounds[1:] if entries[ground]]
    said = f"a / b, 95 % interval; shaded: what is claimed\n{NAMED}"
    axis.set_xlabel(said + (f"\nthin: {', '.join(beside)}" if beside else ""))
    return close(figure)


def comparisons(claims: Sequence[Claim], statistics: Statistics):
    """The claims as a table, with what this run measured for each: one seed, which gives no verdict (Markdown)."""
    from IPython.display import Markdown

    stated.check_statistics(claims, statistics)
    rows = [["claim", "source", "a", "b", "a / b of this seed", "is a ... than b?"], ["---"] * 6]
    for claim in claims:
        head = [f"**{claim.id}** {claim.sentence}", claim.source]
        if claim.out_of_scope:
            rows.append([*head, "", "", "", f"{OUT_OF_SCOPE}: {claim.out_of_scope}"])
            continue
        a, b = (float(statistics[claim.statistic][name]) for name in (claim.a, claim.b))
        ratio = f"{a / b:.3f}" if a > 0 and b > 0 else "-"
        sides = f"{claim.a}: {a:.4g}", f"{claim.b}: {b:.4g}"
        rows.append([*head, *sides, ratio, f"{claim.margin}, {claim.statistic}"])
    return Markdown("\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows))
