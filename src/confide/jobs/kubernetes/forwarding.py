"""A port of a pod as a socket: the API's port forwarding over one WebSocket (``v4.channel.k8s.io``).

Each message's first byte is its channel: 0 is the port's bytes, 1 the kubelet's words if it fails; each channel begins with the
port's number.  Nothing here is secret from API server and kubelet: who uses the socket makes a channel of its own through it.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from confide.errors import UnavailableError
from confide.jobs.kubernetes.api_errors import broken, clean, refusal
from confide.jobs.kubernetes.kubeconfig import Library

if TYPE_CHECKING:
    from websocket import WebSocket

_PROTOCOL: Final = "v4.channel.k8s.io"
_CONNECT_S: Final = 20.0
_CLOSE_S: Final = 1
_PIECE: Final = 32 * 1024
_BYTES, _FAILURE = 0, 1

_log = logging.getLogger(__name__)


def forward(library: Library, configuration: Any, url: str, *, authorization: str, doing: str) -> socket.socket:
    """One end of a pair of sockets; a thread carries bytes between the other end and the port until either side closes.

    ``configuration`` (the official client's) has the trust, the client certificate and the proxy.

    Raises:
        ClusterRefusedError: no right, or no such pod.
        UnavailableError: no answer.
    """
    sockets = library("websocket")
    peer = sockets.WebSocket(sslopt=_tls(configuration), skip_utf8_validation=True)
    header = [f"Sec-WebSocket-Protocol: {_PROTOCOL}"] + ([f"Authorization: {authorization}"] if authorization else [])
    try:
        peer.connect(url.replace("https://", "wss://", 1), header=header, timeout=_CONNECT_S, **_proxy(configuration))
    except sockets.WebSocketBadStatusException as cause:
        body = cause.resp_body if isinstance(cause.resp_body, bytes) else b""
        raise refusal(cause.status_code, body, doing, authorization) from cause
    except sockets.WebSocketException as cause:
        words = clean(str(cause), authorization)
        raise UnavailableError(f"cannot {doing}: the API server does not forward ports: {words}") from cause
    except OSError as cause:
        raise broken(cause, doing, urlsplit(url).netloc, authorization) from cause
    peer.settimeout(None)
    ours, theirs = socket.socketpair()
    threading.Thread(target=_carry, args=(peer, theirs, doing, sockets.WebSocketException), name="kubernetes-forward", daemon=True).start()
    return ours


def _carry(peer: WebSocket, theirs: socket.socket, doing: str, broke: type[Exception]) -> None:
    """Carry bytes both ways until one side ends; then close both."""
    far: Any = peer.sock
    begun: set[int] = set()
    poll = select.poll()
    poll.register(far, select.POLLIN)
    poll.register(theirs, select.POLLIN)
    try:
        while True:
            # A TLS record may hold several messages: what is decrypted already shows at no descriptor.
            waiting = isinstance(far, ssl.SSLSocket) and far.pending() > 0
            ready = {descriptor for descriptor, _ in poll.poll(0 if waiting else None)}
            if (waiting or far.fileno() in ready) and not _from_pod(peer, theirs, begun, doing):
                return
            if theirs.fileno() in ready:
                data = theirs.recv(_PIECE)
                if not data:
                    return
                peer.send_binary(bytes([_BYTES]) + data)
    except (OSError, broke) as error:
        _log.info("cannot go on to %s: %s", doing, clean(str(error)))
    finally:
        theirs.close()
        with contextlib.suppress(OSError, broke):
            peer.close(timeout=_CLOSE_S)


def _from_pod(peer: WebSocket, theirs: socket.socket, begun: set[int], doing: str) -> bool:
    """Hand on one message; whether there may be more."""
    message = peer.recv()
    if not isinstance(message, bytes) or not message or message[0] not in {_BYTES, _FAILURE}:
        return False
    channel, data = message[0], message[1:]
    if channel not in begun:  # the port's number, two bytes
        begun.add(channel)
        return len(data) == 2
    if channel == _FAILURE:
        _log.warning("cannot %s: %s", doing, clean(data.decode("utf-8", "replace")))
        return False
    theirs.sendall(data)
    return True


def _tls(configuration: Any) -> dict[str, Any]:
    """TLS as for all other requests: the server is always authenticated."""
    found = {"cert_reqs": ssl.CERT_REQUIRED, "check_hostname": True}
    given = {
        "ca_certs": configuration.ssl_ca_cert,
        "certfile": configuration.cert_file,
        "keyfile": configuration.key_file,
        "server_hostname": configuration.tls_server_name,
    }
    return found | {name: value for name, value in given.items() if value}


def _proxy(configuration: Any) -> dict[str, Any]:
    if not configuration.proxy:
        return {}
    proxy = urlsplit(configuration.proxy)
    passed_by = (configuration.no_proxy or "").split(",")
    return {"http_proxy_host": proxy.hostname, "http_proxy_port": proxy.port, "http_no_proxy": [each for each in passed_by if each]}
