"""The broker's endpoints for keys and datasets that go to another broker, or come from one.  A part of ``keys.routes``.

============================== ================= =====================================
request                        body              answer
============================== ================= =====================================
GET …/keys/wrapping-key                          wrapping_key (signed)
POST …/keys/export             request (signed)  export (signed); waits (for approvals)
POST …/keys/import             export source     key version
POST …/datasets/export         key start         datasets next
POST …/datasets/import         datasets          imported
============================== ================= =====================================
"""

from __future__ import annotations

from typing import Final

from confide.canonical import Json
from confide.crypto.http_messages import Request
from confide.errors import ParseError
from confide.keys.broker import Broker
from confide.keys.fields import body, number, object_, text
from confide.keys.sessions import Peer

MAX_DATASETS: Final = 1000
"""Datasets that one request imports."""


def transfer_route(broker: Broker, peer: Peer, request: Request) -> Json | None:
    """The answer to a request about an export or import; nothing if it is about something else.

    Raises:
        ConfideError: the refusal.
    """
    transfers = broker.transfers
    match request.method, request.path.rstrip("/"):
        case "GET", "/confide/v0/keys/wrapping-key":
            return transfers.wrapping_key(peer)
        case "POST", "/confide/v0/keys/export":
            return transfers.export_key(peer, object_(request, "request"))
        case "POST", "/confide/v0/keys/import":
            return transfers.import_key(peer, object_(request, "export"), text(request, "source"))
        case "POST", "/confide/v0/datasets/export":
            return transfers.export_datasets(peer, text(request, "key"), number(request, "start"))
        case "POST", "/confide/v0/datasets/import":
            match body(request):
                case {"datasets": list(datasets), **rest} if not rest and len(datasets) <= MAX_DATASETS:
                    if all(isinstance(dataset, dict) for dataset in datasets):
                        return transfers.import_datasets(peer, datasets)
            raise ParseError("not a request to import datasets")
    return None
