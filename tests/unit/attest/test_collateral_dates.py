"""One quote, collateral of several dates: what it is worth follows the set and the time that it is judged by, to the second.

The vendor here learns of a weakness: its set of evaluation 19 rates the platform up to date, the one of 20, issued later, out of date.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from support.simulated_evidence import BINDING, BOTH, MEASUREMENTS, POLICY, make_evidence_of, make_vendor, make_with_collateral

from confide.attest.collateral import Collateral
from confide.attest.collateral_sources import CollateralStore
from confide.attest.dcap import reference_rating, require_agreement
from confide.attest.evidence import Evidence
from confide.attest.insecure import Installation
from confide.attest.insecure.documents import ADVISORY
from confide.attest.insecure.installation import raw_signature
from confide.attest.policy import Policy, appraise
from confide.attest.verify import VerifiedEvidence, Verifier
from confide.errors import AttestationError, CollateralError, EvidenceInvalidError
from confide.ids import Tee

__all__ = ["make_evidence_of", "make_vendor", "make_with_collateral"]

DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
FIRST, SECOND_ISSUE = datetime(2030, 6, 2, tzinfo=UTC), datetime(2030, 6, 22, tzinfo=UTC)
LIFE = 30 * DAY
Make = Callable[..., Evidence]


def issue(vendor: Installation, tee: Tee, number: int, issued: datetime, *, weak: bool, **parts: tuple[datetime, datetime]) -> Collateral:
    """A whole set of one date; ``parts`` are those of another: from when until when."""
    base, until = vendor.collateral(tee), issued + LIFE
    root, ca, signer = (vendor._signer(name) for name in ("root", "platform-ca", "tcb-signer"))

    def document(text: str, name: str, **changes: object) -> tuple[str, bytes]:
        begin, end = parts.get(name, (issued, until))
        dates = {"issueDate": f"{begin:%Y-%m-%dT%H:%M:%SZ}", "nextUpdate": f"{end:%Y-%m-%dT%H:%M:%SZ}"}
        made = json.dumps({**json.loads(text), **dates, "tcbEvaluationDataNumber": number, **changes})
        return made, raw_signature(signer.key, made.encode())

    levels = [level | ({"tcbStatus": "OutOfDate", "advisoryIDs": [ADVISORY]} if weak else {}) for level in base.tcb["tcbLevels"]]
    tcb, identity = document(base.tcb_info, "tcb", tcbLevels=levels), document(base.qe_identity, "identity")
    return dataclasses.replace(
        base,
        tcb_info=tcb[0],
        tcb_info_signature=tcb[1],
        qe_identity=identity[0],
        qe_identity_signature=identity[1],
        root_ca_crl=root.revocation_list(number, *parts.get("root_list", (issued, until))),
        pck_crl=ca.revocation_list(number, *parts.get("pck_list", (issued, until))),
    )


def both_say(verifier: Verifier, vendor: Installation, evidence: Evidence, collateral: Collateral, now: datetime) -> str:
    """Our verdict, after the reference was asked for its own: "stale", "early" or the rating."""
    try:
        verified = verifier.verify(evidence, now)
    except CollateralError as refusal:
        with pytest.raises(AttestationError):
            reference_rating(evidence.quote, collateral, vendor.root_der, now)
        return "stale" if "stale" in refusal.message else "early" if "not valid yet" in refusal.message else refusal.message
    require_agreement(verified, vendor.root_der)
    return verified.claims.tcb_status


def refused(policy: Policy, verified: VerifiedEvidence, now: datetime) -> list[str]:
    return [check.name for check in policy.explain(verified, now=now) if not check.ok]


@BOTH
@pytest.mark.parametrize(
    "scene",
    [
        (False, FIRST - SECOND, "early"),
        (False, FIRST, "UpToDate"),
        (False, SECOND_ISSUE + DAY, "UpToDate"),
        (False, FIRST + LIFE - SECOND, "UpToDate"),
        (False, FIRST + LIFE + SECOND, "stale"),
        (True, FIRST + DAY, "early"),
        (True, SECOND_ISSUE - SECOND, "early"),
        (True, SECOND_ISSUE, "OutOfDate"),
        (True, SECOND_ISSUE + LIFE - SECOND, "OutOfDate"),
        (True, SECOND_ISSUE + LIFE + SECOND, "stale"),
    ],
    ids=str,
)
def test_verdict_follows_the_set_and_the_time(
    vendor: Installation, with_collateral: Callable[[Collateral], Verifier], evidence_of: Make, tee: Tee, scene: tuple[bool, datetime, str]
) -> None:
    second, now, verdict = scene
    found = issue(vendor, tee, 20 if second else 19, SECOND_ISSUE if second else FIRST, weak=second)
    assert both_say(with_collateral(found), vendor, evidence_of(tee), found, now) == verdict


@pytest.mark.parametrize("part", ["tcb", "identity", "root_list", "pck_list"])
def test_each_part_of_a_set_has_its_own_end(
    vendor: Installation, with_collateral: Callable[[Collateral], Verifier], evidence_of: Make, part: str
) -> None:
    """The set is as old as the part that ends first; at the second that it names as its next update, it has ended."""
    end = FIRST + 5 * DAY
    found = issue(vendor, Tee.TDX, 19, FIRST, weak=False, **{part: (FIRST, end)})
    verifier, evidence = with_collateral(found), evidence_of(Tee.TDX)
    assert both_say(verifier, vendor, evidence, found, end - SECOND) == "UpToDate"
    assert both_say(verifier, vendor, evidence, found, end + SECOND) == "stale"
    with pytest.raises(CollateralError, match="stale"):
        verifier.verify(evidence, end)


@pytest.mark.parametrize("part", ["tcb", "identity", "root_list", "pck_list"])
def test_no_part_of_a_set_is_from_the_future(
    vendor: Installation, with_collateral: Callable[[Collateral], Verifier], evidence_of: Make, part: str
) -> None:
    begin = FIRST + 5 * DAY
    found = issue(vendor, Tee.TDX, 19, FIRST, weak=False, **{part: (begin, begin + LIFE)})
    verifier, evidence = with_collateral(found), evidence_of(Tee.TDX)
    with pytest.raises(CollateralError, match="not valid yet"):
        verifier.verify(evidence, begin - SECOND)
    assert both_say(verifier, vendor, evidence, found, begin) == "UpToDate"


@BOTH
def test_quote_that_was_good_is_judged_anew_with_each_set(
    vendor: Installation, evidence_of: Make, tee: Tee, tmp_path, with_collateral
) -> None:
    """A verifier whose store is renewed between two releases of a key: the second sees the weakness, and the old set cannot come back."""
    older, newer = issue(vendor, tee, 19, FIRST, weak=False), issue(vendor, tee, 20, SECOND_ISSUE, weak=True)
    store, evidence, now = CollateralStore(tmp_path), evidence_of(tee), SECOND_ISSUE + DAY
    verifier = with_collateral(older).with_collateral(store)
    store.put(older)
    assert verifier.verify(evidence, now).claims.tcb_status == "UpToDate"
    store.put(newer)
    assert verifier.verify(evidence, now).claims.tcb_status == "OutOfDate"
    with pytest.raises(CollateralError, match="older"):
        store.put(older)
    assert verifier.verify(evidence, now).claims.advisory_ids == (ADVISORY,)


@BOTH
def test_policy_asks_for_an_evaluation_number(vendor: Installation, evidence_of: Make, with_collateral, tee: Tee) -> None:
    """Both sets are current: only the number tells that a newer evaluation exists, of which the verifier was not told."""
    older, now, evidence = issue(vendor, tee, 19, FIRST, weak=False), SECOND_ISSUE + DAY, evidence_of(tee)
    verified = with_collateral(older).verify(evidence, now)
    assert appraise(verified, POLICY, BINDING, now=now).claims.tcb_eval == 19
    strict = Policy.from_json(
        {
            "name": "p",
            "measurements": {tee.value: [MEASUREMENTS[tee]]},
            "allow": ["simulated"],
            "min_tcb_eval": 20,
            "statuses": ["UpToDate"],
        }
    )
    assert "tcb-eval" in refused(strict, verified, now)
    weak = with_collateral(issue(vendor, tee, 20, SECOND_ISSUE, weak=True)).verify(evidence, now)
    assert "tcb-eval" not in refused(strict, weak, now)
    assert {"tcb-status", "advisories"} & set(refused(strict, weak, now))


def test_collateral_outlives_no_certificate(vendor: Installation, evidence_of: Make, with_collateral) -> None:
    """A set that says it holds for a century ends with its signers; the quote's own chain ends too."""
    found = issue(
        vendor, Tee.SGX, 19, FIRST, weak=False, **dict.fromkeys(["tcb", "identity", "root_list", "pck_list"], (FIRST, FIRST + 36500 * DAY))
    )
    ends = min(one.not_valid_after_utc for one in found.chain("tcb_info_issuer_chain"))
    assert found.epoch.stale_from == ends
    with pytest.raises((CollateralError, EvidenceInvalidError), match=r"stale|not valid at this time"):
        with_collateral(found).verify(evidence_of(Tee.SGX), ends + SECOND)
