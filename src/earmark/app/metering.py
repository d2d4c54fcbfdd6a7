"""`GET /metrics` for one service: on an address of its own, answered by any of its web processes.

It is off unless a setting names the address. The public address never tells metrics: how much a
service does, and how well, is nobody's business but its operator's.
"""

from __future__ import annotations

import platform
import shutil
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, partial
from http.server import BaseHTTPRequestHandler
from importlib.metadata import version
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any

import structlog
from typing_extensions import override

from earmark.app.listen import Listen, bind
from earmark.app.parts import Parts, make_data_folder
from earmark.database import workers
from earmark.database.backlog import STATES, backlog
from earmark.errors import SettingsError, UnavailableError
from earmark.model import MediaType, now
from earmark.telemetry import metrics
from earmark.upkeep.scrub import progress_in

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from prometheus_client.metrics_core import Metric as Family
    from prometheus_client.registry import CollectorRegistry

    from earmark.config import Settings
    from earmark.database import Database

SETTING = "EARMARK_METRICS_LISTEN"

REPEAT_SECONDS = 5.0
REPEAT_FACTOR = 20
"""What was read from the database is told again for as long, and for so many times as long as the
reading took: however often somebody asks and however much waits, it costs a twentieth at most."""

PATIENCE_SECONDS = 10.0
"""For a request to come and for its answer to be taken."""

log = structlog.get_logger("earmark.metrics")


class Metering:
    """What all processes of one service share to be measured; nothing if that is off."""

    def __init__(self, settings: Settings, processes: Sequence[str]) -> None:
        """Takes the address, and makes room for processes of these names.

        Raises:
            SettingsError: the address is taken or no address, or the data folder cannot be used.
        """
        self._settings = settings
        self._bound: socket.socket | None = None
        if settings.metrics_address is None:
            return
        host, port = settings.metrics_address
        self._bound = bind(Listen(host, port), host_by=SETTING, port_by=SETTING)
        try:
            self._files.begin(processes)
        except OSError as error:
            self.close()
            raise SettingsError(
                f"The data folder cannot hold metrics ({error.strerror}); mend that, or leave "
                f"{SETTING} empty.",
            ) from error

    @cached_property
    def _files(self) -> metrics.Files:
        """In a folder that is ours alone for as long as we have the address."""
        make_data_folder(self._settings)
        place = self._settings.metrics_listen.replace("[", "").replace("]", "")
        return metrics.Files(self._settings.data.absolute() / "metrics" / place)

    def record(self, process: str) -> None:
        """In a process of this name: begins to count."""
        if self._bound is not None:
            self._files.record(process)

    def answer(self) -> None:
        """In a process that answers: does so from now on, in threads of its own.

        It has a database connection of its own too, and takes none from what it measures.
        """
        if self._bound is None:
            return
        registry = _registry(self._files, Parts(self._settings))
        server = _Server(self._bound, registry)
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()

    def end(self, process: str) -> None:
        """Forgets what the process of this name had in hand: it ended."""
        if self._bound is not None:
            self._files.end(process)

    def close(self) -> None:
        """Gives this process's hold of the address back."""
        if self._bound is not None:
            self._bound.close()


def _registry(files: metrics.Files, parts: Parts) -> CollectorRegistry:
    from prometheus_client import CollectorRegistry  # noqa: PLC0415 - slow, and may be off

    registry = CollectorRegistry()
    registry.register(files.collector())
    registry.register(_Readings(files, parts))
    return registry


class _Readings:
    """What is looked up when somebody asks."""

    def __init__(self, files: metrics.Files, parts: Parts) -> None:
        self._files = files
        self._parts = parts
        self._work = _Work(parts.database)

    def collect(self) -> Iterator[Family]:
        """See prometheus_client.registry.Collector."""
        settings = self._parts.settings
        build = (version("earmark"), platform.python_version())
        yield metrics.BUILD.of({build: 1})
        yield metrics.DATA_FREE.of({(): shutil.disk_usage(settings.data).free})
        yield metrics.STORAGE_FREE.of(self._storage())
        yield metrics.DISK_RESERVE.of({(): settings.disk_reserve})
        yield from _scrub(settings.data)
        yield from self._work.read()
        yield from _processes(self._files)

    def _storage(self) -> dict[tuple[str, ...], float]:
        with suppress(UnavailableError):
            free = self._parts.store.free_bytes()
            return {} if free is None else {(): free}
        return {}


