"""The broker's reading of manifests: only what the right key signed, in exactly the documented form."""

from __future__ import annotations

from typing import Any

import pytest

from confide.canonical import Json, canonical
from confide.crypto.envelope import wrap
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import SigningKey, dsse_sign
from confide.errors import ManifestError
from confide.keys.manifest_claims import PAYLOAD_TYPE, ManifestClaims, unverified_dataset

KEY = SigningKey.generate()
DATASET = "ab" * 16
WRAPPED = wrap(SecretBytes.random(), SecretBytes.random(), key="airline/flights", version=3, dataset=DATASET)
FIELDS: Json = {
    "format": "confide-manifest-v1",
    "dataset": DATASET,
    "snapshot": 4,
    "key": "airline/flights",
    "version": 3,
    "wrapped": WRAPPED.to_json(),
}


def signed(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> Json:
    return dsse_sign(KEY, payload_type, payload)


def test_claims_are_those_of_the_signed_manifest() -> None:
    claims = ManifestClaims.verify(signed(canonical(FIELDS)), KEY.public)
    assert (claims.dataset, claims.snapshot, claims.wrapped) == (DATASET, 4, WRAPPED)
    assert unverified_dataset(signed(canonical(FIELDS))) == DATASET


def test_broker_reads_what_the_data_layer_writes() -> None:
    from confide.data import manifest as written

    assert (written.PAYLOAD_TYPE, written.FORMAT) == (PAYLOAD_TYPE, "confide-manifest-v1")


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "confide-manifest-v2"},
        {"dataset": "cd" * 16},
        {"snapshot": -1},
        {"snapshot": True},
        {"snapshot": "4"},
        {"key": "airline/crews"},
        {"version": 2},
        {"wrapped": None},
        {"wrapped": {}},
    ],
    ids=str,
)
def test_manifest_with_a_wrong_field_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ManifestError):
        ManifestClaims.verify(signed(canonical({**FIELDS, **changes})), KEY.public)


@pytest.mark.parametrize("payload", [b"", b"[]", b"{", b'{"dataset": 3}', b'{"dataset": "a", "dataset": "b"}'])
def test_payload_that_is_no_manifest_is_refused(payload: bytes) -> None:
    with pytest.raises(ManifestError):
        ManifestClaims.verify(signed(payload), KEY.public)
    with pytest.raises(ManifestError):
        unverified_dataset(signed(payload))


@pytest.mark.parametrize("envelope", [{}, {"payload": "e30=", "payloadType": PAYLOAD_TYPE, "signatures": []}])
def test_what_is_no_envelope_is_refused(envelope: Json) -> None:
    with pytest.raises(ManifestError):
        ManifestClaims.verify(envelope, KEY.public)
    with pytest.raises(ManifestError):
        unverified_dataset(envelope)


def test_other_signer_or_payload_type_is_refused() -> None:
    with pytest.raises(ManifestError, match="signer"):
        ManifestClaims.verify(signed(canonical(FIELDS)), SigningKey.generate().public)
    with pytest.raises(ManifestError):
        ManifestClaims.verify(signed(canonical(FIELDS), "application/vnd.in-toto+json"), KEY.public)
