"""Which office may use which command: the one place that decides.  Pure.

An *office* is what somebody is enrolled as.  A command that is not in the table is nobody's, and a request without a row is not served.
What a command reaches once it is allowed is ``keys.tenants``' affair.  ``docs/reference/roles.md`` is this table for people; a test holds
the two against each other and tries every row as everybody.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Final

from confide.errors import CredentialError


class Office(StrEnum):
    """What somebody is at the broker.  Nobody is two things under one credential."""

    OWNER = "owner"
    """Has keys, or receives outputs; decides over own keys alone."""
    AUDITOR = "auditor"
    """Sees what happened in a tenant (or in all) and to which keys; changes and opens nothing."""
    OPERATOR = "operator"
    """Runs the broker: enrols and removes people, makes tenants, sets their limits; has no keys and sees nobody's."""


OPERATION: Final = frozenset(
    {
        "enrolment", "cancel-enrolment", "enrol", "withdraw", "tenant", "limits",
        "unseal", "tenants-settled", "token-link", "token-unlink", "rekey",
    }
)  # fmt: skip
"""Actions in the audit log that are the operator's business: who came and went.  Nothing of what owners do with keys."""

_OWNER: Final = frozenset({Office.OWNER})
_OPERATOR: Final = frozenset({Office.OPERATOR})
_READERS: Final = frozenset({Office.OWNER, Office.AUDITOR})
_ALL: Final = frozenset(Office)

MAY: Final[Mapping[str, frozenset[Office]]] = {
    "create-key": _OWNER,
    "rotate-key": _OWNER,
    "retire-key": _OWNER,
    "destroy-key": _OWNER,
    "rewrap": _OWNER,
    "mint": _OWNER,
    "manifest": _OWNER,
    "open": _OWNER,
    "wrapped-form": _OWNER,
    "wrapping-key": _OWNER,
    "export-key": _OWNER,
    "import-key": _OWNER,
    "export-datasets": _OWNER,
    "import-datasets": _OWNER,
    "adopt-dataset": _OWNER,
    "trustee-key": _OWNER,
    "list-trustees": _OWNER,
    "escrow-key": _OWNER,
    "escrow-open": _OWNER,
    "list-escrows": _OWNER,
    "recovery-request": _OWNER,
    "recover-key": _OWNER,
    "grant": _OWNER,
    "revoke": _OWNER,
    "approvers": _OWNER,
    "approve": _OWNER,
    "reject": _OWNER,
    "take-back": _OWNER,
    "kbs-put": _OWNER,
    "kbs-delete": _OWNER,
    "kbs-set-policy": _OWNER,
    "kbs-set-rules": _OWNER,
    "kbs-set-reference": _OWNER,
    "kbs-list": _OWNER,
    "kbs-token-key": _OWNER,
    "list-keys": _READERS,
    "list-grants": _READERS,
    "audit": _ALL,
    "page": _ALL,
    "enrolment": _OPERATOR,
    "cancel-enrolment": _OPERATOR,
    "withdraw": _OPERATOR,
    "tenant": _OPERATOR,
    "list-tenants": _OPERATOR,
    "limits": _OPERATOR,
    "token-link": _ALL,
    "token-unlink": _ALL,
    "list-token-links": _ALL,
}
"""Commands of enrolled people, by the name that the audit log has for them."""


def allows(office: Office, action: str) -> bool:
    """Whether people of that office may use that command: for showing what there is to do.  Who decides calls :func:`check_may`."""
    return office in MAY.get(action, frozenset())


def check_may(office: Office, action: str) -> None:
    """Return if people of that office may use that command.

    Raises:
        CredentialError: they may not, or there is no such command.
    """
    if not allows(office, action):
        who = " or ".join(sorted(MAY.get(action, ())))
        hint = f"use the credential of an {who}" if who else None
        said = f"this credential is enrolled as {office.value}, which may not do this"
        raise CredentialError(said, hint=hint, role=office.value, action=action)


NODE: Final = "node"
GUEST: Final = "guest"
NEWCOMER: Final = "newcomer"
ANYONE: Final = "anyone"
WITHOUT_OFFICE: Final = frozenset({NODE, GUEST, NEWCOMER, ANYONE})
"""Who else asks: attested nodes, guests of the KBS protocol, whoever has an enrolment token, anyone (who is told no more than health)."""


@dataclass(frozen=True)
class Route:
    """One kind of request, and whose it is: the command's name in :data:`MAY`, or one of :data:`WITHOUT_OFFICE`.

    In ``path``, ``*`` stands for one part, and ``**`` for the rest.  ``actions`` is several where the body chooses.
    """

    method: str
    path: str
    actions: tuple[str, ...]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(re.escape(self.path).replace(r"\*\*", ".+").replace(r"\*", "[^/]+"))

    def matches(self, method: str, path: str) -> bool:
        """Whether a request is of this kind."""
        return method == self.method and self._pattern.fullmatch(path) is not None


_CONFIDE: Final = "/confide/v0/"
_KBS: Final = "/kbs/v0/"


def _route(method: str, path: str, *actions: str) -> Route:
    return Route(method, path, actions)


