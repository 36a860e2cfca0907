"""SEV-SNP reports as the JSON of guests' attesters, to and from the 1,184 bytes that AMD's key signed.  Pure; trusts nothing.

Attesters write a report field by field: each byte array as a list of numbers, a TCB version by component.  Two spellings are in use: with
``key_info``, and an older one with ``_author_key_en`` and the reserved fields.  What is put together here is checked by its signature: a
field that is left out or changed makes another report, which verifies nowhere.
Layout: AMD publication 56860, "ATTESTATION_REPORT".
"""

from __future__ import annotations

import re
import struct
from typing import Any, Final

from confide.attest.snp_report import REPORT_BYTES, SIGNED_BYTES, Report
from confide.canonical import Json
from confide.errors import ParseError

_NUMBERS: Final = {"version": (0x00, 4), "guest_svn": (0x04, 4), "policy": (0x08, 8), "vmpl": (0x30, 4), "sig_algo": (0x34, 4),
                   "plat_info": (0x40, 8)}  # fmt: skip
_BYTES: Final = {"family_id": (0x10, 16), "image_id": (0x20, 16), "report_data": (0x50, 64), "measurement": (0x90, 48),
                 "host_data": (0xC0, 32), "id_key_digest": (0xE0, 48), "author_key_digest": (0x110, 48), "report_id": (0x140, 32),
                 "report_id_ma": (0x160, 32), "chip_id": (0x1A0, 64)}  # fmt: skip
_TCBS: Final = {"current_tcb": 0x38, "reported_tcb": 0x180, "committed_tcb": 0x1E0, "launch_tcb": 0x1F0}
_BUILDS: Final = {"current": 0x1E8, "committed": 0x1EC}
_OPTIONAL: Final = {"cpuid_fam_id": (0x188, 1), "cpuid_mod_id": (0x189, 1), "cpuid_step": (0x18A, 1), "launch_mit_vector": (0x1F8, 8),
                    "current_mit_vector": (0x200, 8)}  # fmt: skip
"""``null`` in reports of versions without them."""
_KEY_INFO: Final = 0x48
_SCALAR_BYTES: Final = 72
_OLD: Final = re.compile(r"_reserved_[0-4]|(current|committed)_(build|minor|major)")
_TCB_FIELDS: Final = {"bootloader", "tee", "snp", "microcode"}


def report_of_json(data: object) -> bytes:
    """The report's bytes.

    Raises:
        ParseError: a field is missing, unknown or out of its range.
    """
    if not isinstance(data, dict):
        raise ParseError("an SEV-SNP report is an object")
    raw = bytearray(REPORT_BYTES)
    rest = dict(data)
    for name, (at, size) in _NUMBERS.items():
        raw[at : at + size] = _number(rest.pop(name, None), size, name)
    for name, (at, size) in _BYTES.items():
        raw[at : at + size] = _octets(rest.pop(name, None), size, name)
    for name, at in _TCBS.items():
        raw[at : at + 8] = _tcb(rest.pop(name, None), name)
    flags = rest.pop("key_info", None) if "key_info" in rest else rest.pop("_author_key_en", None)
    raw[_KEY_INFO : _KEY_INFO + 4] = _number(flags, 4, "key_info")
    for name, (at, size) in _OPTIONAL.items():
        value = rest.pop(name, None)
        raw[at : at + size] = bytes(size) if value is None else _number(value, size, name)
    for name, at in _BUILDS.items():
        raw[at : at + 3] = _build(rest, name)
    raw[SIGNED_BYTES : SIGNED_BYTES + 2 * _SCALAR_BYTES] = _signature(rest.pop("signature", None))
    _check_reserved(rest)
    return bytes(raw)


