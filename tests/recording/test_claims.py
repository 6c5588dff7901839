"""Claims as data: stated in a notebook, judged by the record, and compared when a seed is run again."""

import copy

import pytest

from flowcore import record
from flowcore.recording import claims
from flowcore.recording.claims import Claim

BETTER = Claim("P-1", "ours is better", "paper, table 1", "error", "ours", "better", "theirs")
BEYOND = Claim("P-2", "it is fast", "paper, section 4", out_of_scope="their clock is not ours")
STATED = (BETTER, BEYOND)
OURS, THEIRS = [1.0, 1.01, 0.99], [2.0, 2.02, 1.97]
STATISTICS = {"error": {"ours": {"seeds": OURS, "drift": 0.004}, "theirs": {"seeds": THEIRS, "drift": 0.0}}}
MEASURED = {"error": {"ours": 1.0, "theirs": 2.0}}


def judged(statistics=STATISTICS):
    return [claims.judge(claim.definition(), statistics) for claim in STATED]


def recorded(**changes):
    error = {"mean": 0.5, "spread": 0.1, "band": [0.2, 0.8], "seeds": [0.5, 0.4, 0.6], "drift": 0.001}
    preset = {
        "parameters": {"steps": 3},
        "metrics": {"error": error},
        "statistics": STATISTICS,
        "claims": judged(),
        "recorded": {"date": "2026-01-01", "device": "cpu"},
    }
    return {"title": "T", "url": "U", "presets": {"garments": preset | changes}}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record.write("paper.json", recorded())
    return tmp_path


def check(*, seed=0, metrics=None, statistics=None, stated=STATED):
    parameters = {"steps": 3, "seed": seed}
    metrics, statistics = metrics or {"error": 0.5}, statistics or MEASURED
    record.check("paper", parameters=parameters, metrics=metrics, statistics=statistics, claims=stated)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("P-1", "s", "p", "error", "a", "less", "b"),
            "claim P-1: no margin 'less'; there are better, much better, same",
        ),
        (("P-1", "s", "p", "error", "a", "better"), "claim P-1: give statistic, a, margin and b, or else say why"),
        (("P-1", "s", "p"), "claim P-1: give statistic"),
        (("P-1", "s", "p", "error", "a", "better", "b", "why"), "claim P-1: give statistic"),
        (("P-1", "s", " ", "error", "a", "better", "b"), "claim P-1 has no source"),
        (("", "s", "p", "error", "a", "better", "b"), "claim 's' has no id"),
    ],
)
def test_a_claim_that_says_too_little_or_too_much_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Claim(*arguments)


def test_what_a_claim_compares_must_have_been_measured():
    with pytest.raises(ValueError, match="claim P-1: no 'theirs' in the statistic 'error': .'ours'."):
        claims.check_statistics(STATED, {"error": {"ours": 1.0}})
    with pytest.raises(ValueError, match="two claims are called P-1"):
        claims.check_statistics((BETTER, BETTER), MEASURED)
    claims.check_statistics(STATED, MEASURED)


def test_the_record_judges_all_seeds_and_the_notebook_none():
    better, beyond = judged()
    assert better["verdict"] == "supported" and better["ratio"] == pytest.approx(0.5, rel=0.01)
    assert better["interval"][0] < better["ratio"] < better["interval"][1]
    assert beyond["verdict"] == "out of scope here" and "ratio" not in beyond
    swapped = {"error": {"ours": STATISTICS["error"]["theirs"], "theirs": STATISTICS["error"]["ours"]}}
    assert judged(swapped)[0]["verdict"] == "contradicted"


def test_a_number_that_drifts_resolves_only_what_survives_it():
    def drifting(drift):
        return {"error": STATISTICS["error"] | {"ours": {"seeds": OURS, "drift": drift}}}

    assert judged(drifting(0.1))[0]["verdict"] == "supported"  # 0.5 x e^0.3 is 0.67
    assert judged(drifting(0.25))[0]["verdict"] == "unresolved"  # 0.5 x e^0.75 is above 1


def test_below_the_floor_of_its_statistic_nothing_is_told_apart():
    floor = {"seeds": [3.0, 3.0, 3.0], "drift": 0.0}
    assert judged({"error": STATISTICS["error"] | {"floor": floor}})[0]["verdict"] == "unresolved"


def test_two_budgets_that_disagree_resolve_nothing():
    first = {"garments": {"claims": judged()}}
    assert claims.verdicts(first, "garments") == {"P-1": "supported", "P-2": "out of scope here"}
    other = {"claims": [judged()[0] | {"verdict": "contradicted"}]}
    assert claims.verdicts(first | {"garments_4x": other}, "garments")["P-1"] == "unresolved"
    assert claims.verdicts(first | {"garments_4x": {"claims": judged()}}, "garments")["P-1"] == "supported"


