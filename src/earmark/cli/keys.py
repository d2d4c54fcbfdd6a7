"""The keys that sign tokens."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from earmark.cli._common import AsJson, Data, opened

if TYPE_CHECKING:
    from earmark.access import KeyFacts

app = typer.Typer(
    help="Look after the keys that sign tokens.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("list")
def keys_list(as_json: AsJson = False, data: Data = None) -> None:
    """List the keys that sign or verify tokens: next, active, retired or ended."""
    with opened(data) as parts:
        keys = parts.access.signing_keys()
    if as_json:
        typer.echo(json.dumps([_key_row(key) for key in keys]))
        return
    for key in keys:
        until = f"  verifies until {key.ends_at:%Y-%m-%d %H:%M:%S} UTC" if key.ends_at else ""
        since = f"{key.signs_from:%Y-%m-%d %H:%M:%S} UTC"
        typer.echo(f"{key.id}  {key.state.value:7}  signs from {since}{until}")


@app.command("rotate")
def keys_rotate(
    publish: Annotated[
        int,
        typer.Option(
            help="Seconds for which the new key is published before it signs. Less than 600 may "
            "be too short for others who verify tokens by the key set.",
            min=2,
        ),
    ] = 600,
    data: Data = None,
) -> None:
    """Make the next signing key. Nobody notices: old tokens count until they expire."""
    with opened(data) as parts:
        key = parts.access.rotate_key(publish_seconds=publish)
    typer.echo(f"{key.id} signs from {key.signs_from:%Y-%m-%d %H:%M:%S} UTC.")


@app.command("revoke")
def keys_revoke(
    key_id: Annotated[str, typer.Argument(help="Which one; `earmark keys list` names them.")],
    data: Data = None,
) -> None:
    """End a key that leaked, at once: its tokens are refused, and clients must get new ones."""
    with opened(data) as parts:
        parts.access.revoke_key(key_id)
    typer.echo(f"{key_id} verifies nothing any more.")


def _key_row(key: KeyFacts) -> dict[str, object]:
    return {
        "key_id": key.id,
        "state": key.state.value,
        "created_at": key.created_at.isoformat(),
        "signs_from": key.signs_from.isoformat(),
        "verifies_until": key.ends_at and key.ends_at.isoformat(),
    }
