"""The workflows hold the rights that they need and no others: what runs notebooks and packages may only read."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((ROOT / ".github/workflows").glob("*.yml"))}
JOBS = {f"{name}-{key}": job for name, workflow in WORKFLOWS.items() for key, job in workflow["jobs"].items()}
OURS = re.compile(r"\bci/|\.ci/|\bpip\b|\bpython3?\b|\bpytest\b")  # what runs packages, tests or notebooks


def commands(job):
    return "\n".join(step.get("run", "") for step in job["steps"])


def steps_with(job, action):
    return [step for step in job["steps"] if step.get("uses", "").startswith(f"{action}@")]


def writes(job):
    return {right for right, level in job["permissions"].items() if level != "read"}


def test_there_are_workflows():
    assert {"accelerators", "cpu", "nightly", "record"} <= set(WORKFLOWS)


@pytest.mark.parametrize("workflow", WORKFLOWS.values(), ids=WORKFLOWS)
def test_a_workflow_gives_no_rights_of_itself_and_does_not_meet_itself(workflow):
    assert workflow["permissions"] == {}
    assert workflow["concurrency"]["group"]


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_a_job_ends_and_says_its_rights(job):
    assert job["timeout-minutes"] <= 360  # what GitHub allows
    assert set(job["permissions"].values()) <= {"read", "write"}  # by name, never write-all


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_what_runs_packages_and_notebooks_may_only_read(job):
    assert not (OURS.search(commands(job)) and writes(job))


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_only_a_job_that_pushes_keeps_the_credentials(job):
    pushes = "git push" in commands(job)
    for step in steps_with(job, "actions/checkout"):
        assert step["with"]["persist-credentials"] is pushes
    assert pushes == ("contents" in writes(job))


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_what_others_write_reaches_a_shell_only_through_its_environment(job):
    assert "${{ github." not in commands(job) and "${{ needs." not in commands(job)


@pytest.mark.parametrize("path", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=WORKFLOWS)
def test_actions_are_pinned_by_commit_beside_the_tag(path):
    used = re.findall(r"uses: (.*)", path.read_text())
    assert used
    for action in used:
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


def test_a_commit_stands_for_one_tag_in_all_workflows():
    text = "\n".join(path.read_text() for path in (ROOT / ".github/workflows").glob("*.yml"))
    pins = set(re.findall(r"uses: (\S+)@(\S+) # (\S+)", text))
    assert len({action for action, _, _ in pins}) == len(pins)


def test_what_record_proposes_is_checked():
    """A pull request that a workflow opens starts no other workflow; a dispatch does, where it is allowed."""
    propose = WORKFLOWS["record"]["jobs"]["propose"]
    assert "gh workflow run cpu.yml" in commands(propose) and "actions" in writes(propose)
    assert "workflow_dispatch" in WORKFLOWS["cpu"][True]  # YAML reads `on` as a truth


FAKE = """#!/usr/bin/env bash
[ "$1" = table ] && { echo table >>README.md; exit; }
echo anew >"replications/$2.json"; echo anew >"replications/$2.ipynb"
[ "$2" != broken ]
"""


def test_a_notebook_that_fails_is_left_as_it_was_and_the_others_are_proposed(tmp_path):
    """The steps themselves, in a repository of three notebooks, with a command that only pretends to record."""
    git = shutil.which("git") or pytest.skip("no git on this machine")
    here, remote = tmp_path / "here", tmp_path / "remote"
    for name in ("replications", "ci", ".github"):
        (here / name).mkdir(parents=True)
    for name in ("broken", "first", "last"):
        for kind in ("json", "ipynb"):
            (here / "replications" / f"{name}.{kind}").write_text("before\n")
    (here / "README.md").write_text("before\n")
    (here / ".gitignore").write_text("/build/\n/bin/\n")
    (here / "ci" / "replicate").write_text(FAKE)
    (here / "ci" / "replicate").chmod(0o755)
    (here / "bin").mkdir()
    (here / "bin" / "gh").write_text('#!/usr/bin/env bash\necho "$@" >>build/gh.txt\n')
    (here / "bin" / "gh").chmod(0o755)
    known = {"user.name": "a", "user.email": "a@example.org", "commit.gpgsign": "false", "init.defaultBranch": "main"}
    settings = [word for key, value in known.items() for word in ("-c", f"{key}={value}")]

    def run(*command, **given):
        path = f"{here / 'bin'}:{os.environ['PATH']}"
        return subprocess.run(
            command,
            cwd=here,
            check=True,
            capture_output=True,
            text=True,
            env={"PATH": path, "HOME": str(tmp_path)} | given,
        ).stdout

    run(git, *settings, "init", "-q")
    run(git, "add", "-A")
    run(git, *settings, "commit", "-qm", "before")
    run(git, "init", "-q", "--bare", str(remote))
    run(git, "remote", "add", "origin", str(remote))

    jobs = WORKFLOWS["record"]["jobs"]
    output = tmp_path / "output"
    named = {step["name"]: step["run"] for job in jobs.values() for step in job["steps"] if "name" in step}
    for name in ("measure", "difference"):
        run("bash", "-e", "-c", named[name], GITHUB_OUTPUT=str(output))
    assert output.read_text().splitlines() == ["changed=true", "missing=broken"]
    with pytest.raises(subprocess.CalledProcessError):
        run("bash", "-e", "-c", named["every notebook was measured"], MISSING="broken")
    patch = (here / "build" / "record.patch").read_text()
    run(git, "checkout", "--", ".")

    stray = "diff --git a/ci/replicate b/ci/replicate\n--- a/ci/replicate\n+++ b/ci/replicate\n@@ -1 +1,2 @@\n"
    stray += f" {FAKE.splitlines()[0]}\n+echo stray\n"
    (tmp_path / "record.patch").write_text(patch + stray)
    environment = {"RUNNER_TEMP": str(tmp_path), "GITHUB_REF_NAME": "main", "GITHUB_SHA": "abc", "RUN": "there"}
    environment |= {"GITHUB_RUN_NUMBER": "7", "GITHUB_RUN_ATTEMPT": "1", "MISSING": "broken"}
    run("bash", "-e", "-c", named["pull request"], **environment)
    branch = run(git, "branch", "--show-current").strip()
    assert re.fullmatch(r"record-\d{4}-\d\d-\d\d-7\.1", branch)
    changed = run(git, "--git-dir", str(remote), "diff", "--name-only", f"{branch}~", branch).split()
    kinds = [f"replications/{name}.{kind}" for name in ("first", "last") for kind in ("ipynb", "json")]
    assert changed == ["README.md", *kinds]  # and neither what failed nor what the patch slipped in
    assert "Not measured, and left as they were: broken." in (tmp_path / "body.md").read_text()
    asked = (here / "build" / "gh.txt").read_text().splitlines()
    assert asked[0].startswith(f"pr create --base main --head {branch} ")
    assert asked[1] == f"workflow run cpu.yml --ref {branch}"
