"""Both vendors' clients against services that are slow, busy, cut off, too talkative, or somebody else."""

from __future__ import annotations

import gzip
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from support.amd import Vendor
from support.raw_server import RawServer
from support.vendor_server import Reply, VendorServer

from confide.attest.collateral import Collateral
from confide.attest.collateral_sources import AnyCollateral, load_collateral
from confide.attest.vendor_http import MAX_BODY, Http
from confide.attest.vendor_services import AmdService, IntelService
from confide.errors import CollateralError
from confide.ids import Tee

FOLDER = Path(__file__).parents[2] / "vectors" / "intel" / "collateral"
INTEL = load_collateral(FOLDER / "tdx-B0C0-2026-08.json")
assert isinstance(INTEL, Collateral)
AMD = Vendor("Genoa").collateral()
FIRST = {"intel": "/tdx/certification/v4/tcb", "amd": "/vcek/v1/Genoa/cert_chain"}
"""What each client asks for first."""


@pytest.fixture
def server() -> Iterator[VendorServer]:
    made = VendorServer()
    assert isinstance(INTEL, Collateral)
    made.serve_intel(INTEL)
    made.serve_amd(AMD)
    yield made
    made.close()


@pytest.fixture(params=["intel", "amd"])
def vendor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def fetch(vendor: str, slept: list[float]) -> Callable[..., AnyCollateral]:
    def ask(url: str, **limits: Any) -> AnyCollateral:
        given: dict[str, Any] = {"timeout_s": 2.0, "retries": 2, "backoff_s": 0.01, "total_s": 20.0, "sleep": slept.append, **limits}
        http = Http(**given)
        if vendor == "intel":
            return IntelService(http, url).get("b0c06f000000", "platform", Tee.TDX)
        return AmdService(http, url).get("Genoa", "vcek", Tee.SNP)

    return ask


Fetch = Callable[..., AnyCollateral]


def busy(times: int, status: int = 429, **headers: str) -> Callable[[str, int], Reply | None]:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _path, count: (status, given, b"") if count <= times else None


def test_pause_that_a_busy_service_asks_for_is_kept(server: VendorServer, fetch: Fetch, slept: list[float]) -> None:
    server.before = busy(1, Retry_After="7")
    fetch(server.url)
    assert set(slept) == {7.0}
    slept.clear()
    server.asked.clear()
    server.before = busy(1, 503, Retry_After=format_datetime(datetime.now(UTC) + timedelta(seconds=9), usegmt=True))
    fetch(server.url)
    assert all(1 < pause <= 9 for pause in slept)


@pytest.mark.parametrize("asked", ["21", "86400", "9" * 40, format_datetime(datetime(2200, 1, 1, tzinfo=UTC), usegmt=True)])
def test_pause_that_is_too_long_is_not_waited_for(server: VendorServer, fetch: Fetch, slept: list[float], vendor: str, asked: str) -> None:
    server.before = busy(1, Retry_After=asked)
    with pytest.raises(CollateralError, match="refuses to answer"):
        fetch(server.url, total_s=1e9)
    assert slept == []
    assert server.asked[FIRST[vendor]] == 1


@pytest.mark.parametrize("asked", ["soon", "-1", "1.5", "", "Mon, 99 Foo 2026 00:00:00 GMT"])
def test_pause_in_words_of_no_standard_is_our_own(server: VendorServer, fetch: Fetch, slept: list[float], asked: str) -> None:
    server.before = busy(2, Retry_After=asked)
    fetch(server.url)
    assert set(slept) == {0.01, 0.02}


def test_service_that_stays_busy_is_given_up(server: VendorServer, fetch: Fetch, slept: list[float], vendor: str) -> None:
    server.before = busy(99, 503)
    with pytest.raises(CollateralError, match="refuses to answer"):
        fetch(server.url)
    assert (server.asked[FIRST[vendor]], len(slept)) == (3, 2)


def test_all_attempts_together_have_an_end(server: VendorServer, fetch: Fetch, slept: list[float]) -> None:
    server.before = busy(99, 503, Retry_After="15")
    with pytest.raises(CollateralError):
        fetch(server.url, retries=50, total_s=10.0)
    assert slept == [], "a pause that is longer than what is left is not begun"


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "says",
    [
        [bytes([one]) for one in HEAD * 50],
        [HEAD + b"Content-Length: 1000\r\n\r\n", *[b"x"] * 1000],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"1\r\nx\r\n"] * 1000],
        [HEAD + b"\r\n", *[b"x"] * 1000],
    ],
    ids=["head", "body", "chunks", "until-closed"],
)
def test_service_that_drips_is_given_up(fetch: Fetch, says: list[bytes]) -> None:
    """Each byte comes in time, and all of them would take minutes."""
    server = RawServer(says, pause_s=0.05)
    began = time.monotonic()
    try:
        with pytest.raises(CollateralError, match=r"cannot be reached|too long"):
            fetch(server.url, timeout_s=0.3, total_s=0.6, retries=0)
    finally:
        server.close()
    assert time.monotonic() - began < 10, "all of it takes 50 seconds and more"


