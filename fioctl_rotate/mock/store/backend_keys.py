"""The keys that a mocked Factory's backend has made, and the certificates that were uploaded for them."""

import sqlite3
from dataclasses import dataclass


@dataclass(frozen=True)
class BackendKey:
    """A key of the backend: its public key (PEM) and the name of the file that holds it."""

    public_key: str
    file: str


def add(db: sqlite3.Connection, factory: str, kind: str, key: BackendKey, csr: str) -> None:
    """Keep a new key with its CSR (PEM)."""
    db.execute(
        "INSERT INTO backend_key (factory, kind, public_key, file, csr) VALUES (?, ?, ?, ?, ?)",
        (factory, kind, key.public_key, key.file, csr),
    )


def waiting_csr(db: sqlite3.Connection, factory: str, kind: str) -> str | None:
    """The CSR (PEM) of that kind whose certificate was not uploaded yet, or None."""
    row = db.execute(
        "SELECT csr FROM backend_key WHERE factory = ? AND kind = ? AND certificate IS NULL", (factory, kind)
    ).fetchone()
    return str(row["csr"]) if row else None


def keep_certificate(
    db: sqlite3.Connection, factory: str, kind: str, public_key: str, certificate: str
) -> bool:
    """Keep the certificate (PEM) with its key; False where the backend has no such key."""
    changed = db.execute(
        "UPDATE backend_key SET certificate = ? WHERE factory = ? AND kind = ? AND public_key = ?",
        (certificate, factory, kind, public_key),
    )
    return bool(changed.rowcount)


def newest_first(db: sqlite3.Connection, factory: str, kind: str) -> list[BackendKey]:
    """The backend's keys of that kind, the newest first."""
    rows = db.execute(
        "SELECT public_key, file FROM backend_key WHERE factory = ? AND kind = ? ORDER BY id DESC",
        (factory, kind),
    )
    return [BackendKey(row["public_key"], row["file"]) for row in rows]
