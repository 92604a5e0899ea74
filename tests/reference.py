"""The command tree as data, and as the README lists it: `python tests/reference.py` writes that section."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.main import get_command

from fioctl_rotate.cli.app import root
from fioctl_rotate.cli.common import CONNECTION_OPTIONS

BEGIN = "<!-- made by: python tests/reference.py -->\n"
END = "\n<!-- end -->"


@dataclass(frozen=True)
class Leaf:
    """A command that does something: its words after `fioctl-rotate`, and typer's command."""

    path: tuple[str, ...]
    command: Any

    @property
    def arguments(self) -> list[Any]:
        return [p for p in self.command.params if p.param_type_name == "argument"]

    @property
    def options(self) -> list[Any]:
        return [p for p in self.command.params if p.param_type_name == "option" and p.name != "help"]

    @property
    def connected(self) -> bool:
        return CONNECTION_OPTIONS.keys() <= {p.name for p in self.command.params}


def leaves() -> list[Leaf]:
    """Every command of the tree that is listed in a help."""
    return list(_walk(get_command(root), (), None))


def _walk(command: Any, path: tuple[str, ...], parent: Any) -> Iterator[Leaf]:
    if not hasattr(command, "list_commands"):
        yield Leaf(path, command)
        return
    from typer import Context

    context = Context(command, info_name=path[-1] if path else "fioctl-rotate", parent=parent)
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        if not child.hidden:
            yield from _walk(child, (*path, name), context)


def reference() -> str:
    """The README's list of commands: usage and first line of help, then the options that are its own."""
    lines = []
    for leaf in leaves():
        words = " ".join(
            ["fioctl-rotate", *leaf.path, *(a.metavar or a.name.upper() for a in leaf.arguments)]
        )
        summary = (leaf.command.help or "").split("\n\n")[0].replace("\n", " ").strip()
        lines.append(f"- `{words}`: {summary}")
        skipped = set(CONNECTION_OPTIONS) if leaf.connected else set()
        own = ["/".join([*o.opts, *o.secondary_opts]) for o in leaf.options if o.name not in skipped]
        if own:
            lines.append("  " + " ".join(f"`{option}`" for option in own))
    return "\n".join(lines)


if __name__ == "__main__":
    readme = Path(__file__).parents[1] / "README.md"
    before, rest = readme.read_text().split(BEGIN)
    readme.write_text(before + BEGIN + reference() + END + rest.split(END)[1])
