"""The installation that a command is about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from earmark.config import Settings

Data = Annotated[
    Path | None,
    typer.Option(
        help="Folder for everything kept on this machine. [EARMARK_DATA, or ./earmark-data]",
        show_default=False,
    ),
]


def settings_of(data: Path | None) -> Settings:
    """What the operator decided; logs are told as it says."""
    from earmark import config, telemetry

    settings = config.load(data=data)
    telemetry.configure(log_format=settings.log_format, level=settings.log_level)
    return settings
