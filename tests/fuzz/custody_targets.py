"""What services outside answer to the broker and its tools: key services, witnesses, vendors; and what holders of shares type.

Each client is the real one.  Only its connection is made here: its peer has sent the input as the answer to everything, and ended.
"""

from __future__ import annotations

import json
import socket
import tempfile
import urllib.parse
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import requests
import urllib3
from azure.core.pipeline.transport import RequestsTransport
from botocore.awsrequest import AWSResponse
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.custody import aws, gcp

from confide.attest.vendor_http import Http
from confide.canonical import parse_object
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import dsse_sign
from confide.keys.audit import HEAD_TYPE, AuditHead
from confide.keys.custody import ttlv
from confide.keys.custody.aws import AwsKey
from confide.keys.custody.azure import AzureKey
from confide.keys.custody.envelope import EnvelopeKms
from confide.keys.custody.gcp import GcpKey
from confide.keys.custody.kmip import KmipKey
from confide.keys.custody.shares import Collected, Share, ShareSet
from confide.keys.custody.vault import VaultTransit
from confide.keys.witness import HttpWitness, check

from .peer_targets import doors, each

_FOLDER = tempfile.TemporaryDirectory(prefix="confide-fuzz-custody-")
BINDING = bytes(32)
KEY_NAME = "key-1"
AZURE_VERSION = "ab" * 16


class _Said:
    """A connection of urllib3 whose peer has sent ``answer`` already: the bytes are read as HTTP, by whoever reads them otherwise."""

    answer = b""

    def connect(self) -> None:
        self.sock, peer = socket.socketpair()  # type: ignore[attr-defined]
        self.sock.settimeout(5)  # type: ignore[attr-defined]
        with peer:
            peer.settimeout(5)
            peer.sendall(self.answer[: 64 * 1024])
            peer.shutdown(socket.SHUT_WR)
            self.peer = peer.dup()

    def close(self) -> None:
        super().close()  # type: ignore[misc]
        if hasattr(self, "peer"):
            self.peer.close()


def _says(pool: urllib3.PoolManager, answer: bytes) -> None:
    """From now on, ``pool`` makes no other connections than those."""
    pool.clear()
    last = pool.pool_classes_by_scheme["https"]
    known = getattr(last, "known", last)
    connection = type("_SaidConnection", (_Said, known.ConnectionCls), {"answer": answer})
    made = type("_SaidPool", (known,), {"ConnectionCls": connection, "scheme": "https", "_validate_conn": lambda *_: None, "known": known})
    pool.pool_classes_by_scheme = {"https": made}


def _private(name: str, text: str) -> Path:
    path = Path(_FOLDER.name) / name
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def _used(service: Any, wrapped: bytes) -> None:
    """Both calls that a broker makes of a key service."""
    each(lambda: service.wrap_key(SecretBytes(bytes(32)), BINDING), lambda: service.unwrap_key(wrapped, BINDING))


def vendor_http(data: bytes) -> None:
    http = Http(retries=0, total_s=5)
    _says(http._pool, data)
    each(lambda: http.get("https://127.0.0.1:1/tcb", fmspc="00"))


def witness(data: bytes) -> None:
    """A witness's whole answer, and the same bytes as the head that was signed."""
    asked = HttpWitness("https://127.0.0.1:1/head")
    _says(asked._pool, data)
    store = doors().broker.store
    each(lambda: check(store, [asked], datetime.now(UTC)), lambda: asked.tell({}))
    each(lambda: AuditHead.verify(dsse_sign(store.signing_key, HEAD_TYPE, data), store.signing_key.public))


@cache
def _vault() -> VaultTransit:
    return VaultTransit("https://127.0.0.1:1", KEY_NAME, _private("token", "token"))


def vault(data: bytes) -> None:
    """A whole answer, and the same bytes as the body of one (few changed answers have the length that they say)."""
    service = _vault()
    for answer in (data, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data):
        _says(service._pool, answer)
        _used(service, b"vault:v1:AAAA")


class _Kmip(KmipKey):
    """As what ``_exchange`` read from the channel."""

    answer = b""

    def _exchange(self, request: bytes) -> bytes:
        return self.answer


def kmip(data: bytes) -> None:
    each(lambda: ttlv.parse(data))
    nowhere = Path("/nonexistent")
    service = _Kmip("127.0.0.1", 1, KEY_NAME, nowhere, nowhere, nowhere)
    object.__setattr__(service, "answer", data)
    _used(service, bytes([len(KEY_NAME)]) + KEY_NAME.encode() + bytes(64))


@cache
def _aws() -> tuple[AwsKey, list[tuple[int, bytes]]]:
    service, said = AwsKey(aws.REGION, KEY_NAME, _private("aws", aws.CREDENTIALS)), [(200, b"")]

    def answered(request: Any, **_: Any) -> AWSResponse:
        status, body = said[0]
        headers = {"Content-Type": "application/x-amz-json-1.1"}
        return AWSResponse(request.url, status, headers, urllib3.HTTPResponse(BytesIO(body), headers, status, preload_content=False))

    service._client().meta.events.register("before-send.kms", answered)
    return service, said


