"""Commands that look after what is stored: scrub, sweep, purge."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from earmark.cli._common import AsJson, Data, Meter, instant, opened, settings, shown_bytes, size
from earmark.errors import Invalid, InvalidError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from earmark.storage import Quarantined
    from earmark.upkeep.scrub import Progress
    from earmark.upkeep.sweep import Orphan, Swept

app = typer.Typer()


@app.command(
    epilog="\b\nExamples:\n"
    "  earmark scrub                        on from where the last one was broken off\n"
    "  earmark scrub --rate 20MB --json     slowly, for programs\n"
    "  earmark scrub --since 2026-03-01     only what was received since then\n"
)
def scrub(
    rate: Annotated[
        str,
        typer.Option(
            help="Most bytes read in a second, like 20MB. [EARMARK_SCRUB_RATE]",
            show_default=False,
        ),
    ] = "",
    since: Annotated[
        str,
        typer.Option(
            help="Only what was received then or later; ISO 8601, UTC if it names no offset."
        ),
    ] = "",
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew where one was broken off.")
    ] = False,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Read every stored object again and hold it against its hash; exit status 1 if one differs.

    It reads what the disk has, not what memory remembers, and may be broken off: the next one goes
    on there. Findings are in the audit trail and the log, too.
    """
    from earmark.app.upkeep import scrubber

    bytes_per_second = size(rate, option="rate") if rate else settings(data).scrub_rate
    if not bytes_per_second:
        raise InvalidError(Invalid("rate", "Give more than 0."))
    with opened(data) as parts, Meter("scrubbed") as meter:
        done = scrubber(parts).scrub(
            bytes_per_second=bytes_per_second,
            since=instant("since", since),
            restart=restart,
            tell=lambda progress, total: meter(progress.size_bytes, total.size_bytes),
        )
    if as_json:
        typer.echo(json.dumps(asdict(done)))
    else:
        _tell_scrub(done)
    if done.damaged:
        raise typer.Exit(1)


def _tell_scrub(done: Progress) -> None:
    for one in done.findings:
        expected = f", expected {one.expected}" if one.expected else ""
        typer.echo(
            f"fail  {one.key}  of interaction {one.interaction_id}, organization "
            f"{one.organization_id}: found {one.found}{expected}"
        )
    read = f"{done.objects:,} objects, {shown_bytes(done.size_bytes)}"
    if done.damaged:
        typer.echo(f"fail  {done.damaged:,} damaged or missing beside {read} read.")
        typer.echo("      -> docs/operations.md, When a scrub finds something")
    else:
        typer.echo(f"ok    {read} are as they were taken in.")


@app.command(
    epilog="\b\nExamples:\n"
    "  earmark sweep                  tell what nobody claims, and what is in the quarantine\n"
    "  earmark sweep --remove         move it to the quarantine, as workers do by themselves\n"
    "  earmark sweep --restore KEY    put an object back from there\n"
    "  earmark sweep --empty          remove for good what is there\n"
)
def sweep(
    remove: Annotated[
        bool,
        typer.Option(
            "--remove",
            help="Move what nobody claims to the quarantine, and remove for good what was there "
            "for EARMARK_QUARANTINE_SECONDS.",
        ),
    ] = False,
    restore: Annotated[
        str, typer.Option(help="Put the object of this key back from the quarantine.")
    ] = "",
    empty: Annotated[
        bool, typer.Option("--empty", help="Remove for good all that is in the quarantine.")
    ] = False,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Tell which stored objects no interaction claims, or remove them.

    What is younger than EARMARK_ORPHAN_GRACE_SECONDS is left alone: it may belong to an upload.
    """
    from earmark.app.upkeep import operators_sweeper

    if remove + empty + bool(restore) > 1:
        raise InvalidError(Invalid("sweep", "Give one of --remove, --restore and --empty."))
    with opened(data) as parts:
        sweeper = operators_sweeper(parts)
        grace = parts.settings.orphan_grace_seconds
        if restore:
            sweeper.restore(restore)
            typer.echo(f"{restore} is back in its place.", err=as_json)
            return
        if remove or empty:
            keep = parts.settings.quarantine_seconds
            swept = (
                sweeper.empty() if empty else sweeper.sweep(grace_seconds=grace, keep_seconds=keep)
            )
            typer.echo(json.dumps(asdict(swept)) if as_json else _swept(swept))
            return
        orphans = list(sweeper.orphans(grace_seconds=grace))
        staged, aside = sweeper.staged(grace_seconds=grace), sweeper.quarantined()
    if as_json:
        facts = {
            "orphans": [asdict(one) for one in orphans],
            "staged": staged,
            "quarantine": [asdict(one) for one in aside],
        }
        typer.echo(json.dumps(facts))
        return
    _tell_sweep(orphans, staged, aside)


def _tell_sweep(orphans: Sequence[Orphan], staged: int, aside: Sequence[Quarantined]) -> None:
    from datetime import UTC, datetime

    for orphan in orphans:
        why = "its interaction was deleted" if orphan.was_deleted else "no interaction claims it"
        typer.echo(f"orphan      {orphan.key}  {why}")
    for one in aside:
        since = datetime.fromtimestamp(one.since, UTC)
        typer.echo(
            f"quarantine  {one.key}  {shown_bytes(one.size_bytes)}, since "
            f"{since:%Y-%m-%d %H:%M:%S} UTC"
        )
    typer.echo(
        f"{len(orphans):,} orphans, {staged:,} uploads that were left in the middle, "
        f"{len(aside):,} objects in the quarantine."
    )
    if orphans or staged:
        typer.echo("Nothing was changed; `earmark sweep --remove` does.", err=True)


def _swept(swept: Swept) -> str:
    return (
        f"{swept.set_aside:,} moved to the quarantine, {swept.expired:,} removed from it, "
        f"{swept.put_back:,} put back since they are claimed again, {swept.deleted:,} of deleted "
        f"interactions removed, {swept.staged:,} uploads that were left in the middle removed."
    )


@app.command(
    epilog="\b\nExamples:\n"
    "  earmark purge             beside a running service, best when it has little to do\n"
    "  earmark purge --quick     on SQLite: without writing the database anew\n"
)
def purge(
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="On SQLite, only empty the logs; parts of what was deleted may stay in pages of "
            "the file.",
        ),
    ] = False,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Leave no byte of deleted interactions in the storage and the databases.

    The databases are written anew meanwhile, and uploads wait, or are told to come again. What
    this cannot reach (backups, the WAL of PostgreSQL, blocks of a disk) is in docs/operations.md.
    """
    from earmark.app.upkeep import purge_all

    with opened(data) as parts:
        done = purge_all(parts, quick=quick, tell=lambda told: typer.echo(told, err=True))
    if as_json:
        typer.echo(json.dumps(asdict(done)))
        return
    typer.echo(f"{done.objects:,} objects of deleted interactions removed.")
    for one in done.files:
        did = "log emptied" if quick else "written anew"
        typer.echo(
            f"{one.name} {did} in {one.seconds:.1f} s: {shown_bytes(one.before_bytes)} before, "
            f"{shown_bytes(one.after_bytes)} now."
        )
    if done.tables:
        typer.echo(f"{done.tables} tables written anew.")
    if done.backup_under_way:
        typer.echo("A backup is under way; its copy of the database stays until its end.")
