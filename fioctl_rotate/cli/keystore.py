"""Options of the commands that need a private key: where it is, and where its PIN or passphrase comes from."""

import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fioctl_rotate.cli import common
from fioctl_rotate.cli.common import option
from fioctl_rotate.errors import Error, Refused, UsageError
from fioctl_rotate.files import read_text
from fioctl_rotate.settings import PASSPHRASE_VARIABLE, PIN_VARIABLE
from fioctl_rotate.value import Value

if TYPE_CHECKING:
    from fioctl_rotate.ops.key_access import KeyAccess, KeyStore, PkiDirectory
    from fioctl_rotate.ops.prompter import Prompter

DirectoryArgument = Annotated[Path, typer.Argument(metavar="DIR", help="PKI directory.", show_default=False)]

KEY_OPTIONS: common.Options = {
    "hsm_module": option("--hsm-module FILE", "PKCS#11 module of the HSM that holds the key."),
    "hsm_token_label": option("--hsm-token-label LABEL", "Label of the token; in it the root's key is root-ca."),
    "hsm_uri": option("--hsm-uri URI", "PKCS#11 URI of a key with another label or id (RFC 7512)."),
    "hsm_pin_file": option("--hsm-pin-file FILE", f"File with the PIN [default: {PIN_VARIABLE}, or asked]."),
    "hsm_pin": option("--hsm-pin PIN", "The token's PIN; visible in the process list (fioctl's option)."),
    "key_passphrase_file": option(
        "--key-passphrase-file FILE", f"File with the passphrase [default: {PASSPHRASE_VARIABLE}, or asked]."
    ),
}  # fmt: skip


class KeyOptions(Value):
    """Where the root's key is, as typed."""

    hsm_module: Path | None = None
    hsm_token_label: str | None = None
    hsm_uri: str | None = None
    hsm_pin_file: Path | None = None
    hsm_pin: str | None = None
    key_passphrase_file: Path | None = None

    def directory(self, path: Path) -> "PkiDirectory":
        """The PKI directory, with the key in it or in the token. Warns about files that other users can read.

        Raises UsageError if a part of the HSM's options is missing.
        """
        directory = self.access.directory(path)
        for line in directory.loose_modes():
            common.warn(line)
        return directory

    def ca_key(self, file: Path | None, label: str) -> "KeyStore":
        """A CA's key: in `file`, or in the token. Raises UsageError for both, and for none.

        In the token it is the key that --hsm-uri names, else the key with `label`.
        """
        if (file is None) == (self.access.hsm is None):
            raise UsageError(
                "give the CA's key either as --ca-key or in an HSM",
                hint="--hsm-module and --hsm-token-label, or --hsm-uri, name the HSM",
            )
        return self.access.chosen_key(label) if file is None else self.access.key_file(file)

    @functools.cached_property
    def access(self) -> "KeyAccess":
        """Access to the keys, made once for a command, so that a PIN is asked for once.

        Raises UsageError if a part of the HSM's options is missing.
        """
        from fioctl_rotate.ops.key_access import KeyAccess, named_hsm

        hsm = named_hsm(self.hsm_module, self.hsm_token_label, self.hsm_uri)
        visible = self.hsm_pin if hsm is None or self.hsm_pin is not None else hsm.pin_value
        file = self.hsm_pin_file
        if hsm is not None and hsm.pin_source is not None:
            if file is not None:
                raise UsageError("give either --hsm-pin-file or pin-source in --hsm-uri")
            file = Path(hsm.pin_source)
        if hsm is None and (visible is not None or file is not None):
            raise UsageError("a PIN without an HSM", hint="--hsm-module and --hsm-token-label name the HSM")
        if visible is not None:
            flag = "--hsm-uri" if self.hsm_pin is None else "--hsm-pin"
            common.warn(
                f"{flag} shows the PIN in the process list; use {PIN_VARIABLE} or --hsm-pin-file instead"
            )
        name = (hsm.token or hsm.serial or "") if hsm is not None else ""
        return KeyAccess(hsm, lambda: _pin(visible, file, name), self._passphrase)

    def _passphrase(self, name: str) -> bytes | None:
        passphrase = _secret(PASSPHRASE_VARIABLE, self.key_passphrase_file, f"Passphrase of {name}")
        return None if passphrase is None else passphrase.encode()


def _pin(visible: str | None, file: Path | None, token: str) -> str:
    """The PIN: typed on the command line, or as `_secret` finds it. Raises UsageError if there is none."""
    pin = visible if visible is not None else _secret(PIN_VARIABLE, file, f"PIN of token {token}")
    if pin is None:
        raise UsageError(
            f"the PIN of token {token} is not known",
            hint=f"set {PIN_VARIABLE}, give --hsm-pin-file, or run it on a terminal",
        )
    return pin


def _secret(variable: str, file: Path | None, question: str) -> str | None:
    """A secret from its file, its variable, or a prompt on a terminal; None where there is none of these."""
    if file is not None:
        try:
            return read_text(file).rstrip("\r\n")
        except Error as error:
            raise UsageError(error.message) from error
    value = os.environ.get(variable)
    if value == "":
        raise UsageError(f"{variable} is set but empty")
    if value is not None:
        return value
    if not common.is_terminal(sys.stdin):
        return None
    with common.asking():
        return str(typer.prompt(question, hide_input=True, err=True))


with_keys = common.spread("keys", KeyOptions, KEY_OPTIONS)
"""Gives a command the options for private keys; it receives them as one `KeyOptions` in its parameter `keys`."""


def prompter(*, yes: bool, replaces: bool = False) -> "Prompter":
    """The `Prompter` of this process. In a pipe it asks nothing; what `replaces` something needs -y there."""
    from fioctl_rotate.ops.prompter import Prompter

    def ask(question: str) -> None:
        if replaces and not yes and not common.interactive():
            raise Refused(f"cannot ask without a terminal: {question}", hint="-y answers yes")
        common.confirm(question, yes=yes)

    return Prompter(note=common.note, warn=common.warn, confirm=ask)


class GoBooleans(common.Leaf):
    """A command whose `--flag/--no-flag` options are also accepted as fioctl's `--flag=true` and `--flag=false`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Translate the spellings of Go's ParseBool; any other value stays, and is refused by the parser."""
        values = dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True)
        values |= dict.fromkeys(("0", "f", "F", "FALSE", "false", "False"), False)
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
            if separator and name in negations and value in values:
                argument = name if values[value] else negations[name]
            translated.append(argument)
        return super().parse_args(ctx, translated)
