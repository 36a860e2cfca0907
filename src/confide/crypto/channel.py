"""A TLS 1.3 connection with deadlines: bytes, JSON frames, the session's exporter and the peer's key.

:mod:`confide.crypto.tls` makes channels.  OpenSSL runs on memory buffers here and never sees a descriptor, so the lock around it is
held for computing only, never while waiting for the network.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from threading import Lock
from types import TracebackType
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from confide.canonical import Json, parse_object
from confide.crypto.identity import Identity, Trust, certificate_spki, check_trust
from confide.crypto.wire import Deadline, Wire
from confide.errors import BindingError, ChannelError, ChannelTimeoutError, ParseError, ProtocolError

MAX_FRAME_BYTES: Final = 16 * 1024 * 1024
DEFAULT_TIMEOUT_S: Final = 30.0
HANDSHAKE_TIMEOUT_S: Final = 10.0

_EXPORTER_LABEL: Final = b"EXPORTER-Channel-Binding"
"""RFC 9266, section 2; with an empty context and 32 bytes."""
_EXPORTER_BYTES: Final = 32
_PIECE: Final = 64 * 1024
"""Plaintext encrypted at a time, in bytes: bounds what waits in memory for a slow peer."""
_RECORD: Final = 16 * 1024
"""Most plaintext in one TLS record, in bytes (RFC 8446, section 5.1)."""
_RECORD_HEADER: Final = 5
_MAX_UNSENT: Final = 1024 * 1024
"""Bytes that reading may queue for sending (answers to key updates) before the peer counts as hostile."""
_FRAME_HEADER: Final = struct.Struct(">I")
_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


class Channel:
    """One TLS 1.3 connection.  One thread may receive while another sends; any thread may :meth:`close`, which wakes both.

    Every call ends within the timeout (:meth:`settimeout`, 30 s by default), counted over the whole call: a peer that
    sends one byte at a time does not stretch it.  A receiving call that timed out may be repeated and loses nothing.
    """

    def __init__(self, sock: socket.socket, context: SSL.Context, identity: Identity | None, trust: Trust, *, server: bool) -> None:
        self._wire = Wire(sock)
        self.peer_address = self._wire.peer_address
        self._tls = SSL.Connection(context, None)
        (self._tls.set_accept_state if server else self._tls.set_connect_state)()
        self._server = server
        self._identity = identity
        self._trust = trust
        self._timeout = DEFAULT_TIMEOUT_S
        self._ready = False
        self._ended = False
        self._drained = False
        """Whether TLS has given out all that was fed to it: there is nothing to ask it for before more comes."""
        self._alone = False
        """Whether all that TLS was fed since it had given out everything is one record."""
        self._exporter = b""
        self._peer: x509.Certificate | None = None
        self._peer_spki: bytes | None = None
        self._received = bytearray()
        self._unsent = bytearray()
        self._state = Lock()
        """Around the TLS object and ``_unsent``.  Never held while waiting."""
        self._receiving = Lock()
        self._sending = Lock()

    # --- opening ---------------------------------------------------------------------------------------------------

    def handshake(self, timeout: float = HANDSHAKE_TIMEOUT_S) -> None:
        """Run the TLS handshake and check the peer's key against the trust.  Done by :func:`connect`; a server calls it.

        On the client it returns before the server has judged the client's certificate (RFC 8446 section 4.4.2.4): that shows at
        the first receive.  Does not establish who the peer is under ``AnyKeyUntilAttested`` and ``AnyClientKey``.

        Raises:
            ChannelError: the peer speaks no TLS 1.3, shows no or another key, or is too slow.  The channel is closed then.
            BindingError: the peer showed our own key: a reflection.
        """
        with self._receiving, self._sending:
            if self._ready:
                return
            try:
                self._shake(Deadline.after(timeout))
                self._check_peer()
                self._ready = True
            except BaseException:
                self._wire.shut()
                raise

    def _shake(self, deadline: Deadline) -> None:
        if self._server:
            self._feed(deadline)  # the client speaks first
        while True:
            with self._state:
                try:
                    self._tls.do_handshake()
                    done = True
                except SSL.WantReadError:
                    done = False
                except SSL.Error as cause:
                    self._take_unsent()
                    self._wire.write_now(bytes(self._unsent))  # the alert tells the peer why
                    raise _tls_error("the TLS handshake failed", cause) from None
                self._take_unsent()
            if done and self._server:
                return  # what is unsent are tickets (module tls), which no client waits for: they go with the first answer or receive
            self._flush(deadline)
            if done:
                return
            self._feed(deadline)

    def _check_peer(self) -> None:
        with self._state:
            try:
                if self._tls.get_protocol_version() != SSL.TLS1_3_VERSION:
                    raise ChannelError("the peer does not speak TLS 1.3")
                self._peer = self._tls.get_peer_certificate(as_cryptography=True)
                self._exporter = self._tls.export_keying_material(_EXPORTER_LABEL, _EXPORTER_BYTES, b"")
            except (SSL.Error, ValueError, x509.InvalidVersion) as cause:  # OpenSSL reads certificates that cryptography refuses
                raise ChannelError("the peer's certificate cannot be read") from cause
        self._peer_spki = None if self._peer is None else certificate_spki(self._peer)
        if self._peer_spki is not None and self._peer_spki == self.own_spki:
            raise BindingError("the peer showed this node's own key: the connection is a reflection")
        check_trust(self._trust, self._peer_spki, self._peer)

    # --- what the session is ---------------------------------------------------------------------------------------

    def exporter(self) -> bytes:
        """32 bytes that only the two ends of this session know (RFC 9266, ``tls-exporter``)."""
        self._check_ready()
        return self._exporter

    @property
    def peer_host(self) -> str:
        """The network address that the peer connects from, without port and brackets; ``unknown`` if it has none."""
        return self.peer_address.rpartition(":")[0].strip("[]") or self.peer_address

    @property
    def peer_spki(self) -> bytes | None:
        """DER SPKI of the peer's key, which it has proved to hold; ``None`` if it showed none."""
        self._check_ready()
        return self._peer_spki

    @property
    def peer_certificate(self) -> bytes | None:
        """The peer's certificate (DER), for what is bound to it; ``None`` if it showed none.  Who the peer is, its key says."""
        self._check_ready()
        return None if self._peer is None else self._peer.public_bytes(Encoding.DER)

    @property
    def own_spki(self) -> bytes | None:
        """DER SPKI of our key; ``None`` for a client without one."""
        return None if self._identity is None else self._identity.spki_der

    @property
    def closed(self) -> bool:
        """Whether this side has closed or broken off the channel."""
        return self._wire.closed

    @property
    def stirred(self) -> bool:
        """Whether something has come that nobody has received yet; between two requests that is the peer's end of the channel."""
        return bool(self._received) or self._ended or self._wire.readable

    def settimeout(self, seconds: float) -> None:
        """Set how long each later call may take."""
        if not seconds > 0:
            raise ValueError("a timeout is more than zero seconds")
        self._timeout = seconds

    # --- bytes -----------------------------------------------------------------------------------------------------

    def send(self, data: bytes, *, timeout: float | None = None) -> None:
        """Send all of ``data``.

        Raises:
            ChannelError: the channel broke, or the peer did not take the data in time: it is closed then, because part of it went out.
        """
        self._check_ready()
        deadline = self._deadline(timeout)
        with self._sending:
            try:
                for start in range(0, len(data), _PIECE):
                    with self._state:
                        self._tls.sendall(data[start : start + _PIECE])
                        self._take_unsent()
                    self._flush(deadline)
            except SSL.Error as cause:
                self._wire.shut()
                raise _tls_error("cannot send", cause) from None
            except ChannelError:
                self._wire.shut()
                raise

    def recv(self, n: int, *, timeout: float | None = None) -> bytes:
        """Between 1 and ``n`` bytes; ``b""`` only when the peer has ended the channel properly (close_notify).

        Raises:
            ChannelError: the channel broke, was closed, or was cut off without close_notify.
            ChannelTimeoutError: nothing came in time; the channel is still good.
        """
        self._check_ready()
        deadline = self._deadline(timeout)
        with self._receiving:
            while not self._received:
                if self._ended and not self._wire.closed:
                    return b""
                self._receive(deadline)
            return self._take(min(n, len(self._received)))

    def recv_exact(self, n: int, *, timeout: float | None = None) -> bytes:
        """Exactly ``n`` bytes.

        Raises:
            ChannelError: the channel broke, was closed or ended before that.
            ChannelTimeoutError: they did not all come in time; what came is kept for the next call.
        """
        self._check_ready()
        deadline = self._deadline(timeout)
        with self._receiving:
            self._await(n, deadline)
            return self._take(n)

    # --- frames: 4-byte big-endian length, then one JSON object in UTF-8 -------------------------------------------

    def send_frame(self, *objects: Json, timeout: float | None = None) -> None:
        """Send one JSON object, or several in one go, a frame each.

        Raises:
            ProtocolError: one is larger than a frame may be; none is sent then.
            ChannelError: as :meth:`send`.
        """
        self.send(b"".join(map(_framed, objects)), timeout=timeout)

    def recv_frame(self, max_bytes: int = MAX_FRAME_BYTES, *, timeout: float | None = None) -> Json:
        """Receive one JSON object.

        Raises:
            ProtocolError: the frame is longer than ``max_bytes`` or not one JSON object; the channel is closed then.
            ChannelError: the channel broke, was closed or ended.
            ChannelTimeoutError: no whole frame came in time; may be repeated.
        """
        self._check_ready()
        deadline = self._deadline(timeout)
        with self._receiving:
            self._await(_FRAME_HEADER.size, deadline)
            length = _FRAME_HEADER.unpack_from(self._received)[0]
            if length > max_bytes:
                self._wire.shut()
                raise ProtocolError("a frame is longer than allowed", limit=max_bytes, got=length)
            self._await(_FRAME_HEADER.size + length, deadline)
            data = self._take(_FRAME_HEADER.size + length)[_FRAME_HEADER.size :]
        try:
            return parse_object(data)
        except (ParseError, ValueError) as cause:  # ValueError: a number of more digits than Python converts
            self._wire.shut()
            raise ProtocolError("a frame is not one JSON object") from cause

    # --- ending ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the channel (close_notify where that can be said at once) and wake any thread that waits on it.  Never fails."""
        if not self._wire.closed and self._ready and self._sending.acquire(blocking=False):
            try:
                with self._state, contextlib.suppress(SSL.Error):
                    self._tls.shutdown()
                    self._take_unsent()
                    self._wire.write_now(bytes(self._unsent))
            finally:
                self._sending.release()
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # --- inside ----------------------------------------------------------------------------------------------------

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline.after(self._timeout if timeout is None else timeout)

    def _check_ready(self) -> None:
        if not self._ready:
            raise ChannelError("the channel has not finished its handshake")

    def _take(self, n: int) -> bytes:
        data = bytes(self._received[:n])
        del self._received[:n]
        return data

    def _await(self, n: int, deadline: Deadline) -> None:
        while len(self._received) < n:
            if self._ended:
                raise ChannelError("the peer closed the channel", ended=True)
            self._receive(deadline)

    def _receive(self, deadline: Deadline) -> None:
        """Move some bytes from the network to ``_received``, or note the peer's proper end.  Called with ``_receiving`` held."""
        if self._wire.closed:
            raise ChannelError("this channel is closed")
        if self._drained:
            self._feed(deadline)
        data, failure = b"", None
        with self._state:
            try:
                data = self._tls.recv(_RECORD)
                self._drained = self._alone
            except SSL.WantReadError:
                self._drained = True
            except SSL.ZeroReturnError:
                self._ended = True
            except SSL.Error as cause:
                failure = _tls_error("the channel broke", cause)
            if not (data and self._alone):  # one record that was data is in hand as a whole, and calls for no answer
                self._take_unsent()
        self._offer_unsent()
        if failure is not None:
            self._wire.shut()
            raise failure
        self._received += data

    def _feed(self, deadline: Deadline) -> None:
        try:
            data = self._wire.read(deadline)
        except ChannelTimeoutError:
            raise
        except ChannelError:
            self._wire.shut()
            raise
        with self._state:
            self._alone = self._drained and _is_one_record(data)
            self._drained = False
            if data:
                self._tls.bio_write(data)
            else:
                self._tls.bio_shutdown()  # OpenSSL then tells a cut connection from a proper end

    def _take_unsent(self) -> None:
        """Move what TLS wants sent into ``_unsent``.  Called with ``_state`` held, so that records keep their order."""
        more = True
        while more:
            try:
                piece = self._tls.bio_read(_PIECE)
            except SSL.WantReadError:
                return
            self._unsent += piece
            more = len(piece) == _PIECE  # fewer: that was all

    def _flush(self, deadline: Deadline) -> None:
        """Send ``_unsent``.  Called with ``_sending`` held: only its holder takes from the front."""
        with self._state:
            piece = bytes(self._unsent[:_PIECE])
        while piece:
            sent = self._wire.write(piece, deadline)
            with self._state:
                del self._unsent[:sent]
                piece = bytes(self._unsent[:_PIECE])

    def _offer_unsent(self) -> None:
        """Send what reading produced if that needs no waiting: a reader that waited for a writer could deadlock both peers."""
        if self._unsent and self._sending.acquire(blocking=False):
            try:
                with self._state:
                    del self._unsent[: self._wire.write_now(bytes(self._unsent))]
            finally:
                self._sending.release()
        if len(self._unsent) > _MAX_UNSENT:
            self._wire.shut()
            raise ChannelError("the peer makes this side send and does not read")


def _is_one_record(data: bytes) -> bool:
    """Whether ``data`` is exactly one encrypted TLS record (RFC 8446, section 5.2).  If it holds data, SSL_read gives out all of it."""
    return data[:1] == b"\x17" and len(data) == _RECORD_HEADER + int.from_bytes(data[3:_RECORD_HEADER])


def _framed(obj: Json) -> bytes:
    data = _ENCODER.encode(obj).encode("utf-8")
    if len(data) > MAX_FRAME_BYTES:
        raise ProtocolError("a frame is too large to send", limit=MAX_FRAME_BYTES, got=len(data))
    return _FRAME_HEADER.pack(len(data)) + data


def _tls_error(what: str, cause: SSL.Error) -> ChannelError:
    if isinstance(cause, SSL.SysCallError):
        return ChannelError(f"{what}: the peer cut the connection", cut=True)
    entries = cause.args[0] if cause.args and isinstance(cause.args[0], list) else []
    reason = str(entries[-1][-1]) if entries else type(cause).__name__
    return ChannelError(f"{what}: {reason}", reason=reason)
