"""What guests, owners and key broker services send each other by the KBS protocol.

Requests are answered by the routes of a real broker, which has a resource, rules for it, an attested guest and an owner's token key.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwcrypto.jwk import JWK
from jwcrypto.jws import JWS

from confide.attest.evidence import Evidence
from confide.attest.init_data import InitData
from confide.canonical import Json, b64url, canonical, parse_object
from confide.crypto.http_messages import Request, Response
from confide.crypto.tls import PinnedSpki
from confide.errors import ConfideError, ParseError
from confide.ids import SpkiDigest, Tee
from confide.keys.connection import Answer
from confide.keys.kbs import client
from confide.keys.kbs.messages import AttestRequest, AuthRequest, GuestTee, report_data
from confide.keys.kbs.resources import Pattern, ResourceName, Rule
from confide.keys.kbs.snp_json import json_of_report, report_of_json
from confide.keys.kbs.tee_evidence import evidence_of_json, json_of_evidence
from confide.keys.kbs.tee_key import TeeKey

from .peer_targets import NO_CHANNEL, Doors, doors, each, simulated_policy

NAME = ResourceName("airline", "key", "flights")
ADMIN_KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
"""A key that anybody has, so that what is inside of a signature is searched and not the signature."""


@dataclass(frozen=True)
class Kbs:
    """The broker of the other doors as a KBS: ``guest`` is the key of an attested guest, with its session's cookie and token."""

    doors: Doors
    guest: TeeKey
    cookie: str
    token: str
    audience: str


@cache
def kbs() -> Kbs:
    """Made when first asked for."""
    found = doors()
    raw = ADMIN_KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    commands: list[tuple[str, Json | bytes]] = [
        (f"/kbs/v0/resource/{NAME.path}", b"a secret"),
        ("/kbs/v0/attestation-policy", {"policy_id": "simulated", "policy": encoded(simulated_policy())}),
        ("/kbs/v0/resource-policy", {"policy": encoded({"rules": [{"resource": "airline/key/*", "policy": "simulated"}]})}),
        ("/confide/v0/kbs-token-keys", {"public_key": b64url(raw), "revoked": False}),
    ]
    answers = [_said(found.owner.handle(_request("POST", path, {}, body))) for path, body in commands]
    key = TeeKey.generate()
    challenge = found.anybody.handle(_request("POST", "/kbs/v0/auth", {}, {"version": "0.4.0", "tee": "sgx", "extra-params": {}}))
    cookie = challenge.headers["set-cookie"].split(";")[0]
    nonce = str(_said(challenge)["nonce"])
    evidence = found.attester.quote(report_data(nonce, key.public))
    message = AttestRequest(nonce, key.public, json_of_evidence(evidence)).to_json()
    token = _said(found.anybody.handle(_request("POST", "/kbs/v0/attest", {"cookie": cookie}, message)))["token"]
    return Kbs(found, key, cookie, str(token), str(answers[-1]["audience"]))


def _said(answer: Response) -> Json:
    if answer.status != 200 or answer.json is None:
        raise AssertionError(f"the broker of these targets refuses: {answer.json}")
    return answer.json


def _request(method: str, path: str, headers: dict[str, str], body: Json | bytes | None) -> Request:
    if isinstance(body, bytes):
        return Request(method, path, headers, None, NO_CHANNEL, body=body)
    return Request(method, path, headers, body, NO_CHANNEL, body=b"" if body is None else canonical(body))


def encoded(value: Json) -> str:
    """How policies travel."""
    return base64.b64encode(canonical(value)).decode()


def admin_token(claims: Json) -> str:
    """Claims, signed by the owner's token key."""
    token = JWS(canonical(claims))
    token.add_signature(JWK.from_pyca(ADMIN_KEY), alg="EdDSA", protected=canonical({"alg": "EdDSA", "typ": "JWT"}).decode())
    return str(token.serialize(compact=True))


def claims() -> Json:
    """What an owner's token says."""
    now = int(time.time())
    return {"iss": "airline", "aud": kbs().audience, "iat": now, "exp": now + 600}


