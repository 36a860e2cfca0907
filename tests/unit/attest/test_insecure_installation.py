import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import dcap_qvl
import pytest

import confide
from confide.attest.collect import Attester
from confide.attest.insecure import Fault, InsecureAttester, Installation
from confide.attest.insecure.documents import Machine
from confide.attest.quote import parse_quote
from confide.attest.roots import TrustRoots
from confide.attest.verify import Verifier
from confide.errors import ConfigError, UsageError
from confide.ids import ReportData, Tee

BOTH = pytest.mark.parametrize("tee", [Tee.SGX, Tee.TDX])


@BOTH
def test_dcap_qvl_alone_accepts_simulated_quotes(installation, make_evidence, now, tee) -> None:
    collateral = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(installation.collateral(tee).to_json()))
    report = dcap_qvl.verify_with_root_ca(make_evidence(tee).quote, collateral, installation.root_der, int(now.timestamp()))
    assert (report.status, report.advisory_ids) == ("UpToDate", [])


@BOTH
def test_simulated_evidence_is_verified_and_marked(verifier, make_evidence, measurements, now, tee) -> None:
    data = os.urandom(64)
    claims = verifier.verify(make_evidence(tee, report_data=data), now).claims
    assert claims.simulated
    assert (claims.tee, claims.measurement, claims.report_data) == (tee, measurements[tee], data)
    assert claims.tcb_eval == claims.epoch.tcb_eval == 20


def test_quote_versions_are_the_vendors(make_evidence) -> None:
    assert parse_quote(make_evidence(Tee.SGX).quote).header.version == 3
    assert parse_quote(make_evidence(Tee.TDX).quote).header.version == 4


def test_insecure_attester_is_an_attester(installation, measurements) -> None:
    attester: Attester = InsecureAttester(installation, Tee.SGX, measurements[Tee.SGX])
    assert attester.simulated


def test_private_keys_are_for_the_owner_only(installation) -> None:
    keys = list(installation.folder.glob("*.key"))
    assert len(keys) == 3 + len(Machine)
    assert {path.stat().st_mode & 0o777 for path in keys} == {0o600}


def test_two_installations_do_not_know_each_other(installation, make_evidence, tmp_path, now) -> None:
    other = Installation.create(tmp_path / "other", now=now)
    assert other.root_der != installation.root_der
    verifier = Verifier(TrustRoots(simulated=other.root_der), other.collateral_source())
    with pytest.raises(Exception, match="root that is trusted here"):
        verifier.verify(make_evidence(), now)


def test_create_opens_what_is_there(installation, now) -> None:
    assert Installation.create(installation.folder, now=now).root_der == installation.root_der


def test_open_without_an_installation_is_an_error(tmp_path) -> None:
    with pytest.raises(ConfigError, match="no simulated TEE"):
        Installation.open(tmp_path / "none")


def test_create_in_a_folder_of_something_else_is_an_error(tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError):
        Installation.create(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_create_where_nothing_can_be_written_is_an_error(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot make"):
        Installation.create(tmp_path / "file" / "tee")


def test_installation_of_another_version_is_an_error(tmp_path, now) -> None:
    Installation.create(tmp_path / "tee", now=now)
    (tmp_path / "tee" / "installation.json").write_text('{"format": "other"}')
    with pytest.raises(ConfigError, match="version"):
        Installation.open(tmp_path / "tee")


def test_damaged_installation_is_an_error(tmp_path, now) -> None:
    Installation.create(tmp_path / "tee", now=now)
    (tmp_path / "tee" / "root.pem").write_text("junk")
    with pytest.raises(ConfigError, match="damaged"):
        Installation.open(tmp_path / "tee")


@pytest.mark.parametrize("days", [29.5, 45, 400])
def test_collateral_that_went_stale_is_issued_anew(tmp_path, now, days) -> None:
    first = Installation.create(tmp_path / "tee", now=now)
    before = first.collateral(Tee.SGX).epoch
    later = now + timedelta(days=days)
    again = Installation.open(tmp_path / "tee", now=later)
    assert again.root_der == first.root_der
    again.collateral(Tee.SGX).epoch.check_not_older_than(before)
    verifier = Verifier(TrustRoots(simulated=again.root_der), again.collateral_source())
    for tee, measurement in ((Tee.SGX, "11" * 32), (Tee.TDX, "11" * 48)):
        evidence = InsecureAttester(again, tee, measurement).quote(ReportData(bytes(64)))
        assert verifier.verify(evidence, later).claims.tcb_status == "UpToDate"


def test_a_verifier_sees_new_collateral_without_being_made_again(tmp_path, now) -> None:
    installation = Installation.create(tmp_path / "tee", now=now)
    verifier = Verifier(TrustRoots(simulated=installation.root_der), installation.collateral_source())
    evidence = InsecureAttester(installation, Tee.SGX, "11" * 32).quote(ReportData(bytes(64)))
    verifier.verify(evidence, now)
    later = now + timedelta(days=60)
    Installation.open(tmp_path / "tee", now=later)
    assert verifier.verify(evidence, later).claims.simulated


def test_processes_that_create_at_once_get_one_installation(tmp_path) -> None:
    program = (
        "import pathlib, sys; from confide.attest.insecure import Installation;"
        "print(Installation.create(pathlib.Path(sys.argv[1])).root_der.hex())"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "tee")]
    environment = {**os.environ, "PYTHONPATH": str(Path(confide.__file__).parents[1])}
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    roots = [process.communicate(timeout=60)[0] for process in running]
    assert [process.returncode for process in running] == [0] * 4
    assert len(set(roots)) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["tee"]


def test_snp_and_wrong_lengths_are_refused(installation) -> None:
    for tee, measurement in ((Tee.SNP, "11" * 48), (Tee.SGX, "11" * 48), (Tee.TDX, "11" * 32)):
        with pytest.raises(UsageError):
            InsecureAttester(installation, tee, measurement)
    with pytest.raises(UsageError):
        InsecureAttester(installation, Tee.SGX, "11" * 32).quote(ReportData(bytes(63)))


@BOTH
def test_replayed_evidence_is_genuine_but_of_another_session(verifier, make_evidence, now, tee) -> None:
    claims = verifier.verify(make_evidence(tee, report_data=b"r" * 64, fault=Fault.REPLAY), now).claims
    assert claims.report_data != b"r" * 64
