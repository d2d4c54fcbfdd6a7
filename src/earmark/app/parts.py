"""Joins the modules as the settings say. Whoever needs a part gets it from here."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cached_property
from typing import TYPE_CHECKING

import structlog

from earmark import egress, fetch, speech
from earmark.access import Access, Oidc, Rate, parse_rate
from earmark.access.credentials import derive
from earmark.access.seal import Seal
from earmark.app.secret import secret_key
from earmark.audit import Audit
from earmark.database import Database, durability, migrate, roles, workers
from earmark.directory import Directory
from earmark.errors import EarmarkError, SettingsError, UnavailableError
from earmark.intake import Downloading, Intake, Limits
from earmark.intake.downloads import SEAL_PURPOSE
from earmark.interactions import Interactions
from earmark.model import Quota, now
from earmark.storage import Store, open_store
from earmark.upkeep.sweep import Sweeper

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Executor, Future

    from earmark.config import Settings

INTAKE_THREADS = 16
"""Syncs and commits at once in one process. 1,000 that ran at once made a health check wait
451 ms instead of 8; more than a few do not make a disk faster."""

WRITING_THREADS = 2
"""Hashing and writing at once in one process. It takes as much of a processor as receiving does,
and with more of them whoever receives seldom gets his turn: other calls wait."""

STEPPED_BACK = 5
"""The niceness of these threads: the event loop has three times their share, and goes first."""

READINESS_SECONDS = 2.0
"""How long an answer about readiness is repeated: anybody may ask, and asking writes a file."""

STALE_SECONDS = 10.0
PATIENCE_SECONDS = 0.02
"""How old an answer may be that is given because a new one did not come within the patience: on a
busy disk it takes seconds, and who asks would conclude that nobody is there."""

OTHER_ROLE = (
    "name one that owns nothing in EARMARK_DATABASE_URL and run `earmark database upgrade` with "
    "the owner's --url, or set EARMARK_DATABASE_ALLOW_OWNER=true (docs/security.md)."
)

log = structlog.get_logger("earmark.serve")


class Parts:
    """Every part of the service, each made when it is first asked for."""

    def __init__(self, settings: Settings, *, issuer: str = "") -> None:
        """Opens nothing yet.

        Args:
            settings: what the operator decided.
            issuer: the public base URL where the settings name none.
        """
        self.settings = settings
        self._issuer = settings.public_url or issuer

    @cached_property
    def database(self) -> Database:
        """The database; the data folder is made for SQLite."""
        if self.settings.on_sqlite:
            make_data_folder(self.settings)
        return Database(self.settings.database_address)

    @cached_property
    def store(self) -> Store:
        """Where recordings live."""
        return open_store(self.settings.storage_address)

    @cached_property
    def access(self) -> Access:
        """Clients and tokens."""
        return Access(
            self.database,
            secret_key=secret_key(self.settings),
            issuer=self._issuer,
            rate_limit=_rate("RATE_LIMIT", self.settings.rate_limit),
            token_rate_limit=_rate("TOKEN_RATE_LIMIT", self.settings.token_rate_limit),
            quota=Quota(
                stored_bytes=self.settings.quota_stored_bytes,
                uploads_at_once=self.settings.quota_uploads_at_once,
                uploads_per_minute=self.settings.quota_uploads_per_minute,
            ),
            oidc=_oidc(self.settings),
        )

    @cached_property
    def audit(self) -> Audit:
        """Who did what."""
        key = derive(secret_key(self.settings), "audit chain v1")
        return Audit(self.database, key=key, folder=self.settings.data)

    @cached_property
    def intake(self) -> Intake:
        """The way in."""
        limits = Limits(
            upload_bytes=self.settings.max_upload_bytes,
            reserve_bytes=self.settings.disk_reserve,
            buffer_bytes=self.settings.upload_buffer_bytes,
        )
        return Intake(
            self.database,
            self.store,
            limits=limits,
            pool=_begun_pool(INTAKE_THREADS, "intake"),
            writers=_begun_pool(WRITING_THREADS, "writing", first=_step_back),
            quota=self.access.quotas.of,
            known_quota=self.access.quotas.recall,
            downloading=self._downloading,
        )

    @property
    def _downloading(self) -> Downloading | None:
        settings = self.settings
        if not settings.fetch_at_once:
            return None
        return Downloading(
            fetch.Fetcher(
                walls(settings),
                fetch.Limits(
                    size_bytes=settings.max_upload_bytes,
                    seconds=settings.fetch_seconds,
                    bytes_per_second=settings.fetch_min_rate,
                    redirects=settings.fetch_redirects,
                ),
            ),
            Seal(secret_key(settings), SEAL_PURPOSE),
            settings.fetch_at_once,
        )

    @cached_property
    def interactions(self) -> Interactions:
        """The way back."""
        return Interactions(self.database, self.store)

    @cached_property
    def sweeper(self) -> Sweeper:
        """What looks after objects that nobody claims; the worker's."""
        return Sweeper(self.database, self.store)

    @cached_property
    def directory(self) -> Directory:
        """Agents and hierarchy."""
        return Directory(self.database)

    @cached_property
    def readiness(self) -> Readiness:
        """Whether this process can serve."""
        return Readiness(self.database, self.store)

    def prepare(self) -> None:
        """Makes what can be made before a start, and refuses to start without the rest.

        SQLite is upgraded here. PostgreSQL is not: several processes on several machines use it,
        and its operator decides when.

        Raises:
            SettingsError: the database is not of this version, or its role lacks rights.
            UnavailableError: database or storage cannot be reached.
        """
        if self.settings.on_sqlite:
            migrate.upgrade(self.database)
        else:
            check_rights(self.database)
            if not migrate.is_current(self.database):
                raise SettingsError(
                    "The database is not of this version; run `earmark database upgrade` first.",
                )
        self.store.check()

    def warn_of_loss(self) -> None:
        """Has the log tell if PostgreSQL may lose what it acknowledged; it is not ours to refuse.

        Whoever tries the service out, or tests it, can have turned that off on purpose.

        Raises:
            UnavailableError: the database cannot be reached.
        """
        if self.settings.on_sqlite:
            return
        with self.database.read(None) as scope:
            off = durability.switched_off(scope)
        for name in off:
            log.warning(
                "the database may lose what was acknowledged",
                setting=name,
                value="off",
                mend=durability.MENDS[name],
            )

    def check_role(self) -> None:
        """Refuses to serve under a PostgreSQL role that row-level security does not hold.

        Raises:
            SettingsError: it is such a role, and no setting allows it.
            UnavailableError: the database cannot be reached.
        """
        if self.settings.on_sqlite or self.settings.database_allow_owner:
            return
        with self.database.read(None) as scope:
            reasons, role = roles.beyond_walls(scope), roles.name(scope)
        if reasons:
            raise SettingsError(
                f'The database role "{role}" {" and ".join(reasons)}; {OTHER_ROLE}'
            )

    def close(self) -> None:
        """Closes the database's connections, if any was opened."""
        if "database" in vars(self):
            self.database.close()


