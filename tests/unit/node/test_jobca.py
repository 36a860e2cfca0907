from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from confide.crypto.identity import Identity, certificate_spki
from confide.errors import ParseError
from confide.ids import NodeId, Role, RunId
from confide.node.jobca import CONTROL_LIFETIME, LIFETIME, JobCa

NOW = datetime(2030, 1, 1, tzinfo=UTC)
RUN = RunId("run-1")


def issued(ca: JobCa, identity: Identity, host: str = "127.0.0.1") -> x509.Certificate:
    return x509.load_pem_x509_certificate(ca.issue(identity.spki_der, node=NodeId("worker-1"), role=Role.WORKER, host=host, now=NOW))


def check(ca: JobCa, certificate: x509.Certificate, at: datetime) -> None:
    store = Store([x509.load_pem_x509_certificate(ca.ca_pem)])
    verifier = PolicyBuilder().store(store).time(at).build_server_verifier(x509.DNSName("worker-1"))
    verifier.verify(certificate, [])


def test_certificate_is_for_the_attested_key_under_the_nodes_name() -> None:
    identity, ca = Identity.generate("x"), JobCa(RUN, now=NOW)
    certificate = issued(ca, identity)
    check(ca, certificate, NOW + timedelta(hours=1))
    assert certificate_spki(certificate) == identity.spki_der
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["worker-1", "localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


@pytest.mark.parametrize(("host", "names"), [("10.0.0.7", ["worker-1"]), ("node7.example", ["worker-1", "node7.example"])])
def test_certificate_does_not_name_localhost_for_other_hosts(host: str, names: list[str]) -> None:
    found = issued(JobCa(RUN, now=NOW), Identity.generate("x"), host).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.DNSName) == names


def test_certificate_ends_after_a_day() -> None:
    ca = JobCa(RUN, now=NOW)
    with pytest.raises(VerificationError):
        check(ca, issued(ca, Identity.generate("x")), NOW + LIFETIME + timedelta(seconds=1))


def test_control_certificate_ends_after_what_it_is_for_and_none_outlives_the_ca() -> None:
    ca, identity = JobCa(RUN, now=NOW), Identity.generate("x")

    def ending(now: datetime) -> datetime:
        pem = ca.issue(identity.spki_der, node=NodeId("worker-1"), role=Role.WORKER, host="::1", now=now, lifetime=CONTROL_LIFETIME)
        return x509.load_pem_x509_certificate(pem).not_valid_after_utc

    assert ending(NOW) == NOW + CONTROL_LIFETIME
    assert ending(NOW + LIFETIME - timedelta(minutes=1)) == NOW + LIFETIME


def test_certificate_of_another_ca_of_the_same_run_is_refused() -> None:
    with pytest.raises(VerificationError):
        check(JobCa(RUN, now=NOW), issued(JobCa(RUN, now=NOW), Identity.generate("x")), NOW)


def test_certificate_cannot_issue_others() -> None:
    constraints = issued(JobCa(RUN, now=NOW), Identity.generate("x")).extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert not constraints.value.ca


def test_bytes_that_are_no_key_get_no_certificate() -> None:
    with pytest.raises(ParseError):
        JobCa(RUN, now=NOW).issue(b"key", node=NodeId("n"), role=Role.WORKER, host="127.0.0.1", now=NOW)
