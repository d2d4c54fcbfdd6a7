"""The command line: a few lines for each command; what they do lives below. A file for each group.

Heavy modules are imported by the command that needs them, so that help comes at once.
"""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import Annotated

import typer

from earmark.cli import (
    audit,
    backup,
    clients,
    keys,
    models,
    organizations,
    receipt,
    storage,
)
from earmark.cli._common import Data, opened, sentence, settings, user
from earmark.errors import EarmarkError

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
app.add_typer(database_app, name="database")
app.add_typer(organizations.app, name="organization")
app.add_typer(models.app, name="models")
app.add_typer(clients.app, name="client")
app.add_typer(keys.app, name="keys")
app.add_typer(audit.app, name="audit")
app.add_typer(receipt.app, name="receipt")
app.add_typer(storage.app)
app.add_typer(backup.app)


def main() -> None:
    """Runs a command; what is wrong is one sentence on standard error and exit status 1."""
    from earmark.telemetry import Origin, origin

    before = origin.set(Origin(address=f"command of {user()}"))
    try:
        app()
    except EarmarkError as error:
        typer.echo(f"earmark: {sentence(error)}", err=True)
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - the edge of this process
        from earmark.tracebacks import outline

        typer.echo(
            f"earmark: this is a fault of Earmark; please report it.\n{outline(error)}", err=True
        )
        sys.exit(1)
    finally:
        origin.reset(before)


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
    serve(settings(data), listen)


@app.command()
def worker(data: Data = None) -> None:
    """Process what was received, on this machine, until stopped."""
    from earmark.app.worker_process import work_alone

    work_alone(settings(data))


@database_app.command("upgrade")
def database_upgrade(
    url: Annotated[
        str,
        typer.Option(
            help="The database's URL with the role that owns the tables, where the service has "
            "another. [EARMARK_DATABASE_OWNER_URL]"
        ),
    ] = "",
    app_role: Annotated[
        str, typer.Option(help="That of the service, if EARMARK_DATABASE_URL does not name it.")
    ] = "",
    data: Data = None,
) -> None:
    """Bring the database to this version. PostgreSQL is upgraded by this command only."""
    from earmark.app.worker_process import upgrade

    upgrade(settings(data), owner_url=url, app_role=app_role)
    typer.echo("The database is of this version.")


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
    with opened(data) as parts:
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
