"""The reference that our own verifier of Intel's quotes is held against: ``dcap-qvl``.  Where both say yes, they must say the same.

It refuses debug TEEs, profiled TDs, TDs without SEPT_VE_DISABLE, migratable TDs and bound service TDs, which ``policy`` decides about here.
It does not check who signed TCB info and identity, the PCEID, or that nothing follows the quote, which ``intel`` does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast

import dcap_qvl

from confide.attest.claims import Claims
from confide.attest.intel_tcb import Rating
from confide.attest.quote import parse_quote
from confide.canonical import Json
from confide.errors import EvidenceInvalidError, ParseError

if TYPE_CHECKING:
    from confide.attest.collateral import Collateral
    from confide.attest.quote import Quote
    from confide.attest.verify import VerifiedEvidence

_SWITCHED: dict[str, Callable[[Claims], bool]] = {
    "Debug mode is enabled": lambda claims: claims.debug,
    "TD profiling is enabled": lambda claims: claims.debug,
    "SEPT_VE_DISABLE is not enabled": lambda claims: claims.vendor.get("sept_ve_disable") is False,
    "Invalid MR service TD": lambda claims: claims.vendor.get("service_td") is True,
    "TD migration is enabled": lambda claims: claims.vendor.get("migratable") is True,
}
"""What the reference refuses and a policy of ours may accept by a switch: its reason, and whether our claims say the same."""


def require_agreement(verified: VerifiedEvidence, root: bytes) -> None:
    """Check that the reference says the same of an Intel quote that our own verifier accepted under ``root`` (DER).

    Raises:
        EvidenceInvalidError: it refuses the quote for a reason that is not in our claims, or rates it otherwise.
    """
    claims = verified.claims
    try:
        shown, collateral = verified.evidence, cast("Collateral", verified.collateral)
        rating = reference_rating(shown.quote, collateral, root, verified.verified_at, shown.chain)
    except EvidenceInvalidError as refusal:
        if any(reason in refusal.message and says(claims) for reason, says in _SWITCHED.items()):
            return
        raise EvidenceInvalidError(f"two verifiers disagree: {refusal.message}", got="refused") from refusal
    ours = Rating(claims.tcb_status, frozenset(claims.advisory_ids))
    if rating != ours:
        raise EvidenceInvalidError("two verifiers disagree on the rating", expected=rating.status, got=ours.status)


def reference_rating(quote: bytes, collateral: Collateral, root: bytes, now: datetime, chain: bytes = b"") -> Rating:
    """The reference's rating of a quote under ``root`` (DER), with the PCK ``chain`` (PEM) of one that carries none.

    Raises:
        EvidenceInvalidError: it refuses the quote, or reads it otherwise than we do.
    """
    report = _verify(quote, collateral, chain, root, now)
    try:
        _check_same_reading(report, parse_quote(quote))
    except ParseError as cause:
        raise EvidenceInvalidError("the quote can be read in two ways", offset=cause.facts.get("offset")) from cause
    return Rating(str(report["status"]), frozenset(map(str, report["advisory_ids"])))


def _verify(quote: bytes, collateral: Collateral, chain: bytes, root: bytes, now: datetime) -> Json:
    try:
        given = replace(collateral, pck_certificate_chain=chain.decode("ascii"))
        bundle = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(given.to_json()))
        report = dcap_qvl.verify_with_root_ca(quote, bundle, root, int(now.astimezone(UTC).timestamp()))
        found: Json = json.loads(report.to_json())
    except ValueError as cause:
        # dcap-qvl says what failed in its text alone, over several lines; it holds no evidence bytes.
        text = " ".join(str(cause).removeprefix("Verification failed: ").split())
        raise EvidenceInvalidError(f"the quote does not verify: {text}") from cause
    except BaseException as cause:
        # A panic in Rust arrives as an exception outside Exception's tree; hostile input must not end the verifying process.
        if type(cause).__name__ == "PanicException":
            raise EvidenceInvalidError("the quote does not verify: the verification library gave up on it") from cause
        raise
    return found


_SAME = {"mr_enclave": "mr_enclave", "mr_signer": "mr_signer", "mr_td": "mr_td", "report_data": "report_data", "attributes": "attributes"}
_SAME |= {"td_attributes": "td_attributes", "rt_mr0": "rtmr0", "rt_mr1": "rtmr1", "rt_mr2": "rtmr2", "rt_mr3": "rtmr3"}


def _check_same_reading(report: Json, quote: Quote) -> None:
    """Refuse a quote that two parsers read differently."""
    ((_, body),) = report["report"].items()
    body = {**body.pop("base", {}), **body}
    names = [name for name in _SAME if hasattr(quote.body, _SAME[name])]
    for name in names:
        if body.get(name) != getattr(quote.body, _SAME[name]).hex():
            raise EvidenceInvalidError("the quote can be read in two ways", field=name)
