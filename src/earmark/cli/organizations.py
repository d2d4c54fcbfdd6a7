"""Organizations, and what holds for them."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from earmark.cli._common import AsJson, Data, opened
from earmark.errors import Invalid, InvalidError

app = typer.Typer(
    help="List organizations and set what holds for them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list")
def organization_list(data: Data = None) -> None:
    """List every organization with what is set for it."""
    with opened(data) as parts:
        for organization in parts.access.organizations():
            typer.echo(f"{organization.name}  agent channel {organization.agent_channel}")


@app.command("set")
def organization_set(
    org: Annotated[str, typer.Option(help="Name of the organization.")],
    agent_channel: Annotated[
        int,
        typer.Option(
            help="Channel on which its recordings have the agent: 0 is the left one.",
            min=0,
            max=1,
        ),
    ],
    data: Data = None,
) -> None:
    """Set what holds for the recordings of an organization that are processed from now on."""
    with opened(data) as parts:
        parts.access.set_agent_channel(org, agent_channel)
    typer.echo(f"The agent of {org} is on channel {agent_channel}.")


@app.command("quota")
def organization_quota(
    org: Annotated[str, typer.Option(help="Name of the organization.")],
    stored: Annotated[
        str, typer.Option(help="Most media that it may store: bytes, or like 500GiB.")
    ] = "",
    uploads_at_once: Annotated[str, typer.Option(help="Most uploads on their way at once.")] = "",
    uploads_per_minute: Annotated[
        str, typer.Option(help="Most uploads that begin in a minute.")
    ] = "",
    data: Data = None,
) -> None:
    """Set what an organization may use: 0 is no limit, "default" what the settings say for all.

    Without a value, tell what is set.
    """
    given = {
        "stored_bytes": stored,
        "uploads_at_once": uploads_at_once,
        "uploads_per_minute": uploads_per_minute,
    }
    changes = {name: _quota_value(name, value) for name, value in given.items() if value}
    with opened(data) as parts:
        said = parts.access.set_quota(org, **changes)
        holds = parts.access.quotas.of(parts.access.organization_id(org))
    for name in given:
        default = "  (default)" if getattr(said, name) is None else ""
        typer.echo(f"{name:18}  {_limit(getattr(holds, name))}{default}")


@app.command("usage")
def organization_usage(
    org: Annotated[str, typer.Option(help="Name of one organization; without it, all.")] = "",
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Tell what organizations store and have on their way, and what they may."""
    with opened(data) as parts:
        access = parts.access
        wanted = access.organization_id(org) if org else None
        rows = [
            {
                "organization": one.name,
                **asdict(access.usage(one.id)),
                "quota": asdict(access.quotas.of(one.id)),
            }
            for one in access.organizations()
            if wanted in {None, one.id}
        ]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        quota = row["quota"]
        typer.echo(
            f"{row['organization']}  {row['stored_bytes']:,} bytes of "
            f"{_limit(quota['stored_bytes'])}, {row['uploads']} uploads on their way of "
            f"{_limit(quota['uploads_at_once'])}, {_limit(quota['uploads_per_minute'])} a minute"
        )


def _limit(value: int | None) -> str:
    return f"{value:,}" if value else "no limit"


def _quota_value(name: str, text: str) -> int | None:
    from pydantic import TypeAdapter, ValidationError

    from earmark.config import Bytes

    if text == "default":
        return None
    try:
        return int(TypeAdapter(Bytes if name == "stored_bytes" else int).validate_python(text))
    except ValidationError:
        mend = (
            "Use a whole number, for bytes also with KiB, MiB or GiB; 0 is no limit; or default."
        )
        raise InvalidError(Invalid(name, mend)) from None