def _scrub(folder: Path) -> Iterator[Family]:
    """What the latest scrub found, and when one ended; nothing if none was begun here."""
    progress = progress_in(folder)
    if progress is None:
        return
    yield metrics.SCRUB_DAMAGED.of({(): progress.damaged})
    if progress.last_ended_at:
        ended = datetime.fromisoformat(progress.last_ended_at)
        yield metrics.SCRUB_ENDED.of({(): ended.timestamp()})


@dataclass(slots=True)
class _Work:
    """What the database tells, asked seldom."""

    database: Database
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _told: Sequence[Family] = ()
    _until: float = float("-inf")

    def read(self) -> Sequence[Family]:
        """How much work waits, and whether anybody does it; of an outage that it is one."""
        with self._lock:
            began = time.monotonic()
            if began >= self._until:
                self._told = list(self._asked())
                took = time.monotonic() - began
                self._until = began + took + max(REPEAT_SECONDS, REPEAT_FACTOR * took)
            return self._told

    def _asked(self) -> Iterator[Family]:
        at = now()
        try:
            with self.database.read(None) as scope:
                found = backlog(scope, at)
                alive = workers.count_alive(scope, at)
        except UnavailableError:
            yield metrics.DATABASE_UP.of({(): 0})
            return
        counts: dict[tuple[str, ...], float]
        counts = {(kind.value, state): 0.0 for kind in MediaType for state in STATES}
        ages: dict[tuple[str, ...], float] = {(kind.value,): 0.0 for kind in MediaType}
        for one in found:
            counts[one.media_type.value, one.state] = one.count
            if one.state == "waiting":
                ages[one.media_type.value,] = (at - one.since).total_seconds()
        yield metrics.DATABASE_UP.of({(): 1})
        yield metrics.WORKERS.of({(): alive})
        yield metrics.INTERACTIONS.of(counts)
        yield metrics.OLDEST_WAITING.of(ages)


def _processes(files: metrics.Files) -> Iterator[Family]:
    """Prometheus' own metrics of a process, of each of ours by its name."""
    from prometheus_client import ProcessCollector  # noqa: PLC0415 - slow, and may be off

    families: dict[str, Family] = {}
    for name, pid in files.running():
        for each in ProcessCollector(pid=partial(int, pid), registry=None).collect():
            family = families.setdefault(each.name, each)
            labelled = [one._replace(labels={"process": name}) for one in each.samples]
            family.samples = labelled if family is each else [*family.samples, *labelled]
    yield from families.values()


class _Server(ThreadingMixIn, TCPServer):
    """Serves a socket that others, in other processes, serve as well."""

    daemon_threads = True

    def __init__(self, bound: socket.socket, registry: CollectorRegistry) -> None:
        super().__init__(bound.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = bound
        self.socket.setblocking(False)  # whoever of us comes second to a connection goes on
        self.registry = registry

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        """One line in the log, where the library would print the message too."""
        log.error("metrics failed", exc_info=sys.exception())


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: _Server
    timeout = PATIENCE_SECONDS

    def do_GET(self) -> None:
        """The metrics, in the form that is asked for."""
        if self.path.partition("?")[0] != "/metrics":
            self._answer(404, "text/plain; charset=utf-8", b"Metrics are at /metrics.\n")
            return
        from prometheus_client.exposition import choose_encoder  # noqa: PLC0415 - may be off

        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        self._answer(200, content_type, encode(self.server.registry))

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    @override
    def log_message(self, format: str, *args: object) -> None:
        """Nothing: it would repeat what was asked."""

    @override
    def version_string(self) -> str:
        return "earmark"
