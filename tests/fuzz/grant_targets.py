"""What owners, approvers and signers of jobs send: approvals, rules, signatures, keys on their way to another broker, stored evidence."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from confide.attest.policy import Rules
from confide.canonical import Json, b64url, canonical, parse_object
from confide.crypto.seal import SealKey
from confide.crypto.sign import SigningKey, dsse_sign, unverified_payload
from confide.ids import JobDigest, Purpose, Role, SpkiDigest, Tee
from confide.job import Job
from confide.jobs.grant_trial import read_stored
from confide.jobs.signatures import load_signature
from confide.keys.approvals import VOTE_TYPE, ApprovalRule, Approver, RuleChange, read_approvers, sign_vote, verify_vote
from confide.keys.custody.shares import ShareSet
from confide.keys.departures import Departure
from confide.keys.escrow import (
    CONTRIBUTION_TYPE,
    ESCROW_TYPE,
    TRUSTEE_TYPE,
    Contribution,
    Escrow,
    EscrowRequest,
    Recovery,
    Trustee,
    TrusteeKey,
)
from confide.keys.escrow import REQUEST_TYPE as ESCROW_REQUEST_TYPE
from confide.keys.escrow_client import EscrowClient
from confide.keys.grant_client import _change, _rule, departure_view
from confide.keys.grants import Grant
from confide.keys.job_signatures import JobSignature, verify_all
from confide.keys.key_outlines import KeyOutline
from confide.keys.key_records import KeyState
from confide.keys.transfer import EXPORT_TYPE, REQUEST_TYPE, WRAPPING_TYPE, ExportRequest, KeyExport, WrappingKey
from confide.keys.transfer_client import lines_of

from .file_seeds import _JOB
from .file_targets import TOKEN_KEY, folder
from .peer_targets import each

NOW = datetime(2026, 1, 2, tzinfo=UTC)
KEY = SigningKey(TOKEN_KEY)
BROKER = SpkiDigest("ab" * 32)
_FOLDER = tempfile.TemporaryDirectory(prefix="confide-fuzz-grants-")


@cache
def job() -> Job:
    path = Path(_FOLDER.name) / "job.toml"
    path.write_bytes(_JOB)
    return Job.load(path).model_copy(update={"inputs": {}})  # inputs would have to be pinned


@cache
def grant() -> Grant:
    policy = Rules(name="p", measurements={Tee.SGX: ("ab" * 32,)}, allow=("simulated",))
    both = {"roles": list(Role), "purposes": list(Purpose), "recipients": ["airline"], "not_after": None}
    return Grant.new("airline/flights", job=JobDigest("11" * 48), policy=policy, now=NOW, **both)


def approval(data: bytes) -> None:
    """What an approver signed, and a rule, a change of one or a key that is to leave as the broker shows it."""
    approver = Approver("airline", KEY.public.spki_der)
    each(
        lambda: verify_vote(dsse_sign(KEY, VOTE_TYPE, data), approver, grant(), BROKER),
        lambda: verify_vote(parse_object(data), approver, grant(), BROKER),
        lambda: _rule(parse_object(data)),
        lambda: _change(parse_object(data)),
        lambda: departure_view(parse_object(data)),
        lambda: read_approvers(list(parse_object(data))),
    )


def job_signature(data: bytes) -> None:
    shown = parse_object(data)
    each(lambda: JobSignature.from_json(shown), lambda: verify_all([shown], JobDigest("11" * 48)))


def key_transfer(data: bytes) -> None:
    """What a broker or owner signed of a key that moves, and a line of its export's file."""
    source = KEY.public.spki_der
    each(
        lambda: WrappingKey.verify(dsse_sign(KEY, WRAPPING_TYPE, data), KEY.public),
        lambda: ExportRequest.verify(dsse_sign(KEY, REQUEST_TYPE, data), KEY.public),
        lambda: KeyExport.verify(dsse_sign(KEY, EXPORT_TYPE, data), KEY.public, source),
        lambda: KeyExport.verify(next(lines_of([data.decode("utf-8", errors="replace")])), KEY.public, data),
    )


@cache
def escrow() -> tuple[Escrow, Json]:
    """An escrow whose owner, broker and first trustee have the same key: enough to be read; and the statement of it."""
    other = SigningKey.generate()
    trustees = (Trustee("ada", other.public, SealKey.generate().public_jwk()), Trustee("bob", KEY.public, SealKey.generate().public_jwk()))
    owner = SigningKey.generate()
    wanted = EscrowRequest("airline/flights", KEY.public.digest, trustees, 2, NOW.isoformat())
    outline = KeyOutline("airline/flights", ((KeyState.ACTIVE, NOW),), NOW)
    shares = ShareSet(b"\0" * 8, 2, (b"\1" * 32, b"\2" * 32))
    made = Escrow(wanted, wanted.sign(owner), owner.public, KEY.public, outline, shares, b"w", ("e", "f"))
    return made, made.head(made.sign(KEY), owner)


