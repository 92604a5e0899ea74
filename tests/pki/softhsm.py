"""SoftHSM2 as the HSM of tests, beside pkcs11-tool: where its module is, and a token of it."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

MODULES = [
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/softhsm/libsofthsm2.so"),
    Path("/usr/local/lib/softhsm/libsofthsm2.so"),
    Path("/opt/homebrew/lib/softhsm/libsofthsm2.so"),
]
MODULE = next((module for module in MODULES if module.exists()), None)
PIN = "1234567"

# CI has both (`.ci/run` installs them), so there a missing one is a failure.
needs_softhsm = pytest.mark.skipif(
    os.environ.get("CI") != "true"
    and (MODULE is None or shutil.which("softhsm2-util") is None or shutil.which("pkcs11-tool") is None),
    reason="needs SoftHSM2 and pkcs11-tool (Debian: softhsm2, opensc)",
)


@dataclass(frozen=True)
class Token:
    label: str

    @property
    def flags(self) -> list[str]:
        return ["--hsm-module", str(MODULE), "--hsm-token-label", self.label]

    def tool(self, *arguments: str, check: bool = True) -> bytes:
        """Run pkcs11-tool, logged in to this token."""
        done = subprocess.run(
            [
                *("pkcs11-tool", "--module", str(MODULE), "--token-label", self.label),
                *("--login", "--pin", PIN, *arguments),
            ],
            capture_output=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr.decode()
        return done.stdout

    def generate(
        self, *more: str, label: str = "root-ca", id: str = "31", kind: str = "EC:prime256v1"
    ) -> None:
        self.tool("--keypairgen", "--key-type", kind, "--label", label, "--id", id, *more)

    def public_key(self) -> bytes:
        return self.tool("--read-object", "--type", "pubkey", "--label", "root-ca")