def test_handshake_that_drips_is_given_up(fetch: Fetch) -> None:
    server = RawServer([b"\x16\x03\x03\x40\x00", *[b"\x02"] * 1000], pause_s=0.05)
    began = time.monotonic()
    try:
        with pytest.raises(CollateralError, match="cannot be reached"):
            fetch(server.url.replace("http:", "https:"), timeout_s=0.3, retries=0)
    finally:
        server.close()
    assert time.monotonic() - began < 10


def test_service_that_says_nothing_is_given_up(fetch: Fetch) -> None:
    server = RawServer([b""], pause_s=30)
    try:
        with pytest.raises(CollateralError, match="cannot be reached"):
            fetch(server.url, timeout_s=0.1, retries=1)
        assert server.asked == 2
    finally:
        server.close()


@pytest.mark.parametrize(
    "says",
    [
        HEAD + b"Content-Length: 1000\r\n\r\n" + b"x" * 999,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"5\r\nxxxxx\r\n5\r\nxx",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"zz\r\n",
        b"HTTP/1.1 200",
        b"SSH-2.0-server\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 1000 + b"\r\n",
    ],
    ids=["length", "chunk", "chunk-size", "status", "other-protocol", "nothing", "long-header", "many-headers"],
)
def test_answer_that_is_cut_off_or_no_answer_is_refused(fetch: Fetch, says: bytes) -> None:
    server = RawServer([says])
    try:
        with pytest.raises(CollateralError):
            fetch(server.url)
    finally:
        server.close()


def test_answer_that_is_too_large_is_not_read_to_its_end(server: VendorServer, fetch: Fetch, vendor: str) -> None:
    server.replies[FIRST[vendor]] = (200, {}, b" " * (MAX_BODY + 1))
    with pytest.raises(CollateralError, match="too large"):
        fetch(server.url)
    endless = RawServer([HEAD + b"\r\n", *[b" " * 65536] * 10_000])
    try:
        with pytest.raises(CollateralError, match="too large"):
            fetch(endless.url)
    finally:
        endless.close()


def test_packed_answer_is_refused(server: VendorServer, fetch: Fetch, vendor: str) -> None:
    status, headers, body = server.replies[FIRST[vendor]]
    server.replies[FIRST[vendor]] = (status, {**headers, "Content-Encoding": "gzip"}, gzip.compress(body))
    with pytest.raises(CollateralError, match="packed"):
        fetch(server.url)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_refused(server: VendorServer, fetch: Fetch, vendor: str, status: int) -> None:
    server.replies["/elsewhere"] = server.replies[FIRST[vendor]]
    server.replies[FIRST[vendor]] = (status, {"Location": f"{server.url}/elsewhere"}, b"")
    with pytest.raises(CollateralError, match="refuses to answer"):
        fetch(server.url)
    assert server.asked["/elsewhere"] == 0


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"<html>Sign in</html>", b"{}", b"[" * 100_000, b"0" * 1000])
@pytest.mark.parametrize("which", ["first", "crl"])
def test_answer_of_another_kind_is_refused(server: VendorServer, fetch: Fetch, vendor: str, body: bytes, which: str) -> None:
    crl = {"intel": "/sgx/certification/v4/pckcrl", "amd": "/vcek/v1/Genoa/crl"}
    path = FIRST[vendor] if which == "first" else crl[vendor]
    server.replies[path] = (200, server.replies[path][1], body)
    with pytest.raises(CollateralError):
        fetch(server.url)


@pytest.mark.parametrize("status", [100, 201, 206, 304, 400, 401, 403, 410, 418])
def test_other_status_is_refused_at_once(server: VendorServer, fetch: Fetch, vendor: str, status: int) -> None:
    server.replies[FIRST[vendor]] = (status, {}, server.replies[FIRST[vendor]][2])
    if status == 100:  # an interim answer, after which none comes
        with pytest.raises(CollateralError):
            fetch(server.url, timeout_s=0.2, retries=0)
        return
    with pytest.raises(CollateralError, match="refuses to answer"):
        fetch(server.url)
    assert server.asked[FIRST[vendor]] == 1


def test_right_answers_are_taken_whatever_their_framing(server: VendorServer, fetch: Fetch) -> None:
    assert fetch(server.url).platform in {("b0c06f000000", "platform", Tee.TDX), ("Genoa", "vcek", Tee.SNP)}


def own_authority(folder: Path) -> Path:
    """A certificate of this machine's address with its key, PEM, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a PCCS")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(datetime.now(UTC) - timedelta(1)).not_valid_after(datetime.now(UTC) + timedelta(1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file = folder / "service.pem"
    file.write_bytes(made.sign(key, SHA256()).public_bytes(Encoding.PEM) + private)
    return file


def test_tls_is_verified_against_the_authority_that_the_owner_names(server: VendorServer, fetch: Fetch, tmp_path: Path) -> None:
    file = own_authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    url = server.url.replace("http:", "https:")
    assert fetch(url, ca_file=file)
    for limits in ({}, {"ca_file": tmp_path / "none.pem"}):
        with pytest.raises(CollateralError, match="cannot be reached"):
            fetch(url, **limits)
    with pytest.raises(CollateralError, match="cannot be reached"):
        fetch(url.replace("127.0.0.1", "localhost"), ca_file=file)
