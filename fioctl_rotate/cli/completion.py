"""What Tab completes: groups, devices, rotation ids and profiles, as this machine saw them last."""

import os
import re
from collections.abc import Callable
from typing import Any

# Names come from servers. Only plain ones are offered: a shell could split others, or run a command in them.
_PLAIN = re.compile(r"[\w.@+-]+")


def names(kind: str) -> Callable[[Any, str], list[str]]:
    """A completion for typer: the names of a kind that begin with what is typed.

    `kind` is `groups`, `devices`, `rotations` or `profiles`. They are those of the Factory that is named by flag or
    environment, else of the one that was talked to last.
    """

    def complete(ctx: Any, incomplete: str) -> list[str]:
        from fioctl_rotate.seen import load

        known = load()
        if kind == "profiles":
            found = known["profiles"]
        else:
            factory = ctx.params.get("factory") or os.environ.get("FIOCTL_FACTORY")
            entries = [entry for entry in known["factories"] if factory in (None, entry["factory"])]
            found = entries[0][kind] if entries else []
        return [name for name in found if name.startswith(incomplete) and _PLAIN.fullmatch(name)]

    return complete


class Described:
    """Mixed into typer's commands and groups: Tab shows the whole first sentence of each one's help."""

    def get_short_help_str(self, limit: int = 1000) -> str:
        """The first sentence of the help."""
        return str(super().get_short_help_str(limit))  # type: ignore[misc]  # typer's

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """What Tab offers."""
        offered: list[Any] = super().shell_complete(ctx, incomplete)  # type: ignore[misc]  # typer's
        for item in offered:
            # typer's script for zsh puts the help between quotes, where a straight apostrophe is lost.
            item.help = (item.help or "").replace("'", "\u2019")
        return offered
