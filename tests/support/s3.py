"""S3 as moto has it, over HTTP on this machine, with credentials where boto3 looks for them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.s3_gate import S3Gate

DATA = bytes(range(256)) * 4096
_SERVER = """
import sys
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""


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
    """Its address.  In a process of its own, beside the threads of this one, and not measured by coverage."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    argv = [sys.executable, "-c", _SERVER]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.stdin.close()


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
def gate(moto: str, s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Gate]:
    """Between this process, which does not wait before it asks again, and the bucket."""
    found = S3Gate(moto)
    monkeypatch.setenv("AWS_ENDPOINT_URL", found.url)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.01)
    yield found
    found.close()


def unused_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where nothing is yet: the fixture's parameter, of which ``file://`` is a folder here."""
    url = f"file://{request.getfixturevalue('tmp_path')}/deep/d" if request.param == "file://" else str(request.param)
    if url.startswith("s3"):
        request.getfixturevalue("s3")
    yield url
    if url.startswith("memory"):
        import fsspec

        with suppress(FileNotFoundError):
            fsspec.filesystem("memory").rm("/urls", recursive=True)


remote_url = pytest.fixture(params=["s3://bkt/deep/d", "memory://urls/d"], name="remote_url")(unused_url)


@pytest.fixture
def bucket(s3: Any) -> Any:
    """Puts objects into the bucket ``bkt``."""
    return lambda key, data=DATA: s3.put_object(Bucket="bkt", Key=key, Body=data)
