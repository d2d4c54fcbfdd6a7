"""What the tests of faults share."""

from __future__ import annotations

from faults.reporting import pytest_terminal_summary
from system.conftest import new_server, postgres_served, sqlite_served

__all__ = ["new_server", "postgres_served", "pytest_terminal_summary", "sqlite_served"]
