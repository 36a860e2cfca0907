"""What will be reported, by kind of TEE, in the form that ``confide attest policy new --build`` reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from confide.errors import AppraisalError

if TYPE_CHECKING:
    from confide.canonical import Json


@dataclass(frozen=True, slots=True)
class SgxValues:
    """An enclave's: its measurement and, if it is signed already, its signer, product and security version."""

    mr_enclave: bytes
    mr_signer: bytes | None = None
    isv_prod_id: int | None = None
    isv_svn: int | None = None

    def require_same(self, built: SgxValues) -> None:
        """Compare with what was computed from files, in all that is known of both.

        Raises:
            AppraisalError: what is signed is not what the files make.
        """
        theirs, ours = built.to_json(), self.to_json()
        for name in theirs.keys() & ours.keys():
            if theirs[name] != ours[name]:
                message = f"what is signed is not what these files make: {name}"
                raise AppraisalError(message, check=name, expected=theirs[name], got=ours[name])

    def to_json(self) -> Json:
        """The values as JSON; what is not known is left out."""
        signer = {"mrsigner": self.mr_signer.hex()} if self.mr_signer is not None else {}
        numbers = {"isv_prod_id": self.isv_prod_id, "isv_svn": self.isv_svn}
        known = {name: number for name, number in numbers.items() if number is not None}
        return {"tee": "sgx", "mrenclave": self.mr_enclave.hex(), **signer, **known}


@dataclass(frozen=True, slots=True)
class TdxValues:
    """A TD's: its firmware's measurement (MRTD), and the run-time registers that are known, by number."""

    mrtd: bytes | None
    rtmrs: tuple[bytes, ...] = ()

    def to_json(self) -> Json:
        """The values as JSON; what is not known is left out."""
        mrtd = {"mrtd": self.mrtd.hex()} if self.mrtd is not None else {}
        return {"tee": "tdx", **mrtd, **{f"rtmr{number}": value.hex() for number, value in enumerate(self.rtmrs)}}


@dataclass(frozen=True, slots=True)
class SnpValues:
    """A guest's launch digest."""

    measurement: bytes

    def to_json(self) -> Json:
        """The value as JSON."""
        return {"tee": "snp", "measurement": self.measurement.hex()}
