import dataclasses

import pytest

from confide.attest.evidence import Evidence, NodeContext, check_report_data
from confide.canonical import b64url
from confide.errors import AttesterError, ParseError
from confide.ids import NodeId, ReportData, Tee

MAX_EVIDENCE_BYTES, MAX_TPM_EVIDENCE_BYTES = 32 * 1024, 256 * 1024


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


@pytest.mark.parametrize("data", [[], None, ["tee", "quote", "chain"]])
def test_evidence_that_is_no_object_is_refused(data) -> None:
    with pytest.raises(ParseError):
        Evidence.from_json(data)


def test_evidence_larger_than_the_cap_is_refused() -> None:
    with pytest.raises(ParseError):
        Evidence(Tee.SGX, bytes(MAX_EVIDENCE_BYTES + 1))
    with pytest.raises(ParseError):
        Evidence.from_device(Tee.SGX, bytes(MAX_EVIDENCE_BYTES + 1))


@pytest.mark.parametrize(("tee", "most"), [(Tee.SGX, MAX_EVIDENCE_BYTES), (Tee.SNP, MAX_EVIDENCE_BYTES), (Tee.TPM, MAX_TPM_EVIDENCE_BYTES)])
def test_evidence_is_as_large_as_it_may_be(tee, most) -> None:
    assert Evidence(tee, bytes(most), bytes(MAX_EVIDENCE_BYTES)).tee is tee
    assert Evidence(tee, b"x").quote == b"x"
    for quote, chain in ((most + 1, 0), (0, 0), (1, MAX_EVIDENCE_BYTES + 1)):
        with pytest.raises(ParseError, match="empty or too large"):
            Evidence(tee, bytes(quote), bytes(chain))


def test_devices_buffer_is_as_large_as_evidence_may_be(make_evidence) -> None:
    quote = make_evidence().quote
    assert Evidence.from_device(Tee.TDX, quote.ljust(MAX_EVIDENCE_BYTES, b"\0")).quote == quote
    for read in (Evidence.from_device, Evidence.of_device):
        with pytest.raises((ParseError, AttesterError), match="too large"):
            read(Tee.TDX, quote.ljust(MAX_EVIDENCE_BYTES + 1, b"\0"))


def test_what_a_device_gives_that_is_no_quote_is_the_devices_fault() -> None:
    with pytest.raises(AttesterError, match="not a quote"):
        Evidence.of_device(Tee.TDX, b"no quote")


@pytest.mark.parametrize("length", [0, 63, 65, 128])
def test_report_data_is_never_padded_and_never_cut(length) -> None:
    assert check_report_data(ReportData(b"x" * 64)) == b"x" * 64
    with pytest.raises(AttesterError, match="64 bytes"):
        check_report_data(ReportData(b"x" * length))


def test_zero_padding_of_a_device_is_cut_and_other_bytes_are_not(make_evidence) -> None:
    evidence = make_evidence()
    assert Evidence.from_device(Tee.TDX, evidence.quote + bytes(70)) == evidence
    with pytest.raises(ParseError):
        Evidence.from_device(Tee.TDX, evidence.quote + bytes(69) + b"\1")


def test_evidence_body_is_not_in_its_repr(make_evidence) -> None:
    shown = repr(dataclasses.replace(make_evidence(), chain=b"certificates"))
    assert "quote" not in shown
    assert "chain" not in shown


def test_context_survives_json_and_keeps_its_digest(context) -> None:
    again = NodeContext.from_json(context.to_json())
    assert again == context
    assert again.digest == context.digest
    assert len(context.digest) == 48
    assert hash(again) == hash(context)


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
    [
        {"d": "secret"},
        {"kty": "oct"},
        {"crv": "P-384"},
        {"x": "AAAA"},
        {"y": "AAAA"},
        {"x": None},
        {"y": 5},
        {"x": b64url(bytes(31))},
        {"y": b64url(bytes(33))},
        {"x5u": "https://example.invalid"},
    ],
)
def test_seal_key_with_other_members_is_refused(context, change) -> None:
    with pytest.raises(ParseError):
        NodeContext.from_json({**context.to_json(), "seal": {**context.seal, **change}})


@pytest.mark.parametrize("data", [None, [], "text", {}, {"seal": {}}, {"job": "ab" * 48, "run": "r", "node": "n"}])
def test_context_that_is_none_is_refused(data) -> None:
    with pytest.raises(ParseError):
        NodeContext.from_json(data)


@pytest.mark.parametrize("seal", [None, [], "key", {"kty": "EC"}])
def test_context_is_made_with_a_key_to_seal_to(context, seal) -> None:
    with pytest.raises(ParseError, match="seal key"):
        dataclasses.replace(context, seal=seal)
