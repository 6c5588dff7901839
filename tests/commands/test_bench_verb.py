"""`bench`: what it records, writes and refuses."""

import json

import pytest

from commands import bench as verb
from commands.__main__ import main

STEPS = {
    name: {"time": {"median": time, "low": 1.0, "high": 2.0, "rounds": 3}, "flops": time}
    for name, time in (("flow matching", 1.0), ("MF", 1.3))
}


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """A tree that keeps benchmarks, of two measurements that take no time; what was measured, in order."""
    from commands.benchmarks import measurements

    (tmp_path / "ci").mkdir()
    (tmp_path / ".github").mkdir()
    (tmp_path / "README.md").write_text("before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n")
    done = []
    overhead = {"share": {"median": 0.2, "low": 0.1, "high": 0.3, "rounds": 5}}
    measured = {"steps": STEPS, "overhead": overhead}
    few = {name: lambda n=name: done.append(n) or measured[n] for name in measured}
    monkeypatch.setattr(measurements, "MEASUREMENTS", few)
    monkeypatch.setattr(verb, "NAMES", tuple(few))
    return tmp_path, done


def test_bench_writes_its_record_the_table_and_the_figure(bench):
    root, done = bench
    assert main(["bench"], root) == 0
    assert done == ["steps", "overhead"]
    readme = (root / "README.md").read_text()
    assert readme.startswith("before\n") and readme.endswith("after\n") and "old" not in readme
    assert "| 1.30 | 1.00 to 2.00 | 3 | at most 1.40: met |" in readme
    assert "| 20 % | 10 % to 30 % | 5 | at most 5 %: not met |" in readme
    entry = json.loads((root / "ci" / "bench.json").read_text())["overhead"]
    assert entry["numbers"]["share"]["rounds"] == 5
    assert {"date", "device", "versions", "load"} <= set(entry["recorded"])
    assert (root / ".github" / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_bench_of_one_keeps_the_others(bench):
    root, done = bench
    assert main(["bench"], root) == 0
    assert main(["bench", "overhead"], root) == 0
    assert done == ["steps", "overhead", "overhead"]
    assert list(json.loads((root / "ci" / "bench.json").read_text())) == ["steps", "overhead"]


def test_bench_refuses_an_unknown_name_and_a_readme_without_a_place(bench, capsys):
    root, done = bench
    assert main(["bench", "stpes"], root) == 2
    assert "no benchmark stpes; there are: steps, overhead" in capsys.readouterr().err
    (root / "README.md").write_text("nothing\n")
    assert main(["bench"], root) == 2
    assert "needs a line <!-- bench -->" in capsys.readouterr().err
    assert done == []
