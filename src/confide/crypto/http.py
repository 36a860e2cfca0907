"""HTTP/1.1 with JSON bodies over one TLS channel: a client call and a server loop.  Problems are RFC 7807 objects.

Framing is h11's, but for plain requests (``http_plain``); this adds caps, deadlines and "one JSON object or nothing" (a server may name
requests whose body it wants as bytes).
Who may ask for what is the handler's to decide: it finds the channel, with the peer's key and the session's exporter, in the request.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from threading import Lock
from typing import Final
from urllib.parse import parse_qsl

import h11

from confide.canonical import Json, json_writer, parse_object
from confide.crypto.http_messages import JSON_TYPE, PROBLEM_TYPE, Duplex, Handler, Request, Response, TakesBytes, problem
from confide.crypto.http_plain import (
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    READ_BYTES,
    PlainRequest,
    PlainResponse,
    plain_request,
    plain_response,
    read_plain,
    read_plain_response,
)
from confide.crypto.wire import Deadline
from confide.errors import ChannelError, ConfideError, ParseError, ProtocolError

REQUEST_TIMEOUT_S: Final = 30.0
IDLE_TIMEOUT_S: Final = 120.0
BYTES_TYPE: Final = "application/octet-stream"

_MAX_PIECES: Final = 1 << 16
"""Cap on a body's chunks: each takes time to read, however small it is."""
_MAX_QUERY_FIELDS: Final = 32
_METHODS: Final = frozenset({"GET", "POST", "PUT", "DELETE"})
_write: Final = json_writer()
_log = logging.getLogger(__name__)


# --- client -------------------------------------------------------------------------------------------------------


def request(
    channel: Duplex,
    method: str,
    path: str,
    body: Json | bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    types: tuple[str, ...] | None = (JSON_TYPE, PROBLEM_TYPE),
    text_type: str | None = None,
    timeout: float = REQUEST_TIMEOUT_S,
) -> Response:
    """Send one request and return the response, whatever its status: **the caller must check the status**.

    One request at a time on a channel.  ``timeout`` covers request and response together.  ``types`` are the content types that a body
    may have; ``None`` for a server that names none or others: the body still has to be one JSON object.  A body of ``text_type`` is taken
    as UTF-8 text.

    Raises:
        ProtocolError: the answer is not HTTP, is too large, or has a body that is not one JSON object.
        ChannelError: the channel broke, timed out or ended without an answer; it cannot be used again.
    """
    deadline = Deadline.after(timeout)
    data = b"" if body is None else body if isinstance(body, bytes) else _dump(body)
    accepted = ", ".join((*([text_type] if text_type else []), JSON_TYPE, PROBLEM_TYPE))
    fields = {"host": channel.peer_address, "accept": accepted, "content-length": str(len(data))}
    if body is not None:
        fields["content-type"] = BYTES_TYPE if isinstance(body, bytes) else JSON_TYPE
    sent, buffer = {**_lower(headers or {}), **fields}, bytearray()
    try:
        plain = plain_request(method, path, sent, data)
        channel.send(_framed(method, path, sent, data)[1] if plain is None else plain, timeout=deadline.remaining)
        found = None if plain is None else read_plain_response(channel, buffer, deadline)
        if found is None:  # of another form, or no response at all: that is for h11 to say, which has to hear of the request
            found = _read_response(_framed(method, path, sent, data)[0], channel, buffer, deadline)
        text = _text_body(found.body) if text_type is not None and _kind_of(found.headers) == text_type else None
        return Response(found.status, found.headers, _json_body(found.headers, found.body, types) if text is None else None, text)
    except h11.LocalProtocolError as cause:
        raise ProtocolError("this request cannot be sent") from cause
    except h11.RemoteProtocolError as cause:
        channel.close()
        raise ProtocolError("the server's answer is not HTTP/1.1") from cause
    except ConfideError:
        channel.close()  # a late answer must never be taken for the answer to the next request
        raise


def _framed(method: str, path: str, headers: Mapping[str, str], data: bytes) -> tuple[h11.Connection, bytes]:
    """A request by h11, and h11's side of the connection after it."""
    framing = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
    return framing, _encode(framing, h11.Request(method=method, target=path, headers=[*headers.items()]), data)


def _read_response(framing: h11.Connection, channel: Duplex, buffer: bytearray, deadline: Deadline) -> PlainResponse:
    """The response that comes, whatever its form; ``buffer`` is what has come of it."""
    if not buffer:
        buffer += channel.recv(READ_BYTES, timeout=deadline.remaining)
    if not buffer:
        raise ChannelError("the server ended the channel without an answer")
    framing.receive_data(bytes(buffer))
    event = _next_event(framing, channel, deadline)
    while isinstance(event, h11.InformationalResponse):
        event = _next_event(framing, channel, deadline)
    if not isinstance(event, h11.Response):
        raise ProtocolError("the server ended the channel without an answer")
    found = PlainResponse(event.status_code, _headers(event.headers), _read_body(framing, channel, deadline))
    if framing.their_state is not h11.DONE or framing.trailing_data[0]:
        channel.close()
    return found


