"""Wrong commands, spoilt files, and whatever the operating system refuses: one line, the right exit code, and every
file as it was."""

import errno
import os

import pytest
from spoilt import (
    alone,
    bench_spoilt,
    build_is_a_file,
    executed,
    folder,
    foreign,
    full,
    full_under_papermill,
    held_locks,
    holding,
    interrupting,
    never_recorded,
    no_code,
    no_output,
    not_executed,
    paper,
    printed,
    readme_there,
    recorded_but,
    refusing,
    replaced,
    repository,
    small_files,
    taken,
    template_there,
    with_cell,
    with_comment,
    with_front,
    with_tag,
    without_git,
    without_seed,
)
from table import Row, judge, table
from trees import put

from commands import files, refresh, renew, site
from commands import record as recording
from flowcore import record

MINE = f"process {os.getpid()}: wait for it, or end it"
NEW = ["new", "other", "--title", "t", "--url", "u"]
REMEDY = "restore it from git, or record anew"
BUSY = "is being recorded or refreshed"
ROWS = [
    # wrong commands
    Row("no verb", [], 2, ["VERB", "--help"]),
    Row("no such verb", ["walk"], 2, ["walk", "run"]),
    Row("no such option", ["run", "paper", "--fast"], 2, ["--fast"]),
    Row("run nothing", ["run"], 2, ["say which", "paper"]),
    Row("run an unknown one", ["run", "papre"], 2, ["papre", "there are: paper"]),
    Row("run an empty name", ["run", ""], 2, ["there are: paper"]),
    Row("run a path", ["run", "../replications/paper"], 2, ["../replications/paper", "there are: paper"]),
    Row("run a file", ["run", "paper.ipynb"], 2, ["paper.ipynb", "there are: paper"]),
    Row("check an unknown one", ["check", "papre"], 2, ["papre", "there are: paper"]),
    Row("record an unknown one", ["record", "papre"], 2, ["papre", "there are: paper"]),
    Row("record nothing", ["record"], 2, ["PAPER"]),
    Row("record several", ["record", "all"], 2, ["one replication at a time", "paper"], lambda r, _: put(r, "second")),
    Row("refresh an unknown one", ["refresh", "papre"], 2, ["papre", "there are: paper"]),
    Row("renew an unknown one", ["renew", "papre"], 2, ["papre", "there are: paper"]),
    Row("no budget", ["check", "--budget", "0"], 2, ["--budget", "0 is not positive"]),
    Row("a budget for all", ["check", "--all", "--budget", "20"], 2, ["--all", "--budget", "not both"]),
    Row("no jobs", ["run", "paper", "--jobs", "0"], 2, ["--jobs", "0 is not positive"]),
    Row("jobs in words", ["run", "paper", "--jobs", "two"], 2, ["--jobs", "'two' is no integer"]),
    Row("no seeds", ["record", "paper", "--seeds", "0"], 2, ["--seeds", "not positive"]),
    Row("two seeds", ["record", "paper", "--seeds", "2"], 2, ["at least 3"]),
    Row("an unknown preset", ["run", "paper", "--preset", "images"], 2, ["images", "there are: mixture, other"]),
    Row("nobody's preset", ["run", "all", "--preset", "images"], 2, ["no replication has a preset 'images'"]),
    Row("record an unknown preset", ["record", "paper", "--preset", "../x"], 2, ["../x", "there are: mixture, other"]),
    Row("new with a bad name", ["new", "Bad-Name", "--title", "t", "--url", "u"], 2, ["Bad-Name", "mean_flow"]),
    Row("new as a path", ["new", "../x", "--title", "t", "--url", "u"], 2, ["../x"]),
    Row("new over an old one", ["new", "paper", "--title", "t", "--url", "u"], 2, ["exists already"]),
    Row("new without a template", NEW, 2, ["900_template", "missing"]),
    Row("new without a title", ["new", "other", "--url", "u"], 2, ["--title"]),
    Row("new of an odd family", [*NEW, "--family", "odd"], 2, ["odd", "steering"], template_there),
    Row("an unknown benchmark", ["bench", "stpes"], 2, ["stpes", "there are: steps"]),
    Row("bench without a place", ["bench"], 2, ["README.md", "<!-- bench -->"]),
    Row("bench on a spoilt record", ["bench"], 1, ["bench.json", "not JSON", "restore it"], bench_spoilt),
    Row("table without a place", ["table"], 2, ["README.md", "<!-- landscape -->"]),
    Row("site without a front", ["site"], 2, ["100_landscape", "missing"]),
    Row("lab on port 0", ["lab", "--port", "0"], 2, ["--port", "1 to 65535"]),
    Row("lab on a named port", ["lab", "--port", "http"], 2, ["--port", "'http'"]),
    Row("list of something", ["list", "paper"], 2, ["paper"]),
    # since a revision
    Row("since, and names", ["check", "paper", "--since", "HEAD"], 2, ["not both"]),
    Row("since nothing", ["check", "--since", ""], 2, ["revision", "''"], repository),
    Row(
        "since an option of git",
        ["check", "--since=--output=stolen"],
        2,
        ["takes a revision", "--output=stolen"],
        repository,
    ),
    Row("since a short option", ["check", "--since=-z"], 2, ["takes a revision", "'-z'"], repository),
    Row("since an unknown revision", ["check", "--since", "nope"], 2, ["nope", "no such revision"], repository),
    Row("since a file", ["check", "--since", "HEAD:replications"], 2, ["HEAD:replications"], repository),
    Row("since two revisions", ["check", "--since", "HEAD..HEAD"], 2, ["HEAD..HEAD"], repository),
    Row("since zero zeros", ["check", "--since", "000"], 2, ["'000'"], repository),
    Row("since, without a repository", ["check", "--since", "HEAD"], 1, ["not a git repository", "name the"], alone),
    Row("since, without git", ["check", "--since", "HEAD"], 1, ["git: not found", "install it"], without_git),
    Row("since, in a foreign clone", ["check", "--since", "HEAD"], 1, ["safe.directory", "somebody else"], foreign),
    Row("renew since an option", ["renew", "--since=-z"], 2, ["takes a revision", "'-z'"], repository),
    Row("renew since an unknown revision", ["renew", "--since", "nope"], 2, ["nope", "no such revision"], repository),
    Row("renew without a repository", ["renew"], 1, ["not a git repository", "refresh them"], alone),
    # notebooks
    Row("a cut notebook", ["run", "paper"], 1, ["paper.ipynb is not a notebook", "JSON"], holding(b"{")),
    Row("an empty notebook", ["run", "paper"], 1, ["paper.ipynb is not a notebook"], holding(b"")),
    Row("a list for a notebook", ["run", "paper"], 1, ["paper.ipynb", "list of cells"], holding(b"[]")),
    Row("a nested notebook", ["run", "paper"], 1, ["paper.ipynb is not a notebook"], holding(b"[" * 100_000)),
    Row("odd cells", ["run", "paper"], 1, ["list of cells"], holding(b'{"cells": [{"cell_type": "code"}]}')),
    Row("an old format", ["run", "paper"], 1, ["format 4", "3"], holding(b'{"cells": [], "nbformat": 3}')),
    Row("a notebook in Latin-1", ["run", "paper"], 1, ["paper.ipynb", "UTF-8", "0xe9 at 2"], holding(b'{"\xe9":1}')),
    Row("a folder for a notebook", ["run", "paper"], 1, ["paper.ipynb", "directory"], folder(".ipynb")),
    Row(
        "no parameters", ["run", "paper"], 2, ["one cell tagged parameters, has 0"], replaced('"parameters"\n', '"p"\n')
    ),
    Row("no seed to record", ["record", "paper"], 2, ["lacks seed"], without_seed),
    Row("a cut notebook in the site", ["site"], 1, ["paper.ipynb"], lambda r, m: [with_front(r), holding(b"{")(r, m)]),
    Row("check of what was not run", ["check"], 1, ["'9 Recorded metrics'", "was not executed"], not_executed),
    Row("check without an output", ["check"], 1, ["nbval-check-output", "ci/replicate record paper"], no_output),
    Row(
        "check of what was never recorded", ["check"], 1, ["mixture", "no metrics yet", "record paper"], never_recorded
    ),
    Row(
        "check of an output without a verdict",
        ["check"],
        1,
        ["no line of a metric that is ok", "record paper"],
        printed(
            "paper: nothing is checked, no preset has these parameters (nearest, mixture: name = 'all ok', not 'a')"
        ),
    ),
    Row("check of a cell to be skipped", ["check"], 1, ["'6 Training'", "tag nbval-skip"], with_tag(1, "nbval-skip")),
    Row("check of a last cell to be skipped", ["check"], 1, ["tag nbval-skip"], with_tag(-1, "nbval-skip")),
    Row("check of a cell that may raise", ["check"], 1, ["raises-exception"], with_tag(2, "raises-exception")),
    Row("check of one that must raise", ["check"], 1, ["nbval-raises"], with_tag(1, "nbval-raises-exception")),
    Row("check of an ignored output", ["check"], 1, ["nbval-ignore-output"], with_tag(-1, "nbval-ignore-output")),
    Row("the same in a comment", ["check"], 1, ["NBVAL_IGNORE_OUTPUT"], with_comment(-1, "# NBVAL_IGNORE_OUTPUT")),
    Row("a comment that skips", ["check"], 1, ["comment NBVAL_SKIP", "remove"], with_comment(-1, "  ##  NBVAL_SKIP ")),
    Row("a comment that skips the first", ["check"], 1, ["comment NBVAL_SKIP"], with_comment(0, "#NBVAL_SKIP")),
    Row(
        "a text in the place of tags",
        ["check"],
        1,
        ["must be tagged nbval-check-output"],
        with_cell(-1, metadata=lambda _: {"tags": "nbval-check-output"}),
    ),
    Row("check without code", ["check"], 1, ["paper.ipynb", "no code"], no_code),
    # records
    Row("no record", ["run", "paper"], 1, ["paper.json", "no such record"], lambda r, _: paper(r, ".json").unlink()),
    Row("a cut record", ["run", "paper"], 1, ["paper.json: not JSON", REMEDY], holding(b"{", ".json")),
    Row("a nested record", ["run", "paper"], 1, ["paper.json: not JSON"], holding(b"[" * 100_000, ".json")),
    Row(
        "a record in Latin-1", ["run", "paper"], 1, ["paper.json", "not UTF-8", REMEDY], holding(b'{"\xe9":1}', ".json")
    ),
    Row("a folder for a record", ["run", "paper"], 1, ["paper.json", "directory"], folder(".json")),
    Row(
        "a record without presets", ["run", "paper"], 1, ["presets", REMEDY], replaced('"presets"', '"preset"', ".json")
    ),
    Row("a cut record, checked", ["check"], 1, ["paper.json: not JSON", REMEDY], recorded_but(".json", b"{")),
    Row("no record, checked", ["check"], 1, ["paper.json"], lambda r, _: [executed(r), paper(r, ".json").unlink()]),
    Row("an odd record, refreshed", ["refresh", "paper"], 1, ["paper.json"], holding(b"[]", ".json")),
    Row("an odd record, recorded", ["record", "paper"], 1, ["paper.json"], holding(b"[]", ".json")),
    # the operating system
    Row("table on a full disk", ["table"], 1, ["README.md: no space left on device: free some"], full("README.md")),
    Row("run on a full disk", ["run", "paper"], 1, ["paper.ipynb: no space left"], full_under_papermill),
    Row("table beyond a limit", ["table"], 1, ["README.md: larger than a file", "ulimit"], small_files),
    Row(
        "new on a full disk",
        NEW,
        1,
        ["other.ipynb: no space left on device: free some"],
        full("replications/other.ipynb"),
    ),
    Row("its record on a full disk", NEW, 1, ["other.json: no space left on device"], full("replications/other.json")),
    Row(
        "table in a read-only tree",
        ["table"],
        1,
        ["README.md: the file system is read-only: work in a copy"],
        refusing("README.md.", "write_bytes", errno.EROFS, readme_there),
    ),
    Row(
        "run in a read-only tree",
        ["run", "paper"],
        1,
        ["locks: the file system is read-only"],
        refusing("locks", "mkdir", errno.EROFS),
    ),
    Row(
        "record in a tree of somebody else",
        ["record", "paper"],
        1,
        ["permission denied: make it yours"],
        refusing("locks", "mkdir", errno.EACCES),
    ),
    Row(
        "an unreadable notebook",
        ["run", "paper"],
        1,
        ["paper.ipynb: permission denied"],
        refusing("paper.ipynb", "read_text", errno.EACCES),
    ),
    Row(
        "an unreadable record",
        ["run", "paper"],
        1,
        ["paper.json: permission denied"],
        refusing("paper.json", "read_text", errno.EACCES),
    ),
    Row(
        "an unreadable record, checked",
        ["check"],
        1,
        ["paper.json: permission denied"],
        refusing("paper.json", "read_text", errno.EACCES),
    ),
    Row(
        "a failing disk",
        ["run", "paper"],
        1,
        ["paper.json: Input/output error"],
        refusing("paper.json", "read_text", errno.EIO),
    ),
    Row("a file where build should be", ["run", "paper"], 1, ["build"], build_is_a_file),
    Row(
        "README in Latin-1",
        ["table"],
        1,
        ["README.md: not UTF-8"],
        lambda root, _: (root / "README.md").write_bytes(b"\xe9"),
    ),
    Row(
        "site on a full disk",
        ["site"],
        1,
        ["no space left"],
        lambda root, m: [with_front(root), refusing(".part", "write_bytes", errno.ENOSPC)(root, m)],
    ),
    # two at once
    Row("two runs of the same", ["run", "paper"], 2, ["paper.ipynb is being written", MINE], taken("paper.ipynb")),
    Row("two recordings", ["record", "paper"], 2, [f"paper {BUSY}", MINE], taken("record.paper")),
    Row("refresh while recording", ["refresh", "paper"], 2, [f"paper {BUSY}", MINE], taken("record.paper")),
    Row("renew while recording", ["renew", "paper"], 2, [f"paper {BUSY}", MINE], taken("record.paper", repository)),
    Row("two sites", ["site"], 2, ["site is being made", MINE], taken("site", with_front)),
    # Ctrl-C
    Row("table interrupted", ["table"], 130, ["interrupted"], interrupting(files.os, "replace", readme_there)),
    Row("site interrupted", ["site"], 130, ["interrupted"], interrupting(site, "page_exporter", with_front)),
    Row("refresh interrupted", ["refresh", "paper"], 130, ["interrupted"], interrupting(refresh, "refresh")),
    Row("renew interrupted", ["renew"], 130, ["interrupted"], interrupting(renew, "unpack", repository)),
    Row("record interrupted", ["record", "paper"], 130, ["interrupted"], interrupting(recording, "measure")),
    Row("new interrupted", NEW, 130, ["interrupted"], interrupting(record, "write", template_there)),
]


@pytest.fixture(autouse=True)
def release():
    yield
    while held_locks:
        held_locks.pop().__exit__(None, None, None)


@table(ROWS)
def test_a_fault_is_said_in_one_line(row, tree, monkeypatch, capsys):
    judge(row, tree, monkeypatch, capsys)
    page = tree / "build" / "site" / "index.html"
    if (tree / "notebooks" / "100_landscape.ipynb").exists():  # there was a site, and it is whole
        assert page.read_text() == "the old one"
    assert not list(tree.rglob("*.part"))


def test_the_table_is_long_enough_and_tries_every_verb():
    verbs = {row.command[0] for row in ROWS if row.command}
    assert len(ROWS) >= 50
    assert verbs >= {"list", "run", "check", "record", "refresh", "renew", "new", "table", "bench", "site", "lab"}
