"""Metrics: everything that operators count, measure and watch, in one catalogue.

Each process of a service writes what it counts into files of its own, in a folder that all of them
share; whichever is asked reads all of them. Until `record` is called nothing is written, and the
library that writes is not loaded.

No label says whose something is: no organization, client, name, number, file or address. Its
values are words of our own code, and one metric never has more than `MOST_SERIES` of them.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from prometheus_client.metrics_core import Metric as Family
    from prometheus_client.registry import Collector

MOST_SERIES = 500
"""Of one metric in one process: routes times methods times classes of status are about 200. What
comes beyond has `OTHER` in every label, so that no mistake can fill memory here or in Prometheus.
"""

OTHER = "other"

RESERVED_BYTES = 1024 * 1024
"""Of each file: twice what all series of all routes need. Files are mapped into memory, and who
writes to a mapped page for which a full disk has no room is killed (SIGBUS): so all of it is there
from the beginning."""

_FAST = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_LONG = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
"""Upper bounds of buckets in seconds: for answers, and for what takes as long as its file."""


class Metric:
    """One metric: its name, its type for Prometheus, its labels in order, and what it means."""

    kind: ClassVar[str]

    def __init__(self, name: str, meaning: str, *labels: str) -> None:
        self.name = name
        self.meaning = meaning
        self.labels = labels


class _Recorded(Metric):
    """A metric that processes write down as it happens."""

    def __init__(self, name: str, meaning: str, *labels: str) -> None:
        super().__init__(name, meaning, *labels)
        self._parent: Any = None
        self._series: dict[tuple[str, ...], Any] = {}

    def open(self) -> None:
        """Begins to write; what has no labels is there from now on, as 0."""
        self._series = {}
        self._parent = self._made()
        if not self.labels:
            self._series[()] = self._parent

    def _made(self) -> Any:
        raise NotImplementedError

    def _one(self, labels: tuple[str, ...]) -> Any:
        """The series of these labels' values; None while nothing is recorded."""
        found = self._series.get(labels)
        if found is None and self._parent is not None:
            if len(self._series) >= MOST_SERIES:
                return self._parent.labels(*[OTHER] * len(labels))
            found = self._series.setdefault(labels, self._parent.labels(*labels))
        return found


class Counter(_Recorded):
    """What only grows."""

    kind = "counter"

    def add(self, *labels: str, amount: float = 1) -> None:
        """Adds to the series of these labels' values."""
        series = self._one(labels)
        if series is not None:
            series.inc(amount)

    @override
    def _made(self) -> Any:
        from prometheus_client import Counter as Made  # noqa: PLC0415

        return Made(self.name, self.meaning, self.labels, registry=None)


class Level(_Recorded):
    """What goes up and down with what processes have in hand; it goes when they end."""

    kind = "gauge"

    def change(self, amount: float) -> None:
        """Raises or, below 0, lowers it."""
        series = self._one(())
        if series is not None:
            series.inc(amount)

    @override
    def _made(self) -> Any:
        from prometheus_client import Gauge as Made  # noqa: PLC0415

        return Made(self.name, self.meaning, registry=None, multiprocess_mode="livesum")


class Duration(_Recorded):
    """How long things took, in seconds."""

    kind = "histogram"

    def __init__(
        self, name: str, meaning: str, *labels: str, buckets: tuple[float, ...] = _LONG
    ) -> None:
        super().__init__(name, meaning, *labels)
        self.buckets = buckets

    def took(self, seconds: float, *labels: str) -> None:
        """Notes one duration in the series of these labels' values."""
        series = self._one(labels)
        if series is not None:
            series.observe(seconds)

    @override
    def _made(self) -> Any:
        from prometheus_client import Histogram as Made  # noqa: PLC0415

        return Made(self.name, self.meaning, self.labels, registry=None, buckets=self.buckets)


class Reading(Metric):
    """What is looked up when somebody asks for it."""

    kind = "gauge"

    def of(self, values: Mapping[tuple[str, ...], float]) -> Family:
        """The values, by those of the labels."""
        from prometheus_client.metrics_core import GaugeMetricFamily  # noqa: PLC0415

        family = GaugeMetricFamily(self.name, self.meaning, labels=self.labels)
        for labels, value in values.items():
            family.add_metric(labels, value)
        return family


