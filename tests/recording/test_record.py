"""Bands, the JSON file, and the check: green inside the band, loud about anything else."""

import copy
import json
import math
import random
import subprocess
import sys

import numpy as np
import pytest

from flowcore import record
from flowcore.recording.bands import pooled_drifts

CLAIMS = [record.Judgement.judge("works", "1.2 < 2", True), record.Judgement("scales", "", "not tested")]
METRICS = {"cost": 4, "error": 0.2}
PARAMETERS = {"steps": 4000, "rates": [0.1, 0.2], "seed": 3}
GOOD = {
    "title": "A paper",
    "url": "https://example.org/paper",
    "presets": {
        "mixture": {
            "parameters": {"steps": 4000, "rates": [0.1, 0.2]},
            "metrics": {
                "cost": {"mean": 4, "spread": 0.0, "band": None, "seeds": [4, 4, 4]},
                "error": {"mean": 0.18, "spread": 0.01, "band": [0.15, 0.21], "seeds": [0.17, 0.18, 0.19]},
            },
            "claims": [
                {"claim": "works", "measured": "1.1 < 2", "verdict": "holds", "agree": "3/3"},
                {"claim": "scales", "measured": "", "verdict": "not tested", "agree": "3/3"},
            ],
            "recorded": {"date": "2026-01-01", "device": "cpu (here)", "python": "3.11", "versions": {}},
        },
        "digits": {"parameters": {"steps": 1000, "rates": [0.3]}},
    },
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record.write("paper.json", GOOD)
    return tmp_path


def check(parameters=PARAMETERS, metrics=METRICS, claims=CLAIMS):
    record.check("paper", parameters=parameters, metrics=metrics, claims=claims)


# --- bands ---------------------------------------------------------------------------------------------------------


def test_band_is_the_prediction_interval_of_one_more_run():
    values = [-1.0, 0.0, 1.0, 2.0, 3.0]  # not all positive: no logarithm
    mean, spread, (low, high) = record.band(values)
    reach = 4.604095 * math.sqrt(2.5) * math.sqrt(1.2)  # t_{0.995, 4} from a printed table
    assert (mean, spread) == (1.0, pytest.approx(math.sqrt(2.5)))
    drift = record.FLOOR * 1.0
    assert (low, high) == (pytest.approx(1 - reach - drift, abs=1e-6), pytest.approx(1 + reach + drift, abs=1e-6))
    powers = [math.exp(value) for value in values]
    mean, _, (low, high) = record.band(powers)
    assert mean == pytest.approx(sum(powers) / 5)
    assert low == pytest.approx(math.exp(1 - reach) * (1 - record.FLOOR), rel=1e-6)
    assert high == pytest.approx(math.exp(1 + reach) * (1 + record.FLOOR), rel=1e-6)


def test_band_holds_one_more_run_99_times_in_100(monkeypatch):
    monkeypatch.setattr(record, "FLOOR", 0.0)
    draw, outside, trials = random.Random(0), 0, 3000
    for _ in range(trials):
        *seeds, rerun = (draw.gauss(1.0, 0.1) for _ in range(6))
        _, _, (low, high) = record.band(seeds)
        outside += not low <= rerun <= high
    assert 0.005 < outside / trials < 0.016  # 0.01 within three standard errors


def test_band_without_spread_still_allows_the_drift_between_machines():
    assert record.band([2.0, 2.0, 2.0])[2] == pytest.approx((2 - 2 * record.FLOOR, 2 + 2 * record.FLOOR))


def test_band_needs_three_seeds():
    with pytest.raises(ValueError, match="at least 3 seeds, not 2"):
        record.band([1.0, 2.0])


@pytest.mark.parametrize(
    ("name", "values", "exact"),
    [
        ("cost", [4, 4, 4], True),
        ("cost", [4.0, 4.0, 4.0], True),
        ("cost", [4.02, 4.02, 4.02], False),
        ("modes_found", [8, 8, 8], True),
        ("modes_found", [8, 7, 8], False),
        ("error", [2.0, 2.0, 2.0], False),
    ],
)
def test_only_an_integer_that_never_changes_is_exact(name, values, exact):
    entry = record.summary(name, values)
    assert (entry["band"] is None) == exact and entry["seeds"] == values
    assert entry["mean"] == pytest.approx(sum(values) / 3)


def test_what_is_chaotic_is_so_in_all_its_numbers():
    """One number of a run that came out near to what it was is luck, and no sharper than the others."""
    seeds = [1.0, 1.1, 0.9]
    lmd = {"lmd_error": {"seeds": seeds, "drift": 0.2}, "lmd_residual": {"seeds": seeds, "drift": 1e-7}}
    steps = {"LMD, 1 step": {"seeds": seeds, "drift": 0.2}, "LMD, 4 steps": {"seeds": [2.0, 2.2, 1.8], "drift": 0.0}}
    other = {"emd_error": {"seeds": seeds, "drift": 1e-7}, "cost": {"seeds": [4, 4, 4], "drift": 0}}
    found = pooled_drifts(lmd | steps | other)
    assert found["lmd_error"] == found["lmd_residual"] == pytest.approx(0.2)
    assert found["LMD, 4 steps"] == pytest.approx(0.4)
    assert found["emd_error"] == pytest.approx(1e-7) and found["cost"] == 0
    assert pooled_drifts({"error": {"seeds": seeds}}) == {}


# --- claims --------------------------------------------------------------------------------------------------------


def test_claims_are_judged_and_shown():
    with pytest.raises(ValueError, match="'maybe' of claim 'works' must be one of holds"):
        record.Judgement("works", "", "maybe")
    assert record.Judgement.judge("a", "b", False).verdict == "does not hold here"
    shown = record.table([record.Judgement("|x| < 1", "0.5", "holds")])
    assert shown._repr_markdown_().splitlines()[2] == "| \\|x\\| < 1 | 0.5 | holds |"
    assert "|x| < 1: 0.5" in repr(shown)


# --- the JSON file -------------------------------------------------------------------------------------------------


def test_what_is_written_is_read_back(folder):
    assert record.read("paper.json") == GOOD
    assert (folder / "paper.json").read_text().endswith("}\n")
    assert [path.name for path in folder.iterdir()] == ["paper.json"]


def edited(path, value):
    """A copy of GOOD with one entry changed, or removed for `del`."""
    spoilt = copy.deepcopy(GOOD)
    *way, last = path
    place = spoilt
    for key in way:
        place = place[key]
    if value is del_:
        del place[last]
    else:
        place[last] = value
    return spoilt


del_ = object()
MIXTURE = ("presets", "mixture")
SPOILT = [
    (("title",), del_, "title must be a string"),
    (("presets",), {"digits": {"parameters": {}}}, "presets must be an object whose first entry is one of garments"),
    ((*MIXTURE, "parameters"), del_, "presets.mixture.parameters must be an object"),
    ((*MIXTURE, "parameters", "seed"), 0, "presets.mixture.parameters must be without seed"),
    ((*MIXTURE, "metric"), {}, "presets.mixture.metric must be one of parameters, metrics"),
    ((*MIXTURE, "metrics"), del_, "presets.mixture.metrics must be an object"),
    ((*MIXTURE, "recorded", "device"), del_, "presets.mixture.recorded.device must be a string"),
    ((*MIXTURE, "metrics", "error", "mean"), "0.18", "presets.mixture.metrics.error.mean must be a finite number"),
    ((*MIXTURE, "metrics", "error", "mean"), math.nan, "presets.mixture.metrics.error.mean must be a finite number"),
    ((*MIXTURE, "metrics", "error", "band"), [1.0], "presets.mixture.metrics.error.band must be null or [low, high]"),
    ((*MIXTURE, "metrics", "error", "band"), [2, 1], "presets.mixture.metrics.error.band must be null or [low, high]"),
    ((*MIXTURE, "metrics", "error", "band"), del_, "presets.mixture.metrics.error must be an object with mean"),
    ((*MIXTURE, "metrics", "error", "seeds"), [], "presets.mixture.metrics.error.seeds must be a list of numbers"),
    ((*MIXTURE, "claims", 0, "verdict"), "true", "presets.mixture.claims[0].verdict must be one of holds"),
    ((*MIXTURE, "claims", 1, "agree"), "all", 'presets.mixture.claims[1].agree must be like "5/5"'),
]


@pytest.mark.parametrize(
    ("path", "value", "expected"), SPOILT, ids=[f"{p[-1]}-{i}" for i, (p, *_) in enumerate(SPOILT)]
)
def test_a_record_spoilt_by_hand_names_file_and_key(folder, path, value, expected):
    spoilt = edited(path, value)
    (folder / "paper.json").write_text(json.dumps(spoilt))
    for reject in (lambda: record.read("paper.json"), check):
        with pytest.raises(record.RecordError) as caught:
            reject()
        assert expected in str(caught.value) and "paper.json" in str(caught.value)
        assert "\n" not in str(caught.value) and str(caught.value).endswith(": restore it from git, or record anew")
    (folder / "paper.json").write_text("kept")
    with pytest.raises(record.RecordError):
        record.write("paper.json", spoilt)
    assert (folder / "paper.json").read_text() == "kept"


def test_without_a_file_nothing_is_checked_and_that_is_said(folder, capsys):
    record.check("other", parameters={}, metrics={"cost": 4})
    assert capsys.readouterr().out == "other: nothing is checked, there is no other.json beside this notebook yet\n"


def test_a_missing_or_broken_file_is_one_line(folder):
    with pytest.raises(record.RecordError, match="^other.json: there is no such record: restore it from git$"):
        record.read("other.json")
    (folder / "paper.json").write_bytes(b'{"\xe9": 1}')
    with pytest.raises(record.RecordError, match=r"^paper.json: not UTF-8: .*: restore it from git, or record anew$"):
        check()
    (folder / "paper.json").write_text('{"title": ')
    with pytest.raises(record.RecordError, match=r"^paper.json: not JSON: .*: restore it from git, or record anew$"):
        check()


# --- the check -----------------------------------------------------------------------------------------------------


def test_in_band_the_text_says_nothing_of_the_fresh_values(folder, capsys):
    check()
    first = capsys.readouterr().out
    check(parameters=PARAMETERS | {"seed": 4}, metrics={"cost": 4, "error": np.float32(0.1543)})
    assert capsys.readouterr().out == first
    assert first.splitlines() == [
        "paper, preset mixture, recorded 2026-01-01 on cpu (here)",
        "metric    recorded  band",
        "cost             4  exact                     ok",
        "error         0.18  [0.15, 0.21]              ok",
        "holds (3/3) ok       works",
        "not tested (3/3) ok  scales",
        "2 of 2 metrics in band, 2 of 2 claims as recorded",
    ]


@pytest.mark.parametrize(
    ("metrics", "name", "printed"),
    [
        (METRICS | {"error": 0.2101}, "error", "measured 0.2101 OUT OF BAND"),
        (METRICS | {"error": 0.1}, "error", "measured 0.1 OUT OF BAND"),
        (METRICS | {"cost": 4.001}, "cost", "measured 4.001 OUT OF BAND"),
        (METRICS | {"error": math.nan}, "error", "measured nan OUT OF BAND"),
        (METRICS | {"error": np.float64("inf")}, "error", "measured inf OUT OF BAND"),
        (METRICS | {"error": None}, "error", "measured None OUT OF BAND"),
        (METRICS | {"error": True}, "error", "measured True OUT OF BAND"),
        ({"cost": 4}, "error", "NOT MEASURED"),
        (METRICS | {"extra": 1.0}, "extra", "measured 1 NOT RECORDED"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_disagreement_is_printed_and_then_raised(folder, capsys, metrics, name, printed):
    with pytest.raises(record.OutOfBand, match=f"^{name}: {printed}$"):
        check(metrics=metrics)
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith(name))
    assert line.endswith(printed)
    assert lines[
        -1
    ] == f"{len(metrics.keys() | METRICS.keys()) - 1} of {len(metrics.keys() | METRICS.keys())} metrics " + (
        "in band, 2 of 2 claims as recorded"
    )


@pytest.mark.parametrize(
    ("claims", "printed"),
    [
        (
            [record.Judgement.judge("works", "3 > 2", False), CLAIMS[1]],
            "CHANGED from 'holds' .3/3. to 'does not hold here'",
        ),
        (CLAIMS[:1], "CHANGED: no longer claimed"),
        ([*CLAIMS, record.Judgement("new", "", "holds")], "CHANGED: not recorded"),
    ],
    ids=["verdict", "missing", "extra"],
)
def test_a_claim_that_changed_is_printed_and_raised(folder, capsys, claims, printed):
    with pytest.raises(record.OutOfBand, match=printed):
        check(claims=claims)
    assert "2 of 2 metrics in band" in capsys.readouterr().out


def test_a_verdict_on_which_the_seeds_differed_may_change(folder, capsys):
    record.write("paper.json", edited((*MIXTURE, "claims", 0, "agree"), "2/3"))
    check()
    first = capsys.readouterr().out
    check(claims=[record.Judgement.judge("works", "3 > 2", False), CLAIMS[1]])
    assert capsys.readouterr().out == first and "varies over seeds (holds 2/3)  works" in first


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"steps": 20}, "nearest, mixture: steps = 20, not 4000"),
        ({"rates": (0.3,)}, "nearest, mixture: rates = [0.3], not [0.1, 0.2]"),
        ({"steps": 1000, "rates": (0.3,)}, "preset digits is not recorded yet"),
    ],
)
def test_unrecorded_parameters_are_named_and_nothing_is_checked(folder, capsys, parameters, expected):
    check(parameters=PARAMETERS | parameters, metrics={"error": 99.0})
    (line,) = capsys.readouterr().out.splitlines()
    assert "nothing is checked" in line and expected in line


def test_in_a_notebook_the_fresh_values_travel_in_the_metadata(folder):
    """In a process of its own, because starting IPython leaves traces."""
    code = """
import json
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from flowcore import record
InteractiveShell.instance()
with capture_output() as captured:
    try:
        claims = [record.Judgement("works", "now", "holds")]
        parameters = dict(steps=4000, rates=[.1, .2])
        record.check("paper", parameters=parameters, metrics=dict(error=float("nan")), claims=claims)
    except record.OutOfBand:
        pass
output, = captured.outputs
print(json.dumps([output.data, output.metadata]))
"""
    ran = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    data, metadata = json.loads(ran.stdout)
    assert list(data) == ["text/plain"] and "OUT OF BAND" in data["text/plain"]
    claims = [{"claim": "works", "measured": "now", "verdict": "holds"}]
    assert metadata == {record.MIME: {"metrics": {"error": "nan"}, "statistics": {}, "claims": claims}}


def test_provenance_fits_the_schema(folder):
    made = record.provenance()
    record.validate(edited((*MIXTURE, "recorded"), made), "here")
    assert set(made["versions"]) == {"jax", "equinox", "optax", "diffrax", "numpy"}
