"""What the simulated vendor says of its platforms: TCB info and quoting enclave identity, as the vendor's JSON.

Format: Intel SGX and TDX Provisioning Certification Service API, version 4, "Get TCB Info" and "Get Quoting Enclave Identity".
Knows nothing of keys or files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from confide.attest.certs import SgxExtension
from confide.canonical import Json
from confide.ids import Tee

TCB_EVAL = 20
"""The simulated vendor's one TCB evaluation data number."""
PCE_SVN, PCE_ID = 11, bytes(2)
CURRENT_SVN, OLD_SVN = 5, 3
"""SVN of every component of a platform that is up to date, and of one that is not."""
TDX_TCB_SVN = bytes([CURRENT_SVN, 0, CURRENT_SVN]) + bytes(13)
"""TEE_TCB_SVN of simulated TDs; the zero second byte says: TDX module of major version 0, no entry of its own in the TCB info."""
QE_SVN = 8
QE_PROD_ID = {Tee.SGX: 1, Tee.TDX: 2}
QE_ATTRIBUTES = bytes.fromhex("15000000000000000700000000000000")
"""Attributes of a production quoting enclave: initialised, 64 bit, provisioning key, attestation key."""
ADVISORY = "INTEL-SA-00000"
"""What an out-of-date simulated platform is open to: no such advisory exists."""
_TCB_DATE = "2025-01-01T00:00:00Z"
_TIME = "%Y-%m-%dT%H:%M:%SZ"


def qe_signer(tee: Tee) -> bytes:
    """MRSIGNER of the simulated quoting enclave."""
    return hashlib.sha256(b"confide simulated quoting enclave signer " + tee.value.encode()).digest()


class Machine(StrEnum):
    """The simulated platforms of an installation: one that is in order, and one for each fault of a platform."""

    GOOD = "good"
    REVOKED = "revoked"
    OUT_OF_DATE = "out-of-date"
    STALE_COLLATERAL = "stale-collateral"
    STALE_CRL = "stale-crl"

    @property
    def fmspc(self) -> bytes:
        """Machines with collateral of their own are of another model."""
        model = {Machine.STALE_COLLATERAL: 1, Machine.STALE_CRL: 2}.get(self, 0)
        return bytes.fromhex("00c0f1de00") + bytes([model])

    @property
    def platform(self) -> SgxExtension:
        """What the machine's PCK certificate says."""
        svn = OLD_SVN if self is Machine.OUT_OF_DATE else CURRENT_SVN
        ppid = hashlib.sha256(b"confide simulated machine " + self.value.encode()).digest()[:16]
        return SgxExtension(ppid, (svn,) * 16, PCE_SVN, bytes([svn]) * 16, PCE_ID, self.fmspc, sgx_type=1)


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when a document holds."""

    issued: datetime
    until: datetime

    def fields(self) -> Json:
        """The two fields of a document."""
        return {"issueDate": self.issued.strftime(_TIME), "nextUpdate": self.until.strftime(_TIME)}


def _level(tee: Tee, svn: int, status: str, advisories: list[str]) -> Json:
    tcb: Json = {"sgxtcbcomponents": [{"svn": svn}] * 16, "pcesvn": PCE_SVN}
    if tee is Tee.TDX:
        tcb["tdxtcbcomponents"] = [{"svn": min(svn, limit)} for limit in TDX_TCB_SVN]
    return {"tcb": tcb, "tcbDate": _TCB_DATE, "tcbStatus": status, "advisoryIDs": advisories}


def tcb_info(tee: Tee, fmspc: bytes, validity: Validity) -> str:
    """The exact text of a TCB info that is to be signed."""
    info: Json = {"id": tee.value.upper(), "version": 3, **validity.fields(), "fmspc": fmspc.hex().upper(), "pceId": PCE_ID.hex()}
    info |= {"tcbType": 0, "tcbEvaluationDataNumber": TCB_EVAL}
    if tee is Tee.TDX:
        info["tdxModule"] = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    info["tcbLevels"] = [_level(tee, CURRENT_SVN, "UpToDate", []), _level(tee, OLD_SVN, "OutOfDate", [ADVISORY])]
    return json.dumps(info, separators=(",", ":"))


def qe_identity(tee: Tee, validity: Validity) -> str:
    """The exact text of a quoting enclave identity that is to be signed."""
    identity: Json = {"id": "QE" if tee is Tee.SGX else "TD_QE", "version": 2, **validity.fields(), "tcbEvaluationDataNumber": TCB_EVAL}
    identity |= {"miscselect": "00000000", "miscselectMask": "FFFFFFFF"}
    identity |= {"attributes": "11" + "00" * 15, "attributesMask": "FBFFFFFFFFFFFFFF" + "00" * 8}
    identity |= {"mrsigner": qe_signer(tee).hex().upper(), "isvprodid": QE_PROD_ID[tee]}
    identity["tcbLevels"] = [{"tcb": {"isvsvn": QE_SVN}, "tcbDate": _TCB_DATE, "tcbStatus": "UpToDate"}]
    return json.dumps(identity, separators=(",", ":"))
