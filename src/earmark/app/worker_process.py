"""One worker process, beside the web processes or on a machine of its own."""

from __future__ import annotations

import threading
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from earmark import jobs, pipeline, speech
from earmark.app.metering import Metering
from earmark.app.parts import Parts, make_data_folder, speech_options
from earmark.app.steadiness import Steadiness
from earmark.app.worker import Pace, run_worker
from earmark.database import Database, migrate, roles
from earmark.errors import SettingsError
from earmark.intake.keyed import forget_ended
from earmark.pipeline.indexing import Indexer
from earmark.sandbox import Limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from earmark.config import Settings
    from earmark.speech import Transcriber

DAY_SECONDS = 86_400

WORKER = "worker"
"""The name of a worker process."""

OWNER_URL = "--url and EARMARK_DATABASE_OWNER_URL must be postgresql://owner@host/name."


def upgrade(settings: Settings, *, owner_url: str = "", app_role: str = "") -> None:
    """Brings the tables of the service and of its engine to this version.

    Args:
        settings: what the operator decided.
        owner_url: of the same PostgreSQL database, under the role that owns the tables; else that
            of the settings.
        app_role: the role under which the service works; else that of the database's own URL.

    Raises:
        SettingsError: a URL, a role or a right is missing.
        UnavailableError: the database cannot be reached.
    """
    owner_url = owner_url or settings.database_owner_url
    if owner_url and not owner_url.startswith("postgresql://"):
        raise SettingsError(OWNER_URL)
    if settings.on_sqlite and not owner_url:
        if app_role:
            raise SettingsError("Only PostgreSQL has roles; leave --app-role out.")
        make_data_folder(settings)
    url = owner_url or settings.database_address
    role = app_role or _role(settings, needed=bool(owner_url))
    with closing(Database(url)) as database:
        _check_owner(database)
        migrate.upgrade(database, app_role=role)
    jobs.migrate(url, app_role=role)


def _role(settings: Settings, *, needed: bool) -> str:
    """The role that works with the tables, by the database's own URL; "" if that is the owner."""
    if not needed:
        return ""
    found = "" if settings.on_sqlite else Database(settings.database_url).engine.url.username
    if not found:
        raise SettingsError(
            "It is not known which role works with the tables; name it in EARMARK_DATABASE_URL, "
            "as in postgresql://role@host/name, or by --app-role."
        )
    return found


def _check_owner(database: Database) -> None:
    if database.is_sqlite:
        return
    with database.read(None) as scope:
        missing, role = roles.missing_for_upgrade(scope), roles.name(scope)
    if missing:
        raise SettingsError(
            f'The database role "{role}" may not upgrade: it lacks: {"; ".join(missing)}. '
            "Give the URL of the owner by --url or EARMARK_DATABASE_OWNER_URL."
        )


def work(settings: Settings) -> None:
    """Processes what is received until SIGTERM.

    Raises:
        SettingsError: the database is not of this version, or its role is not fit to serve.
        UnavailableError: database or storage cannot be reached.
    """
    parts = Parts(settings)
    parts.prepare()
    parts.check_role()
    limits = Limits(
        memory_bytes=settings.decode_memory_bytes,
        cpu_seconds=settings.decode_seconds,
        wall_seconds=settings.decode_seconds,
    )
    run_worker(
        parts.database,
        pipeline.load_steps(
            pipeline.Tools(store=parts.store, limits=limits, transcriber=_transcriber(settings))
        ),
        concurrency=settings.worker_concurrency,
        index=Indexer(parts.database, parts.store).work,
        sweep=partial(_tidy, parts, Steadiness()),
        seal=parts.audit.seal,
        pace=Pace(grace_seconds=settings.shutdown_grace_seconds),
    )


def work_alone(settings: Settings) -> None:
    """As `work`, in a process that nobody looks after: it tells its metrics itself."""
    with closing(Metering(settings, [WORKER])) as metering:
        metering.record(WORKER)
        metering.answer()
        work(settings)


def _tidy(parts: Parts, steadiness: Steadiness) -> None:
    grace = parts.settings.orphan_grace_seconds
    if steadiness.seconds() >= grace:  # else what looks as old may have been written just now
        keep = parts.settings.quarantine_seconds
        parts.sweeper.sweep(grace_seconds=grace, keep_seconds=keep)
    forget_ended(parts.database)
    parts.access.tidy(key_age_seconds=parts.settings.key_rotation_days * DAY_SECONDS)


def _transcriber(settings: Settings) -> Callable[[], Transcriber] | None:
    if settings.speech_engine == "off":
        return None
    options = speech_options(settings)
    return _Once(lambda: speech.open_engine(settings.speech_engine, options))


class _Once:
    """Makes an engine on the first call, one for all threads.

    A failure is not remembered: what is installed later is used without a restart.
    """

    def __init__(self, make: Callable[[], Transcriber]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: Transcriber | None = None

    def __call__(self) -> Transcriber:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made
