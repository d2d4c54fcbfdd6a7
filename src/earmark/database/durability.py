"""Whether a PostgreSQL server keeps what it has acknowledged through a crash of its machine.

Source: https://www.postgresql.org/docs/current/runtime-config-wal.html.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from earmark.database.scope import Scope

MENDS = {
    "fsync": "Set fsync = on in postgresql.conf, reload PostgreSQL, and run `sync` once.",
    "synchronous_commit": (
        "Earmark sets it for its own connections: whatever stands between it and PostgreSQL must "
        "keep that, or set synchronous_commit = on in postgresql.conf."
    ),
    "full_page_writes": (
        "Set full_page_writes = on in postgresql.conf and reload PostgreSQL, unless its file "
        "system never writes half a page, as ZFS."
    ),
}
"""What must not be off, the worst first, and what to do if it is."""


def switched_off(scope: Scope) -> list[str]:
    """Those that are off for this connection."""
    shown = sa.select(*(sa.func.current_setting(name).label(name) for name in MENDS))
    (row,) = scope.rows(shown)
    return [name for name in MENDS if getattr(row, name) == "off"]
