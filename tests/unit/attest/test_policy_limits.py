"""Numbers and lengths in a policy at their limits: the last that is taken, and the next that is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from confide.attest.policy import Policy
from confide.attest.policy_tree import AnyOf, Rules
from confide.errors import PolicyError

SGX, TDX = "5a" * 32, "5a" * 48
LEAST = {"bootloader": 1, "tee": 0, "snp": 2, "microcode": 3}
SNP: dict[str, Any] = {"name": "amd", "measurements": {"snp": [TDX]}, "min_tcb": {"Genoa": LEAST}}
ENCLAVE: dict[str, Any] = {"name": "enclave", "measurements": {"sgx": [SGX]}}
MACHINE = {"name": "tpm", "registers": {"pcr0": [SGX]}, "allow": ["tpm-no-memory-protection"]}
SIGNER = {"mrsigner": "51" * 32, "isv_prod_id": 7, "min_isv_svn": 3}
ID_BLOCK = {"id_key_digest": "1d" * 48, "family_id": "fa" * 16, "image_id": "1a" * 16, "min_guest_svn": 4}


def guest(**changes: Any) -> dict[str, Any]:
    return {**SNP, "signers": {"snp": [{**ID_BLOCK, **changes}]}}


def enclave(**changes: Any) -> dict[str, Any]:
    return {**ENCLAVE, "signers": {"sgx": [{**SIGNER, **changes}]}}


@pytest.mark.parametrize(
    ("first", "last", "policy"),
    [
        (1, 2**32 - 1, lambda number: {**ENCLAVE, "min_tcb_eval": number}),
        (0, 255, lambda number: {**SNP, "min_tcb": {"Genoa": {**LEAST, "snp": number}}}),
        (0, 3, lambda number: {**SNP, "vmpls": [number]}),
        (1, 3650, lambda number: {**ENCLAVE, "max_collateral_age_days": number}),
        (1, 365 * 24 * 60 * 60, lambda number: {**ENCLAVE, "max_evidence_age_s": number}),
        (0, 65535, lambda number: enclave(isv_prod_id=number)),
        (0, 65535, lambda number: enclave(min_isv_svn=number)),
        (0, 2**32 - 1, lambda number: guest(min_guest_svn=number)),
    ],
    ids=["evaluation", "component", "vmpl", "collateral", "evidence", "product", "enclave's version", "guest's version"],
)
def test_number_is_taken_within_its_limits(first: int, last: int, policy: Any) -> None:
    for number in (first, last):
        assert Policy.from_json(policy(number))
    for number in (first - 1, last + 1):
        with pytest.raises(PolicyError, match="Input should be"):
            Policy.from_json(policy(number))


@pytest.mark.parametrize(
    "policy", [enclave(min_isv_svn="3"), enclave(isv_prod_id=7.0), guest(min_guest_svn="4"), guest(min_guest_svn=True)]
)
def test_version_that_is_signed_is_a_number_and_nothing_that_reads_as_one(policy: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match="valid integer"):
        Policy.from_json(policy)


@pytest.mark.parametrize(
    ("sizes", "policy"),
    [
        ((32,), lambda text: {**ENCLAVE, "measurements": {"sgx": [text]}}),
        ((48,), lambda text: {**SNP, "measurements": {"snp": [text]}}),
        ((48,), lambda text: {**ENCLAVE, "measurements": {"tdx": [text]}, "registers": {"rtmr1": [TDX], "rtmr2": [TDX]}}),
        ((32,), lambda text: {**MACHINE, "measurements": {"tpm": [text]}}),
        ((32,), lambda text: enclave(mrsigner=text)),
        ((48,), lambda text: guest(id_key_digest=text)),
        ((48,), lambda text: guest(author_key_digest=text)),
        ((16,), lambda text: guest(family_id=text)),
        ((16,), lambda text: guest(image_id=text)),
        ((6,), lambda text: {**ENCLAVE, "platforms": {"fmspc": [text]}}),
        ((16, 48), lambda text: {**ENCLAVE, "platforms": {"ppid": [text]}}),
        ((16, 48), lambda text: {**ENCLAVE, "platforms": {"piid": [text]}}),
        ((64, 48), lambda text: {**SNP, "platforms": {"chip_id": [text]}}),
    ],
    ids=["sgx", "snp", "tdx", "tpm", "mrsigner", "id key", "author", "family", "image", "fmspc", "ppid", "piid", "chip"],
)  # fmt: skip
def test_value_in_hex_has_its_length(sizes: tuple[int, ...], policy: Any) -> None:
    """The second length is that of the SHA-384 of an id."""
    for size in sizes:
        assert Policy.from_json(policy("5a" * size))
        for other in ("5a" * (size - 1), "5a" * (size + 1), "5a" * size + "5", "5a" * (size - 1) + "5"):
            with pytest.raises(PolicyError, match=r"hex|SHA-384"):
                Policy.from_json(policy(other))


def test_guest_attests_from_vmpl_0_unless_another_is_named() -> None:
    assert Policy.from_json(SNP).to_json()["vmpls"] == [0]


def test_what_was_built_is_not_changed_afterwards() -> None:
    rules = Rules(**enclave())
    composed = AnyOf(name="c", any_of=(rules,))
    for value, field in ((rules, "name"), (composed, "name"), (rules.signers, "sgx"), (rules.signers.sgx[0], "min_isv_svn")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(value, field, None)


def test_composition_of_one_is_one() -> None:
    for word in ("all_of", "any_of"):
        assert len(Policy.from_json({"name": "c", word: [ENCLAVE]}).members) == 1
        with pytest.raises(PolicyError, match="at least 1"):
            Policy.from_json({"name": "c", word: []})


def test_policy_file_is_as_long_as_the_limit(tmp_path: Path) -> None:
    limit = 16 * 1024 * 1024
    path = tmp_path / "p.json"
    path.write_text(json.dumps(ENCLAVE).ljust(limit))
    assert Policy.load(path).name == "enclave"
    path.write_text(json.dumps(ENCLAVE).ljust(limit + 1))
    with pytest.raises(PolicyError, match="larger than 16777216 bytes"):
        Policy.load(path)
