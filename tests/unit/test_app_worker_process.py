"""What the worker process makes of the settings of speech."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from earmark.app.worker_process import _Once, _transcriber
from earmark.config import Settings
from earmark.speech import SpeechMissingError
from speaking import Scripted

if TYPE_CHECKING:
    from pathlib import Path


def test_an_engine_that_is_off_is_none() -> None:
    assert _transcriber(Settings(speech_engine="off")) is None


def test_the_engine_is_made_as_the_settings_say() -> None:
    make = _transcriber(Settings(speech_engine="remote", speech_url="http://127.0.0.1:9/v1"))
    assert make
    assert make().identity.engine == "remote"
    assert make() is make()


def test_what_is_missing_is_looked_for_again(tmp_path: Path) -> None:
    make = _transcriber(Settings(models=str(tmp_path)))
    assert make
    for _ in range(2):
        with pytest.raises(SpeechMissingError):
            make()
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model.bin").touch()
    assert make().identity.model == "base"


def test_all_threads_have_one_engine() -> None:
    made: list[Scripted] = []

    def make() -> Scripted:
        made.append(Scripted())
        return made[-1]

    once = _Once(make)
    with ThreadPoolExecutor(8) as pool:
        found = set(map(id, pool.map(lambda _: once(), range(50))))
    assert (len(found), len(made)) == (1, 1)
