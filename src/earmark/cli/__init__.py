"""The command line: a few lines for each command; what they do lives below.

Heavy modules are imported by the command that needs them, so that help comes at once.
"""

from __future__ import annotations

import json
import sys
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path  # noqa: TC003 - typer reads it from the annotation
from typing import TYPE_CHECKING, Annotated

import typer

from earmark.cli._data import Data, settings_of
from earmark.cli.receipt import receipt_app
from earmark.errors import EarmarkError, Invalid, InvalidError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime
    from uuid import UUID

    from earmark.access import KeyFacts, NewClient
    from earmark.app.parts import Parts
    from earmark.audit import AuditRow
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
    help="Make, list and shut out API clients; change their secrets.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
keys_app = typer.Typer(
    help="Look after the keys that sign tokens.", no_args_is_help=True, rich_markup_mode=None
)
organization_app = typer.Typer(
    help="List organizations and set what holds for them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
models_app = typer.Typer(
    help="Install models of speech recognition.", no_args_is_help=True, rich_markup_mode=None
)
audit_app = typer.Typer(
    help="Read and verify who did what.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(database_app, name="database")
app.add_typer(organization_app, name="organization")
app.add_typer(models_app, name="models")
app.add_typer(client_app, name="client")
app.add_typer(keys_app, name="keys")
app.add_typer(audit_app, name="audit")
app.add_typer(receipt_app, name="receipt")

_OPTIONS = {
    "organization": "--org",
    "name": "--name",
    "grants": "--grant",
    "external_id": "--external-id",
    "client_id": "client",
    "publish_seconds": "--publish",
    "head": "--head",
    "error_code": "--code",
    "since": "--since",
    "stored_bytes": "--stored",
    "uploads_at_once": "--uploads-at-once",
    "uploads_per_minute": "--uploads-per-minute",
}
"""What the modules below call values → what they are called here."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ClientId = Annotated[str, typer.Argument(help="Its id; `earmark client list` names it.")]


def main() -> None:
    """Runs a command; what is wrong is one sentence on standard error and exit status 1."""
    from earmark.telemetry import Origin, origin

    before = origin.set(Origin(address=f"command of {_user()}"))
    try:
        app()
    except EarmarkError as error:
        typer.echo(f"earmark: {_sentence(error)}", err=True)
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - the edge of this process
        from earmark.tracebacks import outline

        typer.echo(
            f"earmark: this is a fault of Earmark; please report it.\n{outline(error)}", err=True
        )
        sys.exit(1)
    finally:
        origin.reset(before)


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


def _user() -> str:
    """Who runs this command, for the audit trail."""
    import getpass
    import os

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user has no name
        return f"uid {os.getuid()}"


@contextmanager
def _parts(data: Path | None) -> Iterator[Parts]:
    from earmark.app.parts import Parts

    with closing(Parts(settings_of(data))) as parts:
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
    serve(settings_of(data), listen)


@app.command()
def worker(data: Data = None) -> None:
    """Process what was received, on this machine, until stopped."""
    from earmark.app.worker_process import work_alone

    work_alone(settings_of(data))


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

    upgrade(settings_of(data), owner_url=url, app_role=app_role)
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
    external_id: Annotated[
        str | None,
        typer.Option(help="What the issuer at EARMARK_OIDC_ISSUER calls it.", show_default=False),
    ] = None,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Make an API client and print its secret, which is shown this once."""
    grants = _grants(grant)
    with _parts(data) as parts:
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


@client_app.command("rotate")
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
    with _parts(data) as parts:
        if finish:
            parts.access.finish_rotation(client_id)
            typer.echo("The old secret has ended.")
            return
        made = parts.access.rotate_secret(client_id, keep_seconds=keep)
    _show_secret(made, as_json=as_json)


@client_app.command("disable")
def client_disable(client_id: ClientId, data: Data = None) -> None:
    """Shut a client out: within a second its tokens and secrets are refused everywhere."""
    with _parts(data) as parts:
        parts.access.disable_client(client_id)
    typer.echo(f"{client_id} is disabled.")


@client_app.command("enable")
def client_enable(client_id: ClientId, data: Data = None) -> None:
    """Let a client in again by its secret; tokens from before stay refused."""
    with _parts(data) as parts:
        parts.access.enable_client(client_id)
    typer.echo(f"{client_id} is enabled.")


@client_app.command("list")
def client_list(
    as_json: AsJson = False,
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
        state += f"  {_rotation(client)}" if client.rotating else ""
        grants = ",".join(sorted(client.grants))
        typer.echo(f"{client.id}  {client.organization_name}  {client.name}  {grants}{state}")
    if not clients:
        typer.echo("There is no client yet; make one with `earmark client create`.", err=True)


def _rotation(client: Client) -> str:
    until = client.previous_secret_until
    return f"old secret {f'until {until:%Y-%m-%d %H:%M:%S} UTC' if until else 'counts too'}"


@keys_app.command("list")
def keys_list(as_json: AsJson = False, data: Data = None) -> None:
    """List the keys that sign or verify tokens: next, active, retired or ended."""
    with _parts(data) as parts:
        keys = parts.access.signing_keys()
    if as_json:
        typer.echo(json.dumps([_key_row(key) for key in keys]))
        return
    for key in keys:
        until = f"  verifies until {key.ends_at:%Y-%m-%d %H:%M:%S} UTC" if key.ends_at else ""
        since = f"{key.signs_from:%Y-%m-%d %H:%M:%S} UTC"
        typer.echo(f"{key.id}  {key.state.value:7}  signs from {since}{until}")


@keys_app.command("rotate")
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
    with _parts(data) as parts:
        key = parts.access.rotate_key(publish_seconds=publish)
    typer.echo(f"{key.id} signs from {key.signs_from:%Y-%m-%d %H:%M:%S} UTC.")


@keys_app.command("revoke")
def keys_revoke(
    key_id: Annotated[str, typer.Argument(help="Which one; `earmark keys list` names them.")],
    data: Data = None,
) -> None:
    """End a key that leaked, at once: its tokens are refused, and clients must get new ones."""
    with _parts(data) as parts:
        parts.access.revoke_key(key_id)
    typer.echo(f"{key_id} verifies nothing any more.")


@audit_app.command("list")
def audit_list(
    org: Annotated[
        str, typer.Option(help="Name of the organization; without it all.", show_default=False)
    ] = "",
    since: Annotated[
        str, typer.Option(help="Not earlier; ISO 8601, UTC if it names no offset.")
    ] = "",
    until: Annotated[str, typer.Option(help="Earlier than this.")] = "",
    subject: Annotated[
        str, typer.Option(help="Id of what it was done to, such as an interaction's.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
    data: Data = None,
) -> None:
    """List who did what to which thing, when, and from where; the oldest first."""
    within = {"since": _instant("--since", since), "until": _instant("--until", until)}
    with _parts(data) as parts:
        names = parts.audit.organization_names()
        found = [id_ for id_, name in names.items() if name == org]
        if org and not found:
            raise InvalidError(Invalid("organization", f'There is no organization "{org}".'))
        rows = parts.audit.rows(found[0] if org else None, subject=subject or None, **within)
        for row in rows:
            typer.echo(_audit_line(row, names, as_json=as_json))


@audit_app.command("verify")
def audit_verify(
    head: Annotated[
        str,
        typer.Option(help="What `earmark audit head` printed once; the chain must go on from it."),
    ] = "",
    data: Data = None,
) -> None:
    """Check that no audit row was changed or removed; exit status 1 if one was."""
    from earmark.audit import Anchor

    anchor = Anchor.parse(head) if head else None
    with _parts(data) as parts:
        report = parts.audit.verify(anchor)
    for fault in report.faults:
        typer.echo(f"fail  {fault}")
    waiting = report.unsealed
    if waiting.rows:
        kind = "fail" if report.late else "note"
        mend = "; start a worker, which seals them" if report.late else ""
        oldest = f"the oldest of {waiting.oldest_at:%Y-%m-%d %H:%M:%S} UTC"
        typer.echo(f"{kind}  {waiting.rows} rows are not sealed yet, {oldest}{mend}.")
    if report.faults or report.late:
        raise typer.Exit(1)
    typer.echo(f"ok    {report.head.number if report.head else 0} rows are as they were sealed.")


@audit_app.command("head")
def audit_head(data: Data = None) -> None:
    """Print the end of the chain, to be kept elsewhere for `earmark audit verify --head`."""
    with _parts(data) as parts:
        head = parts.audit.head()
    if head is None:
        typer.echo("Nothing is sealed yet; a worker seals within seconds.", err=True)
        raise typer.Exit(1)
    typer.echo(head)


def _instant(option: str, text: str) -> datetime | None:
    from datetime import UTC, datetime

    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidError(Invalid(option, "Write a time like 2026-03-18T21:52:26.")) from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


def _audit_line(row: AuditRow, names: Mapping[UUID, str], *, as_json: bool) -> str:
    from earmark.telemetry import visible

    organization = names.get(row.organization_id, "") if row.organization_id else ""
    facts = {
        "sequence": row.sequence,
        "at": row.at.isoformat(timespec="microseconds"),
        "organization": organization,
        "actor": row.actor,
        "action": row.action,
        "subject": row.subject,
        "request_id": row.request_id,
        "address": row.address,
        "detail": dict(row.detail),
    }
    if as_json:
        return json.dumps(facts)
    told = [facts["at"], organization, row.actor, row.action, row.subject]
    told += [value for value in (row.address, row.request_id) if value]
    told += [json.dumps(facts["detail"])] if row.detail else []
    return visible("  ".join(str(value) for value in told))


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


@organization_app.command("quota")
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
    with _parts(data) as parts:
        said = parts.access.set_quota(org, **changes)
        holds = parts.access.quotas.of(parts.access.organization_id(org))
    for name in given:
        default = "  (default)" if getattr(said, name) is None else ""
        typer.echo(f"{name:18}  {_limit(getattr(holds, name))}{default}")


@organization_app.command("usage")
def organization_usage(
    org: Annotated[str, typer.Option(help="Name of one organization; without it, all.")] = "",
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Tell what organizations store and have on their way, and what they may."""
    with _parts(data) as parts:
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

    folder = install(
        settings_of(data).models_folder, name, lambda told: typer.echo(told, err=True)
    )
    typer.echo(folder)


@models_app.command("list")
def models_list(data: Data = None) -> None:
    """List the models that are installed, and those that can be."""
    from earmark.speech.models import MODELS, installed

    there = {path.name for path in installed(settings_of(data).models_folder)}
    for name in sorted({*there, *MODELS}):
        about = MODELS[name].about if name in MODELS else "of your own"
        typer.echo(f"{name}  {'installed' if name in there else 'not installed'}  {about}")


@models_app.command("path")
def models_path(data: Data = None) -> None:
    """Print the folder in which models are."""
    typer.echo(settings_of(data).models_folder)


def _key_row(key: KeyFacts) -> dict[str, object]:
    return {
        "key_id": key.id,
        "state": key.state.value,
        "created_at": key.created_at.isoformat(),
        "signs_from": key.signs_from.isoformat(),
        "verifies_until": key.ends_at and key.ends_at.isoformat(),
    }


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