def check_rights(database: Database) -> None:
    """Sees to it that the role of a PostgreSQL database has the rights that it needs.

    Raises:
        SettingsError: it lacks some.
        UnavailableError: the database cannot be reached.
    """
    with database.read(None) as scope:
        missing, role = roles.missing_for_service(scope), roles.name(scope)
    if missing:
        raise SettingsError(
            f'The database role "{role}" has not all rights on {", ".join(missing)}; '
            "run `earmark database upgrade` with the owner's --url first."
        )


def make_data_folder(settings: Settings) -> None:
    """Makes the data folder, for this user only.

    Raises:
        SettingsError: it cannot be made or used.
    """
    try:
        settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        (settings.data / ".").stat()
    except OSError as error:
        raise SettingsError(
            f"EARMARK_DATA names a folder that cannot be used ({error.strerror}); "
            "create it for this user or name another.",
        ) from error


def walls(settings: Settings) -> egress.Walls:
    """What the settings let callers make this service connect to.

    Raises:
        SettingsError: a network may not be opened, or the authorities cannot be read.
    """
    try:
        networks = egress.Networks(settings.fetch_allow_networks)
    except ValueError as error:
        raise SettingsError(f"EARMARK_FETCH_ALLOW_NETWORKS: {error}.") from None
    try:
        return egress.Walls(
            hosts=settings.fetch_hosts, networks=networks, ca_file=settings.fetch_ca_file or None
        )
    except OSError as error:
        raise SettingsError(
            f"EARMARK_FETCH_CA_FILE names a file that cannot be used ({error.strerror or error}); "
            "it must hold certificates in PEM."
        ) from None


