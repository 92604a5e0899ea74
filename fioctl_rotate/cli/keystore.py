"""Options of the commands that need a private key: where it is, and who tells its PIN or passphrase."""

import functools
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fioctl_rotate.cli.common import (
    Leaf,
    Options,
    asking,
    confirm,
    interactive,
    is_terminal,
    note,
    option,
    spread,
    warn,
)
from fioctl_rotate.errors import Refused, UsageError
from fioctl_rotate.pki import variables

if TYPE_CHECKING:
    from collections.abc import Callable

    from fioctl_rotate.ops.ceremony import Prompter
    from fioctl_rotate.pki.directory import PkiDirectory
    from fioctl_rotate.pki.hsm import Token
    from fioctl_rotate.pki.stores import KeyStore

DirectoryArgument = Annotated[Path, typer.Argument(metavar="DIR", help="PKI directory.", show_default=False)]


KEY_OPTIONS: Options = {
    "hsm_module": option("--hsm-module FILE", "PKCS#11 module of the HSM that holds the key."),
    "hsm_token_label": option("--hsm-token-label LABEL", "Token label; the root's key in it is root-ca."),
    "hsm_pin_file": option("--hsm-pin-file FILE", f"File with the token's PIN; else {variables.PIN}, else asked."),
    "hsm_pin": option("--hsm-pin PIN", "The token's PIN, seen in the process list (fioctl's option)."),
    "key_passphrase_file": option(
        "--key-passphrase-file FILE", f"File with the passphrase; else {variables.PASSPHRASE}, else asked."
    ),
}  # fmt: skip


@dataclass(frozen=True)
class KeyOptions:
    """Where the root's key is, as the command line says."""

    hsm_module: Path | None = None
    hsm_token_label: str | None = None
    hsm_pin_file: Path | None = None
    hsm_pin: str | None = None
    key_passphrase_file: Path | None = None

    def directory(self, path: Path) -> "PkiDirectory":
        """The PKI directory, with the key in it or in the token; what others can read there is warned about.

        Raises UsageError for half a token.
        """
        from fioctl_rotate.pki.directory import PkiDirectory

        directory = PkiDirectory(path, ask_passphrase=self.ask_passphrase(), token=self.token)
        for line in directory.loose_modes():
            warn(line)
        return directory

    def token_key(self, label: str) -> "KeyStore":
        """The key with a label in the token. Raises UsageError where no token was named."""
        from fioctl_rotate.pki.hsm import TokenKeyStore

        token = self.token
        if token is None:
            raise UsageError(
                f"a key called {label} in an HSM, and no HSM",
                hint="--hsm-module and --hsm-token-label name it",
            )
        return TokenKeyStore(token, label)

    @functools.cached_property
    def token(self) -> "Token | None":
        """The token that was named, or None; one for all its keys, so that its PIN is asked for once.

        Raises UsageError where half of it was named.
        """
        if self.hsm_module is None and self.hsm_token_label is None:
            if self.hsm_pin is not None or self.hsm_pin_file is not None:
                raise UsageError("a PIN without an HSM", hint="--hsm-module and --hsm-token-label name it")
            return None
        if self.hsm_module is None or self.hsm_token_label is None:
            raise UsageError("--hsm-module and --hsm-token-label are needed together")
        if self.hsm_pin is not None:
            warn(
                f"--hsm-pin shows the PIN in the process list; {variables.PIN} or --hsm-pin-file keep it out"
            )
        from fioctl_rotate.pki.hsm import Token
        from fioctl_rotate.pki.stores import Remembered

        module, label = str(self.hsm_module), self.hsm_token_label
        return Token(module, label, Remembered(lambda: self._pin(label)))

    def _pin(self, label: str) -> str:
        if self.hsm_pin is not None:
            return self.hsm_pin
        pin = _secret(variables.PIN, self.hsm_pin_file, f"PIN of token {label}")
        if pin is None:
            raise UsageError(
                f"the PIN of token {label} is not known",
                hint=f"set {variables.PIN}, give --hsm-pin-file, or run it on a terminal",
            )
        return pin

    def ask_passphrase(self) -> "Callable[[str], bytes | None]":
        """Who tells a key file's passphrase; each is asked for once."""
        from fioctl_rotate.pki.stores import Remembered

        def ask(name: str) -> bytes | None:
            word = _secret(variables.PASSPHRASE, self.key_passphrase_file, f"Passphrase of {name}")
            return None if word is None else word.encode()

        return Remembered(ask)


def _secret(variable: str, file: Path | None, question: str) -> str | None:
    """A secret from its file, its variable, or a prompt on a terminal; None where there is none of these."""
    if file is not None:
        try:
            return file.read_text("utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    value = os.environ.get(variable)
    if value == "":
        raise UsageError(f"{variable} is set, and empty")
    if value is not None:
        return value
    if not is_terminal(sys.stdin):
        return None
    with asking():
        return str(typer.prompt(question, hide_input=True, err=True))


with_keys = spread("keys", KeyOptions, KEY_OPTIONS)
"""Gives a command the options for private keys; it receives them as one `KeyOptions` in its parameter `keys`."""


def person(*, yes: bool, replaces: bool = False) -> "Prompter":
    """Whoever sits at the terminal, for a ceremony. In a pipe nobody is asked; what `replaces` needs -y there."""
    from fioctl_rotate.ops.ceremony import Prompter

    def ask(question: str) -> None:
        if replaces and not yes and not interactive():
            raise Refused(f"not done without being asked: {question}", hint="-y answers yes")
        confirm(question, yes=yes)

    return Prompter(note=note, confirm=ask)


class GoBooleans(Leaf):
    """A command whose `--flag/--no-flag` options are also taken as fioctl's `--flag=true` and `--flag=false`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Translate the spellings of Go's ParseBool; any other value stays, and is refused by the parser."""
        words = dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True)
        words |= dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False)
        negations = {
            name: parameter.secondary_opts[0]
            for parameter in self.params
            for name in parameter.opts
            if parameter.secondary_opts
        }
        translated = []
        for position, argument in enumerate(args):
            if argument == "--":
                translated += args[position:]
                break
            name, separator, value = argument.partition("=")
            if separator and name in negations and value in words:
                argument = name if words[value] else negations[name]
            translated.append(argument)
        return super().parse_args(ctx, translated)
