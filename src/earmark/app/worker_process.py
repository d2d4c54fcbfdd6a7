"""One worker process, beside the web processes or on a machine of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from earmark import jobs, pipeline
from earmark.app.parts import Parts
from earmark.app.worker import Pace, run_worker
from earmark.database import migrate
from earmark.sandbox import Limits

if TYPE_CHECKING:
    from earmark.config import Settings


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
        memory_bytes=settings.decode_memory_bytes, wall_seconds=settings.decode_seconds
    )
    run_worker(
        parts.database,
        pipeline.load_steps(pipeline.Tools(store=parts.store, limits=limits)),
        concurrency=settings.worker_concurrency,
        sweep=lambda: parts.interactions.sweep(grace_seconds=settings.orphan_grace_seconds),
        pace=Pace(grace_seconds=settings.shutdown_grace_seconds),
    )
