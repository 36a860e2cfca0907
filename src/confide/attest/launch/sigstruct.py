"""SIGSTRUCT, the signature over an SGX enclave: bytes to a frozen record, and the checks that EINIT makes of it.

Layout and checks: Intel SDM volume 3D, "Enclave Signature Structure (SIGSTRUCT)" and "EINIT".  Integers are little-endian, the big ones
too.  Not checked here: that an enclave exists with this measurement, or that its signer is one that anybody knows.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from typing import Literal, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from confide.attest.launch.values import SgxValues
from confide.attest.quote import SGX_DEBUG
from confide.errors import EvidenceInvalidError, ParseError

SIGSTRUCT_BYTES = 1808
HEADER = bytes.fromhex("06000000e10000000000010000000000")
HEADER2 = bytes.fromhex("01010000600000006000000001000000")
INTEL_VENDOR = 0x8086
EXPONENT = 3
MODULUS_BITS = 3072
BODY_AT = 900
"""Where the second signed part begins; the first one ends before the modulus."""
_SIGNED_HEAD, _SIGNED_BODY = slice(0, 128), slice(BODY_AT, BODY_AT + 128)

_LAYOUT = struct.Struct("<16sI4s16sI84s384sI384sIIBB2s16s16s16s32s16s16sHH12s384s384s")
_RESERVED = {"reserved": 44, "reserved2": 910, "reserved3": 992, "reserved4": 1028}
_NAMES = (
    "header", "vendor", "date", "header2", "sw_defined", "reserved", "modulus", "exponent", "signature", "misc_select", "misc_mask",
    "cet_attributes", "cet_attributes_mask", "reserved2", "isv_family_id", "attributes", "attributes_mask", "mr_enclave", "reserved3",
    "isv_ext_prod_id", "isv_prod_id", "isv_svn", "reserved4", "q1", "q2",
)  # fmt: skip

Debug = Literal["forbidden", "allowed", "required"]


@dataclass(frozen=True, slots=True)
class Sigstruct:
    """One signature structure; what it says is only *claimed* until :meth:`verified`.

    ``date`` is kept as it is: the manual asks for BCD digits, signers write other things, and no processor looks.
    """

    vendor: int
    date: bytes
    sw_defined: int
    modulus: int
    exponent: int
    signature: int
    misc_select: int
    misc_mask: int
    cet_attributes: int
    cet_attributes_mask: int
    isv_family_id: bytes
    attributes: bytes
    attributes_mask: bytes
    mr_enclave: bytes
    isv_ext_prod_id: bytes
    isv_prod_id: int
    isv_svn: int
    q1: int
    q2: int
    signed: bytes = field(repr=False)

    @property
    def mr_signer(self) -> bytes:
        """The signer's name in quotes: SHA-256 of the modulus."""
        return hashlib.sha256(self.modulus.to_bytes(MODULUS_BITS // 8, "little")).digest()

    @property
    def debug(self) -> Debug:
        """Whether an enclave with this signature may be started so that it can be read from outside.

        EINIT compares the attributes that the mask names, and no others.
        """
        if not self.attributes_mask[0] & SGX_DEBUG:
            return "allowed"
        return "required" if self.attributes[0] & SGX_DEBUG else "forbidden"

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Read one SIGSTRUCT, to its last byte; reserved fields have to be zero.

        Raises:
            ParseError: it is none; ``facts`` hold the offset where it is known.
        """
        if len(raw) != SIGSTRUCT_BYTES:
            raise ParseError(f"a SIGSTRUCT has {SIGSTRUCT_BYTES} bytes", length=len(raw))
        values = dict(zip(_NAMES, _LAYOUT.unpack(raw), strict=True))
        for name, at, wanted in (("header", 0, HEADER), ("header2", 24, HEADER2)):
            if values.pop(name) != wanted:
                raise ParseError("not a SIGSTRUCT: a header is another", offset=at)
        if values["vendor"] not in (0, INTEL_VENDOR):
            raise ParseError("the SIGSTRUCT's vendor is none", offset=16, got=values["vendor"])
        for name, at in _RESERVED.items():
            if any(values.pop(name)):
                raise ParseError("a reserved field of the SIGSTRUCT is in use", offset=at)
        if values["exponent"] != EXPONENT:
            raise ParseError("the SIGSTRUCT's exponent is not 3", offset=512, got=values["exponent"])
        for name in ("modulus", "signature", "q1", "q2"):
            values[name] = int.from_bytes(values[name], "little")
        if values["modulus"].bit_length() != MODULUS_BITS or not values["modulus"] & 1:
            raise ParseError(f"the SIGSTRUCT's modulus is not one of {MODULUS_BITS} bits", offset=128)
        return cls(**values, signed=raw[_SIGNED_HEAD] + raw[_SIGNED_BODY])

    @classmethod
    def find(cls, raw: bytes) -> Self:
        """Read the one SIGSTRUCT of a file: all of it, or somewhere in a signed enclave (Intel's SDK puts it into a note).

        Raises:
            ParseError: there is none, or more than one.
        """
        if len(raw) == SIGSTRUCT_BYTES:
            return cls.parse(raw)
        found, at = [], raw.find(HEADER)
        while at >= 0:
            if raw.startswith(HEADER2, at + 24):
                found.append(at)
            at = raw.find(HEADER, at + 1)
        if len(found) != 1:
            raise ParseError("the file is no SIGSTRUCT, and does not hold exactly one", length=len(raw), found=len(found))
        return cls.parse(raw[found[0] : found[0] + SIGSTRUCT_BYTES])

    def verified(self) -> SgxValues:
        """What quotes of this enclave will say, if the signature and the numbers that speed up its check are right.

        Raises:
            EvidenceInvalidError: EINIT would refuse the enclave.
        """
        if self.signature >= self.modulus:
            raise EvidenceInvalidError("the SIGSTRUCT's signature is larger than its modulus", offset=516)
        size = MODULUS_BITS // 8
        try:
            key = rsa.RSAPublicNumbers(self.exponent, self.modulus).public_key()
            key.verify(self.signature.to_bytes(size, "big"), self.signed, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature as cause:
            raise EvidenceInvalidError("the SIGSTRUCT's signature does not verify", offset=516) from cause
        except ValueError as cause:
            raise EvidenceInvalidError("the SIGSTRUCT's key is no RSA key", offset=128) from cause
        # Q1 and Q2 are the quotients of the two multiplications that cube the signature; a processor trusts them, then checks them.
        q1, rest = divmod(self.signature * self.signature, self.modulus)
        if self.q1 != q1:
            raise EvidenceInvalidError("the SIGSTRUCT's Q1 does not belong to its signature", offset=1040)
        if self.q2 != rest * self.signature // self.modulus:
            raise EvidenceInvalidError("the SIGSTRUCT's Q2 does not belong to its signature", offset=1424)
        return SgxValues(mr_enclave=self.mr_enclave, mr_signer=self.mr_signer, isv_prod_id=self.isv_prod_id, isv_svn=self.isv_svn)
