"""Commands for backups: backup, restore, backup-key."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from earmark.cli._common import AsJson, Data, Meter, opened, settings, shown_bytes

if TYPE_CHECKING:
    from earmark.upkeep.backup import BackedUp
    from earmark.upkeep.restore import Restored

app = typer.Typer()

KeyFile = Annotated[
    Path | None,
    typer.Option(
        help="File with recipients or an identity of age. [EARMARK_BACKUP_KEY_FILE]",
        show_default=False,
    ),
]


@app.command(
    epilog="\b\nExamples:\n"
    "  earmark backup /mnt/backup/earmark-2026-03-18.age --key-file backup.pub\n"
    "  earmark backup --verify /mnt/backup/earmark-2026-03-18.age --key-file backup.key\n"
)
def backup(
    destination: Annotated[Path, typer.Argument(help="The file to be; with --verify, that is.")],
    key_file: KeyFile = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read a backup to its end and check all of it.")
    ] = False,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Write all of a running installation on SQLite into one sealed file.

    The service goes on meanwhile. All that was acknowledged before it began is in it. The file is
    in the age format; inside is a tar file. If a stored object is damaged or missing it is written
    all the same, and the exit status is 1.
    """
    from earmark.app.upkeep import verify as verified
    from earmark.app.upkeep import write_backup

    if verify:
        with Meter("verified") as meter:
            found = verified(settings(data), destination, key_file=key_file, tell=meter)
        _tell_restored(found, as_json=as_json, done="can be restored from it")
        return
    with opened(data) as parts, Meter("backed up") as meter:
        made = write_backup(parts, destination, key_file=key_file, tell=meter)
    _tell_backup(made, destination, as_json=as_json)
    if made.ending.damaged or made.ending.missing:
        raise typer.Exit(1)


def _tell_backup(made: BackedUp, destination: Path, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(made)))
        return
    for key in made.ending.damaged:
        typer.echo(f"fail  {key} differs from its hash; `earmark scrub` tells more.")
    for key in made.ending.missing:
        typer.echo(f"fail  {key} is missing; `earmark scrub` tells more.")
    typer.echo(
        f"{made.manifest.interactions:,} interactions, {made.ending.objects:,} objects in "
        f"{destination}: {shown_bytes(made.size_bytes)} in {made.seconds:.1f} s."
    )


@app.command(
    epilog="\b\nExamples:\n"
    "  earmark restore earmark-2026-03-18.age --key-file backup.key --data /srv/earmark\n"
    "  earmark restore earmark-2026-03-18.age --key-file backup.key --check\n"
)
def restore(
    source: Annotated[Path, typer.Argument(help="A file that `earmark backup` wrote.")],
    key_file: KeyFile = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only check all of it, and keep nothing.")
    ] = False,
    as_json: AsJson = False,
    data: Data = None,
) -> None:
    """Make an installation on SQLite of a backup, in a data folder that is empty or not there.

    Everything is checked on the way, and what fails leaves nothing behind. Then start the service
    as ever: what was in processing goes on.
    """
    from earmark.app.upkeep import restore_from
    from earmark.app.upkeep import verify as verified

    run = verified if check else restore_from
    with Meter("verified" if check else "restored") as meter:
        done = run(settings(data), source, key_file=key_file, tell=meter)
    told = "can be restored from it" if check else "are restored"
    _tell_restored(done, as_json=as_json, done=told)


def _tell_restored(found: Restored, *, as_json: bool, done: str) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(found)))
        return
    ending = found.ending
    typer.echo(
        f"{found.interactions:,} interactions and {ending.objects:,} objects of "
        f"{found.manifest.created_at} {done}, each with its hash; it took {found.seconds:.1f} s."
    )
    if found.handed_back:
        typer.echo(f"{found.handed_back:,} were in processing and go on with the next worker.")
    if ending.deleted:
        typer.echo(f"{len(ending.deleted):,} that were deleted during the backup stay deleted.")
    for key in ending.damaged:
        typer.echo(f"note  {key} was damaged already when the backup was made.")
    for key in ending.missing:
        typer.echo(f"note  {key} was missing already when the backup was made.")


@app.command(
    "backup-key",
    epilog="\b\nExamples:\n"
    "  earmark backup-key backup.key > backup.pub\n"
    "Keep backup.key where no backup and no server is; backup.pub is all that a backup needs.\n",
)
def backup_key(
    file: Annotated[Path, typer.Argument(help="Where to write the identity, which opens.")],
) -> None:
    """Make a key for backups: the file opens them, what is printed seals them."""
    from earmark.upkeep.sealed import make_key

    typer.echo(make_key(file))
    typer.echo(f"Keep {file} apart from the backups: without it nobody opens them.", err=True)
