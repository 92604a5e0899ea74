"""What a person who knows fioctl by heart types: each line works here, or is answered with what does the job."""

import shlex
import shutil
from pathlib import Path

import pytest

from fioctl_rotate.cli.fioctl_alone import FIOCTL_ALONE
from tests.commandline import Cli

# Lines after `fioctl`, with the exit code that they have here. UUID is a device's, DIR a PKI directory.
LINES = {
    "devices list": 0,
    "devices list -g field": 0,
    "devices list --by-group field": 0,
    "devices list 'device-*'": 0,
    "devices list --columns name,uuid,last-seen,device-group": 0,
    "devices list --sort-by-last-seen=desc": 0,
    "devices list --sort-by-name": 0,
    "devices list --limit 10 --page 1": 0,
    "devices list --just-mine": 0,
    "devices list --by-tag main": 0,
    "devices list --by-target no-target": 0,
    "devices list --only-prod": 0,
    "devices list --only-non-prod": 0,
    "devices list --uuid UUID": 0,
    "device show device-1": 0,
    "devices show device-1 --aktoml": 0,
    "devices show UUID -u": 0,
    "devices config log device-1": 0,
    "devices config log device-1 -n 2": 0,
    "devices config group device-1 field": 0,
    "devices config group device-2": 2,
    "devices config set device-1 foo=bar -m why": 0,
    "devices config delete device-1 foo": 0,
    "devices config updates device-1": 0,
    "devices updates device-1": 0,
    "devices config rotate-certs device-1 -r why --dryrun": 0,
    "devices config rotate-certs -u UUID -r why --dryrun": 0,
    "config rotate-certs --dryrun": 2,
    "config rotate-certs -g field -r test --dryrun": 0,
    "config rotate-certs -g field -r test -p 24001 -e .well-known/est --hsm-pkey-ids 01,07 --hsm-cert-ids 03,09"
    " --dryrun": 0,
    "config log": 0,
    "config log -g field -n 1": 0,
    "config set -g field foo=bar -m test": 0,
    "config delete -g field foo": 0,
    "config updates -g field": 0,
    "config device-group list": 0,
    "config device-group create canaries first": 0,
    "config device-group update canaries -n canary": 0,
    "config device-group delete canary": 0,
    "keys ca show": 0,
    "keys ca show --pretty": 0,
    "keys ca show --just-root": 0,
    "keys ca show --just-device-cas": 0,
    "keys ca show --just-tls": 0,
    "keys est show": 0,
    "keys est show --pretty": 0,
    "keys est authorize DIR -y": 0,
    "keys ca rotate-tls DIR": 0,
    "keys ca add-device-ca DIR --online-ca": 0,
    "status": 0,
    "version": 0,
    "users": 0,
    "completion bash": 0,
    "devices list-denied": 0,
    "devices delete-denied x": 1,
    "devices delete nosuch": 1,
    "devices rename device-1 device-1": 0,
    "event-queues list": 2,
    "targets list": 2,
    "waves list": 2,
    "device triggers device-1": 2,
}


def test_each_line_works_or_is_answered(cli: Cli, acme: Path, tmp_path: Path) -> None:
    shutil.copytree(acme / "pki", tmp_path / "pki")
    uuid = cli("devices", "show", "device-1", "--format", "json").json["uuid"]
    for line, code in LINES.items():
        words = [{"UUID": uuid, "DIR": tmp_path / "pki"}.get(word, word) for word in shlex.split(line)]
        done = cli(*words)
        assert done.code == code, (line, done.err)
        assert done.err.startswith("error: ") == (code in (1, 2)), (line, done.err)


@pytest.mark.parametrize("words", FIOCTL_ALONE, ids=" ".join)
def test_what_fioctl_has_alone_is_answered_with_its_command(words: tuple[str, ...], cli: Cli) -> None:
    done = cli(*words, "some", "--flag")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(
        f"error: only fioctl has this command: `fioctl {' '.join(words)} some --flag`\n"
    )


def test_global_flags_go_before_the_command_too(
    cli: Cli, acme: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FIOCTL_FACTORY")
    monkeypatch.delenv("FIOCTL_ROTATE_MOCK")
    at = ("-f", "acme", "--mock", acme)
    for words in (
        (*at, "devices", "list"),
        ("-f", "acme", "devices", "list", "--mock", acme),
        # What is typed after the command wins.
        ("-f", "other", "--mock", tmp_path, "devices", "list", *at),
        ("-t", "x", *at, "devices", "list"),
    ):
        assert "device-1" in cli(*words).out, words
    assert "GET " in cli("-v", *at, "devices", "list").err
    settings = tmp_path / "settings.toml"
    settings.write_text(f'factory = "acme"\nmock = "{acme}"\n')
    assert "device-1" in cli("-c", settings, "devices", "list").out
    # A server after the command is not a second answer to the mock before it.
    refused = cli(
        "--mock", acme, "-f", "acme", "devices", "list", "--server", "https://127.0.0.1:1", "-t", "x"
    )
    assert "both a mock" not in refused.err
