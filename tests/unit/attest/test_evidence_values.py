import dataclasses

import pytest

from confide.attest.evidence import MAX_EVIDENCE_BYTES, Evidence, NodeContext
from confide.errors import ParseError
from confide.ids import NodeId, Tee


def test_evidence_survives_json(make_evidence) -> None:
    evidence = make_evidence(Tee.SGX)
    assert Evidence.from_json(evidence.to_json()) == evidence


@pytest.mark.parametrize(
    "change",
    [{"tee": "sev"}, {"tee": 1}, {"quote": ""}, {"quote": "a+b="}, {"extra": "x"}, {"chain": None}],
)
def test_evidence_of_another_shape_is_refused(make_evidence, change) -> None:
    with pytest.raises(ParseError):
        Evidence.from_json({**make_evidence().to_json(), **change})


def test_evidence_that_is_no_object_is_refused() -> None:
    with pytest.raises(ParseError):
        Evidence.from_json([])


def test_evidence_larger_than_the_cap_is_refused() -> None:
    with pytest.raises(ParseError):
        Evidence(Tee.SGX, bytes(MAX_EVIDENCE_BYTES + 1))
    with pytest.raises(ParseError):
        Evidence.from_device(Tee.SGX, bytes(MAX_EVIDENCE_BYTES + 1))


def test_zero_padding_of_a_device_is_cut_and_other_bytes_are_not(make_evidence) -> None:
    evidence = make_evidence()
    assert Evidence.from_device(Tee.TDX, evidence.quote + bytes(70)) == evidence
    with pytest.raises(ParseError):
        Evidence.from_device(Tee.TDX, evidence.quote + bytes(69) + b"\1")


def test_evidence_body_is_not_in_its_repr(make_evidence) -> None:
    assert "quote" not in repr(make_evidence())


def test_context_survives_json_and_keeps_its_digest(context) -> None:
    again = NodeContext.from_json(context.to_json())
    assert again == context
    assert again.digest == context.digest
    assert len(context.digest) == 48


def test_every_field_of_the_context_is_in_its_digest(context) -> None:
    others = [
        dataclasses.replace(context, job="cd" * 48),
        dataclasses.replace(context, run="other-run"),
        dataclasses.replace(context, node=NodeId("worker-2")),
        dataclasses.replace(context, seal={**context.seal, "x": context.seal["y"]}),
    ]
    assert len({context.digest, *(other.digest for other in others)}) == 5


@pytest.mark.parametrize(
    "change",
    [
        {"job": "AB" * 48},
        {"job": "ab" * 32},
        {"run": "../run"},
        {"node": ""},
        {"node": 7},
        {"extra": "x"},
        {"seal": "key"},
    ],
)
def test_context_of_another_shape_is_refused(context, change) -> None:
    with pytest.raises(ParseError):
        NodeContext.from_json({**context.to_json(), **change})


@pytest.mark.parametrize(
    "change",
    [{"d": "secret"}, {"kty": "oct"}, {"crv": "P-384"}, {"x": "AAAA"}, {"y": 5}, {"x5u": "https://example.invalid"}],
)
def test_seal_key_with_other_members_is_refused(context, change) -> None:
    with pytest.raises(ParseError):
        NodeContext.from_json({**context.to_json(), "seal": {**context.seal, **change}})
