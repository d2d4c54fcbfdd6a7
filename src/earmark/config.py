"""Settings: every one with its default, unit and meaning. Read by `app` and `cli` only."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from earmark.errors import SettingsError

KIBIBYTE, MEBIBYTE, GIBIBYTE = 1024, 1024**2, 1024**3

MIN_SECRET_CHARACTERS = 32

PORTS = 65536

_PLACE = re.compile(
    r"((\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<host>[\w.-]+)):)?(?P<port>\d{1,5})", re.IGNORECASE | re.ASCII
)

_UNITS = {"": 1, "B": 1, "KIB": KIBIBYTE, "MIB": MEBIBYTE, "GIB": GIBIBYTE}


def _bytes(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    number = value.strip().rstrip("BbIiKkMmGg")
    unit = value.strip()[len(number) :].strip().upper()
    try:
        return int(float(number) * _UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        raise ValueError("use bytes, or a number with KiB, MiB or GiB") from None


def _networks(value: Any) -> Any:
    if isinstance(value, str):
        value = tuple(part.strip() for part in value.split(",") if part.strip())
    for network in value:
        try:
            ipaddress.ip_network(network)
        except ValueError:
            raise ValueError(f"{network!r} is no address or network") from None
    return value


def _hosts(value: Any) -> Any:
    if isinstance(value, str):
        value = tuple(part.strip().removeprefix("*.") for part in value.split(",") if part.strip())
    for host in value:
        if not re.fullmatch(r"([a-z0-9_-]+\.)*[a-z0-9_-]+|[0-9a-f:]+", host, re.IGNORECASE):
            raise ValueError(f"{host!r} is no host name; use names like s3.amazonaws.com")
    return value


def _base_url(value: str) -> str:
    parts = urlsplit(value)
    if value and (parts.scheme not in {"http", "https"} or not parts.netloc):
        raise ValueError("use an address like https://earmark.example.org")
    if parts.query or parts.fragment:
        raise ValueError("leave out the query and fragment")
    return value.rstrip("/")


def _issuer(value: str) -> str:
    _base_url(value)
    return value  # as it is: tokens name it to the letter, with or without a slash at the end


def _place(value: str) -> str:
    found = _PLACE.fullmatch(value)
    if value and not (found and 0 < int(found["port"]) < PORTS):
        raise ValueError("use a port like 9464, or an address with one like 10.0.0.5:9464")
    return value


def _folder(value: Path) -> Path:
    try:
        str(value.absolute()).encode()
    except UnicodeEncodeError:
        raise ValueError("use a path whose name is UTF-8") from None
    return value


def _secret(value: str) -> str:
    if value and len(value) < MIN_SECRET_CHARACTERS:
        raise ValueError(f"use at least {MIN_SECRET_CHARACTERS} random characters")
    return value


Bytes = Annotated[int, BeforeValidator(_bytes)]
Networks = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_networks)]
IssuerUrl = Annotated[str, AfterValidator(_issuer)]
Hosts = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_hosts)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
Place = Annotated[str, AfterValidator(_place)]
Folder = Annotated[Path, AfterValidator(_folder)]
Secret = Annotated[str, AfterValidator(_secret)]


class Settings(BaseSettings):
    """What an operator decides. Environment variables are the field names after `EARMARK_`."""

    model_config = SettingsConfigDict(env_prefix="EARMARK_", extra="ignore", frozen=True)

    data: Folder = Field(
        default=Path("earmark-data"),
        description="Folder for everything that is kept on this machine; made if absent.",
    )
    database_url: str = Field(
        default="",
        description="Database: `sqlite:///path`, percent-encoded, or "
        "`postgresql://user@host/name`. Empty means `earmark.sqlite3` in the data folder.",
    )
    database_owner_url: str = Field(
        default="",
        description="The same database as `postgresql://owner@host/name`, under the role that "
        "owns the tables; for `earmark database upgrade` alone, like its `--url`. It then lets "
        "the role of `EARMARK_DATABASE_URL` use them. Empty means one role for all.",
    )
    database_allow_owner: bool = Field(
        default=False,
        description="Whether `serve` and `worker` start under a PostgreSQL role that row-level "
        "security does not hold for sure: a superuser, one with BYPASSRLS, or the owner of the "
        "tables.",
    )
    storage_url: str = Field(
        default="",
        description="Where recordings live: `file:/path`. Empty means `storage` in the data "
        "folder.",
    )
    public_url: BaseUrl = Field(
        default="",
        description="The base address under which clients reach this service; it is the issuer "
        "and audience of every token. Empty means the address that `serve` listens on.",
    )
    secret_key: Secret = Field(
        default="",
        description="At least 32 characters from which the pepper of client secrets and the keys "
        "that wrap signing keys and signed addresses are derived. Empty on SQLite means a random "
        "one, made once in the data folder; required on PostgreSQL.",
    )
    max_upload_bytes: Bytes = Field(
        default=int(2.5 * GIBIBYTE),
        gt=0,
        description="Largest file taken; bytes, or a number with KiB, MiB or GiB.",
    )
    disk_reserve: Bytes = Field(
        default=1 * GIBIBYTE,
        ge=0,
        description="Uploads are refused with 503 rather than leave less than this free in the "
        "storage; bytes, or a number with KiB, MiB or GiB.",
    )
    rate_limit: str = Field(
        default="50/s",
        description="Most requests of one API client, like `50/s` or `3000/min`, whichever "
        "processes and machines they reach.",
    )
    token_rate_limit: str = Field(
        default="20/s",
        description="Most token requests from one address (of IPv6, from one /64), and as many of "
        "one client, wherever it is.",
    )
    quota_stored_bytes: Bytes = Field(
        default=0,
        ge=0,
        description="Most media that one organization may store; bytes, or a number with KiB, MiB "
        "or GiB. 0 is no limit. This and the next two hold for every organization of which "
        "`earmark organization quota` says nothing else.",
    )
    quota_uploads_at_once: int = Field(
        default=0,
        ge=0,
        description="Most uploads, downloads from a `signedUrl` included, that one organization "
        "may have on their way at once, whichever processes and machines they reach. 0 is no "
        "limit.",
    )
    quota_uploads_per_minute: int = Field(
        default=0,
        ge=0,
        description="Most uploads that one organization may begin in a minute, whichever clients, "
        "processes and machines they come by. 0 is no limit.",
    )
    key_rotation_days: int = Field(
        default=90,
        ge=0,
        description="Days after which the key that signs tokens gets a successor. 0 means only "
        "by `earmark keys rotate`.",
    )
    oidc_issuer: IssuerUrl = Field(
        default="",
        description="Another issuer whose access tokens are taken too, by its exact `iss`; its "
        "keys are found by OpenID Connect Discovery. Each of its clients is bound to one of ours "
        "by `earmark client create --external-id`.",
    )
    oidc_audience: str = Field(
        default="",
        description="What the `aud` of that issuer's tokens must hold. Empty means the address "
        "of `EARMARK_PUBLIC_URL`.",
    )
    oidc_client_claim: str = Field(
        default="client_id",
        min_length=1,
        description="The claim of that issuer's tokens in which the client stands: `client_id`, "
        "or at some issuers `azp`, `appid` or `sub`.",
    )
    trusted_proxies: Networks = Field(
        default=(),
        description="Addresses or networks, separated by commas, whose `X-Forwarded-For` and "
        "`X-Forwarded-Proto` are believed.",
    )
    worker_concurrency: int = Field(
        default=0,
        ge=0,
        description="Interactions that one worker processes at once. 0 means one per processor.",
    )
    upload_buffer_bytes: Bytes = Field(
        default=32 * MEBIBYTE,
        ge=1 * MEBIBYTE,
        description="Memory that all uploads of one web process together may hold before it is "
        "written; bytes, or a number with KiB, MiB or GiB.",
    )
    upload_idle_seconds: float = Field(
        default=60,
        gt=0,
        description="Seconds without a single byte after which a request's body is given up.",
    )
    upload_min_rate: Bytes = Field(
        default=4 * KIBIBYTE,
        ge=0,
        description="A body that comes more slowly over `EARMARK_UPLOAD_IDLE_SECONDS` is given "
        "up; bytes per second, or a number with KiB, MiB or GiB. 0 asks for no rate.",
    )
    fetch_hosts: Hosts = Field(
        default=(),
        description="Hosts from which a `signedUrl` may be downloaded, separated by commas, each "
        "with all names below it, like `s3.eu-west-1.amazonaws.com`. Empty means every public "
        "host.",
    )
    fetch_allow_networks: Networks = Field(
        default=(),
        description="Private addresses or networks, separated by commas, that a `signedUrl` may "
        "lead to, for stores on your own site. Loopback, link-local and metadata addresses are "
        "never reached.",
    )
    fetch_ca_file: str = Field(
        default="",
        description="PEM file of further certificate authorities that stores behind a "
        "`signedUrl` may have. Empty means the system's alone.",
    )
    fetch_redirects: int = Field(
        default=0,
        ge=0,
        le=3,
        description="Redirects that a download follows, at most 3; each is judged like the "
        "`signedUrl` itself.",
    )
    fetch_seconds: int = Field(
        default=3600,
        gt=0,
        description="Seconds that one download may take in all.",
    )
    fetch_min_rate: Bytes = Field(
        default=16 * KIBIBYTE,
        ge=0,
        description="A download that comes more slowly over 20 seconds is given up; bytes per "
        "second, or a number with KiB, MiB or GiB.",
    )
    fetch_at_once: int = Field(
        default=4,
        ge=0,
        le=64,
        description="Downloads that one web process makes at once. Of 4 or more, one organization "
        "leaves a quarter to others. 0 refuses every `signedUrl`.",
    )
    max_connections: int = Field(
        default=12_000,
        ge=16,
        description="Connections that one web process holds at once; whoever comes beyond them is "
        "answered 503. Fewer if the process may not open enough files.",
    )
    max_connections_per_address: int = Field(
        default=2_000,
        ge=1,
        description="How many of them one address may have (of IPv6, one /64). "
        "`EARMARK_TRUSTED_PROXIES` may have all.",
    )
    head_seconds: float = Field(
        default=20,
        gt=0,
        description="Seconds from the opening of a connection, or from the first byte of a "
        "further request on it, until the request's head is there; with TLS, also for the "
        "handshake.",
    )
    keep_alive_seconds: int = Field(
        default=65,
        gt=0,
        description="Seconds for which a connection may be silent between two requests. More than "
        "the 60 s after which usual load balancers give up a silent connection themselves.",
    )
    download_idle_seconds: float = Field(
        default=60,
        gt=0,
        description="Seconds in which a caller takes not a single byte of its answer after which "
        "it is cut off.",
    )
    shutdown_grace_seconds: int = Field(
        default=30,
        gt=0,
        description="Seconds that running uploads and processing steps have to end well when "
        "the service is stopped.",
    )
    orphan_grace_seconds: int = Field(
        default=3600,
        ge=60,
        description="Seconds after which bytes that no interaction claims are moved to the "
        "quarantine.",
    )
    quarantine_seconds: int = Field(
        default=7 * 86_400,
        ge=0,
        description="Seconds after which what is in the quarantine is removed for good; until "
        "then `earmark sweep --restore` puts it back.",
    )
    scrub_rate: Bytes = Field(
        default=50 * MEBIBYTE,
        gt=0,
        description="How fast `earmark scrub` reads; bytes per second, or a number with KiB, MiB "
        "or GiB.",
    )
    backup_key_file: str = Field(
        default="",
        description="File with the age recipients (`age1…`) for whom `earmark backup` seals, or "
        "the identity (`AGE-SECRET-KEY-…`) with which `earmark restore` opens.",
    )
    decode_memory_bytes: Bytes = Field(
        default=1536 * MEBIBYTE,
        ge=256 * MEBIBYTE,
        description="Address space of the child process that decodes one recording or reads one "
        "chat; bytes, or a number with KiB, MiB or GiB.",
    )
    decode_seconds: int = Field(
        default=900,
        gt=0,
        description="Seconds after which decoding one recording or reading one chat is given up.",
    )
    speech_engine: str = Field(
        default="local",
        pattern="^(local|remote|off)$",
        description="What recognizes speech: `local` (this machine's processors), `remote` (the "
        "server at `EARMARK_SPEECH_URL`) or `off`.",
    )
    speech_model: str = Field(
        default="",
        description="Name of an installed model or path of a CTranslate2 folder; for a remote "
        "engine the name that its server knows. Empty means `base`, else the first that is "
        "installed; `whisper-1` for a remote engine.",
    )
    models: str = Field(
        default="",
        description="Folder in which `earmark models install` puts models; all data folders "
        "share it. Empty means `earmark/models` in `$XDG_DATA_HOME`, else in `~/.local/share`.",
    )
    speech_url: str = Field(
        default="",
        description="Base address of a server with the OpenAI-compatible "
        "`/audio/transcriptions`, like `http://127.0.0.1:8000/v1`.",
    )
    speech_key: str = Field(
        default="", description="Key that the remote engine asks for; empty if none."
    )
    speech_threads: int = Field(
        default=0,
        ge=0,
        description="Threads of the local engine. 0 means one per processor.",
    )
    log_format: str = Field(
        default="auto",
        pattern="^(auto|json|text)$",
        description="`json`, `text`, or `auto`: text on a terminal, else JSON.",
    )
    log_level: str = Field(
        default="info",
        pattern="^(debug|info|warning|error)$",
        description="Least severe log line written: debug, info, warning or error.",
    )

    metrics_listen: Place = Field(
        default="",
        description="Where Prometheus asks for `/metrics`: a port of this machine's loopback, "
        "like `9464`, or an address with one, like `10.0.0.5:9464`. Plain HTTP and no password: "
        "whoever reaches it learns how much is done, and not by whom. Empty means that nothing "
        "is measured.",
    )

    @property
    def metrics_address(self) -> tuple[str, int] | None:
        """Host and port at which metrics are asked for; None if they are not kept."""
        found = _PLACE.fullmatch(self.metrics_listen)
        return found and (found["ipv6"] or found["host"] or "127.0.0.1", int(found["port"]))

    @property
    def database_address(self) -> str:
        """The database's URL with the default filled in."""
        if self.database_url:
            return self.database_url
        return f"sqlite:///{quote(str(self.data.absolute() / 'earmark.sqlite3'))}"

    @property
    def storage_address(self) -> str:
        """The store's URL with the default filled in."""
        return self.storage_url or (self.data.absolute() / "storage").as_uri()

    @property
    def models_folder(self) -> Path:
        """The folder of models with the default filled in."""
        shared = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
        return Path(self.models or f"{shared}/earmark/models").expanduser()

    @property
    def on_sqlite(self) -> bool:
        """Whether the database is SQLite."""
        return self.database_address.startswith("sqlite")


def load(**overrides: Any) -> Settings:
    """The settings of this environment; `overrides` that are not None win.

    Raises:
        SettingsError: a setting is wrong; one sentence names it, its fault and its mend.
    """
    try:
        return Settings(**{key: value for key, value in overrides.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        name = f"EARMARK_{str(first['loc'][0]).upper()}"
        reason = str(first["msg"]).removeprefix("Value error, ")
        raise SettingsError(f"{name}: {reason}. docs/settings.md describes it.") from None
