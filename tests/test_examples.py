"""The examples: the script runs, the workflows hold together, and the saved dry run is what the program makes."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import time_machine
import yaml

from fioctl_rotate.checks import Check, Status
from fioctl_rotate.ops.plan_file import read_plan
from tests.commandline import Cli
from tests.pushing import file_of, log, value

DIGEST = re.compile("[0-9a-f]{64}")
EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPT = EXAMPLES / "rotate-group.sh"


def run_script(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [SCRIPT, *arguments],
        cwd=cwd,
        env=os.environ | {"PATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


# --- The script ---


def test_the_script_is_one_that_any_sh_takes() -> None:
    subprocess.run(["sh", "-n", SCRIPT], check=True)
    assert os.access(SCRIPT, os.X_OK)


def test_the_script_pushes_once_however_often_it_is_run(cli: Cli, acme: Path, tmp_path: Path) -> None:
    for attempt in range(2):
        done = run_script("field", "why not", "job-7", "--no-checks", cwd=tmp_path, ROTATE_TIMEOUT="0.5")
        # Nobody runs the devices here, so time runs out.
        assert done.returncode == 4, done.stderr
        assert "Would send rotation job-7 to group field" in done.stdout
        assert ("already there, nothing sent" in done.stdout) == (attempt == 1)
        assert "error: time ran out" in done.stderr
    assert [(entry["reason"], file_of(entry)) for entry in log(cli)] == [("why not", value("job-7"))]
    # However short the time was, there is a file; with enough of it, both devices are in it.
    for seconds in (0.5, 1, 2, 4, 8, 16, 32):
        done = run_script(
            "field", "why not", "job-7", "--no-checks", cwd=tmp_path, ROTATE_TIMEOUT=str(seconds)
        )
        suite = ElementTree.parse(tmp_path / "rotation.xml").getroot()  # noqa: S314  our own file
        cases = [case.get("name") for case in suite.iter("testcase")]
        if cases != ["devices"]:
            break
    assert cases == ["device-1", "device-2"]


def test_the_script_stops_where_the_push_is_refused(cli: Cli, acme: Path, tmp_path: Path) -> None:
    assert (
        run_script("field", "why", "job-7", "--no-checks", cwd=tmp_path, ROTATE_TIMEOUT="0").returncode == 4
    )
    done = run_script("field", "why", "job-7", "--no-checks", "-p", "443", cwd=tmp_path)
    assert done.returncode == 5
    assert "with other content" in done.stderr
    assert len(log(cli)) == 1


def test_the_script_says_how_it_is_called(tmp_path: Path) -> None:
    done = run_script("field", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage: " in done.stderr


# --- The workflows ---


def workflow(name: str) -> Any:
    return yaml.safe_load((EXAMPLES / name).read_text())


def run_steps(steps: list[str], cwd: Path, **environment: str) -> list[int]:
    """Run a job's steps as CI's bash does, with what the mock needs; returns their exit codes."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    codes = []
    for step in steps:
        # Nobody runs the devices here, nor the EST server.
        text = step.replace("--timeout 2h", "--timeout 3s --no-checks").replace(
            "--dryrun", "--dryrun --no-checks"
        )
        codes.append(
            subprocess.run(
                ["bash", "-e", "-c", text],
                cwd=cwd,
                env=os.environ | {"PATH": path} | environment,
                check=False,
            ).returncode
        )
    return codes


def test_the_github_workflow_applies_what_was_approved_and_keeps_what_came_of_it(
    acme: Path, tmp_path: Path
) -> None:
    document = workflow("github-actions.yml")
    assert document["env"]["ROTATION_ID"] == "github-${{ github.run_id }}"
    plan, rotate = (document["jobs"][name]["steps"] for name in ("plan", "rotate"))
    # What a person typed reaches the shell through the environment alone.
    assert not any("${{" in step.get("run", "") for step in plan + rotate)
    summary, output = tmp_path / "summary.md", tmp_path / "output"
    given = {
        **{"GROUP": "field", "REASON": "it's time", "ROTATION_ID": "github-7"},
        **{"GITHUB_STEP_SUMMARY": str(summary), "GITHUB_OUTPUT": str(output)},
    }
    _install, check, dry_run, digest = [step["run"] for step in plan if "run" in step]
    # Whether the check passes depends on what this machine serves.
    [code] = run_steps([check], tmp_path, **given)
    assert code in (0, 5)
    assert summary.read_text().startswith("## Check of group field before a rotation\n")
    assert run_steps([dry_run, digest], tmp_path, **given) == [0, 0]
    name, _, approved = output.read_text().strip().partition("=")
    assert (name, approved) == ("digest", read_plan(tmp_path / "plan.toml").plan.digest)
    assert document["jobs"]["plan"]["outputs"]["digest"] == "${{ steps.plan.outputs.digest }}"

    _install, apply, report = [step["run"] for step in rotate if "run" in step]
    assert run_steps([apply], tmp_path, DIGEST="sha256:" + "0" * 64, **given) == [5]
    # The time of the run is over before any device is done; the report is written all the same.
    assert run_steps([apply, report], tmp_path, DIGEST=approved, **given) == [4, 0]
    assert "## Dry run: rotation github\\-7 to group field\n" in summary.read_text()
    assert "in stages" in summary.read_text()
    kept = next(step for step in rotate if "upload-artifact" in step.get("uses", ""))
    assert kept["if"] == "always()"
    assert all((tmp_path / file).exists() for file in kept["with"]["path"].split())


