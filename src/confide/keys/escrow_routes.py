"""The broker's endpoints about keys in the hands of trustees, and about taking over single datasets.  Bodies have exactly these fields.

================================== ===================== ===============================
request                            body                  answer
================================== ===================== ===============================
POST /confide/v0/escrow            request               escrow (signed); waits
GET /confide/v0/escrow                                   escrows
POST …/escrow/trustee-key          envelope              name spki
POST …/escrow/trustees             names                 trustees: [name spki key]
POST …/escrow/announce             escrow recovery       key
POST …/escrow/request              escrow key            recovery (signed)
POST …/escrow/recover              head contributions    key version
POST …/datasets/adopt              manifest              dataset snapshot new
================================== ===================== ===============================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from confide.canonical import Json
from confide.crypto.http_messages import Request
from confide.errors import ParseError
from confide.keys.broker import Broker
from confide.keys.escrow import MAX_TRUSTEES
from confide.keys.sessions import Peer

T = TypeVar("T")
_FIELDS: Final[dict[str, dict[str, type]]] = {
    "escrow/trustee-key": {"envelope": dict},
    "escrow/trustees": {"names": list},
    "escrow": {"request": dict},
    "escrow/announce": {"escrow": str, "recovery": dict},
    "escrow/request": {"escrow": str, "key": str},
    "escrow/recover": {"head": dict, "contributions": list},
    "datasets/adopt": {"manifest": dict},
}


def escrow_route(broker: Broker, peer: Peer, request: Request) -> Json | None:
    """The answer to a request about an escrow; nothing if it is about something else.

    Raises:
        ConfideError: the refusal.
    """
    path = request.path.rstrip("/").removeprefix("/confide/v0/")
    escrows = broker.escrows
    if (request.method, path) == ("GET", "escrow"):
        return escrows.escrows(peer)
    if request.method != "POST" or path not in _FIELDS or not request.path.startswith("/confide/v0/"):
        return None
    body = _body(request, _FIELDS[path])
    commands: dict[str, Callable[[], Json]] = {
        "escrow/trustee-key": lambda: escrows.register_trustee_key(peer, body["envelope"]),
        "escrow/trustees": lambda: escrows.trustees(peer, _few(body["names"], str)),
        "escrow": lambda: escrows.escrow(peer, body["request"]),
        "escrow/announce": lambda: escrows.announce(peer, body["escrow"], body["recovery"]),
        "escrow/request": lambda: escrows.request_recovery(peer, body["escrow"], body["key"]),
        "escrow/recover": lambda: escrows.recover(peer, body["head"], _few(body["contributions"], dict)),
        "datasets/adopt": lambda: broker.transfers.adopt_dataset(peer, body["manifest"]),
    }
    return commands[path]()


def _body(request: Request, fields: dict[str, type]) -> Json:
    body = request.json
    if body is None or set(body) != set(fields) or any(not isinstance(body[name], kind) for name, kind in fields.items()):
        raise ParseError("a request about an escrow has other fields than it must")
    return body


def _few(values: list[object], kind: type[T]) -> list[T]:
    found = [value for value in values if isinstance(value, kind)]
    if len(found) != len(values) or len(values) > MAX_TRUSTEES:
        raise ParseError("a request about an escrow names too many, or something else than it must")
    return found