ROUTES: Final[tuple[Route, ...]] = (
    _route("POST", _KBS + "auth", NODE, GUEST),
    _route("POST", _KBS + "attest", NODE, GUEST),
    _route("GET", _KBS + "resource/**", GUEST),
    _route("POST", _KBS + "resource/**", "kbs-put"),
    _route("DELETE", _KBS + "resource/**", "kbs-delete"),
    _route("POST", _KBS + "attestation-policy", "kbs-set-policy"),
    _route("GET", _KBS + "attestation-policy", "kbs-list"),
    _route("POST", _KBS + "resource-policy", "kbs-set-rules"),
    _route("GET", _KBS + "resource-policy", "kbs-list"),
    _route("POST", _KBS + "reference-value", "kbs-set-reference"),
    _route("GET", _KBS + "reference-value", "kbs-list"),
    _route("POST", _CONFIDE + "kbs-token-keys", "kbs-token-key"),
    _route("GET", "/healthz", ANYONE),
    _route("GET", "/livez", ANYONE),
    _route("GET", "/metrics", ANYONE),
    _route("GET", "/page/**", "page"),
    _route("POST", _CONFIDE + "release", NODE),
    _route("POST", _CONFIDE + "releases", NODE),
    _route("POST", _CONFIDE + "outputs", NODE),
    _route("POST", _CONFIDE + "cut-off", NODE),
    _route("POST", _CONFIDE + "watch", NODE),
    _route("POST", _CONFIDE + "audit-head", NODE, "audit"),
    _route("PUT", _CONFIDE + "datasets/*/manifest", NODE, "manifest"),
    _route("POST", _CONFIDE + "enrol", NEWCOMER),
    _route("POST", _CONFIDE + "keys", "create-key"),
    _route("GET", _CONFIDE + "keys", "list-keys"),
    _route("POST", _CONFIDE + "keys/rotate", "rotate-key"),
    _route("POST", _CONFIDE + "keys/retire", "retire-key"),
    _route("POST", _CONFIDE + "keys/destroy", "destroy-key"),
    _route("POST", _CONFIDE + "keys/rewrap", "rewrap"),
    _route("GET", _CONFIDE + "keys/wrapping-key", "wrapping-key"),
    _route("POST", _CONFIDE + "keys/export", "export-key"),
    _route("POST", _CONFIDE + "keys/import", "import-key"),
    _route("POST", _CONFIDE + "datasets", "mint"),
    _route("POST", _CONFIDE + "datasets/export", "export-datasets"),
    _route("POST", _CONFIDE + "datasets/import", "import-datasets"),
    _route("POST", _CONFIDE + "datasets/adopt", "adopt-dataset"),
    _route("POST", _CONFIDE + "datasets/wrapped-form", "wrapped-form"),
    _route("POST", _CONFIDE + "escrow", "escrow-key"),
    _route("GET", _CONFIDE + "escrow", "list-escrows"),
    _route("POST", _CONFIDE + "escrow/trustee-key", "trustee-key"),
    _route("POST", _CONFIDE + "escrow/trustees", "list-trustees"),
    _route("POST", _CONFIDE + "escrow/announce", "escrow-open"),
    _route("POST", _CONFIDE + "escrow/request", "recovery-request"),
    _route("POST", _CONFIDE + "escrow/recover", "recover-key"),
    _route("POST", _CONFIDE + "open", "open"),
    _route("POST", _CONFIDE + "grants", "grant"),
    _route("GET", _CONFIDE + "grants", "list-grants"),
    _route("DELETE", _CONFIDE + "grants/*", "revoke"),
    _route("POST", _CONFIDE + "approvers", "approvers"),
    _route("POST", _CONFIDE + "approvals/vote", "approve", "reject"),
    _route("POST", _CONFIDE + "approvals/take-back", "take-back"),
    _route("POST", _CONFIDE + "audit", "audit"),
    _route("POST", _CONFIDE + "audit/proof", "audit"),
    _route("POST", _CONFIDE + "audit/consistency", "audit"),
    _route("POST", _CONFIDE + "operator/enrolments", "enrolment"),
    _route("POST", _CONFIDE + "operator/enrolments/cancel", "cancel-enrolment"),
    _route("POST", _CONFIDE + "operator/withdraw", "withdraw"),
    _route("POST", _CONFIDE + "operator/tenants", "tenant"),
    _route("GET", _CONFIDE + "operator/tenants", "list-tenants"),
    _route("POST", _CONFIDE + "operator/limits", "limits"),
    _route("POST", _CONFIDE + "token-links", "token-link"),
    _route("GET", _CONFIDE + "token-links", "list-token-links"),
    _route("POST", _CONFIDE + "token-links/remove", "token-unlink"),
)
"""Every request that the broker answers with anything but "there is no such endpoint"."""


def has_row(method: str, path: str) -> bool:
    """Whether a request is in the table.  What is not, is not served, whatever else the server knows."""
    return (method, path) in _EXACT or any(route.matches(method, path) for route in _PATTERNS)


_EXACT: Final = frozenset((route.method, route.path) for route in ROUTES if "*" not in route.path)
_PATTERNS: Final = tuple(route for route in ROUTES if "*" in route.path)
