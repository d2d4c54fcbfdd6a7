"""API clients: made, listed, shut out; their secrets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from earmark.cli._common import AsJson, Data, opened
from earmark.errors import Invalid, InvalidError

if TYPE_CHECKING:
    from earmark.access import NewClient
    from earmark.model import Client, Grant

app = typer.Typer(
    help="Make, list and shut out API clients; change their secrets.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


ClientId = Annotated[str, typer.Argument(help="Its id; `earmark client list` names it.")]


@app.command("create")
def client_create(
    org: Annotated[str, typer.Option(help="Name of the organization it belongs to.")],
    create_org: Annotated[
        bool, typer.Option("--create-org", help="Make the organization if it is not there.")
    ] = False,
    name: Annotated[str, typer.Option(help="Label, to tell clients apart.")] = "client",
    grant: Annotated[
        str, typer.Option(help="Comma-separated: ingest, read, manage, delete.")
    ] = "ingest,read,manage",
    external_id: Annotated[
        str | None,
        typer.Option(help="What the issuer at EARMARK_OIDC_ISSUER calls it.", show_default=False),
    ] = None,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Make an API client and print its secret, which is shown this once."""
    grants = _grants(grant)
    with opened(data) as parts:
        made = parts.access.create_client(
            organization=org,
            create_organization=create_org,
            name=name,
            grants=grants,
            external_id=external_id,
        )
    _show_secret(made, as_json=as_json)


def _show_secret(made: NewClient, *, as_json: bool) -> None:
    facts = {
        "organization": made.client.organization_name,
        "client_id": made.client.id,
        "client_secret": made.secret,
    }
    if as_json:
        typer.echo(json.dumps(facts))
        return
    for key, value in facts.items():
        typer.echo(f"{key:14} {value}")
    typer.echo("Keep the secret now: it is not shown again.", err=True)


@app.command("rotate")
def client_rotate(
    client_id: ClientId,
    keep: Annotated[
        int | None,
        typer.Option(
            help="Seconds for which the old secret counts too; without it until --finish. 0 for "
            "one that leaked: it and all tokens of the client end at once.",
            min=0,
            show_default=False,
        ),
    ] = None,
    finish: Annotated[
        bool, typer.Option("--finish", help="End the old secret; make no new one.")
    ] = False,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Give a client a new secret, which is shown this once; the old one counts meanwhile."""
    if finish and keep is not None:
        raise InvalidError(Invalid("--finish", "Give --keep or --finish, not both."))
    with opened(data) as parts:
        if finish:
            parts.access.finish_rotation(client_id)
            typer.echo("The old secret has ended.")
            return
        made = parts.access.rotate_secret(client_id, keep_seconds=keep)
    _show_secret(made, as_json=as_json)


@app.command("disable")
def client_disable(client_id: ClientId, data: Data = None) -> None:
    """Shut a client out: within a second its tokens and secrets are refused everywhere."""
    with opened(data) as parts:
        parts.access.disable_client(client_id)
    typer.echo(f"{client_id} is disabled.")


@app.command("enable")
def client_enable(client_id: ClientId, data: Data = None) -> None:
    """Let a client in again by its secret; tokens from before stay refused."""
    with opened(data) as parts:
        parts.access.enable_client(client_id)
    typer.echo(f"{client_id} is enabled.")


@app.command("list")
def client_list(
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """List every API client with its organization and grants."""
    with opened(data) as parts:
        clients = parts.access.clients()
    if as_json:
        typer.echo(json.dumps([_client_row(client) for client in clients]))
        return
    for client in clients:
        state = "  disabled" if client.disabled_at else ""
        state += f"  {_rotation(client)}" if client.rotating else ""
        grants = ",".join(sorted(client.grants))
        typer.echo(f"{client.id}  {client.organization_name}  {client.name}  {grants}{state}")
    if not clients:
        typer.echo("There is no client yet; make one with `earmark client create`.", err=True)


def _rotation(client: Client) -> str:
    until = client.previous_secret_until
    return f"old secret {f'until {until:%Y-%m-%d %H:%M:%S} UTC' if until else 'counts too'}"


def _client_row(client: Client) -> dict[str, object]:
    return {
        "organization": client.organization_name,
        "client_id": client.id,
        "name": client.name,
        "grants": sorted(client.grants),
        "created_at": client.created_at.isoformat(),
        "disabled": client.disabled_at is not None,
        "rotating": client.rotating,
        "external_id": client.external_id,
    }


def _grants(text: str) -> frozenset[Grant]:
    from earmark.model import Grant

    try:
        return frozenset(Grant(word.strip()) for word in text.split(",") if word.strip())
    except ValueError:
        known = ", ".join(grant.value for grant in Grant)
        raise InvalidError(Invalid("grants", f"Give any of {known}.")) from None