def test_a_rerun_prints_the_record_whatever_it_measured(folder, capsys):
    check()
    first = capsys.readouterr().out
    check(metrics={"error": 0.5049}, statistics={"error": {"ours": 1.0119, "theirs": 1.99}})  # 3 x drift, and 1 %
    assert capsys.readouterr().out == first
    *_, supported, beyond, last = first.splitlines()
    low, high = judged()[0]["interval"]
    assert supported == f"supported     {judged()[0]['ratio']:.3g} [{low:.3g}, {high:.3g}]  P-1: ours is better"
    assert beyond.startswith("out of scope here ") and beyond.endswith("  P-2: it is fast")
    assert last == "1 of 1 metrics in band, 2 of 2 claims as recorded"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": {"error": 0.506}}, "error: measured 0.506, seed 0 had 0.5, within 0.005: NOT THE SAME"),
        ({"seed": 1, "metrics": {"error": 0.5}}, "error: measured 0.5, seed 1 had 0.4"),
        ({"statistics": {"error": {"ours": 1.013, "theirs": 2.0}}}, "error of ours: measured 1.013, seed 0 had 1"),
        ({"statistics": {"error": {"ours": 1.0, "theirs": 2.03}}}, "error of theirs: measured 2.03"),
        ({"statistics": {"error": {**MEASURED["error"], "new": 1.0}}}, "error of new: NOT RECORDED"),
        ({"stated": (BETTER,)}, "P-2: it is fast': CHANGED: no longer claimed"),
        ({"stated": (*STATED, Claim("P-3", "s", "p", out_of_scope="w"))}, "P-3: s': CHANGED: not recorded"),
        (
            {"stated": (Claim("P-1", "ours is better", "paper, table 1", "error", "ours", "same", "theirs"), BEYOND)},
            "P-1: ours is better': CHANGED: it is stated in other words",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_rerun_of_a_recorded_seed_must_give_its_numbers_again(folder, capsys, changes, message):
    with pytest.raises(record.OutOfBand) as caught:
        check(**changes)
    assert message in str(caught.value)


def test_a_seed_that_was_not_recorded_must_fall_into_the_band(folder):
    check(seed=7, metrics={"error": 0.7}, statistics={"error": {"ours": 1.3, "theirs": 2.6}})
    with pytest.raises(record.OutOfBand, match="error: measured 0.81 OUT OF BAND"):
        check(seed=7, metrics={"error": 0.81})


def test_an_integer_of_every_seed_must_be_equal(folder):
    cost = {"mean": 4, "spread": 0.0, "band": None, "seeds": [4, 4, 4], "drift": 0.0}
    record.write("paper.json", recorded(metrics={"cost": cost}))
    check(metrics={"cost": 4})
    with pytest.raises(record.OutOfBand, match="cost: measured 4.001 OUT OF BAND"):
        check(metrics={"cost": 4.001})


SPOILT = [
    ("claims", 0, "verdict", "holds", "verdict must be one of supported"),
    ("claims", 0, "margin", "less", "margin must be one of better"),
    ("claims", 0, "interval", [0.6, 0.7], r"interval must be \[low, high\] around the ratio"),
    ("claims", 1, "verdict", "supported", "verdict must be 'out of scope here' with a reason"),
    ("statistics", "error", "ours", {"seeds": [1.0]}, "statistics.error.ours must be an object with seeds and drift"),
    ("metrics", "error", "drift", -1.0, "drift must be a number, not negative"),
]


@pytest.mark.parametrize(("part", "key", "entry", "value", "message"), SPOILT, ids=[f"{s[0]}-{s[2]}" for s in SPOILT])
def test_a_spoilt_record_is_named(folder, part, key, entry, value, message):
    spoilt = copy.deepcopy(recorded())
    spoilt["presets"]["garments"][part][key][entry] = value
    with pytest.raises(record.RecordError, match=message):
        record.write("paper.json", spoilt)


def test_the_result_says_each_verdict_with_its_claims():
    presets = recorded()["presets"]
    text = record.result_text(presets, "garments")
    assert "- **supported** (1): P-1 ours is better" in text and "3 seeds, one budget" in text
    assert "- **out of scope here** (1): P-2" in text
    assert "two budgets" in record.result_text(presets | {"garments_4x": {"claims": judged()}}, "garments")
    small = [judged()[0] | {"verdict": "unresolved", "ratio": 0.97, "interval": [0.95, 0.99]}]
    close, far = (
        {"garments": presets["garments"] | {"claims": [small[0] | {"interval": [0.95, up]}]}} for up in (0.99, 1.5)
    )
    assert "better (no difference of 10 %: 0.95 to 0.99)" in record.result_text(close, "garments")
    assert "better (0.95 to 1.50)" in record.result_text(far, "garments")
    split = record.result_text(presets | {"garments_4x": {"claims": [*small, judged()[1]]}}, "garments")
    assert "- **unresolved** (1): P-1 ours is better (unresolved at 4 x the training)" in split
    sharp = record.result_text(presets | {"garments_sharp": {"claims": small}}, "garments")
    assert "- **supported** (1): P-1 ours is better (unresolved at sharpness 1/4)" in sharp
    assert "on `ring`: 1 unresolved; otherwise than above: P-1 unresolved" in record.result_text(
        presets | {"ring": {"claims": small}, "digits": {}}, "garments"
    )
    table = record.comparisons(STATED, MEASURED).data
    assert "| ours: 1 | theirs: 2 | 0.500 | better, error |" in table and "their clock is not ours" in table
