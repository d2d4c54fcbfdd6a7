"""`earmark doctor`: what is configured, what is missing, and how to mend it."""

from __future__ import annotations

import stat
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from earmark import config, sandbox, speech
from earmark.app import acceptor
from earmark.app.listen import is_loopback
from earmark.app.parts import Parts, check_rights, speech_options
from earmark.app.secret import FILE_NAME
from earmark.database import durability, migrate, roles, workers
from earmark.errors import EarmarkError, SettingsError
from earmark.model import now

if TYPE_CHECKING:
    from collections.abc import Iterator

    from earmark.config import Settings

GIBIBYTE = 1024**3

UPGRADE = "Run `earmark database upgrade`."


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        state: "ok", "warn" (it works, and could be better) or "fail" (it does not work).
    """

    state: str
    subject: str
    words: str
    mend: str = ""


def examine(data: Path | None) -> Iterator[Finding]:
    """Looks at everything that serving needs; changes nothing."""
    try:
        settings = config.load(data=data)
    except SettingsError as error:
        yield Finding("fail", "settings", str(error), "Correct the setting and try again.")
        return
    yield Finding("ok", "settings", f"data folder {settings.data.absolute()}")
    with closing(Parts(settings, issuer="http://localhost")) as parts:
        yield from _of_parts(parts)
    yield _sandbox()
    yield _speech(settings)
    yield _address(settings)
    yield _open_files(settings)
    yield _metrics(settings)


def _speech(settings: Settings) -> Finding:
    if settings.speech_engine == "off":
        return Finding("ok", "speech", "recognition is switched off")
    try:
        engine = speech.open_engine(settings.speech_engine, speech_options(settings))
    except speech.SpeechMissingError as error:
        return Finding("warn", "speech", "recordings get no transcripts", error.cause.message)
    identity = engine.identity
    return Finding("ok", "speech", f"engine {identity.engine}, model {identity.model}")


def _of_parts(parts: Parts) -> Iterator[Finding]:
    settings = parts.settings
    if settings.on_sqlite and not (settings.data.is_dir() and _file(parts).is_file()):
        mend = "Start `earmark serve` once; it makes everything."
        yield Finding("warn", "data", "nothing is kept in the data folder yet", mend)
    else:
        yield from _kept(parts)


def _kept(parts: Parts) -> Iterator[Finding]:
    """What is in database and storage; the database's tables tell of the rest."""
    database = _database(parts)
    yield database
    yield _storage(parts)
    if database.state == "ok":
        if not parts.settings.on_sqlite:
            yield _role(parts)
            yield _durability(parts)
        yield _secret(parts, parts.settings)
        yield _worker(parts)


def _file(parts: Parts) -> Path:
    """Where SQLite keeps the database."""
    return Path(str(parts.database.engine.url.database))


def _database(parts: Parts) -> Finding:
    kind = "SQLite" if parts.settings.on_sqlite else "PostgreSQL"
    try:
        if not parts.settings.on_sqlite:
            check_rights(parts.database)
        current = migrate.is_current(parts.database)
    except SettingsError as error:
        return Finding("fail", "database", f"{kind}: {error}", UPGRADE)
    except EarmarkError as error:
        mend = "Check EARMARK_DATABASE_URL, and that the database runs."
        return Finding("fail", "database", f"{kind}: {error}", mend)
    if not current:
        return Finding("fail", "database", f"{kind}, not of this version", UPGRADE)
    return Finding("ok", "database", f"{kind}, of this version")


def _role(parts: Parts) -> Finding:
    with parts.database.read(None) as scope:
        reasons, role = roles.beyond_walls(scope), roles.name(scope)
    if not reasons:
        return Finding("ok", "database role", f"{role}, held by row-level security")
    allowed = parts.settings.database_allow_owner
    words = f"{role} {' and '.join(reasons)}"
    mend = "Work under a role that owns nothing; docs/security.md tells how."
    return Finding("warn" if allowed else "fail", "database role", words, mend)


