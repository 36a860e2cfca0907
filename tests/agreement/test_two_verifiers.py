"""Our own verifier of Intel's quotes against the reference, ``dcap-qvl``: whatever one is shown, both are, and they must agree.

Where they are known to differ, ours is the stricter: each such reason is listed in ``STRICTER``.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import dcap_qvl
import pytest

from confide.attest import certs
from confide.attest.collateral import Collateral
from confide.attest.collateral_sources import FixedCollateral, load_collateral
from confide.attest.dcap import reference_rating, require_agreement
from confide.attest.evidence import Evidence
from confide.attest.insecure import Fault, InsecureAttester, Installation
from confide.attest.insecure.installation import raw_signature
from confide.attest.quote import Header, Quote, TdBody, parse_quote
from confide.attest.roots import INTEL_SGX_ROOT, TrustRoots
from confide.attest.verify import Verifier
from confide.canonical import Json
from confide.errors import AttestationError, CollateralError, EvidenceInvalidError
from confide.ids import ReportData, Tee

VECTORS = Path(__file__).parents[1] / "vectors"
REFUSED = {"sgx-v3-eppid-no-pck", "tdx-v4-below-all-levels"}
"""Both verifiers refuse them as they are."""
ENTRIES = [entry for entry in json.loads((VECTORS / "intel" / "manifest.json").read_text()) if entry["id"] not in REFUSED]
MUTATIONS = 20_000
SCENES = 600
NOW = datetime(2030, 6, 1, tzinfo=UTC)

STRICTER = {
    "the quote's chain does not end at a root that is trusted here": "the reference does not read the root in the quote",
    "a certificate of the chain does not parse": "the same: one byte of that root was changed",
    "not a chain of PEM certificates": "the reference skips what is between and behind certificates",
    "the outer certification data must be of type 6": "the reference does not read that type",
}
"""Why ours refuses what the reference accepts: part of our message, and why it differs.  One quote has one byte string."""


def compare(verifier: Verifier, evidence: Evidence, collateral: Collateral, root: bytes, now: datetime) -> str:
    """What both say; an ``AssertionError`` if they disagree."""
    try:
        verified = verifier.verify(evidence, now)
    except (EvidenceInvalidError, CollateralError) as refusal:
        ours = refusal.message
    else:
        require_agreement(verified, root)
        return verified.claims.tcb_status
    try:
        reference_rating(evidence.quote, collateral, root, now, evidence.chain)
    except AttestationError as refusal:
        if "two ways" not in refusal.message:
            return "refused"
    assert any(reason in ours for reason in STRICTER), f"the reference accepts it, ours says: {ours}"
    return "stricter"


# --- mutations of real quotes -----------------------------------------------------------------------------------------


def test_they_agree_on_every_single_byte_mutation_of_real_quotes() -> None:
    choose = random.Random(0xC0F1DE)
    seen: Counter[str] = Counter()
    scenes = []
    for entry in ENTRIES:
        collateral = load_collateral(VECTORS / entry["collateral"])
        assert isinstance(collateral, Collateral)
        evidence = Evidence.from_device(Tee(entry["tee"].lower()), (VECTORS / entry["quote"]).read_bytes())
        now = datetime.fromtimestamp(entry["now"], UTC)
        scenes.append((Verifier(TrustRoots(), FixedCollateral(collateral)), evidence, collateral, now))
    for number in range(MUTATIONS):
        verifier, evidence, collateral, now = scenes[number % len(scenes)]
        changed = bytearray(evidence.quote)
        changed[choose.randrange(len(changed))] ^= choose.randrange(1, 256)
        seen[compare(verifier, Evidence(evidence.tee, bytes(changed)), collateral, INTEL_SGX_ROOT, now)] += 1
    assert set(seen) == {"refused", "stricter"}, "a changed byte was accepted"
    assert 0 < seen["stricter"] < MUTATIONS * 0.05


# --- mutations of the vendor's collateral -------------------------------------------------------------------------------

COLLATERAL_MUTATIONS = 160
NOT_READ_BY_THE_REFERENCE = {"tcb_info_issuer_chain", "qe_identity_issuer_chain", "pck_crl_issuer_chain"}
"""Fields of which the reference reads less than ours: roots in chains, what is between certificates."""


def test_they_agree_on_single_character_mutations_of_real_collateral() -> None:
    choose = random.Random(0xC0117)
    scenes = []
    for entry in (entry for entry in ENTRIES if entry["expect"] == "verified"):
        evidence = Evidence.from_device(Tee(entry["tee"].lower()), (VECTORS / entry["quote"]).read_bytes())
        scenes.append((json.loads((VECTORS / entry["collateral"]).read_text()), evidence, datetime.fromtimestamp(entry["now"], UTC)))
    for number in range(COLLATERAL_MUTATIONS):
        data, evidence, now = scenes[number % len(scenes)]
        name = sorted(data)[number // len(scenes) % len(data)]
        changed = data | {name: one_character_changed(data[name], choose)}
        with pytest.raises((EvidenceInvalidError, CollateralError)):
            Verifier(TrustRoots(), FixedCollateral(Collateral.from_json(changed))).verify(evidence, now)
        if name not in NOT_READ_BY_THE_REFERENCE:
            with pytest.raises(ValueError, match=r"."):
                dcap_qvl.verify(evidence.quote, dcap_qvl.QuoteCollateralV3.from_json(json.dumps(changed)), int(now.timestamp()))


def one_character_changed(text: str, choose: random.Random) -> str:
    """Another digit or letter in place of one, so that PEM, hex and JSON stay of their form more often than not."""
    at = choose.choice([place for place, character in enumerate(text) if character.isalnum()])
    digits = "0123456789" if text[at].isdigit() else "abcdef" if text[at] in "abcdef" else "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return text[:at] + choose.choice([digit for digit in digits if digit != text[at]]) + text[at + 1 :]


# --- ratings ----------------------------------------------------------------------------------------------------------

PLATFORM = ["UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded"]
OLD = ["OutOfDate", "OutOfDateConfigurationNeeded"]


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    return Installation.create(tmp_path_factory.mktemp("vendor") / "tee", now=NOW)


class Scene:
    """Random collateral of a simulated platform, and a quote of a TD that may or may not meet it.  The platform's own SVNs are all 5."""

    def __init__(self, vendor: Installation, seed: int) -> None:
        self.vendor, self.choose = vendor, random.Random(seed)
        self.root = vendor.root_der
        self.tee = self.choose.choice([Tee.SGX, Tee.TDX, Tee.TDX, Tee.TDX])

    def svns(self, around: int) -> list[int]:
        return [around if self.choose.random() < 0.93 else self.choose.choice([around - 1, around + 1]) for _ in range(16)]

    def status(self, *, old: bool, extra: tuple[str, ...] = ()) -> str:
        return self.choose.choice([*(OLD if old else PLATFORM), *extra])

    def advisories(self) -> Json:
        found = [f"INTEL-SA-{self.choose.randrange(100):05}" for _ in range(self.choose.randrange(3))]
        return {"advisoryIDs": found} if found or self.choose.random() < 0.5 else {}

    def level(self, svn: int, *, old: bool) -> Json:
        tcb: Json = {"sgxtcbcomponents": [{"svn": n} for n in self.svns(svn)], "pcesvn": self.choose.choice([10, 11, 11, 11, 12])}
        if self.tee is Tee.TDX:
            tdx = [self.choose.choice([0, 3, 5]), self.choose.choice([0, 0, 0, 1]), self.choose.choice([3, 5])] + [0] * 13
            tcb["tdxtcbcomponents"] = [{"svn": n} for n in tdx]
        rare = ("Revoked",) if self.choose.random() < 0.1 else ()
        return {"tcb": tcb, "tcbDate": "2025-01-01T00:00:00Z", "tcbStatus": self.status(old=old, extra=rare), **self.advisories()}

    def isv_levels(self, *svns: int) -> list[Json]:
        levels = []
        for place, svn in enumerate(sorted(svns, reverse=True)):
            status = self.choose.choice(["OutOfDate", "OutOfDate", "Revoked"] if place else ["UpToDate", "UpToDate", "OutOfDate"])
            levels.append({"tcb": {"isvsvn": svn}, "tcbDate": "2025-01-01T00:00:00Z", "tcbStatus": status, **self.advisories()})
        return levels

    def collateral(self) -> Collateral:
        base = self.vendor.collateral(self.tee)
        info, identity = dict(base.tcb), dict(base.qe)
        info["tcbLevels"] = [self.level(5, old=False), self.level(5, old=True), self.level(4, old=True), self.level(2, old=True)]
        if self.tee is Tee.TDX:
            plain = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
            names = self.choose.choice([["TDX_01", "TDX_03"], ["TDX_03"], ["tdx_01"], []])
            info["tdxModuleIdentities"] = [{"id": name, **plain, "tcbLevels": self.isv_levels(5, 3)} for name in names]
        identity["tcbLevels"] = self.isv_levels(8, 6) if self.choose.random() < 0.9 else self.isv_levels(9)
        signer = self.vendor._signer("tcb-signer")
        texts = [json.dumps(info), json.dumps(identity)]
        first, second = (raw_signature(signer.key, text.encode()) for text in texts)
        return dataclasses.replace(
            base, tcb_info=texts[0], tcb_info_signature=first, qe_identity=texts[1], qe_identity_signature=second
        )

    def tee_svn(self) -> bytes:
        return bytes([self.choose.choice([2, 3, 4, 5, 6]), self.choose.choice([0, 0, 1, 1, 3]), self.choose.choice([3, 5, 6]), *bytes(13)])

    def evidence(self) -> Evidence:
        attester = InsecureAttester(self.vendor, self.tee, "5a" * (32 if self.tee is Tee.SGX else 48))
        quote = parse_quote(attester.quote(ReportData(bytes(64))).quote)
        if not isinstance(quote.body, TdBody):
            return Evidence(self.tee, quote.to_bytes())
        body = dataclasses.replace(quote.body, tee_tcb_svn=self.tee_svn())
        if self.choose.random() < 0.05:
            body = dataclasses.replace(body, mr_signer_seam=b"\x01" * 48)
        if self.choose.random() < 0.05:
            body = dataclasses.replace(body, seam_attributes=b"\x01" + bytes(7))
        header = quote.header
        if self.choose.random() < 0.6:
            header = dataclasses.replace(header, version=5)
            if self.choose.random() < 0.8:
                body = dataclasses.replace(body, tee_tcb_svn2=self.tee_svn(), mr_service_td=bytes(48))
        return self.signed(header, body, quote, attester)

    @staticmethod
    def signed(header: Header, body: TdBody, quote: Quote, attester: InsecureAttester) -> Evidence:
        unsigned = dataclasses.replace(quote, header=header, body=body)
        signature = dataclasses.replace(quote.signature, signature=raw_signature(attester._key, unsigned.signed_bytes))
        return Evidence(Tee.TDX, dataclasses.replace(unsigned, signature=signature).to_bytes())


