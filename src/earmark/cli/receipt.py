"""`earmark receipt`: what a receipt says, and whether it is genuine."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from earmark.cli._common import Data, settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from earmark.access.receipts import Receipt

app = typer.Typer(help="Verify receipts of uploads.", no_args_is_help=True, rich_markup_mode=None)

MAX_KEYS_BYTES = 1024 * 1024
"""A key set has about a thousand."""

READ_SECONDS = 10.0

WRONG, UNKNOWN = 1, 2
"""Exit status: it is not genuine, or not of that file; or nobody can tell."""

_LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
"""Hosts that plain HTTP cannot be listened to or changed on the way to."""


@app.command("verify")
def receipt_verify(
    receipt: Annotated[
        str, typer.Argument(help="File with the receipt, or - for standard input.")
    ],
    keys: Annotated[
        str,
        typer.Option(
            help="Key set of the service that signed it: a file, or the service's address. "
            "Without it, the keys of this installation.",
        ),
    ] = "",
    file: Annotated[
        Path | None,
        typer.Option(help="Recording that it is to be about.", show_default=False),
    ] = None,
    data: Data = None,
) -> None:
    """Tell what a receipt says, once it is sure that the service signed it. No network is needed.

    The exit status is 0 if it is genuine and of the file, 1 if not, and 2 if nobody can tell.
    """
    from earmark.access.receipts import ReceiptError, same_file, verify

    text = _text(receipt)
    key_set = _keys(keys, data)
    try:
        found = verify(text, key_set)
    except ReceiptError as error:
        _end(WRONG, str(error))
    _tell(found)
    if file is None:
        return
    if not same_file(found, _sha256(file)):
        _end(WRONG, f"{file} is another file: its SHA-256 differs.")
    typer.echo(f"{file} is that file.")


def _tell(receipt: Receipt) -> None:
    from earmark.telemetry import visible

    typer.echo(visible(f"This receipt is genuine: {receipt.issuer} kept this upload."))
    facts = {
        "file name": receipt.file_name,
        "size": f"{receipt.size_bytes:,} bytes",
        "sha-256": receipt.sha256.hex(),
        "received": f"{receipt.received_at:%Y-%m-%d %H:%M:%S} UTC",
        "id": receipt.id,
        "organization": receipt.organization_id,
        "signed by": f"key {receipt.kid}",
    }
    for name, value in facts.items():
        typer.echo(visible(f"  {name:12}  {value}"))


def _text(receipt: str) -> str:
    try:
        if receipt == "-":
            return sys.stdin.read()
        return Path(receipt).read_text(encoding="ascii")
    except OSError as error:
        _end(UNKNOWN, f"{receipt} cannot be read ({error.strerror}).")
    except UnicodeDecodeError:
        _end(WRONG, f"{receipt} holds no receipt: one is written in ASCII.")


def _keys(keys: str, data: Path | None) -> Mapping[str, Any]:
    """The key set to be believed."""
    if not keys:
        return {"keys": _own(data)}
    content = _fetched(keys) if "://" in keys else _read(Path(keys))
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("keys"), list):
        _end(UNKNOWN, f"{keys} is no key set: a JSON object with `keys` is wanted.")
    return found


def _own(data: Path | None) -> list[Any]:
    """The keys of this installation, if there is one."""
    from earmark.app.parts import Parts
    from earmark.errors import EarmarkError

    given = settings(data)
    if given.on_sqlite and not given.data.is_dir():
        _end(UNKNOWN, "There is no installation here; say whose receipt it is by --keys.")
    try:
        with closing(Parts(given)) as parts:
            parts.prepare()
            return list(parts.access.receipts.published())
    except EarmarkError as error:
        _end(UNKNOWN, f"The keys of this installation cannot be had: {error}")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as opened:
            return opened.read(MAX_KEYS_BYTES)
    except OSError as error:
        _end(UNKNOWN, f"{path} cannot be read ({error.strerror}).")


def _fetched(address: str) -> bytes:
    """The key set that the service at an address publishes."""
    import httpx

    from earmark import egress
    from earmark.web.oauth import KEYS_PATH

    try:
        parsed = httpx.URL(address)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme != "https" and (parsed.scheme != "http" or parsed.host not in _LOCAL):
        _end(UNKNOWN, "Give an https address: over plain HTTP anybody could send other keys.")
    place = address if address.endswith(KEYS_PATH) else address.rstrip("/") + KEYS_PATH
    try:
        with egress.open_client(read_seconds=READ_SECONDS) as http:
            answer = http.get(place)
            answer.raise_for_status()
    except httpx.HTTPError as error:
        mend = "Get the key set by other means, and give its file."
        _end(UNKNOWN, f"{place} did not answer with a key set ({type(error).__name__}). {mend}")
    return answer.content


def _sha256(path: Path) -> bytes:
    import hashlib

    try:
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").digest()
    except OSError as error:
        _end(UNKNOWN, f"{path} cannot be read ({error.strerror}).")


def _end(status: int, sentence: str) -> NoReturn:
    from earmark.telemetry import visible

    typer.echo(visible(f"earmark: {sentence}"), err=True)
    raise typer.Exit(status)