# --- server -------------------------------------------------------------------------------------------------------


class LastCall:
    """Lets another thread end a served connection after the request in hand, or at once between two requests.

    A connection that has not asked for anything yet still has one request: its peer may have sent it already.
    """

    def __init__(self, channel: Duplex) -> None:
        self._channel = channel
        self._lock = Lock()
        self._between = False
        self._announced = False

    @property
    def announced(self) -> bool:
        """Whether there is to be no further request."""
        return self._announced

    def announce(self) -> None:
        """Let there be no further request."""
        with self._lock:
            self._announced = True
            if self._between:
                self._channel.close()

    def between(self) -> bool:
        """The next request is waited for; whether there may be one.  For :func:`serve_connection`."""
        with self._lock:
            self._between = True
            return not self._announced

    def begun(self) -> None:
        """A request has begun to arrive.  For :func:`serve_connection`."""
        with self._lock:
            self._between = False


def serve_connection(
    channel: Duplex,
    handler: Handler,
    *,
    idle_timeout: float = IDLE_TIMEOUT_S,
    request_timeout: float = REQUEST_TIMEOUT_S,
    takes_bytes: TakesBytes = lambda _method, _path: False,
    last_call: LastCall | None = None,
) -> None:
    """Answer the requests that come over ``channel`` until the peer ends it, is silent or breaks the rules.  Closes the channel.

    Requests for which ``takes_bytes`` is true may have a body of any type; all others have one JSON object or nothing.
    Raises nothing that a peer can cause.  ``channel.close()`` from another thread ends it, and ``last_call`` in order.
    """
    terms = _Terms(takes_bytes, idle_timeout, request_timeout, last_call or LastCall(channel))
    buffer = bytearray()
    try:
        while plain := read_plain(channel, buffer, idle=idle_timeout, whole=request_timeout, begun=terms.last.begun):
            if not _serve_plain(plain, channel, handler, terms) or not terms.last.between():
                return
        if not buffer:
            return
        framing = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        framing.receive_data(bytes(buffer))
        while _serve_one(framing, channel, handler, terms) and terms.last.between():
            framing.start_next_cycle()
    except (ChannelError, ProtocolError, h11.ProtocolError) as cause:
        _log.debug("a connection from %s ended: %s", channel.peer_address, cause)
    finally:
        channel.close()


@dataclass(frozen=True, slots=True)
class _Terms:
    takes_bytes: TakesBytes
    idle_s: float
    request_s: float
    last: LastCall


def _serve_plain(plain: PlainRequest, channel: Duplex, handler: Handler, terms: _Terms) -> bool:
    """Answer one plain request; whether the connection goes on."""
    try:
        reply, keep = _answer(handler, _request_of(plain, channel, terms.takes_bytes)), True
    except (ProtocolError, ParseError) as error:
        reply, keep = _prepared(problem(error, 400)), False
    response, data = reply
    headers = {"content-type": JSON_TYPE, **_lower(response.headers)}
    if not keep or terms.last.announced:
        headers["connection"] = "close"
    channel.send(plain_response(response.status, headers, data), timeout=terms.request_s)
    return keep


def _request_of(read: PlainRequest, channel: Duplex, takes_bytes: TakesBytes) -> Request:
    path, _, query = read.target.partition("?")
    content = None if takes_bytes(read.method, path) else _json_body(read.headers, read.body, (JSON_TYPE,))
    return Request(read.method, path, read.headers, content, channel, _query(query), read.body)


def _serve_one(framing: h11.Connection, channel: Duplex, handler: Handler, terms: _Terms) -> bool:
    try:
        asked = _read_request(framing, channel, terms)
    except (ProtocolError, ParseError) as error:
        reply, method, keep = _prepared(problem(error, 400)), "GET", False
    except h11.RemoteProtocolError as cause:
        reply, method, keep = _prepared(problem(ProtocolError("not an HTTP/1.1 request"), cause.error_status_hint)), "GET", False
    else:
        if asked is None:
            return False
        reply, method, keep = _answer(handler, asked), asked.method, True
    response, data = reply
    headers = {"content-type": JSON_TYPE, **_lower(response.headers), "content-length": str(len(data))}
    if not keep or terms.last.announced:
        headers["connection"] = "close"
    head = h11.Response(status_code=response.status, headers=[*headers.items()])
    channel.send(_encode(framing, head, b"" if method == "HEAD" else data), timeout=terms.request_s)
    return keep and framing.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}


