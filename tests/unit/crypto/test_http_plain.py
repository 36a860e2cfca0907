"""Messages of the plainest form are read as h11 reads them; everything else is left to it, and refused or answered as before."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from confide.crypto.http_plain import (
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    PlainRequest,
    PlainResponse,
    plain_request,
    plain_response,
    read_plain,
    read_plain_response,
)
from confide.crypto.wire import Deadline
from confide.errors import ProtocolError

HEAD = b"POST /a?b=c HTTP/1.1\r\nhost: broker:1\r\ncookie: k=v\r\ncontent-length: 3\r\n\r\n"


class Pieces:
    """A peer that sends these pieces and then ends."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = [*pieces]
        self.waits: list[float | None] = []

    def recv(self, n: int, *, timeout: float | None = None) -> bytes:
        self.waits.append(timeout)
        return self.pieces.pop(0) if self.pieces else b""


def read(*pieces: bytes, buffer: bytes = b"") -> tuple[PlainRequest | None, bytes]:
    left = bytearray(buffer)
    return read_plain(Pieces(*pieces), left, idle=100, whole=10), bytes(left)


def read_by_h11(data: bytes) -> tuple[str, str, dict[str, str], bytes] | None:
    """What h11 makes of a whole request; ``None`` if it refuses it or it is not whole."""
    framing = h11.Connection(h11.SERVER)
    framing.receive_data(data)
    try:
        head = framing.next_event()
        if not isinstance(head, h11.Request):
            return None
        body = b""
        while isinstance(event := framing.next_event(), h11.Data):
            body += event.data
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.EndOfMessage):
        return None
    headers = {name.decode(): value.decode("latin-1") for name, value in head.headers}
    return head.method.decode(), head.target.decode(), headers, body


def test_request_is_taken_out_of_the_buffer_whole_and_alone() -> None:
    found, left = read(HEAD[:10] + HEAD[10:] + b"x", b"yz" + b"GET / HT")
    assert found == PlainRequest("POST", "/a?b=c", {"host": "broker:1", "cookie": "k=v", "content-length": "3"}, b"xyz")
    assert left == b"GET / HT"


def test_first_byte_may_take_as_long_as_a_connection_idles_and_the_rest_has_one_deadline() -> None:
    source = Pieces(HEAD, b"x", b"y", b"z")
    assert read_plain(source, bytearray(), idle=100, whole=10)
    assert source.waits[0] == 100
    assert all(0 < (wait or 0) <= 10 for wait in source.waits[1:])
    begun = Pieces(b"yz")
    assert read_plain(begun, bytearray(HEAD + b"x"), idle=100, whole=10)
    assert (begun.waits[0] or 100) <= 10


@pytest.mark.parametrize(
    "data",
    [
        b"",
        HEAD[:-2],
        HEAD.replace(b"POST", b"PATCH"),
        HEAD.replace(b"POST /a", b"POST a"),
        HEAD.replace(b"1.1", b"1.0"),
        HEAD.replace(b"host", b"hast"),
        HEAD.replace(b"host: broker:1\r\n", b"host: a\r\nhost: b\r\n"),
        HEAD.replace(b"cookie", b"content-length"),
        HEAD.replace(b"cookie: k=v", b"transfer-encoding: chunked"),
        HEAD.replace(b"cookie: k=v", b"Connection: close"),
        HEAD.replace(b"cookie: k=v", b"expect: 100-continue"),
        HEAD.replace(b"cookie: k=v", b"upgrade: h2c"),
        HEAD.replace(b"cookie: k=v", b"cookie: k\x00v"),
        HEAD.replace(b"cookie: k=v", b"cookie: k\nv: w"),
        HEAD.replace(b"cookie: k=v", b"cookie: k\xff"),
        HEAD.replace(b"cookie: k=v", b"cookie: k\r\n folded"),
        HEAD.replace(b"cookie: k=v", b"cookie : k"),
        HEAD.replace(b"length: 3", b"length: +3"),
        HEAD.replace(b"length: 3", b"length: 3, 3"),
        HEAD.replace(b"length: 3", b"length: %d" % (MAX_BODY_BYTES + 1)),
        HEAD.replace(b"k=v", b"k" * MAX_HEAD_BYTES),
        HEAD.replace(b"\r\n", b"\n"),
    ],
    ids=lambda data: repr(bytes(data[:60])),
)
def test_request_that_is_not_plain_is_left_as_it_came(data: bytes) -> None:
    whole = data + b"xyz" if data.endswith(b"\r\n\r\n") else data
    assert read(whole) == (None, whole)


