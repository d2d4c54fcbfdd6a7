"""The order of the promise, seen in the system calls of one upload.

Its bytes are synced, then named, then the name is synced, then the row is committed and synced,
and then the first byte of the 200 leaves. SIGKILL cannot show any of it, since the page cache
outlives a process; this needs no disk and no rights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from faults.order import crowded_disorder, disorder
from faults.tracing import need_strace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from faults.copies import Copies
    from faults.ledger import Ledger


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("size_bytes", [2_000, 3_000_000])
def test_bytes_then_name_then_row_then_answer_each_durable_before_the_next(
    kind: str,
    size_bytes: int,
    new_copies: Callable[..., Copies],
    ledger: Ledger,
    tmp_path: Path,
) -> None:
    need_strace()
    ledger.what = f"order of system calls, {kind}"
    server = new_copies(kind, arguments=("--no-worker",)).start()
    assert disorder(server, ledger, tmp_path / "trace", size_bytes=size_bytes) == []


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_each_of_many_uploads_at_once_waits_for_its_own_bytes_and_row(
    kind: str, new_copies: Callable[..., Copies], ledger: Ledger, tmp_path: Path
) -> None:
    need_strace()
    ledger.what = f"order of system calls, {kind}"
    server = new_copies(kind, arguments=("--no-worker",)).start()
    assert crowded_disorder(server, ledger, tmp_path / "trace") == []
