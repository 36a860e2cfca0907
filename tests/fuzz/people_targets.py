"""What identity providers, operators and browsers say: owners' tokens, the file of issuers, limits of tenants, forms."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, cast

from jwcrypto.jwk import JWK
from jwcrypto.jws import JWS

from confide.canonical import canonical, parse_object
from confide.keys.limits import Limits
from confide.keys.page.forms import Forms, read_code
from confide.keys.readings import Reading
from confide.keys.sessions import Peer
from confide.keys.store import Store
from confide.keys.token_issuers import OwnerIssuer, load_issuers
from confide.keys.tokens import Tokens

from .peer_targets import each

NOW = datetime(2026, 1, 2, tzinfo=UTC)
ISSUER = "https://id.example"
_AT = int(NOW.timestamp())
_FOLDER = tempfile.TemporaryDirectory(prefix="confide-fuzz-people-")
_CLAIMS: dict[str, Any] = {"iss": ISSUER, "aud": "broker", "client_id": "app", "sub": "clinic", "iat": _AT, "exp": _AT + 600}


@cache
def _key() -> JWK:
    # The same for every run: RFC 8037, appendix A.1.
    return JWK(
        kty="OKP", crv="Ed25519", kid="k", x="11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", d="nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"
    )


@cache
def _tokens() -> Tokens:
    file = Path(_FOLDER.name) / "keys.json"
    file.write_bytes(canonical({"keys": [_key().export_public(as_dict=True)]}))
    issuer = OwnerIssuer(issuer=ISSUER, audience="broker", clients=("app",), jwks_file=file)
    return Tokens(cast("Store", None), lambda: NOW, [issuer])  # a token is read without the store


def owner_token(data: bytes) -> None:
    """Claims that an issuer has signed, and a token as somebody sends it."""
    peer = Peer(b"", None, certificate=b"certificate")
    signed = JWS(data)
    signed.allowed_algs = ["EdDSA"]
    signed.add_signature(_key(), protected='{"alg":"EdDSA","kid":"k","typ":"at+jwt"}')
    each(
        lambda: _tokens().read(signed.serialize(compact=True), peer),
        lambda: _tokens().read(data.decode("utf-8", errors="replace"), peer),
    )


def issuers_file(data: bytes) -> None:
    file = Path(_FOLDER.name) / "issuers.toml"
    file.write_bytes(data)
    load_issuers(file)


def page_form(data: bytes) -> None:
    """What a browser answers to the companion's forms."""
    forms = Forms()
    each(lambda: read_code(data), lambda: forms.take("approve", data))


TARGETS: dict[str, Callable[[bytes], object]] = {
    "page-form": page_form,
    "owner-token": owner_token,
    "issuers-file": issuers_file,
    "limits": lambda data: Limits.read("health", parse_object(data)),
    "reading": lambda data: Reading.from_json(parse_object(data)),
}

SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "page-form": lambda: [b"code=abc-def", b"form=x&digest=ab&read=yes", b"form=x&digest=%C3%A9"],
    "owner-token": lambda: [
        canonical(_CLAIMS),
        canonical({**_CLAIMS, "azp": "app", "groups": ["a"], "nbf": _AT, "aud": ["x", "broker"]}),
        canonical({**_CLAIMS, "cnf": {"x5t#S256": "A" * 43}}),
    ],
    "issuers-file": lambda: [
        b'[[issuer]]\nissuer = "https://id.example"\naudience = "a"\nclients = ["c"]\n[issuer.groups]\nauditor = ["x"]\n',
        b'[[issuer]]\nissuer = "https://id.example"\naudience = "a"\nclients = ["c"]\njwks_file = "k"\nplain = ["mint"]\ntypes = ["jwt"]\n',
    ],
    "reading": lambda: [canonical(Reading("0" * 32, 3, "ab" * 48).to_json())],
    "limits": lambda: [canonical({"rate": 1.5, "burst": 3, "keys": 4, "releases-a-day": 0}), canonical({})],
}