def json_of_report(raw: bytes) -> Json:
    """The inverse of :func:`report_of_json`, in the newer spelling.

    Raises:
        ParseError: not a report.
    """
    report = Report.parse(raw)
    turin = report.family == 0x1A
    found: Json = {name: int.from_bytes(raw[at : at + size], "little") for name, (at, size) in _NUMBERS.items()}
    found |= {name: list(raw[at : at + size]) for name, (at, size) in _BYTES.items()}
    found |= {name: _tcb_json(raw[at : at + 8], turin=turin) for name, at in _TCBS.items()}
    found["key_info"] = int.from_bytes(raw[_KEY_INFO : _KEY_INFO + 4], "little")
    named, vectors = report.family is not None, report.version >= 5
    for name, (at, size) in _OPTIONAL.items():
        there = named if name.startswith("cpuid") else vectors
        found[name] = int.from_bytes(raw[at : at + size], "little") if there else None
    for name, at in _BUILDS.items():
        found[name] = dict(zip(("build", "minor", "major"), raw[at : at + 3], strict=True))
    r, s = (list(raw[at : at + _SCALAR_BYTES]) for at in (SIGNED_BYTES, SIGNED_BYTES + _SCALAR_BYTES))
    return {**found, "signature": {"r": r, "s": s}}


def _number(value: object, size: int, name: str) -> bytes:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << (8 * size):
        raise ParseError("a number of an SEV-SNP report is missing or out of its range", field=name)
    return value.to_bytes(size, "little")


def _octets(value: object, size: int, name: str) -> bytes:
    if not isinstance(value, list) or len(value) != size or not all(type(item) is int and 0 <= item < 256 for item in value):
        raise ParseError("bytes of an SEV-SNP report are missing or of another length", field=name, expected=size)
    return bytes(value)


def _tcb(value: Any, name: str) -> bytes:
    if not isinstance(value, dict) or not _TCB_FIELDS <= set(value) <= _TCB_FIELDS | {"fmc", "_reserved"}:
        raise ParseError("a TCB version of an SEV-SNP report is missing, or has other components", field=name)
    boot, tee, snp, microcode = (_number(value[part], 1, name)[0] for part in ("bootloader", "tee", "snp", "microcode"))
    if value.get("fmc") is not None:  # Turin's layout
        return bytes([_number(value["fmc"], 1, name)[0], boot, tee, snp, 0, 0, 0, microcode])
    return bytes([boot, tee, *_octets(value.get("_reserved", [0, 0, 0, 0]), 4, name), snp, microcode])


def _tcb_json(raw: bytes, *, turin: bool) -> Json:
    if turin:
        return {"fmc": raw[0], "bootloader": raw[1], "tee": raw[2], "snp": raw[3], "microcode": raw[7]}
    return {"fmc": None, "bootloader": raw[0], "tee": raw[1], "snp": raw[6], "microcode": raw[7]}


def _build(rest: dict[str, Any], name: str) -> bytes:
    parts = ("build", "minor", "major")
    found = rest.pop(name, None)
    if found is None:
        found = {part: rest.pop(f"{name}_{part}", None) for part in parts}
    if not isinstance(found, dict) or set(found) != set(parts):
        raise ParseError("a version of an SEV-SNP report's firmware is missing", field=name)
    return b"".join(_number(found[part], 1, name) for part in parts)


def _signature(value: Any) -> bytes:
    if not isinstance(value, dict) or not {"r", "s"} <= set(value) <= {"r", "s", "_reserved"} or _in_use(value.get("_reserved", 0)):
        raise ParseError("an SEV-SNP report without a signature")
    return struct.pack("72s72s", _octets(value["r"], _SCALAR_BYTES, "r"), _octets(value["s"], _SCALAR_BYTES, "s"))


def _check_reserved(rest: dict[str, Any]) -> None:
    """Older attesters write the reserved fields too: nothing may be in them, and there may be nothing else."""
    for name, value in rest.items():
        if not _OLD.fullmatch(name) or _in_use(value):
            raise ParseError("an SEV-SNP report has a field that is not known, or a reserved one that is in use", field=name[:40])


def _in_use(value: object) -> bool:
    return any(item != 0 for item in value) if isinstance(value, list) else value != 0
