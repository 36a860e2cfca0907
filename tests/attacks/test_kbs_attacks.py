"""Attacks on the broker as a KBS, each over TLS against a real server."""

from __future__ import annotations

import base64
import contextlib
import resource as limits
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import broker_world
from support.kbs_guest import Guest, channel_of, encoded
from support.kbs_world import NAME, SECRET, Kbs

from confide.attest.appraisal import AttestationResult
from confide.attest.ear import EarRequest, write_ear, write_guest_ear
from confide.attest.insecure import Fault, InsecureAttester, Installation
from confide.crypto.http import request
from confide.crypto.sign import SigningKey
from confide.crypto.tls import PinnedSpki, connect
from confide.errors import ChannelError, StoreError, UnwrapError
from confide.ids import Tee
from confide.keys.kbs import sessions as sessions_module
from confide.keys.kbs.messages import AttestRequest, report_data
from confide.keys.kbs.session_records import SLOTS
from confide.keys.kbs.session_records import Guest as AttestedGuest
from confide.keys.kbs.tee_evidence import json_of_evidence
from confide.keys.kbs.tee_key import TeeKey
from confide.keys.sessions import Attested

ERRORS = "https://github.com/confidential-containers/kbs/errors/"


@pytest.fixture(scope="module")
def tee(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation.create(tmp_path_factory.mktemp("tee") / "simulated")


@pytest.fixture
def kbs(tmp_path: Path, tee: Installation) -> Iterator[Kbs]:
    world = broker_world.World(tmp_path, tee)
    yield Kbs(world)
    world.close()


# --- cookies and tokens --------------------------------------------------------------------------------------------------


def test_thief_of_a_cookie_or_token_gets_nothing_but_ciphertext(kbs: Kbs) -> None:
    victim, thief = kbs.guest().ready(), kbs.guest()
    for headers in ({"cookie": victim.cookie}, {"authorization": f"Bearer {victim.token}"}):
        answer = thief.get(NAME, **headers)
        assert answer.status == 200
        assert SECRET not in str(answer.json).encode()
        with pytest.raises(UnwrapError):
            thief.key.open(answer.json)
        assert victim.key.open(answer.json).reveal() == SECRET


def test_thief_of_a_cookie_cannot_attest_a_key_of_its_own_in_the_session(kbs: Kbs) -> None:
    """Before and after the victim has attested, with evidence of a TEE of the thief's own that no rule accepts, or none at all."""
    victim = kbs.guest()
    victim.auth()
    thief = kbs.guest(InsecureAttester(kbs.world.installation, Tee.SGX, "ee" * 32))
    thief.cookie, thief.nonce = victim.cookie, victim.nonce
    victim_evidence = victim.evidence()
    thief_message = {**victim_evidence, "runtime-data": {"nonce": victim.nonce, "tee-pubkey": dict(thief.key.public.jwk)}}
    answer = thief.attest(thief_message)  # the victim's evidence with the thief's key
    assert (answer.status, answer.json["code"]) == (401, "binding-mismatch")
    assert victim.attest(victim_evidence).status == 401  # that try has used the session up: nobody shares a nonce with a thief
    victim.ready()
    thief.cookie, thief.nonce = victim.cookie, victim.nonce
    assert thief.attest().status == 401  # attested once, for good
    assert victim.key.open(victim.get(NAME).json).reveal() == SECRET


def test_token_for_another_audience_of_another_issuer_or_key_is_refused(kbs: Kbs) -> None:
    guest = kbs.guest().ready()
    key = kbs.world.store.signing_key.unwrapped()
    audience = f"urn:confide:kbs:{kbs.world.store.signing_key.spki_digest}"
    runtime = {"nonce": guest.nonce, "tee-pubkey": dict(guest.key.public.jwk)}
    now = kbs.world.now()
    for issuer, to, signer in (
        (audience, "urn:confide:kbs:" + "00" * 32, key),
        ("urn:confide:kbs:" + "00" * 32, audience, key),
        (audience, audience, SigningKey.generate().unwrapped()),
    ):
        token, _ = write_guest_ear(None, runtime, EarRequest(issuer, to), signer, now=now)
        answer = guest.get(NAME, authorization=f"Bearer {token}")
        assert (answer.status, answer.json["type"]) == (401, f"{ERRORS}TokenVerifierError")
    assert kbs.world.refusals()[-1] == ("kbs-token", "token-invalid")


def test_genuine_token_of_no_session_is_refused(kbs: Kbs) -> None:
    """The broker's key alone makes no guest: what a token stands for is evidence that is looked at again."""
    guest = kbs.guest()
    key, now = kbs.world.store.signing_key, kbs.world.now()
    audience = f"urn:confide:kbs:{key.spki_digest}"
    runtime = {"nonce": "x", "tee-pubkey": dict(guest.key.public.jwk)}
    token, _ = write_guest_ear(None, runtime, EarRequest(audience, audience), key.unwrapped(), now=now)
    assert guest.get(NAME, authorization=f"Bearer {token}").status == 401


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer =?", "Basic YTpi", "Bearer a.b", "Bearer a b", "bearer " + "x" * 20_000])
def test_authorization_of_another_form_is_refused_even_beside_a_good_cookie(kbs: Kbs, header: str) -> None:
    guest = kbs.guest().ready()
    assert guest.get(NAME, authorization=header, cookie=guest.cookie).status == 401


def test_cookie_of_no_session_is_refused(kbs: Kbs) -> None:
    for value in ("", "x", "\"'; --", "x" * 9000):
        assert kbs.guest().get(NAME, cookie=f"kbs-session-id={value}").status == 401
    for cookie in ("", "other=1"):
        assert kbs.guest().get(NAME, cookie=cookie).status == 401


# --- evidence --------------------------------------------------------------------------------------------------------------


def test_evidence_is_taken_once_for_its_nonce_and_key_only(kbs: Kbs) -> None:
    guest = kbs.guest()
    guest.auth()
    message = guest.evidence()
    assert guest.attest(message).status == 200
    assert guest.attest(message).status == 401
    again = kbs.guest(key=guest.key)
    again.auth()
    answer = again.attest(message)  # replayed with the nonce that it was made for
    assert answer.json["code"] == "nonce-refused"
    again.auth()
    replayed = {**message, "runtime-data": {**message["runtime-data"], "nonce": again.nonce}}
    assert again.attest(replayed).json["code"] == "binding-mismatch"


@pytest.mark.parametrize("fault", [Fault.REVOKED_PCK, Fault.STALE_COLLATERAL, Fault.EXPIRED_CRL, Fault.REPLAY])
def test_faulty_evidence_begins_no_session(kbs: Kbs, fault: Fault) -> None:
    guest = kbs.guest(InsecureAttester(kbs.world.installation, Tee.SGX, broker_world.MEASUREMENT, fault=fault))
    guest.auth()
    assert guest.attest().status == 401
    assert guest.get(NAME).status == 401


@pytest.mark.parametrize("fault", [Fault.DEBUG, Fault.OUT_OF_DATE, Fault.WRONG_MEASUREMENT])
def test_weak_but_genuine_evidence_gets_no_resource(kbs: Kbs, fault: Fault) -> None:
    guest = kbs.guest(InsecureAttester(kbs.world.installation, Tee.SGX, broker_world.MEASUREMENT, fault=fault)).ready()
    assert guest.get(NAME).status == 403


def test_nonce_that_expired_and_evidence_of_another_kind_are_refused(kbs: Kbs) -> None:
    from datetime import timedelta

    guest = kbs.guest()
    guest.auth()
    kbs.world.ahead = timedelta(seconds=61)
    assert guest.attest().status == 401
    guest.auth(tee="tdx")
    assert guest.attest().status == 401


def test_any_byte_of_the_quote_changed_is_refused(kbs: Kbs) -> None:
    for at in (0, 60, 200, 400, 500, -1):
        guest = kbs.guest()
        guest.auth()
        message = guest.evidence()
        quote = bytearray(base64.b64decode(message["tee-evidence"]["primary_evidence"]["quote"]))
        quote[at] ^= 1
        message["tee-evidence"]["primary_evidence"]["quote"] = base64.b64encode(quote).decode()
        assert guest.attest(message).status == 401


# --- guests are no nodes ---------------------------------------------------------------------------------------------------


def test_guests_session_opens_no_route_of_nodes_or_owners(kbs: Kbs) -> None:
    """A job's keys want evidence that is bound to the TLS channel: a cookie that moves is worth nothing there."""
    airline = kbs.world.stranger(kbs.world.credential("airline"))
    minted, manifest = kbs.world.dataset(airline, "airline", "seats")
    airline.grant("seats", job=broker_world.JOB, policy=broker_world.policy())
    guest = kbs.guest().ready()
    headers = {"cookie": guest.cookie, "authorization": f"Bearer {guest.token}"}
    for path, body in (
        ("release", {"manifest": manifest, "purpose": "read"}),
        ("outputs", {"name": "x", "inputs": [minted.dataset], "recipients": []}),
        ("audit-head", {}),
        ("open", {"manifest": manifest}),
        ("keys", {"key": "airline/new"}),
    ):
        answer = guest.ask("POST", f"/confide/v0/{path}", body, **headers)
        assert answer.status == 401, path
    assert kbs.world.events("release") == []


def test_what_a_guest_attested_is_no_result_that_grants_take() -> None:
    """By type: neither class is the other, and only appraisal of a session's binding makes what a grant decides over."""
    guest: Any = AttestedGuest(AttestRequest("n" * 8, TeeKey.generate().public, {}), None)  # type: ignore[arg-type]
    assert not isinstance(guest, Attested | AttestationResult)
    assert not hasattr(guest, "binding")
    assert not hasattr(guest, "appraise")
    with pytest.raises(TypeError):
        write_ear(guest, EarRequest("a", "b"), SigningKey.generate().unwrapped(), now=None)  # type: ignore[arg-type]


def test_node_and_guest_cannot_use_each_others_handshake(kbs: Kbs) -> None:
    node, guest = kbs.world.node(), kbs.guest()
    host, port = kbs.world.server.url.removeprefix("https://").split(":")
    with connect(host, int(port), node.identity, trust=PinnedSpki(kbs.world.server.spki)) as channel:
        began = request(channel, "POST", "/kbs/v0/auth", {"version": "0.4.0", "tee": "sgx", "extra-params": {}})
        assert began.json is not None
        guest.cookie, guest.nonce = began.headers["set-cookie"].split(";")[0], began.json["nonce"]
        assert guest.attest().status == 401  # the node's session, on a connection without a key
        answer = request(channel, "POST", "/kbs/v0/attest", guest.evidence(), {"cookie": guest.cookie})
        assert answer.status in {400, 401}  # a guest's message on the node's connection
    guest.auth()
    message = {
        "runtime-data": {"nonce": guest.nonce, "tee-pubkey": node.context.seal, "role": "worker",
                         "confide-context": node.context.to_json()},
        "tee-evidence": {
            "primary_evidence": node.attester.quote(report_data(guest.nonce, guest.key.public)).to_json(), "additional_evidence": "",
        },
    }  # fmt: skip
    assert guest.attest(message).status == 401


# --- names, sizes, floods --------------------------------------------------------------------------------------------------

HOSTILE = [
    "..", ".", "%2e%2e", "..%2f", "%00", "a%00b", "'", "';DROP%20TABLE%20records;--", '"', "1=1", "%27%20OR%20%271%27=%271", "a%0d%0ab",
    "*", "a" * 300, "~", "$(id)", "`id`", "\\..\\..", "{{7*7}}",
]  # fmt: skip


@pytest.mark.parametrize("at", [0, 1, 2])
def test_traversal_and_metacharacters_in_every_part_of_a_name_are_no_names(kbs: Kbs, at: int) -> None:
    kbs.set_rules("airline", [{"resource": "airline/*/*", "policy": "simulated"}])
    guest = kbs.guest().ready()
    for word in HOSTILE:
        parts = NAME.split("/")
        parts[at] = word
        answer = guest.get("/".join(parts))
        assert (answer.status, answer.json["type"]) == (404, f"{ERRORS}InvalidRequestPath"), word
        assert kbs.post("airline", f"resource/{'/'.join(parts)}", b"x").status == 404, word
    assert guest.key.open(guest.get(NAME).json).reveal() == SECRET


@pytest.mark.parametrize("word", ["';--", "a'b", 'a"b', "a;b", "a b", "../a", "a\0b", "%", "_%", "é", "A", "x" * 65])
def test_metacharacters_in_every_other_name_are_refused_and_harm_nothing(kbs: Kbs, word: str) -> None:
    policy = {"name": "simulated", "measurements": {"sgx": ["ab" * 32]}, "allow": ["simulated"]}
    assert kbs.set_policy("airline", word, policy).status == 400
    assert kbs.set_rules("airline", [{"resource": NAME, "policy": word}]).status == 400
    payload = encoded({word: ["v"]})
    assert kbs.post("airline", "reference-value", {"version": "0.1.0", "type": "sample", "payload": payload}).status == 400
    guest = kbs.guest().ready()
    assert guest.auth(tee=word).status == 401
    assert guest.key.open(kbs.guest(key=guest.key).ready().get(NAME).json).reveal() == SECRET


@pytest.mark.parametrize("path", ["/kbs/v0/attest", f"/kbs/v0/resource/{NAME}", "/kbs/v0/resource-policy"])
def test_body_of_a_gigabyte_is_given_up_without_keeping_it(kbs: Kbs, path: str) -> None:
    channel = channel_of(kbs.world.server)
    before = limits.getrusage(limits.RUSAGE_SELF).ru_maxrss
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {1 << 30}\r\n\r\n"
    channel.send(head.encode())
    sent, piece = 0, b" " * (1 << 20)
    with contextlib.suppress(ChannelError):
        while sent < 1 << 30:
            channel.send(piece, timeout=10)
            sent += len(piece)
    assert sent < 64 << 20
    assert limits.getrusage(limits.RUSAGE_SELF).ru_maxrss - before < 256 * 1024  # KiB
    assert kbs.guest().ready().get(NAME).status == 200


def _rows(kbs: Kbs) -> int:
    return int(kbs.world.store.check())


def test_flood_of_auth_writes_nothing(kbs: Kbs) -> None:
    """A challenge is in its cookie: who asks for millions of them fills nothing."""
    before = (_rows(kbs), len(kbs.world.store.audit()), kbs.world.store.head(kbs.world.now()).epoch)
    guest = kbs.guest()
    assert [guest.auth().status for _ in range(50)] == [200] * 50
    assert (_rows(kbs), len(kbs.world.store.audit()), kbs.world.store.head(kbs.world.now()).epoch) == before


@pytest.mark.parametrize("good", [True, False], ids=["attested", "failed"])
def test_flood_of_sessions_of_one_client_is_refused_and_passes_by(kbs: Kbs, monkeypatch: pytest.MonkeyPatch, good: bool) -> None:
    from datetime import timedelta

    ready = kbs.guest().ready()
    monkeypatch.setattr(sessions_module, "MAX_SESSIONS", (6 if good else 5) * SLOTS)
    codes = []
    for _ in range(7):
        guest = kbs.guest() if good else kbs.guest(InsecureAttester(kbs.world.installation, Tee.SGX, "ab" * 32, fault=Fault.REVOKED_PCK))
        guest.auth()
        codes.append(guest.attest().status if good else guest.attest().json["code"])
    assert codes == [200] * 5 + [401] * 2 if good else codes[:5] + ["nonce-refused"] * 2
    assert ready.get(NAME).status == 200  # who is attested is not put out by who comes later
    kbs.world.ahead = timedelta(minutes=16)
    assert kbs.guest().ready().get(NAME).status == 200  # the oldest have expired, and are swept


def test_cookie_cannot_be_made_of_what_lies_in_the_store(kbs: Kbs) -> None:
    """Who reads the database takes over no session, and who changes a cookie's time or kind makes it no cookie."""
    guest = kbs.guest().ready()
    value = guest.cookie.partition("=")[2]
    raw = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4))
    tag = raw[-32:]
    for path in (kbs.world.folder / "store").iterdir():
        data = path.read_bytes()
        assert not any(form in data for form in (value.encode(), tag, tag.hex().encode(), base64.b64encode(tag)))
    for at in range(0, len(raw), 3):
        changed = bytearray(raw)
        changed[at] ^= 1
        text = base64.urlsafe_b64encode(changed).decode().rstrip("=")
        assert kbs.guest().get(NAME, cookie=f"kbs-session-id={text}").status == 401