def test_body_that_ends_too_early_is_left_as_it_came() -> None:
    assert read(HEAD, b"x") == (None, HEAD + b"x")


FIELDS = st.lists(
    st.sampled_from([
        b"host: a", b"Host: b", b"content-length: 3", b"content-length: 03", b"content-length: 4", b"transfer-encoding: chunked",
        b"connection: keep-alive", b"cookie: a=b", b"x-y:z", b"x:  two", b"x: tail ", b"x:", b"x: \t", b"x: a\tb", b"x y: z", b"\tx: y",
        b"x: \xc3\xa4", b"x_y: z", b"expect: 100-continue", b"te: trailers", b"accept: */*",
    ]),
    max_size=4,
)  # fmt: skip


@given(
    first=st.tuples(
        st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"get"]),
        st.sampled_from([b"/", b"/a?b", b"*", b"http://x/", b"/\x7f", b"/a b", b"//", b"/%2e%2e/"]),
        st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"http/1.1"]),
    ),
    fields=FIELDS,
    line=st.sampled_from([b"\r\n", b"\r\n", b"\n"]),
    body=st.sampled_from([b"", b"abc", b"abcd", b"3\r\nabc\r\n0\r\n\r\n"]),
)
def test_what_is_read_as_plain_is_what_h11_reads(first: tuple[bytes, ...], fields: list[bytes], line: bytes, body: bytes) -> None:
    data = line.join([b" ".join(first), *fields, b"", b""]) + body
    found, left = read(data)
    if found is not None:
        assert read_by_h11(data[: len(data) - len(left)]) == (found.method, found.target, found.headers, found.body)


def test_answer_is_what_h11_reads_and_cannot_be_split() -> None:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(plain_response(404, {"content-type": "text/plain", "allow": "GET, PUT"}, b"abc"))
    head, body = client.next_event(), client.next_event()
    assert isinstance(head, h11.Response)
    assert isinstance(body, h11.Data)
    assert (head.status_code, body.data) == (404, b"abc")
    assert dict(head.headers) == {b"content-type": b"text/plain", b"allow": b"GET, PUT", b"content-length": b"3"}
    for bad in ({"a": "b\r\nc: d"}, {"a\r\nb": "c"}, {"a": ""}, {"a": "ä"}):
        with pytest.raises(ProtocolError):
            plain_response(200, bad, b"")


# --- a client's side --------------------------------------------------------------------------------------------------

ANSWER = b"HTTP/1.1 200 \r\ncontent-type: application/json\r\nset-cookie: k=v; Path=/\r\ncontent-length: 3\r\n\r\n"


def read_response(*pieces: bytes) -> tuple[PlainResponse | None, bytes]:
    left = bytearray()
    return read_plain_response(Pieces(*pieces), left, Deadline.after(10)), bytes(left)


def response_by_h11(data: bytes) -> tuple[int, dict[str, str], bytes] | None:
    """What h11 makes of a whole response and nothing behind it; ``None`` if it refuses it, it is not whole, or not the last word."""
    framing = h11.Connection(h11.CLIENT)
    framing.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
    framing.send(h11.EndOfMessage())
    framing.receive_data(data)
    try:
        head = framing.next_event()
        if not isinstance(head, h11.Response):
            return None
        body = b""
        while isinstance(event := framing.next_event(), h11.Data):
            body += event.data
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.EndOfMessage) or framing.their_state is not h11.DONE or framing.trailing_data[0]:
        return None
    return head.status_code, {name.decode(): value.decode("latin-1") for name, value in head.headers}, body


