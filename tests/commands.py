"""A command of `earmark` in this process: what it prints, and how it ends."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

from earmark import cli, telemetry
from earmark.app.supervisor import Supervisor
from earmark.config import Settings

if TYPE_CHECKING:
    from collections.abc import Callable


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


def runner(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **settings: object
) -> Callable[..., Ended]:
    """Runs commands with these settings of Earmark and no others; none of them serves."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"EARMARK_{name.upper()}", raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(f"EARMARK_{name.upper()}", str(value))
    monkeypatch.setattr(telemetry, "configure", lambda **_: None)
    monkeypatch.setattr(Supervisor, "run", lambda _: pytest.fail("it started"))

    def run(*words: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["earmark", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return Ended(int(caught.value.code or 0), *capsys.readouterr())

    return run
