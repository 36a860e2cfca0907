"""Every vector of an EAR gets its verdict (docs/formats/ear.md, "Outcomes")."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jwcrypto.jwk import JWK

from confide.attest.ear import EarReader
from confide.attest.tokens.jwt import TokenBook
from confide.errors import AttestationError, TokenReplayError

VECTORS = [json.loads(path.read_text()) for path in sorted((Path(__file__).parents[3] / "vectors" / "tokens").glob("*.json"))]
OUTCOMES = {"accepted", "token-invalid", "token-expired", "token-misdirected"}


def read(vector: dict[str, Any], book: TokenBook | None = None) -> str:
    reader = EarReader(vector["issuer"], JWK(**vector["key"]), vector["audience"], book=book)
    try:
        reader.read(vector["token"], nonce=vector["nonce"], now=datetime.fromtimestamp(vector["at"], UTC))
    except AttestationError as refusal:
        return refusal.code
    return "accepted"


def test_all_vectors_are_here() -> None:
    assert len(VECTORS) == 30
    assert {vector["expect"] for vector in VECTORS} == OUTCOMES


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["scenario"])
def test_vector_gets_its_verdict(vector: dict[str, Any]) -> None:
    assert read(vector) == vector["expect"]


def test_accepted_token_is_taken_once() -> None:
    (vector,) = [one for one in VECTORS if one["scenario"] == "accepted"]
    book = TokenBook()
    assert read(vector, book) == "accepted"
    assert read(vector, book) == TokenReplayError.code


def test_every_byte_of_a_token_counts() -> None:
    (vector,) = [one for one in VECTORS if one["scenario"] == "accepted"]
    text = vector["token"]
    for place in range(len(text)):
        changed = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
        assert read({**vector, "token": changed}) == "token-invalid"
