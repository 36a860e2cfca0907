"""SEV-SNP guests, whole: reports in their attesters' form, signed by a vendor like AMD, with init-data in HOST_DATA."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import pytest
from support.amd import Vendor
from support.kbs_guest import INIT_DATA, Guest

from confide.attest.evidence import Evidence
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.ids import Tee

NAME = "airline/key/flights"
SECRET = b"the resource that only accepted guests may read"
DIGEST = hashlib.sha384(INIT_DATA.encode()).digest()


class _Attester:
    """A guest on one chip of the vendor's, started with init-data (or not)."""

    tee = Tee.SNP

    def __init__(self, vendor: Vendor, host_data: bytes) -> None:
        self._vendor = vendor
        self._host_data = host_data

    def quote(self, report_data: bytes) -> Evidence:
        return self._vendor.evidence(report_data=report_data, patch=(0xC0, self._host_data))


class _Source:
    def __init__(self, vendor: Vendor) -> None:
        self._found = vendor.collateral()

    def get(self, *_: object) -> Any:
        return self._found


@pytest.fixture(params=["Milan", "Genoa", "Turin"])
def vendor(request: pytest.FixtureRequest, kbs: Any) -> Vendor:
    made = Vendor(request.param, datetime.now(UTC).replace(microsecond=0))
    kbs.world.verifier = Verifier(TrustRoots(amd=made.roots), _Source(made))
    kbs.world.restart()
    minimum = {request.param: dict(made.tcb)}
    policy = {"name": "snp", "measurements": {"snp": ["5a" * 48]}, "min_tcb": minimum, "allow": []}
    assert kbs.set_policy("airline", "snp", policy).status == 200
    kbs.set_rules("airline", [{"resource": NAME, "policy": "snp", "init_data": [DIGEST.hex()]}])
    return made


def _guest(kbs: Any, vendor: Vendor, host_data: bytes, **options: Any) -> Guest:
    return kbs.guest(_Attester(vendor, host_data), **options)


def test_guest_with_the_init_data_that_the_rule_names_gets_the_resource(kbs: Any, vendor: Vendor) -> None:
    guest = _guest(kbs, vendor, DIGEST[:32], init_data={"format": "toml", "body": INIT_DATA}).ready()
    answer = guest.get(NAME)
    assert answer.status == 200, kbs.world.events("refuse")
    assert guest.key.open(answer.json).reveal() == SECRET


def test_guest_whose_host_gave_other_init_data_or_none_is_refused(kbs: Any, vendor: Vendor) -> None:
    for host_data in (bytes(32), DIGEST[16:48]):
        guest = _guest(kbs, vendor, host_data, init_data={"format": "toml", "body": INIT_DATA})
        guest.auth()
        assert guest.attest().json["code"] == "binding-mismatch"
    silent = _guest(kbs, vendor, DIGEST[:32]).ready()
    assert silent.get(NAME).status == 403


def test_guest_on_another_vendors_chip_is_refused(kbs: Any, vendor: Vendor) -> None:
    guest = _guest(kbs, vendor.twin(), DIGEST[:32])
    guest.auth()
    message = guest.evidence()
    message["tee-evidence"]["primary_evidence"]["cert_chain"] = [{"cert_type": "VCEK", "data": list(vendor.leaf())}]
    assert guest.attest(message).json["code"] == "evidence-invalid"