def test_response_is_read_in_whatever_pieces_it_comes() -> None:
    whole = ANSWER + b"xyz"
    wanted = PlainResponse(200, {"content-type": "application/json", "set-cookie": "k=v; Path=/", "content-length": "3"}, b"xyz")
    assert read_response(whole)[0] == wanted
    assert read_response(*[whole[at : at + 1] for at in range(len(whole))])[0] == wanted
    empty = ANSWER.replace(b"length: 3", b"length: 0")
    assert (read_response(empty)[0] or wanted).body == b""


@pytest.mark.parametrize(
    "data",
    [
        b"",
        ANSWER[:-2],
        ANSWER + b"xy",
        ANSWER + b"xyzH",
        ANSWER.replace(b"200 ", b"100 ") + b"xyz",
        ANSWER.replace(b"200 ", b"204 ") + b"xyz",
        ANSWER.replace(b"200 ", b"304 ") + b"xyz",
        ANSWER.replace(b"200 ", b"200") + b"xyz",
        ANSWER.replace(b"200 ", b"999 ") + b"xyz",
        ANSWER.replace(b"1.1", b"1.0") + b"xyz",
        ANSWER.replace(b"content-length: 3\r\n", b"") + b"xyz",
        ANSWER.replace(b"set-cookie: k=v", b"content-length: 3") + b"xyz",
        ANSWER.replace(b"set-cookie: k=v; Path=/", b"transfer-encoding: chunked") + b"3\r\nxyz\r\n0\r\n\r\n",
        ANSWER.replace(b"set-cookie: k=v; Path=/", b"connection: close") + b"xyz",
        ANSWER.replace(b"k=v", b"k\xff") + b"xyz",
        ANSWER.replace(b"length: 3", b"length: -3") + b"xyz",
        ANSWER.replace(b"length: 3", b"length: %d" % (MAX_BODY_BYTES + 1)) + b"xyz",
        ANSWER.replace(b"k=v", b"k" * MAX_HEAD_BYTES) + b"xyz",
        ANSWER.replace(b"\r\n", b"\n") + b"xyz",
    ],
    ids=lambda data: repr(bytes(data[:60])),
)
def test_response_that_is_not_plain_or_not_alone_is_left_as_it_came(data: bytes) -> None:
    assert read_response(data) == (None, data)


@given(
    line=st.sampled_from([b"HTTP/1.1 200 OK", b"HTTP/1.1 404 ", b"HTTP/1.1 204 ", b"HTTP/1.1 100 ", b"HTTP/1.0 200 OK", b"HTTP/1.1 2000 "]),
    fields=FIELDS,
    end=st.sampled_from([b"\r\n", b"\r\n", b"\n"]),
    body=st.sampled_from([b"", b"abc", b"abcd", b"3\r\nabc\r\n0\r\n\r\n"]),
)
def test_response_that_is_read_as_plain_is_what_h11_reads(line: bytes, fields: list[bytes], end: bytes, body: bytes) -> None:
    data = end.join([line, *fields, b"", b""]) + body
    found, _ = read_response(data)
    if found is not None:
        assert response_by_h11(data) == (found.status, found.headers, found.body)


def test_request_is_what_h11_reads_and_cannot_be_split() -> None:
    fields = {"host": "broker:1", "cookie": "k=v", "content-length": "3"}
    sent = plain_request("POST", "/a?b=c", fields, b"xyz")
    assert sent is not None
    assert read_by_h11(sent) == ("POST", "/a?b=c", fields, b"xyz")
    assert read(sent)[0] == PlainRequest("POST", "/a?b=c", fields, b"xyz")
    for name, value in (("a", "b\r\nc: d"), ("a\r\nb", "c"), ("a", ""), ("a", "ä"), ("connection", "close"), ("expect", "100-continue")):
        assert plain_request("POST", "/a", {**fields, name: value}, b"xyz") is None
    for method, target in (("HEAD", "/a"), ("POST", "a"), ("POST", "/a b"), ("POST", "/a\r\n"), ("PO ST", "/a")):
        assert plain_request(method, target, fields, b"xyz") is None
    assert plain_request("POST", "/a", {"content-length": "3"}, b"xyz") is None
