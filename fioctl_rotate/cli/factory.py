"""`users` and `status` of a Factory; `version` and `completion` of this program."""

from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from fioctl_rotate import __version__
from fioctl_rotate.cli import common
from fioctl_rotate.cli.common import Result, Table, option
from fioctl_rotate.settings import Flags

if TYPE_CHECKING:
    from fioctl_rotate import wire


class Shell(StrEnum):
    """The shells that `completion` has a script for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"
    POWERSHELL = "powershell"


@common.connected
async def users(
    flags: Flags,
    user: Annotated[str | None, typer.Argument(metavar="[ID]", help="One user; `self`: yourself.")] = None,
) -> Result:
    """List the Factory's users, or show one with teams and scopes."""
    async with common.connect(flags) as api:
        if user is not None:
            found = await api.user(user)
            return Result(found, _user_lines(found))
        everybody = await api.users()
    rows = [(person.polis_id, person.name, person.role) for person in everybody]
    return Result({"users": everybody}, [Table(("ID", "NAME", "ROLE"), rows)])


def _user_lines(user: "wire.User") -> Iterator[str | Table]:
    yield Table(("ID", "NAME", "ROLE"), [(user.polis_id, user.name, user.role)])
    for scope in user.effective_scopes or []:
        yield f"scope: {scope}"


@common.connected
async def status(
    flags: Flags,
    offline_threshold: Annotated[
        int, option("--offline-threshold HOURS", "Hours after which a device counts as offline.", min=0)
    ] = 4,
) -> Result:
    """Show how many devices each group has, how many of them are online, and which rotation the group has."""
    async with common.connect(flags) as api:
        from fioctl_rotate.ops.factory_status import read_status

        groups = await read_status(api, offline_threshold)
        total = sum(group.devices for group in groups)
        rows = [(g.name or "(no group)", str(g.devices), str(g.online), g.rotation) for g in groups]
        document = {
            "factory": api.factory,
            "server": api.server,
            "total-devices": total,
            "groups": [
                {"group": g.name, "devices": g.devices, "online": g.online, "rotation": g.rotation}
                for g in groups
            ],
        }
        return Result(
            document,
            [common.at(api, f"{total} devices"), Table(("GROUP", "DEVICES", "ONLINE", "ROTATION"), rows)],
        )


def version() -> Result:
    """Show the version of this program."""
    return Result({"version": __version__}, [f"fioctl-rotate {__version__}"])


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh, fish or powershell.")],
) -> Result:
    """Print a script for shell completion: commands, options, groups, devices, rotation ids, profiles.

    bash: add `source <(fioctl-rotate completion bash)` to ~/.bashrc. zsh: add `source <(fioctl-rotate completion
    zsh)` to ~/.zshrc, after `compinit`. fish: type `fioctl-rotate completion fish >
    ~/.config/fish/completions/fioctl-rotate.fish`. Tab asks no server: it offers what this machine saw last.
    """
    from typer._completion_shared import get_completion_script

    script = get_completion_script(
        prog_name="fioctl-rotate", complete_var="_FIOCTL_ROTATE_COMPLETE", shell=shell
    )
    return Result({"shell": shell, "script": script}, [script])


users_app = common.single(users, "fioctl-rotate users")
status_app = common.single(status, "fioctl-rotate status --offline-threshold 24")
version_app = common.single(version, "fioctl-rotate version")
completion_app = common.single(completion, "fioctl-rotate completion bash")