def routes(data: bytes) -> None:
    """One request of a guest without a TLS key, and the same one of an owner: both are answered, refusals too."""
    match parse_object(data):
        case {"method": str(method), "path": str(path), "cookie": str(cookie), "authorization": str(bearer), "body": body}:
            found = kbs()
        case _:
            raise ParseError("not a request")
    headers = {"cookie": cookie.replace("SESSION", found.cookie)} if cookie else {}
    if bearer:
        words = bearer.replace("GUEST", found.token)
        headers["authorization"] = words.replace("ADMIN", admin_token(claims())) if "ADMIN" in words else words
    sent = body.encode(errors="surrogatepass") if isinstance(body, str) else body if isinstance(body, dict) else None
    for caller in (found.doors.anybody, found.doors.owner):
        each(lambda caller=caller: caller.handle(_request(method, path, headers, sent)))  # type: ignore[misc]


def admin_claims(data: bytes) -> None:
    """Claims under a good signature: an answer, whatever they are."""
    token = admin_token(parse_object(data))
    kbs().doors.anybody.handle(_request("GET", "/kbs/v0/resource-policy", {"authorization": f"Bearer {token}"}, None))


def messages(data: bytes) -> None:
    """Each message that a guest sends; evidence is read as each kind of TEE's."""
    value = parse_object(data)
    each(lambda: AuthRequest.from_json(value))
    request = AttestRequest.from_json(value)
    if AttestRequest.from_json(request.to_json()) != request:
        raise AssertionError("a guest's request does not read back as it was written")
    each(lambda: request.report_data, *(lambda kind=kind: evidence_of_json(kind, request.primary) for kind in GuestTee))


def attested(data: bytes) -> None:
    """The whole of a guest's first two requests: evidence is verified in a session that expects it."""
    value = parse_object(data)
    tee, message = value.pop("tee", ""), value
    found = kbs().doors
    challenge = found.anybody.handle(_request("POST", "/kbs/v0/auth", {}, {"version": "0.4.0", "tee": tee, "extra-params": {}}))
    if challenge.status != 200 or challenge.json is None:
        raise ParseError("no such guest")
    cookie = challenge.headers["set-cookie"].split(";")[0]
    if isinstance(message.get("runtime-data"), dict) and message["runtime-data"].get("nonce") == "NONCE":
        message["runtime-data"]["nonce"] = challenge.json["nonce"]
    answer = found.anybody.handle(_request("POST", "/kbs/v0/attest", {"cookie": cookie}, message))
    if answer.status not in {200, 400, 401}:
        raise AssertionError(f"the broker is not itself after a guest's message: {answer.status} {answer.json}")


def snp_report(data: bytes) -> None:
    raw = report_of_json(parse_object(data))
    evidence = Evidence(Tee.SNP, raw)
    each(lambda: report_of_json(json_of_report(raw)), lambda: evidence_of_json(GuestTee.SNP, json_of_evidence(evidence)))


def init_data(data: bytes) -> None:
    """A document, in both of its forms."""
    text = data.decode("utf-8", errors="replace")
    each(*(lambda kind=kind: InitData.from_json({"format": kind, "body": text}) for kind in ("toml", "json")))


def answer(data: bytes) -> None:
    """What a guest's and an owner's client make of an answer: status, headers, body."""
    match parse_object(data):
        case {"status": int(status), "cookie": str(cookie), "body": dict() | None as body}:
            said = Response(status, {"set-cookie": cookie}, body)
        case _:
            raise ParseError("not an answer")
    guest, owner = _client(), Answer(body or {})
    readers: list[Callable[[], object]] = [
        lambda: client._nonce(guest._expect(said)), lambda: client._cookie(said), lambda: client._token(guest._expect(said)),
        lambda: guest._opened(said), lambda: _raise(client._refusal(said, NAME)),
        lambda: [Rule.from_json(rule) for rule in owner.field("rules", list)],
        lambda: (owner.field("version", int), owner.field("digest", str), owner.field("policies", dict)),
    ]  # fmt: skip
    each(*readers)


@cache
def _client() -> client.KbsClient:
    made = client.KbsClient("https://127.0.0.1:1", PinnedSpki(SpkiDigest("ab" * 32)), attester=doors().attester)
    made._key = kbs().guest
    return made


def _raise(error: ConfideError) -> None:
    raise error


def words(data: bytes) -> None:
    text = data.decode("utf-8", errors="replace")
    each(lambda: ResourceName.parse(text), lambda: Pattern.parse(text).matches(NAME), lambda: client.resource_of_uri(text))


TARGETS: dict[str, Callable[[bytes], object]] = {
    "kbs-routes": routes,
    "kbs-admin-claims": admin_claims,
    "kbs-messages": messages,
    "kbs-attested": attested,
    "kbs-snp-report": snp_report,
    "kbs-init-data": init_data,
    "kbs-answer": answer,
    "kbs-words": words,
}
