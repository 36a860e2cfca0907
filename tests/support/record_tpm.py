"""Write tests/vectors/tpm anew: quotes of a real software TPM, and what an attacker makes of them.

``PYTHONPATH=tests python -m support.record_tpm``, with swtpm and tpm2-tools installed.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from support.tpm import Owner, Swtpm, log_of

from confide.attest.evidence import Evidence
from confide.attest.tpm_device import TpmAttester
from confide.attest.tpm_format import TpmEvidence
from confide.ids import ReportData, Tee

TARGET = Path(__file__).resolve().parents[1] / "vectors/tpm"
EVENTS = ((0, b"firmware"), (4, b"boot loader"), (4, b"kernel"))
DATA = ReportData(bytes(range(64)))


def record(folder: Path, owner: Owner) -> dict[str, Evidence]:
    """A quote by an enrolled key of each scheme, and one by another key of the same TPM."""
    tpm = Swtpm(folder)
    try:
        tpm.start(*EVENTS)
        ek, found, chain = tpm.make_ek(), {}, b""
        for kind, scheme in (("ecc", "ecdsa"), ("rsa", "rsassa"), ("rsa", "rsapss")):
            chain = tpm.enrol(scheme, tpm.make_ak(scheme, kind, scheme), owner, ek)
            found[scheme] = _quote(tpm, scheme, chain)
        tpm.make_ak("other", "ecc", "ecdsa")
        found["other"] = _quote(tpm, "other", found["ecdsa"].chain)
        return found
    finally:
        tpm.stop()


def _quote(tpm: Swtpm, key: str, chain: bytes) -> Evidence:
    evidence = TpmAttester(str(tpm.path(f"{key}.ctx")), chain, (0, 4, 16), log=tpm.path("log"), tcti=tpm.tcti).quote(DATA)
    tpm.flush()
    return evidence


def scenarios(found: dict[str, Evidence]) -> Iterator[tuple[str, str, Evidence]]:
    """Name, outcome and evidence of each."""
    for scheme in ("ecdsa", "rsassa", "rsapss"):
        yield f"genuine-{scheme}", "genuine", found[scheme]
    yield "other-key-with-the-certificate", "other-key", found["other"]
    good = found["ecdsa"]
    parts = TpmEvidence.parse(good.quote)

    def made(**changes: object) -> Evidence:
        return Evidence(Tee.TPM, dataclasses.replace(parts, **changes).to_bytes(), good.chain)  # type: ignore[arg-type]

    def flipped(data: bytes, at: int) -> bytes:
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    yield "without-log", "genuine", made(log=b"")
    yield "other-report-data", "report-data", made(report_data=bytes(64))
    yield "pcr-value-changed", "pcr", made(pcrs=(flipped(parts.pcrs[0], 5), *parts.pcrs[1:]))
    yield "pcr-value-missing", "pcr", made(pcrs=parts.pcrs[:-1])
    yield "pcr-values-swapped", "pcr", made(pcrs=(parts.pcrs[1], parts.pcrs[0], parts.pcrs[2]))
    yield "log-entry-dropped", "log", made(log=log_of(EVENTS[0], EVENTS[1]))
    yield "log-reordered", "log", made(log=log_of(EVENTS[0], EVENTS[2], EVENTS[1]))
    yield "log-of-a-pcr-not-quoted", "log", made(log=log_of(*EVENTS, (7, b"secure boot on")))
    yield "log-cut", "parse", made(log=parts.log[:-1])
    yield "clock-changed", "signature", made(attest=flipped(parts.attest, 0x50))
    yield "signature-changed", "signature", made(signature=flipped(parts.signature, 20))
    yield "signature-of-another-scheme", "signature", made(signature=TpmEvidence.parse(found["rsassa"].quote).signature)
    yield "not-made-by-a-tpm", "parse", made(attest=flipped(parts.attest, 3))
    yield "attestation-of-another-kind", "parse", made(attest=flipped(parts.attest, 5))
    yield "trailing-byte", "parse", Evidence(Tee.TPM, good.quote + b"\0", good.chain)
    yield "no-chain", "chain", Evidence(Tee.TPM, good.quote)
    yield "root-only", "chain", Evidence(Tee.TPM, good.quote, good.chain[good.chain.index(b"-----BEGIN", 1) :])
    yield "leaf-only", "chain", Evidence(Tee.TPM, good.quote, good.chain[: good.chain.index(b"-----BEGIN", 1)])


def main() -> None:
    """Record and write."""
    owner = Owner()
    with tempfile.TemporaryDirectory() as name:
        found = record(Path(name), owner)
    for scenario, expect, evidence in scenarios(found):
        text: dict[str, object] = {"scenario": scenario, "expect": expect, "at": owner.now.isoformat(), "roots": sorted(owner.pins)}
        text["evidence"] = evidence.to_json()
        (TARGET / f"{scenario}.json").write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
