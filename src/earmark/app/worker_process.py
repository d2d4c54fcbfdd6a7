"""One worker process, beside the web processes or on a machine of its own."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from earmark import jobs, pipeline, speech
from earmark.app.parts import Parts, speech_options
from earmark.app.worker import Pace, run_worker
from earmark.database import migrate
from earmark.pipeline.indexing import Indexer
from earmark.sandbox import Limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from earmark.config import Settings
    from earmark.speech import Transcriber


def upgrade(parts: Parts) -> None:
    """Brings the tables of the service and of its engine to this version.

    Raises:
        UnavailableError: the database cannot be reached.
    """
    migrate.upgrade(parts.database)
    jobs.migrate(parts.settings.database_address)


def work(settings: Settings) -> None:
    """Processes what is received until SIGTERM.

    Raises:
        SettingsError: the database is not of this version.
        UnavailableError: database or storage cannot be reached.
    """
    parts = Parts(settings)
    parts.prepare()
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
        sweep=lambda: parts.interactions.sweep(grace_seconds=settings.orphan_grace_seconds),
        pace=Pace(grace_seconds=settings.shutdown_grace_seconds),
    )


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
