"""Tokens that the service did not issue, and clocks that stand until they are moved."""

from __future__ import annotations

import base64
import hmac
import json
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc import jwt
from joserfc.jwk import ECKey

if TYPE_CHECKING:
    from collections.abc import Iterator

    from earmark.access import Access

START = 1_700_000_000.0


class Hand:
    """A clock that stands until it is moved."""

    def __init__(self, at: float = START) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


def key_of(access: Access) -> tuple[str, ECKey]:
    """The key that signs now, with its id."""
    return access._keys.signer()


def forge(
    access: Access,
    token: str,
    claims: dict[str, Any] | None = None,
    header: dict[str, Any] | None = None,
    key: Any = None,
) -> str:
    """The same token with other claims or header, signed by the service's own key."""
    kid, own = key_of(access)
    fields = {**part(token, 1), **(claims or {})}
    head = {"alg": "ES256", "typ": "at+jwt", "kid": kid, **(header or {})}
    kept = {name: value for name, value in fields.items() if value is not None}
    return jwt.encode(
        {name: value for name, value in head.items() if value is not None},
        kept,
        key or own,
        algorithms=["ES256", "HS256", "ES384"],
        default_type=None,
    )


def part(token: str, index: int) -> dict[str, Any]:
    """The header (0) or the claims (1) of a token."""
    encoded = token.split(".")[index]
    return json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))


def segment(value: Any) -> str:
    """A part of a token: a value as JSON, or text as it stands."""
    text = value if isinstance(value, str) else json.dumps(value)
    return encoded(text.encode())


def encoded(data: bytes) -> str:
    """Bytes as tokens have them. Source: RFC 7515 section 2."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _sign(key: ECKey, header: str, payload: str) -> str:
    """A good signature over a header that no library would write. Source: RFC 7518 section 3.4."""
    signed = f"{segment(header)}.{payload}".encode()
    der = key.private_key.sign(signed, ECDSA(SHA256()))
    return encoded(b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(der)))


def hostile(access: Access, token: str, other: Access) -> Iterator[tuple[str, str]]:
    """Every kind of token that must be refused, each with its name.

    Args:
        access: of the service that is attacked.
        token: a good one of it.
        other: of a service with other keys and the same issuer.
    """
    kid, key = key_of(access)
    head, payload, signature = token.split(".")
    issued = part(token, 1)
    yield "signed by nobody", forge(access, token, key=ECKey.generate_key("P-256"))
    yield "of another service", forge(other, token)
    yield "expired", forge(access, token, {"exp": issued["iat"]})
    yield "not yet issued", forge(access, token, {"iat": issued["iat"] + 7200})
    yield "without expiry", forge(access, token, {"exp": None})
    yield "other audience", forge(access, token, {"aud": "https://other.example"})
    yield "other issuer", forge(access, token, {"iss": "https://other.example"})
    yield "other type", forge(access, token, header={"typ": "JWT"})
    yield "no type", forge(access, token, header={"typ": None})
    yield "unknown key", forge(access, token, header={"kid": "unknown"})
    yield "no key id", forge(access, token, header={"kid": None})
    signed = f"{segment({'alg': 'HS256', 'typ': 'at+jwt', 'kid': kid})}.{payload}"
    for name, shared in {
        "PEM": key.as_pem(private=False),
        "PEM without its end": key.as_pem(private=False).rstrip(),
        "JWK": json.dumps(key.as_dict(private=False)).encode(),
        "nothing": b"",
    }.items():
        mac = hmac.digest(shared, signed.encode(), "sha256")
        yield f"public key as secret: {name}", f"{signed}.{encoded(mac)}"
    for none in ("none", "None", "NONE", ""):
        unsigned = segment({"alg": none, "typ": "at+jwt", "kid": kid})
        yield f"alg {none!r}", f"{unsigned}.{payload}."
        yield f"alg {none!r} with a signature", f"{unsigned}.{payload}.{signature}"
    embedded = {"jwk": ECKey.generate_key("P-256").as_dict(private=False)}
    yield "key in the header", forge(access, token, header=embedded)
    yield "key address in the header", forge(access, token, header={"jku": "http://127.0.0.1/"})
    yield (
        "critical extension",
        f"{segment({**part(token, 0), 'crit': ['b64']})}.{payload}.{signature}",
    )
    twice = f'{{"alg":"none","alg":"ES256","typ":"at+jwt","kid":"{kid}"}}'
    yield "header names alg twice", f"{segment(twice)}.{payload}.{signature}"
    yield (
        "header names alg twice, signed",
        f"{segment(twice)}.{payload}.{_sign(key, twice, payload)}",
    )
    yield "other claims", f"{head}.{segment({**issued, 'client_id': 'client-other'})}.{signature}"
    yield "no signature", f"{head}.{payload}."
    yield "two parts", f"{head}.{payload}"
    yield "five parts", f"{token}.x.y"
    yield "no token", "x"
    yield "zero signature", f"{head}.{payload}.{'A' * 86}"
    yield "oversized", token + "A" * 20_000
    yield "oversized header", f"{'A' * 20_000}.{payload}.{signature}"
    yield "unknown client", forge(access, token, {"client_id": "client-nobody"})
    yield "other organization", forge(access, token, {"org": "0" * 32})
