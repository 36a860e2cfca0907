"""S3 as moto has it, over HTTP on this machine, with credentials where boto3 looks for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DATA = bytes(range(256)) * 4096


@pytest.fixture
def s3_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")


@pytest.fixture
def scratch_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What killed writers leave in TMPDIR goes with the test's folder."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(moto: str, s3_credentials: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client, and the empty bucket ``bkt``."""
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    client = boto3.client("s3")
    client.create_bucket(Bucket="bkt", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    yield client
    for one in client.list_objects_v2(Bucket="bkt").get("Contents", []):
        client.delete_object(Bucket="bkt", Key=one["Key"])
    client.delete_bucket(Bucket="bkt")


@pytest.fixture
def bucket(s3: Any) -> Any:
    """Puts objects into the bucket ``bkt``."""
    return lambda key, data=DATA: s3.put_object(Bucket="bkt", Key=key, Body=data)