def speech_options(settings: Settings) -> speech.Options:
    """What the settings say of speech recognition."""
    return speech.Options(
        models=settings.models_folder,
        model=settings.speech_model,
        url=settings.speech_url,
        key=settings.speech_key,
        threads=settings.speech_threads,
    )


def _oidc(settings: Settings) -> Oidc | None:
    if not settings.oidc_issuer:
        return None
    return Oidc(settings.oidc_issuer, settings.oidc_audience, settings.oidc_client_claim)


def _rate(name: str, text: str) -> Rate:
    try:
        return parse_rate(text)
    except ValueError as error:
        raise SettingsError(f"EARMARK_{name}: {error}") from None


def _step_back() -> None:
    """Lets other threads of this process go first on a processor that is short.

    On Linux, where each thread has a niceness; elsewhere it is the whole process's.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), STEPPED_BACK)


def _begun_pool(threads: int, name: str, *, first: Callable[[], None] = lambda: None) -> Executor:
    """Threads that have all begun: later there may be no memory for one.

    Each does `first` before anything else.

    What was handed to a pool that then cannot begin a thread is done all the same, some time, by
    another, when its caller was told long since that it was not.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=first)
    begun = threading.Barrier(threads)
    wait([pool.submit(begun.wait) for _ in range(threads)])
    return pool


class Readiness:
    """The state of each thing that serving needs; see `web.health`. Safe among threads."""

    def __init__(self, database: Database, store: Store) -> None:
        """Asks nothing yet."""
        self._of_database = database
        self._of_store = store
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="readiness")
        self._lock = threading.Lock()
        self._asking: Future[Mapping[str, str]] | None = None
        self._told: Mapping[str, str] = {}
        self._told_at = float("-inf")

    def __call__(self) -> Mapping[str, str]:
        """The states; "ok" or what is wrong. Found out anew after `READINESS_SECONDS`."""
        with self._lock:
            told, age = self._told, time.monotonic() - self._told_at
            if age <= READINESS_SECONDS:
                return told
            if self._asking is None:
                self._asking = self._pool.submit(self._ask)
            asking = self._asking
        try:
            return asking.result(PATIENCE_SECONDS if age <= STALE_SECONDS else None)
        except TimeoutError:
            return told

    def _ask(self) -> Mapping[str, str]:
        try:
            states = {**self._database(), "storage": self._storage()}
            with self._lock:
                self._told, self._told_at = states, time.monotonic()
            return states
        finally:
            with self._lock:
                self._asking = None

    def _database(self) -> Mapping[str, str]:
        try:
            migrated = migrate.is_current(self._of_database)
            if not migrated:
                mend = "behind; run earmark database upgrade"
                return {"database": "ok", "migrations": mend, "worker": "unknown"}
            with self._of_database.read(None) as scope:
                alive = workers.any_alive(scope, now())
        except UnavailableError:
            return {"database": "unavailable", "migrations": "unknown", "worker": "unknown"}
        return {
            "database": "ok",
            "migrations": "ok",
            "worker": "alive" if alive else "absent",
        }

    def _storage(self) -> str:
        try:
            self._of_store.check()
        except EarmarkError:
            return "unavailable"
        return "ok"
