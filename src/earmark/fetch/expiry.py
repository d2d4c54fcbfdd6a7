"""Until when a signed address holds, where it says so itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from collections.abc import Mapping

_AZURE_FORMS = (
    "%Y-%m-%dT%H:%M:%S.%fZ",
    "%Y-%m-%dT%H:%M:%SZ",
    "%Y-%m-%dT%H:%MZ",
    "%Y-%m-%d",
)
_BASIC_FORM = "%Y%m%dT%H%M%SZ"
_MOST_FIELDS = 100


def expiry(target: bytes) -> datetime | None:
    """The instant after which the signature is void; None if the target does not show one.

    Source: AWS Signature Version 4 and 2 query authentication, Google Cloud Storage V4 and V2
    signed URLs, Azure Storage shared access signatures.
    """
    query = target.decode("ascii").partition("?")[2]
    try:
        fields = dict(parse_qsl(query, max_num_fields=_MOST_FIELDS))
    except ValueError:
        return None
    shown = (read(fields) for read in (_aws_or_google, _seconds, _azure))
    return next((instant for instant in shown if instant is not None), None)


def _aws_or_google(fields: Mapping[str, str]) -> datetime | None:
    for prefix in ("X-Amz", "X-Goog"):
        begins, lasts = fields.get(f"{prefix}-Date"), fields.get(f"{prefix}-Expires")
        if begins and lasts:
            try:
                start = datetime.strptime(begins, _BASIC_FORM).replace(tzinfo=UTC)
                return start + timedelta(seconds=int(lasts))
            except (ValueError, OverflowError):
                return None
    return None


def _seconds(fields: Mapping[str, str]) -> datetime | None:
    if "Expires" not in fields or "Signature" not in fields:
        return None
    try:
        return datetime.fromtimestamp(int(fields["Expires"]), UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _azure(fields: Mapping[str, str]) -> datetime | None:
    if "se" not in fields or "sig" not in fields:
        return None
    for form in _AZURE_FORMS:
        try:
            return datetime.strptime(fields["se"], form).replace(tzinfo=UTC)
        except ValueError:
            continue
    return None