def test_the_gitlab_jobs_apply_the_plan_of_the_pipeline(acme: Path, tmp_path: Path) -> None:
    document = workflow("gitlab-ci.yml")
    plan, rotate = document["plan-rotation"], document["rotate-certificates"]
    given = {"ROTATE_GROUP": "field", "ROTATE_REASON": "it's time", "ROTATION_ID": "gitlab-7"}
    assert document["variables"]["ROTATION_ID"] == "gitlab-$CI_PIPELINE_ID"
    assert run_steps(plan["script"][1:], tmp_path, **given) == [0, 0]
    assert (tmp_path / plan["artifacts"]["paths"][0]).exists()
    # GitLab gives the variables in this file to the jobs after it.
    name, _, approved = (tmp_path / plan["artifacts"]["reports"]["dotenv"]).read_text().strip().partition("=")
    assert (name, approved) == ("DIGEST", read_plan(tmp_path / "plan.toml").plan.digest)
    given["DIGEST"] = approved
    assert run_steps([*rotate["script"], *rotate["after_script"]], tmp_path, **given) == [4, 0]
    kept = [*rotate["artifacts"]["paths"], rotate["artifacts"]["reports"]["junit"]]
    assert all((tmp_path / file).exists() for file in kept)


def test_the_scheduled_jobs_fail_while_a_certificate_is_not_known(acme: Path, tmp_path: Path) -> None:
    [_install, due] = [
        step["run"] for step in workflow("github-due.yml")["jobs"]["due"]["steps"] if "run" in step
    ]
    assert run_steps([due], tmp_path, GITHUB_STEP_SUMMARY=str(tmp_path / "summary.md")) == [3]
    assert (tmp_path / "due.html").exists()
    assert "## Certificates of the whole fleet" in (tmp_path / "summary.md").read_text()
    job = workflow("gitlab-ci.yml")["certificates-due"]
    assert run_steps(job["script"], tmp_path) == [3]


# --- The saved dry run ---


def test_the_saved_dry_run_and_its_plan_are_what_the_program_makes(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`UPDATE_EXAMPLES=1 pytest tests/test_examples.py` writes them anew."""
    monkeypatch.chdir(tmp_path)

    async def probe(*_: Any, **__: Any) -> list[Check]:
        return [Check("reachable", Status.PASS, "localhost:8443 answers")]

    # Whatever this machine serves where the mock's EST server would be.
    monkeypatch.setattr("fioctl_rotate.ops.est_checks.probe", probe)
    at = ("-f", "acme", "--mock", "acme")
    assert cli("mock", "init", "acme", "-f", "acme", "--group", "field", "--devices", 5).code == 0
    rotate = ("config", "rotate-certs", "-g", "field", *at)
    before = ("-r", "first rotation", "--rotation-id", "certs-1732453200", "--no-checks")
    assert cli(*rotate, *before).code == 0
    plan = ("-r", "yearly rotation", "--rotation-id", "certs-1763989200", "--dryrun", "--out", "plan.toml")
    with time_machine.travel(1763989200, tick=False):  # the plan says when it was made
        shown = cli(*rotate, *plan)
    assert shown.code == 0
    typed = " ".join(f"'{word}'" if " " in word else word for word in ("fioctl-rotate", *rotate, *plan))
    made = {"dry-run.txt": f"$ {typed}\n{shown.out}", "plan.toml": Path("plan.toml").read_text()}
    for name, text in made.items():
        if os.environ.get("UPDATE_EXAMPLES"):
            (EXAMPLES / name).write_text(text)
        # Devices of a mock have random uuids, and digests are of these, too.
        assert DIGEST.sub("", (EXAMPLES / name).read_text()) == DIGEST.sub("", text)
    assert read_plan(EXAMPLES / "plan.toml").intact
