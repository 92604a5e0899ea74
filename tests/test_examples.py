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
        timeout=60,
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


def commands(lines: list[str]) -> list[str]:
    """The program's command lines, each a line that a shell takes."""
    for line in lines:
        subprocess.run(["sh", "-n"], input=line, text=True, check=True)
    return [line for line in lines if line.startswith("fioctl-rotate ")]


def test_the_github_workflow_pushes_what_was_planned_and_keeps_what_came_of_it() -> None:
    document = workflow("github-actions.yml")
    assert document["env"]["ROTATION_ID"] == "github-${{ github.run_id }}"
    plan, rotate = (document["jobs"][name]["steps"] for name in ("plan", "rotate"))
    check, dry_run = commands([step["run"] for step in plan if "run" in step])
    assert check.startswith("fioctl-rotate rotations check")
    assert '--rotation-id "$ROTATION_ID" --dryrun --out plan.toml' in dry_run
    # Named so, GitHub's bash has pipefail: a dry run that fails is not hidden by what it is piped into.
    assert document["defaults"]["run"]["shell"] == "bash"
    push, watch = commands([step["run"] for step in rotate if "run" in step])
    assert push == "fioctl-rotate apply plan.toml"
    assert '"$ROTATION_ID"' in watch
    kept = next(step for step in rotate if "upload-artifact" in step.get("uses", ""))
    assert kept["if"] == "always()"
    assert f"--junit {kept['with']['path']}" in watch
    # What a person typed reaches the shell through the environment alone.
    assert not any("${{" in step.get("run", "") for step in plan + rotate)


def test_the_gitlab_job_pushes_once_and_keeps_what_came_of_it() -> None:
    job = workflow("gitlab-ci.yml")["rotate-certificates"]
    assert job["variables"]["ROTATION_ID"] == "gitlab-$CI_PIPELINE_ID"
    dry_run, push, watch = commands(job["script"])
    assert dry_run == f"{push} --dryrun"
    assert '--rotation-id "$ROTATION_ID"' in push
    assert f"--junit {job['artifacts']['reports']['junit']}" in watch
    assert job["artifacts"]["when"] == "always"


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
