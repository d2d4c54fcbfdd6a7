"""The secret key: given, or made once and kept for this user alone."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from earmark.app.secret import FILE_NAME, secret_key
from earmark.config import Settings
from earmark.errors import SettingsError

GIVEN = "given-by-the-operator-0123456789-0123456789"


def test_a_given_key_is_used_and_nothing_is_kept(tmp_path):
    assert secret_key(Settings(data=tmp_path, secret_key=GIVEN)) == GIVEN.encode()
    assert not [*tmp_path.iterdir()]


def test_a_key_is_made_once_for_this_user_alone(tmp_path):
    settings = Settings(data=tmp_path / "new")
    made = secret_key(settings)
    assert len(made) >= 43
    assert secret_key(settings) == made
    (path,) = settings.data.iterdir()
    assert path.name == FILE_NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_of_many_at_once_all_get_the_same_key(tmp_path):
    settings, found = Settings(data=tmp_path), []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        found.append(secret_key(settings))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_the_key_is_durable_before_it_is_used(tmp_path, monkeypatch):
    synced, real = [], os.fsync

    def watched(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    secret_key(Settings(data=tmp_path))
    assert synced[0].name.startswith(f"{FILE_NAME}.")
    assert synced[1:] == [tmp_path]


def test_on_postgresql_it_must_be_given(tmp_path):
    settings = Settings(data=tmp_path, database_url="postgresql://u@h/d")
    with pytest.raises(SettingsError, match="EARMARK_SECRET_KEY is required on PostgreSQL"):
        secret_key(settings)


@pytest.mark.parametrize("content", [b"", b"short", "ключ".encode() * 20])
def test_a_damaged_key_is_never_used(tmp_path, content):
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(SettingsError, match="restore it from a backup"):
        secret_key(Settings(data=tmp_path))


def test_a_key_that_cannot_be_read_or_made_is_told(tmp_path):
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(SettingsError, match="cannot be read"):
        secret_key(Settings(data=tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be read"):
        secret_key(Settings(data=tmp_path / "file" / "data"))
