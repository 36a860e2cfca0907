"""By what a storage is reached: a private CA in the credential, and libraries that are there and new enough."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.custody.tls import Tls
from support.s3_gate import S3Gate

from confide.canonical import canonical
from confide.data import extras, s3
from confide.data.places import remote_folder
from confide.data.remote import remote_sources
from confide.errors import CredentialError, ExtraMissingError, UnavailableError

ACCESS = {"access_key_id": "id", "secret_access_key": "CANARY", "region": "eu-central-1"}


@pytest.fixture
def tls(tmp_path: Path) -> Tls:
    return Tls(tmp_path / "tls")


@pytest.fixture
def gate(tls: Tls, moto: str) -> Iterator[S3Gate]:
    found = S3Gate(moto, tls.for_server())
    yield found
    found.close()


def access(gate: S3Gate, ca: str | None) -> s3.S3Access:
    given = {**ACCESS, "endpoint": gate.url, **({} if ca is None else {"ca": ca})}
    return s3.S3Access.parse(canonical(given))


def test_a_storage_with_a_private_ca_is_read_with_the_ca_of_the_credential(tls: Tls, gate: S3Gate, bucket: Any) -> None:
    bucket("d/x", b"content")
    folder = remote_folder("s3://bkt/d", access(gate, tls.ca.read_text(encoding="utf-8")))
    assert (folder / "x").open().read() == b"content"
    assert gate.passed == 2


@pytest.mark.parametrize("given", ["none", "another"])
def test_a_storage_of_another_ca_is_not_talked_to(tmp_path: Path, gate: S3Gate, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    ca = None if given == "none" else Tls(tmp_path / "other").ca.read_text(encoding="utf-8")
    with pytest.raises(UnavailableError, match="SSLError"):
        remote_folder("s3://bkt/d", access(gate, ca)).look("x")
    assert gate.passed == 0


@pytest.mark.parametrize("ca", ["/etc/ssl/certs/ca.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_ca_that_is_no_certificates_is_refused(ca: str) -> None:
    with pytest.raises(CredentialError, match="not certificates"):
        s3.S3Access.parse(canonical({**ACCESS, "ca": ca}))


def test_least_versions_are_those_of_the_extras() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = " ".join(one for extra in project["optional-dependencies"].values() for one in extra)
    listed = dict(re.findall(r"(boto3|fsspec)>=([\d.]+)", asked))
    assert listed == {name: ".".join(map(str, extras.LEAST[name])) for name in ("boto3", "fsspec")}


@pytest.mark.parametrize("version", [None, "2023.6.0"])
@pytest.mark.parametrize(("library", "url"), [("fsspec", "memory://x/d"), ("s3fs", "zip://x::s3://bkt/a.zip")])
def test_a_library_that_is_missing_or_too_old_is_told(monkeypatch: pytest.MonkeyPatch, library: str, url: str, version: str | None) -> None:
    real = importlib.metadata.version

    def found(name: str) -> str:
        if name != library:
            return real(name)
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr("importlib.metadata.version", found)
    for use in (remote_folder, remote_sources):
        with pytest.raises(ExtraMissingError, match="not installed" if version is None else "2023.6.0 is too old") as caught:
            use(url)
        assert library in str(caught.value.hint)


def test_a_package_that_fsspec_lacks_is_named() -> None:
    with pytest.raises(ExtraMissingError) as caught:
        remote_folder("gcs://bkt/d")
    assert "gcsfs" in str(caught.value.hint)