def _read_request(framing: h11.Connection, channel: Duplex, terms: _Terms) -> Request | None:
    # The first byte may take as long as a connection may idle; from then on the whole request has one deadline.
    event: object = framing.next_event()
    if event is h11.NEED_DATA and not framing.trailing_data[0]:
        framing.receive_data(channel.recv(READ_BYTES, timeout=terms.idle_s))
        event = framing.next_event()
    terms.last.begun()
    deadline = Deadline.after(terms.request_s)
    if event is h11.NEED_DATA:
        event = _next_event(framing, channel, deadline)
    if not isinstance(event, h11.Request):
        return None
    if framing.they_are_waiting_for_100_continue:
        go_on = framing.send(h11.InformationalResponse(status_code=100, headers=[]))
        channel.send(go_on or b"", timeout=deadline.remaining)
    headers, body = _headers(event.headers), _read_body(framing, channel, deadline)
    read = PlainRequest(event.method.decode("ascii"), event.target.decode("ascii"), headers, body)
    return _request_of(read, channel, terms.takes_bytes)


def _prepared(response: Response) -> tuple[Response, bytes]:
    if response.text is not None:
        return response, response.text.encode()
    return response, b"" if response.json is None else _dump(response.json)


def _answer(handler: Handler, asked: Request) -> tuple[Response, bytes]:
    try:
        answer = handler(asked)
        if asked.method not in _METHODS and answer.status != 405:  # a handler that knows better says what it allows
            refused = problem(ProtocolError("this method is not served", method=asked.method[:20]), 405)
            answer = replace(refused, headers={**refused.headers, "allow": ", ".join(sorted(_METHODS))})
        return _prepared(answer)
    except ConfideError as error:
        return _prepared(problem(error))
    except Exception as error:  # noqa: BLE001 - the edge of a request: one bad request must not end a server
        # Neither the peer nor the log gets the exception's text: it could hold what the handler was working on.
        _log.error("a handler failed: %s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
        return _prepared(problem(ConfideError("the server failed"), 500))


# --- both ---------------------------------------------------------------------------------------------------------


def _next_event(framing: h11.Connection, channel: Duplex, deadline: Deadline) -> object:
    while (event := framing.next_event()) is h11.NEED_DATA:
        framing.receive_data(channel.recv(READ_BYTES, timeout=deadline.remaining))
    return event


def _read_body(framing: h11.Connection, channel: Duplex, deadline: Deadline) -> bytes:
    body, pieces = bytearray(), 0
    while True:
        event = _next_event(framing, channel, deadline)
        if isinstance(event, h11.Data):
            body += event.data
            pieces += 1
            if len(body) > MAX_BODY_BYTES or pieces > _MAX_PIECES:
                raise ProtocolError("a body is too large", limit=MAX_BODY_BYTES)
        elif isinstance(event, h11.EndOfMessage):
            return bytes(body)
        else:
            raise ProtocolError("the peer ended the channel inside a message")


def _json_body(headers: Mapping[str, str], body: bytes, types: tuple[str, ...] | None) -> Json | None:
    if not body:
        return None
    kind = _kind_of(headers)
    if types is not None and kind not in types:
        raise ProtocolError("a body is not JSON by its content type", got=ascii(kind[:60]))
    try:
        return parse_object(body)
    except (ParseError, ValueError) as cause:  # ValueError: a number of more digits than Python converts
        raise ProtocolError("a body is not one JSON object") from cause


def _kind_of(headers: Mapping[str, str]) -> str:
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def _text_body(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as cause:
        raise ProtocolError("a body is not UTF-8 text") from cause


def _headers(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    found: dict[str, str] = {}
    length = 0
    for name, value in pairs:
        length += len(name) + len(value)
        key = name.decode("ascii").lower()
        if key in found:
            raise ProtocolError("a header comes twice", header=key[:60])
        found[key] = value.decode("latin-1")
    if length > MAX_HEAD_BYTES:  # h11's own cap is for heads that are not complete yet
        raise ProtocolError("the headers are too long", limit=MAX_HEAD_BYTES)
    if "content-length" in found and "transfer-encoding" in found:
        raise ProtocolError("a message has two lengths")
    if int(found.get("content-length", 0)) > MAX_BODY_BYTES:  # h11 has seen that it is a number of at most 20 digits
        raise ProtocolError("a body is too large", limit=MAX_BODY_BYTES)
    return found


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _query(text: str) -> dict[str, str]:
    if not text:
        return {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, max_num_fields=_MAX_QUERY_FIELDS, errors="strict")
    except ValueError as cause:
        raise ProtocolError("not a query string") from cause
    if len(dict(pairs)) != len(pairs):
        raise ProtocolError("a query field comes twice")
    return dict(pairs)


def _dump(body: Json) -> bytes:
    return _write(body).encode("ascii")


def _encode(framing: h11.Connection, head: h11.Request | h11.Response, body: bytes) -> bytes:
    parts = [framing.send(head), framing.send(h11.Data(data=body)) if body else b"", framing.send(h11.EndOfMessage())]
    return b"".join(part or b"" for part in parts)
