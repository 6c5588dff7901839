"""The table of README and of `100_landscape`, on records that are known, and where the links of the latter lead."""

import json
import re
from pathlib import Path

import nbformat
import pytest

from flowcore import METHODS, landscape, record

FOUR = {"mean": 4, "spread": 0.0, "band": None, "seeds": [4, 4, 4]}
ERROR = {"mean": 0.18123, "spread": 0.0123, "band": [0.1, 0.3], "seeds": [0.18, 0.17, 0.19]}
CLAIM = {"claim": "a | b", "measured": "1", "verdict": "holds", "agree": "2/3"}


@pytest.fixture
def recorded(tmp_path):
    """A folder with the record of MeanFlow alone."""
    entry = {"parameters": {}, "metrics": {"cost": FOUR, "endpoint_error_1": ERROR}, "claims": [CLAIM]}
    entry["recorded"] = {"date": "2026-01-01", "device": "cpu"}
    kept = {"title": "T", "url": "U", "presets": {"mixture": entry, "digits": {"parameters": {}}}}
    record.write(tmp_path / "mean_flow.json", kept)
    return tmp_path


def test_every_row_is_in_the_table_and_numbers_only_where_they_were_recorded(recorded):
    lines = landscape.table(recorded, link="there").splitlines()[2:]
    assert len(lines) == len(METHODS)
    (line,) = (line for line in lines if "[MF]" in line)
    assert line.startswith("| [MF](there/mean_flow.ipynb) | Eulerian |")
    assert line.endswith("| ring | 4 | 4 | 0.181 ± 0.012 |  |  |  |")
    assert all(line.endswith("|  |  |  |  |  |") for line in lines if "[MF]" not in line)


def test_methods_that_share_a_notebook_find_their_own_metrics(recorded):
    path = recorded / "mean_flow.json"
    kept = record.read(path)
    kept["presets"]["mixture"]["metrics"]["mf_cost"] = FOUR | {"mean": 7, "seeds": [7, 7, 7]}
    record.write(path, kept)
    (row,) = (row for row in METHODS if row.name == "MF")
    found = landscape.metrics_of(row, path)
    assert found["cost"]["mean"] == 7 and found["endpoint_error_1"] == ERROR


def test_every_claim_is_listed_with_its_verdict(recorded):
    lines = landscape.claims(recorded).splitlines()
    assert lines[2:] == [r"| [mean_flow](replications/mean_flow.ipynb), mixture | a \| b | 1 (seed 0) | holds (2/3) |"]


def test_a_claim_of_a_margin_is_listed_with_its_interval_and_source(recorded):
    kept = record.read(recorded / "mean_flow.json")
    stated = {"id": "P-1", "sentence": "ours is better", "source": "paper, table 1"}
    compared = {"statistic": "error", "a": "ours", "margin": "better", "b": "theirs", "ratio": 0.5}
    numbers = {"interval": [0.4, 0.625], "verdict": "supported"}
    beyond = {**stated, "id": "P-2", "out_of_scope": "two cores", "verdict": "out of scope here"}
    kept["presets"]["mixture"]["claims"] = [{**stated, **compared, **numbers}, beyond]
    record.write(recorded / "mean_flow.json", kept)
    first, second = landscape.claims(recorded).splitlines()[2:]
    said = "P-1: ours is better (paper, table 1) | ours / theirs: 0.5 [0.4, 0.625], better | supported |"
    assert first.endswith(said) and second.endswith("| two cores | out of scope here |")


def test_the_records_are_found_from_a_folder_below(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="inside of the repository"):
        landscape.replications()
    (tmp_path / "replications").mkdir()
    (tmp_path / "build" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "build" / "deep")
    assert landscape.replications() == tmp_path / "replications"


def test_the_times_of_steps_are_those_of_the_benchmark(tmp_path, monkeypatch):
    (tmp_path / "replications").mkdir()
    (tmp_path / "ci").mkdir()
    numbers = {"MF": {"time": {"median": 1.5, "low": 1.0, "high": 2.0, "rounds": 3}, "flops": 1.3}}
    (tmp_path / "ci" / "bench.json").write_text(json.dumps({"steps": {"recorded": {}, "numbers": numbers}}))
    monkeypatch.chdir(tmp_path)
    assert landscape.step_times() == {"MF": 1.5}


def test_the_errata_lead_to_cells_that_are_there():
    notebooks = Path(__file__).resolve().parents[2] / "notebooks"
    landscape_notebook = nbformat.read(notebooks / "100_landscape.ipynb", as_version=4)
    links = re.findall(
        r"\]\((\S+\.ipynb)#cell-id=([\w-]+)\)", "".join(cell.source for cell in landscape_notebook.cells)
    )
    assert len(links) > 10
    for path, cell in links:
        assert cell in {there.id for there in nbformat.read(notebooks / path, as_version=4).cells}, (path, cell)
