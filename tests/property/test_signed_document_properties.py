"""Receipts, manifests, grants, audit logs and tokens: what is written reads back, and signed ones with any one byte changed are refused."""

from __future__ import annotations

import base64
import dataclasses
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fuzz.seeds import statement as plain_statement
from hypothesis import given, settings
from hypothesis import strategies as st
from jwcrypto.jwk import JWK
from support.policies import policies
from support.simulated_evidence import BINDING, MEASUREMENTS, NOW, POLICY, fresh

from confide.attest.ear import EarReader, EarRequest, write_ear
from confide.attest.evidence import Evidence, NodeContext
from confide.attest.insecure import InsecureAttester, Installation
from confide.attest.policy import AttestationResult, Policy, appraise
from confide.canonical import b64url, canonical, parse_object
from confide.crypto.envelope import WrappedKey
from confide.crypto.sign import SigningKey, dsse_sign, dsse_verify
from confide.data.manifest import FileEntry, Manifest, sign_manifest, verify_manifest
from confide.errors import AttestationError, AuditError, ConfideError
from confide.ids import DatasetId, JobDigest, NodeId, Nonce, Purpose, Role, RunId, Tee
from confide.job import Job
from confide.jobs.statement import PAYLOAD_TYPE, Statement
from confide.keys.audit import AuditEntry, AuditHead, AuditLog, verify_entries
from confide.keys.grants import Grant
from confide.keys.merkle import root_of
from confide.node.record import EvidenceRecord