def aws_answer(data: bytes) -> None:
    service, said = _aws()
    for status in (200, 400, 503):
        said[0] = status, data
        _used(service, b"wrapped")


class _Adapter(requests.adapters.BaseAdapter):
    """Answers of a service that is asked by ``requests``: ``data`` to everything that ``known`` has no answer for."""

    def __init__(self, known: Callable[[str], bytes | None] = lambda _: None) -> None:
        super().__init__()
        self.status, self.data, self._known = 200, b"", known

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:  # type: ignore[override]
        known = self._known(urllib.parse.urlsplit(str(request.url)).path)
        status, body = (self.status, self.data) if known is None else (200, known)
        answer = requests.Response()
        answer.status_code, answer.request, answer.url = status, request, str(request.url)
        answer.headers["Content-Type"] = "application/json"
        answer.raw = urllib3.HTTPResponse(BytesIO(body), {"Content-Type": "application/json"}, status, preload_content=False)
        return answer

    def close(self) -> None:
        return


@cache
def _gcp() -> tuple[GcpKey, _Adapter]:
    made = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    key, adapter = _private("gcp.key", made.decode()), _Adapter()
    service = GcpKey(f"{gcp.PARENT}/{KEY_NAME}", gcp.account_file(Path(_FOLDER.name) / "gcp.json", key))
    session = service._client().transport._session
    for one in (session, session._auth_request.session):
        one.mount("https://", adapter)
    return service, adapter


def gcp_answer(data: bytes) -> None:
    service, adapter = _gcp()
    adapter.data = data
    for status in (200, 400, 503):
        adapter.status = status
        _used(service, b"wrapped")


class _Azure(AzureKey):
    """Its connections are those of an adapter."""

    adapter = _Adapter()

    def _transport(self) -> dict[str, Any]:
        session = requests.Session()
        session.mount("https://", self.adapter)
        return {"transport": RequestsTransport(session=session, session_owner=False), "retry_total": 0}


def azure_token(path: str) -> bytes | None:
    """What Azure's token service says: the vault's answers are the input."""
    base = "https://127.0.0.1:1/tenant"
    if path.endswith("openid-configuration"):
        urls = {"token_endpoint": f"{base}/token", "authorization_endpoint": f"{base}/authorize", "issuer": f"{base}/v2.0"}
        return json.dumps(urls).encode()
    return b'{"access_token": "t", "token_type": "Bearer", "expires_in": 3600}' if path.endswith("/token") else None


@cache
def _azure() -> _Azure:
    service = _Azure("https://v.vault.azure.net", KEY_NAME, "tenant", "client", _private("azure", "s" * 40), "https://127.0.0.1:1")
    service.adapter._known = azure_token
    return service


def azure_answer(data: bytes) -> None:
    service = _azure()
    service.adapter.data = data
    wrapped = AZURE_VERSION.encode() + (256).to_bytes(2, "big") + bytes(512)
    for status in (200, 400, 503):
        service.adapter.status = status
        _used(service, wrapped)


class OpenService:
    """A key service that hides nothing, so that what is behind it is searched."""

    def wrap_key(self, key: SecretBytes, binding: bytes) -> bytes:
        return bytes(key.reveal())

    def unwrap_key(self, wrapped: bytes, binding: bytes) -> SecretBytes:
        return SecretBytes(wrapped)


def envelope(data: bytes) -> None:
    """A wrapped key as it lies in a database that somebody else runs: by the envelope, and by the services whose own form it is."""
    each(lambda: EnvelopeKms(OpenService()).unwrap(data, context={}))
    nowhere = Path("/nonexistent")
    kmip_key = _Kmip("127.0.0.1", 1, KEY_NAME, nowhere, nowhere, nowhere)
    each(*(lambda one=one: EnvelopeKms(one).unwrap(data, context={}) for one in (kmip_key, _azure())))  # type: ignore[misc]


def share(data: bytes) -> None:
    """What a holder types, for a set that it is not of."""
    wanted = ShareSet(bytes(8), 2, (bytes(32), bytes(32)))
    each(lambda: Collected(wanted).add(Share.parse(SecretBytes(data))))


def share_set(data: bytes) -> None:
    """A store's parameters: they are not authenticated before the store is open."""
    found = ShareSet.from_json(parse_object(data))
    if ShareSet.from_json(found.to_json()) != found:
        raise AssertionError("a set of shares does not read back as it was written")


TARGETS: dict[str, Callable[[bytes], object]] = {
    "vendor-http": vendor_http,
    "witness": witness,
    "custody-vault": vault,
    "custody-kmip": kmip,
    "custody-aws": aws_answer,
    "custody-gcp": gcp_answer,
    "custody-azure": azure_answer,
    "custody-envelope": envelope,
    "share": share,
    "share-set": share_set,
}