REQUESTS = Counter(
    "earmark_http_requests_total",
    "Requests that were answered, by the route's template and the class of the status.",
    "method",
    "route",
    "status",
)
REQUEST_DURATION = Duration(
    "earmark_http_request_duration_seconds",
    "From a request's head to the last byte of its answer.",
    "method",
    "route",
    buckets=_FAST,
)
REFUSALS = Counter(
    "earmark_http_refusals_total",
    "Answers that refuse or fail, by the code that they tell.",
    "code",
)
LOOP_LAG = Duration(
    "earmark_event_loop_lag_duration_seconds",
    "How late a web process does what it means to do at a moment; every answer waits as long.",
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
UPLOADS = Counter(
    "earmark_uploads_total",
    "Requests to upload, by what became of them.",
    "media",
    "outcome",
)
UPLOAD_DURATION = Duration(
    "earmark_upload_duration_seconds",
    "From the head of a request to upload to the last byte of its answer.",
    "media",
)
UPLOADS_IN_FLIGHT = Level(
    "earmark_uploads_in_flight", "Requests to upload that have no answer yet."
)
RECEIVED_BYTES = Counter(
    "earmark_received_bytes_total",
    "Bytes of files that came in, uploaded or downloaded, kept or not.",
    "media",
)
DOWNLOADS = Counter(
    "earmark_downloads_total",
    "Downloads from signed addresses that ended, by what became of them.",
    "outcome",
)
DOWNLOAD_DURATION = Duration(
    "earmark_download_duration_seconds",
    "From the beginning of a download to its end, waits between tries included.",
)
STEPS = Counter(
    "earmark_steps_total",
    "Attempts at steps of processing that ended, by result and by the code of the cause.",
    "step",
    "result",
    "code",
)
STEP_DURATION = Duration(
    "earmark_step_duration_seconds", "How long one attempt at a step ran.", "step"
)
TRANSCRIBED_SECONDS = Counter(
    "earmark_transcribed_audio_seconds_total",
    "Seconds of sound that were transcribed, each channel counted.",
)
TRANSCRIPTION_SECONDS = Counter(
    "earmark_transcription_seconds_total", "Seconds that transcribing them took."
)
EVENTS = Counter("earmark_events_total", "Events that were written.", "kind")
DATABASE_ERRORS = Counter(
    "earmark_database_errors_total", "Transactions that the database failed.", "error"
)
SWEPT = Counter(
    "earmark_swept_objects_total",
    "Objects that no interaction claimed, or did again, by what became of them.",
    "outcome",
)
STARTS = Counter("earmark_process_starts_total", "Starts of processes.", "process")

INTERACTIONS = Reading(
    "earmark_interactions",
    "Interactions whose processing has not ended.",
    "media",
    "state",
)
OLDEST_WAITING = Reading(
    "earmark_oldest_waiting_seconds",
    "For how long the interaction that waits longest for a worker has been due.",
    "media",
)
WORKERS = Reading("earmark_workers", "Workers that said lately that they live.")
DATABASE_UP = Reading("earmark_database_up", "1 if the database answers, else 0.")
DATA_FREE = Reading(
    "earmark_data_free_bytes", "Bytes that are free on the disk of the data folder."
)
STORAGE_FREE = Reading("earmark_storage_free_bytes", "Bytes that are free where recordings live.")
DISK_RESERVE = Reading(
    "earmark_disk_reserve_bytes", "Below as many free bytes of the storage uploads are refused."
)
SCRUB_DAMAGED = Reading(
    "earmark_scrub_damaged_objects",
    "Objects that the latest scrub with this data folder found damaged or missing so far.",
)
SCRUB_ENDED = Reading(
    "earmark_scrub_ended_seconds",
    "When a scrub with this data folder last came to its end, in seconds since 1970.",
)
BUILD = Reading("earmark_build_info", "Always 1; its labels tell what runs.", "version", "python")

CATALOGUE: tuple[Metric, ...] = tuple(
    one for one in list(globals().values()) if isinstance(one, Metric)
)
"""Every metric but those of the processes themselves, which are Prometheus' own."""


class Files:
    """The files of one service's processes, which go by names such as "web-0".

    A process that dies and is started again goes on in the files of its name: so what it counted
    stays, and there are never more of them.
    """

    _KINDS = ("counter", "histogram", "gauge_livesum")

    def __init__(self, folder: Path) -> None:
        """Keeps the folder, which is the service's own."""
        self._folder = folder

    def begin(self, processes: Sequence[str]) -> None:
        """Empties the folder and makes room in it for processes of these names.

        Raises:
            OSError: the disk is full, or the folder cannot be used.
        """
        for left in self._folder.glob("*"):
            left.unlink()
        for process in processes:
            self._reserve(process)

    def record(self, process: str) -> None:
        """From here on this process writes down what it counts."""
        from prometheus_client import values  # noqa: PLC0415

        self.end(process)  # should whoever looks after it not have got to it
        self._reserve(process)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(self._folder)
        values.ValueClass = values.MultiProcessValue(lambda: process)  # type: ignore[no-untyped-call]
        for metric in CATALOGUE:
            if isinstance(metric, _Recorded):
                metric.open()
        self._pid(process).write_text(str(os.getpid()))
        STARTS.add(process.partition("-")[0])

    def end(self, process: str) -> None:
        """Forgets what a process had in hand: it has ended. What it counted stays."""
        self._pid(process).unlink(missing_ok=True)
        # Somebody may have removed them, which must end nobody.
        with contextlib.suppress(FileNotFoundError), self._held(process).open("r+b") as file:
            file.write(bytes(8))  # how much of it is used

    def running(self) -> Iterator[tuple[str, int]]:
        """The names of processes that record, and their ids."""
        for path in sorted(self._folder.glob("*.pid")):
            with contextlib.suppress(FileNotFoundError, ValueError):  # at this very moment
                yield path.stem, int(path.read_text())

    def collector(self) -> Collector:
        """What tells all that was written down."""
        from prometheus_client.multiprocess import MultiProcessCollector  # noqa: PLC0415

        return MultiProcessCollector(None, str(self._folder))  # type: ignore[no-untyped-call]

    def _reserve(self, process: str) -> None:
        """Makes a process's files where they are not there."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for kind in self._KINDS:
            path = self._folder / f"{kind}_{process}.db"
            if not path.exists():
                path.write_bytes(bytes(RESERVED_BYTES))

    def _held(self, process: str) -> Path:
        return self._folder / f"gauge_livesum_{process}.db"

    def _pid(self, process: str) -> Path:
        return self._folder / f"{process}.pid"
