"""Tables, migrations and every query, in domain types.

A query is a function that takes the `Scope` of an open transaction first; one file per subject.
"""

from earmark.database.core import Database, Piece
from earmark.database.scope import Scope

__all__ = ["Database", "Piece", "Scope"]
