"""The broker's endpoints for its operator, and for ties between tokens of an identity provider and people.  One prefix of ``keys.routes``.

====== ============================== ========================= ===============================
who    request                        body                      answer
====== ============================== ========================= ===============================
oper.  POST …/operator/enrolments     owner tenant role         token spki
oper.  POST …/enrolments/cancel       owner                     owner cancelled
oper.  POST …/operator/tenants        tenant                    tenant
oper.  GET …/operator/tenants                                   tenants
oper.  POST …/operator/withdraw       owner; strand_rules       owner grants
oper.  POST …/operator/limits         tenant limits             tenant rate burst quotas
people POST …/token-links             token                     issuer subject owner
people GET …/token-links                                        links
people POST …/token-links/remove      issuer subject            issuer subject owner
====== ============================== ========================= ===============================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from confide.canonical import Json
from confide.crypto.http_messages import Request
from confide.keys.broker import Broker
from confide.keys.fields import flag, object_, text
from confide.keys.sessions import Peer

_PREFIX: Final = "/confide/v0/"


def operator_route(broker: Broker, peer: Peer, request: Request) -> Json | None:
    """The answer to a request of an operator, or about tokens; nothing if it is about something else.

    Raises:
        ConfideError: the refusal.
    """
    operators, links = broker.operators, broker.token_links
    commands: dict[tuple[str, str], Callable[[], Json]] = {
        ("POST", "operator/enrolments"): lambda: operators.enrolment(
            peer, text(request, "owner"), text(request, "tenant"), text(request, "role")
        ),
        ("POST", "operator/enrolments/cancel"): lambda: operators.cancel_enrolment(peer, text(request, "owner")),
        ("POST", "operator/tenants"): lambda: operators.add_tenant(peer, text(request, "tenant")),
        ("GET", "operator/tenants"): lambda: operators.tenants(peer),
        ("POST", "operator/withdraw"): lambda: operators.withdraw(peer, text(request, "owner"), strand_rules=flag(request, "strand_rules")),
        ("POST", "operator/limits"): lambda: operators.set_limits(peer, text(request, "tenant"), object_(request, "limits")),
        ("POST", "token-links"): lambda: links.link(peer, text(request, "token")),
        ("GET", "token-links"): lambda: links.links(peer),
        ("POST", "token-links/remove"): lambda: links.unlink(peer, text(request, "issuer"), text(request, "subject")),
    }
    path = request.path.rstrip("/")
    command = commands.get((request.method, path.removeprefix(_PREFIX))) if path.startswith(_PREFIX) else None
    return None if command is None else command()
