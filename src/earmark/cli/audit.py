"""Who did what: listed and verified."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from earmark.cli._common import Data, instant, opened
from earmark.errors import Invalid, InvalidError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from earmark.audit import AuditRow

app = typer.Typer(
    help="Read and verify who did what.", no_args_is_help=True, rich_markup_mode=None
)


@app.command("list")
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
    within = {"since": instant("--since", since), "until": instant("--until", until)}
    with opened(data) as parts:
        names = parts.audit.organization_names()
        found = [id_ for id_, name in names.items() if name == org]
        if org and not found:
            raise InvalidError(Invalid("organization", f'There is no organization "{org}".'))
        rows = parts.audit.rows(found[0] if org else None, subject=subject or None, **within)
        for row in rows:
            typer.echo(_audit_line(row, names, as_json=as_json))


@app.command("verify")
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
    with opened(data) as parts:
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


@app.command("head")
def audit_head(data: Data = None) -> None:
    """Print the end of the chain, to be kept elsewhere for `earmark audit verify --head`."""
    with opened(data) as parts:
        head = parts.audit.head()
    if head is None:
        typer.echo("Nothing is sealed yet; a worker seals within seconds.", err=True)
        raise typer.Exit(1)
    typer.echo(head)


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
