"""The secret from which all others are derived: given by the operator, or made once."""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING

from earmark.errors import SettingsError

if TYPE_CHECKING:
    from pathlib import Path

    from earmark.config import Settings

FILE_NAME = "secret.key"


def secret_key(settings: Settings) -> bytes:
    """The secret key of this installation.

    On SQLite it is made once and kept in the data folder, readable by this user only. On
    PostgreSQL it must be given, since processes on several machines have to share it.

    Raises:
        SettingsError: it is missing, or its file cannot be read or is damaged.
    """
    if settings.secret_key:
        return settings.secret_key.encode()
    if not settings.on_sqlite:
        raise SettingsError(
            "EARMARK_SECRET_KEY is required on PostgreSQL; make one with "
            "`python3 -c 'import secrets; print(secrets.token_urlsafe(32))'` "
            "and give the same to every process.",
        )
    path = settings.data / FILE_NAME
    try:
        if not path.exists():
            _make(path)
        key = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} cannot be read; restore it from a backup.") from error
    if len(key) < 32:  # noqa: PLR2004 - as for the setting
        raise SettingsError(f"{path} is damaged; restore it from a backup.")
    return key.encode()


def _make(path: Path) -> None:
    """Writes a new key so that of two processes one wins, and never half a key is seen."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
