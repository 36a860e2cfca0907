from __future__ import annotations

import pytest

from confide.data.failure import failure_in
from confide.errors import DataError, GrantError, IntegrityError, ManifestError, PlaintextError, UnavailableError


@pytest.mark.parametrize(
    ("output", "leaf"),
    [
        ("...\nCaused by: java.io.IOException: [data-integrity] /d/a.csv: chunk 3 does not open\n\tat x", IntegrityError),
        ("ParquetCryptoRuntimeException: confide: no key for p: [manifest-invalid] the manifest does not list this file", ManifestError),
        ("java.io.IOException: [plaintext-found] a.csv would be written in plaintext", PlaintextError),
        ("[grant-missing] no grant", GrantError),
        ("Caused by: javax.crypto.AEADBadTagException: Tag mismatch", IntegrityError),
        ("GCM tag check failed", IntegrityError),
    ],
)
def test_reason_is_found_in_a_stack_trace(output: str, leaf: type[DataError]) -> None:
    found = failure_in(f"Traceback\n{output}\n")
    assert type(found) is leaf
    assert "\tat" not in found.message


def test_hint_of_a_refusal_is_told_apart_from_its_message() -> None:
    said = "org.confide.spark.AgentRefusal: [unavailable] S3 refuses s3://b/f: SlowDown (hint: it asks for fewer requests) (of Spark)"
    found = failure_in(f"Lost task 0.0 in stage 1.0: {said}\n\tat x")
    assert isinstance(found, UnavailableError)
    assert (found.message, found.hint) == ("S3 refuses s3://b/f: SlowDown", "it asks for fewer requests")


def test_ordinary_failure_has_no_reason_of_ours() -> None:
    assert failure_in("ZeroDivisionError: division by zero") is None