some = settings(max_examples=50, deadline=None)
KEY = SigningKey(ec.derive_private_key(1, ec.SECP256R1()))
names = st.from_regex(r"[a-z0-9](?:[a-z0-9._-]{0,20}[a-z0-9])?", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.integers(1 - 2**53, 2**53 - 1)
plain = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(plain, lambda inner: st.one_of(st.lists(inner), st.dictionaries(texts, inner)), max_leaves=6)
objects = st.dictionaries(texts, values, max_size=4)
zones = st.sampled_from([UTC, timezone(timedelta(hours=2))])
times = st.builds(datetime.fromtimestamp, st.integers(1_577_836_800, 4_070_908_800), zones)
digests = st.binary(min_size=48, max_size=48).map(bytes.hex)
places = st.integers(0, 2**32)


def changed(text: str, at: int) -> str:
    """One character of base64 or JSON text is another one."""
    at %= len(text)
    return text[:at] + ("A" if text[at] != "A" else "B") + text[at + 1 :]


def refused_with_any_character_changed(envelope: dict[str, Any], at: int, verify: Any) -> None:
    for holder, name in ((envelope, "payload"), (envelope["signatures"][0], "sig"), (envelope["signatures"][0], "keyid")):
        whole, holder[name] = holder[name], changed(holder[name], at)
        with pytest.raises(ConfideError):
            verify(envelope)
        holder[name] = whole
    verify(envelope)


# --- receipts ---------------------------------------------------------------------------------------------------------


def rows(kind: Any) -> st.SearchStrategy[Any]:
    by_type = {"str": texts, "int": st.integers(0, 2**53 - 1), "bool": st.booleans(), "Json": objects}
    return st.builds(kind, **{name: by_type.get(str(field.type), texts) for name, field in kind.__dataclass_fields__.items()})


@st.composite
def statements(draw: st.DrawFn) -> Statement:
    plain = plain_statement()
    tables = ("nodes", "refused", "inputs", "outputs", "releases", "data")
    found = {name: tuple(draw(st.lists(rows(type(getattr(plain, name)[0])), max_size=2))) for name in tables}
    form = {**draw(objects), "name": draw(names)}
    return dataclasses.replace(plain, form=form, audit_head=draw(objects), run=RunId(draw(names)), **found)


@given(statements(), places)
@some
def test_receipt_reads_back_and_is_refused_with_any_character_changed(statement: Statement, at: int) -> None:
    assert Statement.from_bytes(statement.to_bytes()) == statement
    envelope = dsse_sign(KEY, PAYLOAD_TYPE, statement.to_bytes())
    refused_with_any_character_changed(envelope, at, lambda one: dsse_verify(one, KEY.public, PAYLOAD_TYPE))


@given(statements(), places, st.integers(0, 255))
@some
def test_receipt_with_any_one_byte_changed_is_refused_or_says_something_else(statement: Statement, at: int, byte: int) -> None:
    """It has one form: no two byte strings are the same receipt."""
    raw = statement.to_bytes()
    other = raw[: at % len(raw)] + bytes([byte]) + raw[at % len(raw) + 1 :]
    try:
        found = Statement.from_bytes(other)
    except ConfideError:
        return
    assert (found == statement) == (other == raw)


# --- manifests --------------------------------------------------------------------------------------------------------

files = st.lists(
    st.builds(
        FileEntry, st.from_regex(r"[a-z]{1,8}(?:/[a-z]{1,8})?\.parquet", fullmatch=True), st.integers(1, 2**50),
        st.binary(min_size=32, max_size=32).map(bytes.hex), st.integers(0, 2**40),
    ), unique_by=lambda entry: entry.path, max_size=4,
).map(lambda found: tuple(sorted(found, key=lambda entry: entry.path)))  # fmt: skip


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    dataset, snapshot = DatasetId(draw(st.binary(min_size=16, max_size=16)).hex()), draw(st.integers(1, 2**50))
    created = draw(times).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    wrapped = WrappedKey("airline/flights", 3, dataset, bytes(12), bytes(48))
    schema = {"columns": [{"name": "x"}], "spark": {"type": "struct", "fields": [{"name": "x"}]}}
    parent = None if snapshot == 1 else draw(digests)
    name, listed = draw(names), draw(files)
    return Manifest(dataset, name, snapshot, parent, created, "parquet", schema, listed, wrapped, KEY.public, owner="airline")


@given(manifests(), places)
@some
def test_manifest_reads_back_and_is_refused_with_any_character_changed(made: Manifest, at: int) -> None:
    assert Manifest.from_json(parse_object(made.payload())) == made
    refused_with_any_character_changed(sign_manifest(made, KEY), at, lambda one: verify_manifest(one, KEY.public))


# --- jobs and grants --------------------------------------------------------------------------------------------------


@given(names, st.dictionaries(st.from_regex(r"[a-z]{1,8}\.py", fullmatch=True), st.binary(max_size=60), min_size=1, max_size=3), policies)
@some
def test_job_reads_back_under_the_same_digest(name: str, code: dict[str, bytes], policy: Policy) -> None:
    broker = {"url": "https://127.0.0.1:1", "spki": "cd" * 32}
    job = Job.build({"name": name, "program": min(code), "files": code, "policy": policy.to_json(), "broker": broker})
    found = Job.from_json(parse_object(canonical(job.to_json())))
    assert (found, found.digest) == (job, job.digest)
    assert Policy.from_json(found.policy).digest == policy.digest


covers = st.fixed_dictionaries({
    "job": digests.map(JobDigest),
    "policy": policies,
    "roles": st.lists(st.sampled_from(Role), min_size=1),
    "purposes": st.lists(st.sampled_from(Purpose), min_size=1),
    "recipients": st.lists(names, max_size=3),
})  # fmt: skip


@given(names, covers, times)
@some
def test_grant_reads_back(key: str, covered: dict[str, Any], now: datetime) -> None:
    grant = Grant.new(f"airline/{key}", **covered, not_after=now + timedelta(days=1), now=now)
    for one in (grant, grant.revoke(now)):
        assert Grant.from_json(parse_object(canonical(one.to_json()))) == one


# --- audit ------------------------------------------------------------------------------------------------------------


def log_of(events: list[dict[str, Any]]) -> AuditLog:
    entries = tuple(AuditEntry.of(number, event) for number, event in enumerate(events, start=1))
    return AuditLog(entries, AuditHead(len(entries), root_of(verify_entries(entries)).hex(), 1, NOW.isoformat()).sign(KEY))


@given(st.lists(objects, min_size=1, max_size=4), st.sets(st.integers(0, 3)))
@some
def test_audit_log_reads_back_with_some_events_hidden(events: list[dict[str, Any]], hidden: set[int]) -> None:
    log = log_of(events)
    seen = tuple(entry.hidden() if number in hidden else entry for number, entry in enumerate(log.entries))
    found = AuditLog.load(list(AuditLog(seen, log.head).export()))
    assert found.entries == seen
    assert found.verify(KEY.public).size == len(events)


@given(st.lists(objects, min_size=1, max_size=4), places, st.sampled_from(["cut", "event", "leaf", "order"]))
@some
def test_audit_log_that_was_changed_is_refused(events: list[dict[str, Any]], at: int, how: str) -> None:
    log = log_of(events)
    entries = list(log.entries)
    number = at % len(entries)
    match how:
        case "cut":
            del entries[number]
        case "event":
            entries[number] = dataclasses.replace(entries[number], event={**(entries[number].event or {}), "more": at})
        case "leaf":
            entries[number] = dataclasses.replace(entries[number], leaf=f"{at:064x}", event=None)
        case _:
            entries.append(entries[number])
    with pytest.raises(AuditError):
        AuditLog(tuple(entries), log.head).verify(KEY.public)


# --- evidence records and tokens --------------------------------------------------------------------------------------


@st.composite
def contexts(draw: st.DrawFn) -> NodeContext:
    x, y = (b64url(draw(st.binary(min_size=32, max_size=32))) for _ in range(2))
    seal = {"kty": "EC", "crv": "P-256", "x": x, "y": y}
    return NodeContext(JobDigest(draw(digests)), RunId(draw(names)), NodeId(draw(names)), seal)


@given(contexts(), st.binary(min_size=1, max_size=200), st.sampled_from(Role), st.binary(min_size=32, max_size=32), times)
@some
def test_evidence_record_reads_back_and_its_digest_is_of_every_field(
    context: NodeContext, quote: bytes, role: Role, secret: bytes, at: datetime
) -> None:
    record = EvidenceRecord(role, context, Evidence(Tee.SGX, quote), secret, Nonce(secret), secret, at)
    assert EvidenceRecord.from_json(parse_object(canonical(record.to_json()))) == record
    for change in ({"exporter": b"x"}, {"spki": b"x"}, {"at": at + timedelta(seconds=1)}, {"evidence": Evidence(Tee.TDX, quote)}):
        assert dataclasses.replace(record, **change).digest != record.digest


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> AttestationResult:
    vendor = Installation.create(tmp_path_factory.mktemp("vendor") / "tee", now=NOW)
    evidence = InsecureAttester(vendor, Tee.TDX, MEASUREMENTS[Tee.TDX]).quote(BINDING.report_data)
    return appraise(fresh(vendor).verify(evidence, NOW), POLICY, BINDING, now=NOW)


lifetimes = st.integers(1, 3600).map(lambda seconds: timedelta(seconds=seconds))
requests = st.builds(EarRequest, names, names, lifetimes, st.none() | st.from_regex(r"[A-Za-z0-9]{8,88}", fullmatch=True))


@given(wanted=requests, at=places)
@some
def test_ear_says_what_was_appraised_and_is_refused_with_any_character_changed(
    result: AttestationResult, wanted: EarRequest, at: int
) -> None:
    key = ec.derive_private_key(1, ec.SECP256R1())
    token = write_ear(result, wanted, key, now=NOW)
    reader = EarReader(wanted.issuer, JWK.from_pyca(key.public_key()), wanted.audience)
    found = reader.read(token, nonce=wanted.nonce, now=NOW)
    assert {name: found.evidence[name] for name in result.claims.to_json()} == json.loads(json.dumps(result.claims.to_json()))
    assert (found.policy_digest, found.confirmation) == (result.policy_digest, result.context.seal)
    assert (found.nonce, found.validity.expires_at) == (wanted.nonce, NOW + wanted.lifetime)
    with pytest.raises(AttestationError):
        reader.read(changed(token, at), nonce=wanted.nonce, now=NOW)


def test_changed_changes_something() -> None:
    text = base64.b64encode(bytes(range(60))).decode()
    assert all(changed(text, at) != text for at in range(len(text)))