def test_session_keeps_no_logs_and_documents(kbs: Kbs) -> None:
    """Ten thousand sessions with megabytes each would be a broker's memory."""
    td = InsecureAttester(kbs.world.installation, Tee.TDX, "cd" * 48)
    guest = kbs.guest(td)
    guest.auth()
    message = guest.evidence()
    message["tee-evidence"]["primary_evidence"]["cc_eventlog"] = base64.b64encode(bytes(1 << 20)).decode()
    assert guest.attest(message).status == 200
    kept = kbs.world.server._kbs._guests.of_cookie(guest.cookie.partition("=")[2])
    assert kept.request.primary == {}
    assert len(str(kept)) < 4096


def test_guest_is_not_attested_when_the_log_cannot_be_written(kbs: Kbs, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = kbs.guest()
    guest.auth()

    def broken(_event: object) -> None:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(kbs.world.store, "append_audit", broken)
        assert guest.attest().status == 503
    assert guest.get(NAME).status == 401


def test_one_nonce_for_many_at_once_is_taken_once(kbs: Kbs) -> None:
    guest = kbs.guest()
    guest.auth()
    message = guest.evidence()
    found: list[int] = []

    def attest() -> None:
        other = Guest(kbs.world.server, guest.attester, cookie=guest.cookie)
        found.append(other.attest(message).status)

    threads = [threading.Thread(target=attest) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [200] + [401] * 7


def test_slow_and_silent_clients_hold_up_nobody(kbs: Kbs) -> None:
    slow = [channel_of(kbs.world.server) for _ in range(20)]
    for channel in slow:
        channel.send(b"POST /kbs/v0/attest HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n")
    started = time.monotonic()
    assert kbs.guest().ready().get(NAME).status == 200
    assert time.monotonic() - started < 10
    for channel in slow:
        channel.close()


def test_resource_and_refusals_are_in_the_log_and_the_secret_is_not(kbs: Kbs) -> None:
    guest = kbs.guest().ready()
    guest.get(NAME)
    event = kbs.world.events("kbs-resource")[-1]
    assert (event["owners"], event["resource"], event["version"], event["policy"]) == (["airline"], NAME, 1, "simulated")
    assert event["simulated"] == "yes"
    assert SECRET.decode() not in str([entry.to_json() for entry in kbs.world.store.audit()])
    assert guest.nonce not in str([entry.to_json() for entry in kbs.world.store.audit()])


def test_snp_evidence_of_another_guest_is_refused(kbs: Kbs) -> None:
    """Real evidence of AMD's, genuine, but over other report data."""
    from confide.attest.evidence import Evidence

    vectors = Path(__file__).parents[1] / "vectors" / "snp"
    raw = (vectors / "milan-vcek-valid.report").read_bytes()
    evidence = Evidence(Tee.SNP, raw, (vectors / "milan-vcek-valid.vcek.der").read_bytes())
    guest = kbs.guest(tee="snp")
    guest.auth()
    answer = guest.attest(guest.evidence(primary=json_of_evidence(evidence)))
    assert answer.status == 401
