"""The error tree. No HTTP and no words for users live here; those belong to the edges.

EarmarkError
├── CallerError                  the caller must change something
│   ├── RefusedError             an upload breaks one or more rules (every Fault listed)
│   ├── NotFoundError            no such thing in the caller's organization
│   ├── ConflictError            the thing is not in a state that allows this
│   ├── KeyInUseError            the first upload of an idempotency key still runs
│   ├── KeyReusedError           an idempotency key comes again with another upload
│   ├── DeletedError             what an idempotency key had kept was deleted since
│   ├── InvalidError             a value outside uploads is wrong
│   ├── UnauthenticatedError     no valid token
│   ├── ForbiddenError           a valid token without the scope or grant
│   ├── TooLargeError            more bytes than the service takes
│   ├── StorageQuotaError        the organization has no room for as many bytes
│   ├── SlowError                what is sent comes too slowly
│   └── RateLimitedError         too many requests
│       ├── UploadRateError      too many uploads of the organization in a minute
│       └── TooManyUploadsError  too many uploads of the organization at once
├── MediaError                   the stored file itself cannot be processed
└── ServiceError                 we, or our operator, must change something
    ├── UnavailableError         storage or database cannot serve now; retry later
    └── SettingsError            a setting is wrong; its message says how to mend it
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID


class Why(StrEnum):
    """Every reason to refuse an upload. The value is the stable code that APIs show."""

    NO_FILE = "file_missing_or_extension_not_allowed"
    NO_METADATA = "metadata_missing"
    METADATA_FORM = "metadata_malformed"
    MEDIA_TYPE = "upload_type_invalid"
    VALUE = "metadata_value_invalid"
    FILE_NAME = "file_name_invalid"
    EXTENSION_MISMATCH = "file_extension_mismatch"
    NAME_TAKEN = "file_name_taken"
    LOCALE = "locale_unsupported"
    HIERARCHY = "hierarchy_invalid"
    SIGNED_URL_OFF = "signed_url_off"
    SIGNED_URL_INVALID = "signed_url_invalid"
    SIGNED_URL_EXPIRED = "signed_url_expired"
    SIGNED_URL_REFUSED = "signed_url_refused"
    SIGNED_URL_FAILED = "signed_url_failed"
    SIGNED_URL_TOO_SLOW = "signed_url_too_slow"
    SIGNED_URL_TOO_LARGE = "signed_url_too_large"
    SIGNED_URL_INTERRUPTED = "signed_url_interrupted"
    EMPTY_FILE = "file_empty"
    NOT_MEDIA = "file_not_media"
    DIGEST_MISMATCH = "digest_mismatch"
    DIGEST_MALFORMED = "digest_malformed"
    KEY_MALFORMED = "idempotency_key_malformed"
    FORM_MALFORMED = "form_malformed"
    TOO_MANY_PARTS = "form_too_many_parts"


@dataclass(frozen=True, slots=True)
class Fault:
    """One broken rule.

    Attributes:
        why: the rule.
        field: the field of Submission or the form part at fault; or "".
        detail: what was wrong and how to mend it, one sentence; never repeats personal data.
    """

    why: Why
    field: str = ""
    detail: str = ""


class EarmarkError(Exception):
    """Anything that Earmark itself raises."""


class CallerError(EarmarkError):
    """The caller must change something."""


class RefusedError(CallerError):
    """An upload breaks one or more rules.

    Attributes:
        faults: every fault found, in the order found; never empty.
        existing_id: the interaction that holds the name already, for `Why.NAME_TAKEN`.
        duplicate: "identical", "different" or "unknown": how the bytes sent compare with those
            stored, for `Why.NAME_TAKEN`.
    """

    def __init__(
        self,
        faults: Sequence[Fault],
        *,
        existing_id: UUID | None = None,
        duplicate: str = "unknown",
    ) -> None:
        super().__init__(", ".join(fault.why.value for fault in faults))
        self.faults = tuple(faults)
        self.existing_id = existing_id
        self.duplicate = duplicate


class NotFoundError(CallerError):
    """No such thing in the caller's organization, whether or not another one has it."""


class ConflictError(CallerError):
    """The thing is not in a state that allows this.

    Attributes:
        code: stable, for programs.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class KeyInUseError(CallerError):
    """The first upload of an idempotency key still runs.

    Attributes:
        retry_after_seconds: when it is worth asking again.
    """

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(f"retry in {retry_after_seconds:.3f} s")
        self.retry_after_seconds = retry_after_seconds


class KeyReusedError(CallerError):
    """An idempotency key comes again with other metadata or another file."""


class DeletedError(CallerError):
    """What was kept under an idempotency key was deleted since."""


@dataclass(frozen=True, slots=True)
class Invalid:
    """One wrong value of a request that is no upload."""

    field: str
    message: str


class InvalidError(CallerError):
    """One or more values are wrong; each is named with its mend."""

    def __init__(self, *faults: Invalid) -> None:
        super().__init__("; ".join(f"{fault.field}: {fault.message}" for fault in faults))
        self.faults = faults


class UnauthenticatedError(CallerError):
    """No valid token.

    Attributes:
        presented: whether a token was presented at all (RFC 6750 section 3.1).
    """

    def __init__(self, message: str, *, presented: bool) -> None:
        super().__init__(message)
        self.presented = presented


class ForbiddenError(CallerError):
    """A valid token without the scope or grant that this needs."""


class TooLargeError(CallerError):
    """More bytes than the service takes.

    Attributes:
        limit_bytes: the most that it takes.
    """

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"more than {limit_bytes} bytes")
        self.limit_bytes = limit_bytes


class SlowError(CallerError):
    """What the caller sends comes too slowly, or not at all."""


class RateLimitedError(CallerError):
    """Too many requests.

    Attributes:
        retry_after_seconds: when the next one will be taken.
    """

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__(f"retry in {retry_after_seconds:.3f} s")
        self.retry_after_seconds = retry_after_seconds


class UploadRateError(RateLimitedError):
    """More uploads of the organization begin in a minute than may."""


class TooManyUploadsError(RateLimitedError):
    """As many uploads of the organization are on their way as may be at once."""


class StorageQuotaError(CallerError):
    """What the organization stores, and what is on its way, leaves no room for as many bytes."""


class MediaError(EarmarkError):
    """The stored file itself cannot be processed; trying again will not help.

    Attributes:
        code: stable, for programs.
        message: the cause and its mend, for a person.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class ServiceError(EarmarkError):
    """We, or the operator, must change something."""


class UnavailableError(ServiceError):
    """Storage or database cannot serve now.

    Attributes:
        retry_after_seconds: when it is worth trying again.
    """

    def __init__(self, message: str, *, retry_after_seconds: int = 5) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class SettingsError(ServiceError):
    """A setting is wrong; the message is one sentence that names it and its mend."""