def key_escrow(data: bytes) -> None:
    """What an owner, a broker and trustees signed of a key in trustees' hands, and the files that it is in."""
    made, _ = escrow()
    each(
        lambda: TrusteeKey.verify(dsse_sign(KEY, TRUSTEE_TYPE, data), KEY.public),
        lambda: EscrowRequest.verify(dsse_sign(KEY, ESCROW_REQUEST_TYPE, data), KEY.public),
        lambda: Escrow.verify(dsse_sign(KEY, ESCROW_TYPE, data), made.owner, KEY.public.spki_der),
        lambda: Escrow.of_head(parse_object(data)),
        lambda: Recovery.of_file(parse_object(data), KEY.public.digest),
        lambda: Recovery.from_form(parse_object(data)),
        lambda: Contribution.verify(dsse_sign(KEY, CONTRIBUTION_TYPE, data), made),
        lambda: Contribution.verify(parse_object(data), made),
        lambda: EscrowClient._trustee(parse_object(data), {"ada": KEY.public.digest}),
    )


TARGETS: dict[str, Callable[[bytes], object]] = {
    "approval": approval,
    "job-signature": job_signature,
    "key-transfer": key_transfer,
    "key-escrow": key_escrow,
    "stored-evidence": folder("stored.json", read_stored),
    "signature-file": folder("job.toml.x.sig", lambda path: load_signature(path, job())),
}


def _approvals() -> list[bytes]:
    rule = ApprovalRule("airline/flights", 1, (Approver("airline", KEY.public.spki_der),))
    said = canonical({"format": "confide-approval-v1"})
    change = RuleChange.new(rule, NOW).to_json()
    standing = {"needed": 1, "approved": [], "rejected": [], "approvers": ["airline"], "runs": 0}
    shown = (sign_vote(KEY, grant(), "approve", BROKER), rule.to_json(), {**change, "standing": standing})
    made, _ = escrow()
    export = ExportRequest("airline/flights", KEY.public.digest, BROKER, SealKey.generate().public_jwk(), NOW.isoformat())
    ways = {"export": export.terms, "escrow": made.request.terms}
    leave = (Departure("ab" * 8, "airline/flights", way, terms, NOW) for way, terms in ways.items())
    return [said, *map(canonical, shown), *(canonical({**one.to_json(), "standing": standing}) for one in leave)]


def _signatures() -> list[bytes]:
    return [canonical(JobSignature.sign(KEY, JobDigest("11" * 48)).to_json())]


def _transfers() -> list[bytes]:
    jwk = SealKey.generate().public_jwk()
    wanted = ExportRequest("airline/flights", KEY.public.digest, BROKER, jwk, NOW.isoformat())
    versions = [{"state": "active", "since": NOW.isoformat()}]
    source, made = b64url(KEY.public.spki_der), NOW.isoformat()
    body = {"request": wanted.sign(KEY), "source": source, "versions": versions, "created": made, "jwe": "e"}
    return [
        canonical({"format": "confide-wrapping-key-v1", "jwk": jwk}),
        canonical(wanted._form()),
        canonical({"format": "confide-key-export-v1", **body}),
    ]


def _escrows() -> list[bytes]:
    made, head = escrow()
    jwk = SealKey.generate().public_jwk()
    recovery = Recovery(made.digest, "airline/flights", KEY.public.digest, KEY.public.digest, jwk, NOW)
    given = Contribution(made.digest, recovery.digest, 2).sign(KEY, "e")
    shown = {"name": "ada", "spki": KEY.public.spki_der.hex(), "key": TrusteeKey(jwk).sign(KEY)}
    signed = ({"format": "confide-trustee-key-v1", "jwk": jwk}, made.request._form(), made._form(), recovery.form())
    return [*map(canonical, (*signed, head, recovery.sign(KEY), given, shown)), unverified_payload(given)]


def _job_signature_files() -> list[bytes]:
    return [canonical(JobSignature.sign(KEY, job().digest).to_json())]


SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "approval": _approvals,
    "job-signature": _signatures,
    "key-transfer": _transfers,
    "key-escrow": _escrows,
    "signature-file": _job_signature_files,
}
