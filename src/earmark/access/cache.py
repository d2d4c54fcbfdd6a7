"""A bounded memory of what was found out, shared by threads."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Cache(Generic[Key, Value]):
    """At most `capacity` values; the one put longest ago goes first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: dict[Key, Value] = {}
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        """What was put last under the key. Takes no lock: one dict look-up is atomic."""
        return self._values.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Remembers a value as the newest."""
        with self._lock:
            self._values.pop(key, None)
            self._values[key] = value
            if len(self._values) > self._capacity:
                del self._values[next(iter(self._values))]

    def forget(self, key: Key) -> None:
        """Drops the key, if it is there."""
        with self._lock:
            self._values.pop(key, None)

    def __len__(self) -> int:
        return len(self._values)
