"""Names that live processes hold: how a dead worker is told from a live one."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import sqlalchemy as sa
from typing_extensions import override

from earmark.errors import UnavailableError

if TYPE_CHECKING:
    from earmark.database.core import Database

# A machine that vanishes ends no connection: let the server find out within half a minute.
_KEEPALIVE = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
_TAKE = sa.text("SELECT pg_try_advisory_lock(hashtextextended('earmark worker ' || :name, 0))")


MAX_WORKERS = 1000
"""On one machine."""


class Slot(Protocol):
    """A name that this process has for itself until it closes it or dies."""

    def is_held(self) -> bool:
        """Whether it is still ours."""

    def close(self) -> None:
        """Gives it back."""


class Slots(Protocol):
    """Names of workers. Who holds one lives; a free one's worker is dead."""

    def take(self, name: str) -> Slot | None:
        """Takes a name; None if a live process holds it.

        Raises:
            UnavailableError: nobody can tell now.
        """


def open_slots(database: Database) -> Slots:
    """The slots of all workers that share this database."""
    if database.is_sqlite:
        return FileSlots(Path(str(database.engine.url.database)).with_name("workers"))
    return ServerSlots(database)


def take_free(slots: Slots, host: str) -> tuple[str, Slot]:
    """The first free name of `<host>-0`, `<host>-1` …: after a restart mostly the same again.

    Raises:
        UnavailableError: nobody can tell now, or there are `MAX_WORKERS` already.
    """
    for number in range(MAX_WORKERS):
        name = f"{host}-{number}"
        slot = slots.take(name)
        if slot is not None:
            return name, slot
    raise UnavailableError("this machine has as many workers as it may")


class FileSlots(Slots):
    """Locks on files: they end with the process, however it ends. For one machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @override
    def take(self, name: str) -> Slot | None:
        """See Slots.take."""
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self._folder / f"{name}.lock", flags, 0o600)
        except OSError as error:
            raise UnavailableError("the folder of worker locks cannot be written") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return _FileSlot(descriptor)


class _FileSlot(Slot):
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @override
    def is_held(self) -> bool:
        """See Slot.is_held."""
        return True

    @override
    def close(self) -> None:
        """See Slot.close."""
        os.close(self._descriptor)


class ServerSlots(Slots):
    """Advisory locks on PostgreSQL, each held by a connection of its own."""

    def __init__(self, database: Database) -> None:
        self._engine = sa.create_engine(
            database.engine.url,
            poolclass=sa.NullPool,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,  # or an error would tell the values of the row
            connect_args={
                "connect_timeout": 5,
                "application_name": "earmark-slot",
                "options": _KEEPALIVE,
            },
        )

    @override
    def take(self, name: str) -> Slot | None:
        """See Slots.take."""
        try:
            connection = self._engine.connect()
            held = connection.execute(_TAKE, {"name": name}).scalar()
        except sa.exc.OperationalError as error:
            raise UnavailableError("the database cannot serve now") from error
        if held:
            return _ServerSlot(connection)
        connection.close()
        return None


class _ServerSlot(Slot):
    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    @override
    def is_held(self) -> bool:
        """See Slot.is_held. An answer on this connection proves the session, and so the lock."""
        if self._connection.closed:
            return False
        try:
            return self._connection.execute(sa.text("SELECT 1")).scalar() == 1
        except sa.exc.DBAPIError:
            self.close()
            return False

    @override
    def close(self) -> None:
        """See Slot.close."""
        if not self._connection.closed:
            self._connection.invalidate()  # what is broken can be neither rolled back nor kept
            self._connection.close()