def _durability(parts: Parts) -> Finding:
    with parts.database.read(None) as scope:
        off = durability.switched_off(scope)
    if not off:
        return Finding("ok", "database durability", "commits wait for the disk")
    words = f"{', '.join(off)} off: a crash of its machine can lose or spoil what was acknowledged"
    mend = " ".join(durability.MENDS[name] for name in off)
    state = "warn" if off == ["full_page_writes"] else "fail"
    return Finding(state, "database durability", words, mend)


def _storage(parts: Parts) -> Finding:
    reserve = parts.settings.disk_reserve
    try:
        parts.store.check()
        free = parts.store.free_bytes()
    except EarmarkError as error:
        mend = "Check EARMARK_STORAGE_URL, and that this user may write there."
        return Finding("fail", "storage", str(error), mend)
    if free is None:
        return Finding("ok", "storage", "takes and gives bytes")
    room = f"{free / GIBIBYTE:.1f} GiB free, {reserve / GIBIBYTE:.1f} GiB kept in reserve"
    if free < reserve + parts.settings.max_upload_bytes:
        mend = "Make room, or lower EARMARK_DISK_RESERVE; uploads are refused at the reserve."
        return Finding("warn" if free > reserve else "fail", "storage", room, mend)
    return Finding("ok", "storage", room)


def _secret(parts: Parts, settings: Settings) -> Finding:
    path = settings.data / FILE_NAME
    if settings.on_sqlite and not settings.secret_key and not path.is_file():
        mend = "Restore it from a backup, or set EARMARK_SECRET_KEY to the key used so far."
        return Finding("fail", "secret key", f"{path} is not there", mend)
    try:
        parts.access.check()
    except EarmarkError as error:
        return Finding("fail", "secret key", str(error), "Give the key used so far.")
    if settings.secret_key:
        return Finding("ok", "secret key", "given by EARMARK_SECRET_KEY")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        return Finding("fail", "secret key", "others may read it", f"Run `chmod 600 {path}`.")
    mend = "Back it up apart from the database: without it no client can sign in."
    return Finding("ok", "secret key", f"kept in {FILE_NAME} in the data folder", mend)


def _worker(parts: Parts) -> Finding:
    with parts.database.read(None) as scope:
        alive = workers.any_alive(scope, now())
    if alive:
        return Finding("ok", "worker", "alive")
    mend = "Start `earmark serve` or `earmark worker`; uploads are kept until then."
    return Finding("warn", "worker", "absent", mend)


def _sandbox() -> Finding:
    words = sandbox.description()
    if sandbox.available().complete:
        return Finding("ok", "decoder", words)
    return Finding("warn", "decoder", words, sandbox.MEND)


def _address(settings: Settings) -> Finding:
    if settings.public_url:
        return Finding("ok", "address", settings.public_url)
    mend = "Set EARMARK_PUBLIC_URL to the address that clients use."
    return Finding("warn", "address", "the one that `serve` listens on", mend)


def _open_files(settings: Settings) -> Finding:
    wanted, room = settings.max_connections, acceptor.room_within(acceptor.most_files())
    words = f"room for {min(wanted, room):,} of {wanted:,} connections in each web process"
    if room >= wanted:
        return Finding("ok", "open files", words)
    return Finding("warn", "open files", words, acceptor.MORE_FILES)


def _metrics(settings: Settings) -> Finding:
    place = settings.metrics_address
    if place is None:
        return Finding("ok", "metrics", "not kept; EARMARK_METRICS_LISTEN would have them told")
    host, port = place
    words = f"told at http://{f'[{host}]' if ':' in host else host}:{port}/metrics"
    if is_loopback(host):
        return Finding("ok", "metrics", words)
    mend = "Let Prometheus alone reach this address: it asks for no password."
    return Finding("warn", "metrics", words, mend)