def test_they_agree_on_ratings_of_random_platforms(vendor: Installation) -> None:
    seen: Counter[str] = Counter()
    for seed in range(SCENES):
        scene = Scene(vendor, seed)
        collateral, evidence = scene.collateral(), scene.evidence()
        verifier = Verifier(TrustRoots(simulated=scene.root), FixedCollateral(collateral))
        seen[compare(verifier, evidence, collateral, scene.root, NOW)] += 1
    assert not seen["stricter"]
    assert {*PLATFORM, *OLD, "TDRelaunchAdvised", "TDRelaunchAdvisedConfigurationNeeded"} <= set(seen)


# --- every fault of the simulation -------------------------------------------------------------------------------------

REFUSED_FAULTS = {Fault.REVOKED_PCK, Fault.STALE_COLLATERAL, Fault.EXPIRED_CRL}
"""Both verifiers refuse these; the others are genuine evidence, about which a policy decides and on which both have to say the same."""


@pytest.mark.parametrize("tee", [Tee.SGX, Tee.TDX], ids=str)
@pytest.mark.parametrize("fault", [None, *Fault], ids=str)
def test_they_agree_on_every_fault_of_the_simulation(vendor: Installation, tee: Tee, fault: Fault | None) -> None:
    attester = InsecureAttester(vendor, tee, "5a" * (32 if tee is Tee.SGX else 48), fault=fault)
    evidence = attester.quote(ReportData(bytes(64)))
    source = vendor.collateral_source()
    leaf = certs.SgxExtension.of(certs.parse_chain(parse_quote(evidence.quote).signature.cert_data)[0])
    collateral = source.get(leaf.fmspc.hex(), "platform", tee)
    assert isinstance(collateral, Collateral)
    verifier = Verifier(TrustRoots(simulated=vendor.root_der), source)
    found = compare(verifier, evidence, collateral, vendor.root_der, NOW)
    expected = "refused" if fault in REFUSED_FAULTS else "OutOfDate" if fault is Fault.OUT_OF_DATE else "UpToDate"
    assert found == expected


@pytest.mark.parametrize("tee", [Tee.SGX, Tee.TDX], ids=str)
def test_they_agree_on_a_quote_whose_pck_chain_comes_from_elsewhere(vendor: Installation, tee: Tee) -> None:
    quote = parse_quote(InsecureAttester(vendor, tee, "5a" * (32 if tee is Tee.SGX else 48)).quote(ReportData(bytes(64))).quote)
    named = dataclasses.replace(quote, signature=dataclasses.replace(quote.signature, cert_type=3, cert_data=bytes(404)))
    verifier, collateral = Verifier(TrustRoots(simulated=vendor.root_der), vendor.collateral_source()), vendor.collateral(tee)
    evidence = Evidence(tee, named.to_bytes(), quote.signature.cert_data)
    assert compare(verifier, evidence, collateral, vendor.root_der, NOW) == "UpToDate"
    assert compare(verifier, Evidence(tee, named.to_bytes()), collateral, vendor.root_der, NOW) == "refused"
