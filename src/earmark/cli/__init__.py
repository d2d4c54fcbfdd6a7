"""The command line: a few lines for each command; what they do lives below.

Heavy modules are imported by the command that needs them, so that help comes at once.
"""

from __future__ import annotations

import json
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from earmark.errors import EarmarkError, Invalid, InvalidError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from earmark.app.parts import Parts
    from earmark.config import Settings
    from earmark.model import Client, Grant

app = typer.Typer(
    name="earmark",
    help="Takes call recordings and chats, keeps them, processes them and gives them back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
database_app = typer.Typer(
    help="Look after the database.", no_args_is_help=True, rich_markup_mode=None
)
client_app = typer.Typer(
    help="Make and list API clients.", no_args_is_help=True, rich_markup_mode=None
)
organization_app = typer.Typer(
    help="List organizations and set what holds for them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
models_app = typer.Typer(
    help="Install models of speech recognition.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(database_app, name="database")
app.add_typer(organization_app, name="organization")
app.add_typer(models_app, name="models")
app.add_typer(client_app, name="client")

_OPTIONS = {
    "organization": "--org",
    "name": "--name",
    "grants": "--grant",
    "error_code": "--code",
    "since": "--since",
}
"""What the modules below call values → what they are called here."""

Data = Annotated[
    Path | None,
    typer.Option(
        help="Folder for everything kept on this machine. [EARMARK_DATA, or ./earmark-data]",
        show_default=False,
    ),
]


def main() -> None:
    """Runs a command; what is wrong is one sentence on standard error and exit status 1."""
    try:
        app()
    except EarmarkError as error:
        typer.echo(f"earmark: {_sentence(error)}", err=True)
        sys.exit(1)


def _sentence(error: EarmarkError) -> str:
    if isinstance(error, InvalidError):
        return " ".join(
            f"{_OPTIONS.get(fault.field, fault.field)}: {fault.message}" for fault in error.faults
        )
    if isinstance(error, UnavailableError):
        return _outage(error)
    return str(error)


def _outage(error: UnavailableError) -> str:
    """What is away, why, and where to look; without the statement that found it out."""
    cause = getattr(error.__cause__, "orig", None)  # the driver's own error
    reason = " ".join(str(cause or "").split()).rstrip(".")
    mend = "check EARMARK_DATABASE_URL and EARMARK_STORAGE_URL, and `earmark doctor`"
    return f"{error}{f' ({reason})' if reason else ''}; {mend}."


def _settings(data: Path | None) -> Settings:
    from earmark import config, telemetry

    settings = config.load(data=data)
    telemetry.configure(log_format=settings.log_format, level=settings.log_level)
    return settings


@contextmanager
def _parts(data: Path | None, *, prepared: bool = True) -> Iterator[Parts]:
    from earmark.app.parts import Parts

    with closing(Parts(_settings(data))) as parts:
        if prepared:
            parts.prepare()
        yield parts


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8723,
    data: Data = None,
    web_processes: Annotated[int, typer.Option(help="Web processes.", min=1, max=64)] = 1,
    no_worker: Annotated[
        bool, typer.Option("--no-worker", help="Start no worker beside them.")
    ] = False,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file with the certificate.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file with its key.")] = None,
    insecure_http: Annotated[
        bool,
        typer.Option("--insecure-http", help="Allow plain HTTP beyond this machine."),
    ] = False,
) -> None:
    """Serve the APIs, with a worker beside them. SQLite is upgraded on the way."""
    from earmark.app.listen import Listen
    from earmark.app.serve import serve

    listen = Listen(
        host=host,
        port=port,
        web_processes=web_processes,
        worker=not no_worker,
        tls_cert=tls_cert,
        tls_key=tls_key,
        insecure_http=insecure_http,
    )
    serve(_settings(data), listen)


@app.command()
def worker(data: Data = None) -> None:
    """Process what was received, on this machine, until stopped."""
    from earmark.app.worker_process import work

    work(_settings(data))


@database_app.command("upgrade")
def database_upgrade(data: Data = None) -> None:
    """Bring the database to this version. PostgreSQL is upgraded by this command only."""
    from earmark.app.worker_process import upgrade

    with _parts(data, prepared=False) as parts:
        upgrade(parts)
    typer.echo("The database is of this version.")


@client_app.command("create")
def client_create(
    org: Annotated[str, typer.Option(help="Name of the organization it belongs to.")],
    create_org: Annotated[
        bool, typer.Option("--create-org", help="Make the organization if it is not there.")
    ] = False,
    name: Annotated[str, typer.Option(help="Label, to tell clients apart.")] = "client",
    grant: Annotated[
        str, typer.Option(help="Comma-separated: ingest, read, manage, delete.")
    ] = "ingest,read,manage",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    data: Data = None,
) -> None:
    """Make an API client and print its secret, which is shown this once."""
    grants = _grants(grant)
    with _parts(data) as parts:
        made = parts.access.create_client(
            organization=org, create_organization=create_org, name=name, grants=grants
        )
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


@client_app.command("list")
def client_list(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    data: Data = None,
) -> None:
    """List every API client with its organization and grants."""
    with _parts(data) as parts:
        clients = parts.access.clients()
    if as_json:
        typer.echo(json.dumps([_client_row(client) for client in clients]))
        return
    for client in clients:
        state = "  disabled" if client.disabled_at else ""
        grants = ",".join(sorted(client.grants))
        typer.echo(f"{client.id}  {client.organization_name}  {client.name}  {grants}{state}")
    if not clients:
        typer.echo("There is no client yet; make one with `earmark client create`.", err=True)


@organization_app.command("list")
def organization_list(data: Data = None) -> None:
    """List every organization with what is set for it."""
    with _parts(data) as parts:
        for organization in parts.access.organizations():
            typer.echo(f"{organization.name}  agent channel {organization.agent_channel}")


@organization_app.command("set")
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
    with _parts(data) as parts:
        parts.access.set_agent_channel(org, agent_channel)
    typer.echo(f"The agent of {org} is on channel {agent_channel}.")


@app.command()
def retry(
    org: Annotated[str, typer.Option(help="Name of the organization.")],
    code: Annotated[
        str | None, typer.Option(help="Only what bears this code, like speech_unreachable.")
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only what failed.")] = False,
    skipped: Annotated[bool, typer.Option("--skipped", help="Only what was skipped.")] = False,
    since: Annotated[
        str | None, typer.Option(help="Only what took place since then, like 2026-01-31.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell what would be done.")
    ] = False,
    data: Data = None,
) -> None:
    """Process once more what failed, was skipped or waits; steps that are done stay done."""
    from earmark.app.retry import retry
    from earmark.model import StepStatus

    named = {StepStatus.FAILED: failed, StepStatus.SKIPPED: skipped}
    with _parts(data) as parts:
        done = retry(
            parts,
            org,
            code=code,
            statuses=frozenset(status for status, wanted in named.items() if wanted),
            since=since,
            dry_run=dry_run,
            tell=lambda told: typer.echo(told, err=True),
        )
    typer.echo(f"{done.retried} {'would be' if dry_run else 'are'} processed once more.")
    for reason, count in sorted(done.left.items()):
        typer.echo(f"{count} left as they are: {reason}.")


@models_app.command("install")
def models_install(
    name: Annotated[str, typer.Argument(help="Which one; `earmark models list` names them.")],
    data: Data = None,
) -> None:
    """Fetch a model, check it, and have it used by all data folders of this user."""
    from earmark.speech.models import install

    folder = install(_settings(data).models_folder, name, lambda told: typer.echo(told, err=True))
    typer.echo(folder)


@models_app.command("list")
def models_list(data: Data = None) -> None:
    """List the models that are installed, and those that can be."""
    from earmark.speech.models import MODELS, installed

    there = {path.name for path in installed(_settings(data).models_folder)}
    for name in sorted({*there, *MODELS}):
        about = MODELS[name].about if name in MODELS else "of your own"
        typer.echo(f"{name}  {'installed' if name in there else 'not installed'}  {about}")


@models_app.command("path")
def models_path(data: Data = None) -> None:
    """Print the folder in which models are."""
    typer.echo(_settings(data).models_folder)


def _client_row(client: Client) -> dict[str, object]:
    return {
        "organization": client.organization_name,
        "client_id": client.id,
        "name": client.name,
        "grants": sorted(client.grants),
        "created_at": client.created_at.isoformat(),
        "disabled": client.disabled_at is not None,
    }


@app.command()
def doctor(data: Data = None) -> None:
    """Tell what is configured and what is missing, each with its mend."""
    from earmark.app.doctor import examine

    failed = False
    for finding in examine(data):
        failed = failed or finding.state == "fail"
        typer.echo(f"{finding.state:5} {finding.subject}: {finding.words}")
        if finding.mend:
            typer.echo(f"      -> {finding.mend}")
    if failed:
        raise typer.Exit(1)


def _grants(text: str) -> frozenset[Grant]:
    from earmark.model import Grant

    try:
        return frozenset(Grant(word.strip()) for word in text.split(",") if word.strip())
    except ValueError:
        known = ", ".join(grant.value for grant in Grant)
        raise InvalidError(Invalid("grants", f"Give any of {known}.")) from None
