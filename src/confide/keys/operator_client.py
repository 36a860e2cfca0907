"""An enrolled operator's side of the broker.  Errors as in :class:`~confide.keys.key_client.KeyClient`."""

from __future__ import annotations

from typing import Final

from confide.canonical import Json
from confide.errors import UsageError
from confide.keys.key_client import KeyClient

_STEPS: Final[dict[str, tuple[str, str]]] = {
    "enrol": ("POST", "enrolments"),
    "cancel-enrolment": ("POST", "enrolments/cancel"),
    "withdraw": ("POST", "withdraw"),
    "add-tenant": ("POST", "tenants"),
    "tenants": ("GET", "tenants"),
    "limits": ("POST", "limits"),
}


class OperatorClient(KeyClient):
    """The steps, by the names that they have on the broker's machine.  No answer holds anything of a key."""

    def operate(self, op: str, **fields: object) -> Json:
        """Take one step; the answer is as on the machine.

        Raises:
            UsageError: there is no such step.
            BrokerError: the answer lacks what it must have.
        """
        if op not in _STEPS:
            raise UsageError("there is no such step", got=op[:40])
        method, path = _STEPS[op]
        answer = self._call(method, f"operator/{path}", None if method == "GET" else dict(fields))
        kinds: dict[str, type] = {"token": str, "spki": str} if op == "enrol" else {}
        kinds |= {"owner": str, "cancelled": int} if op == "cancel-enrolment" else {}
        kinds |= {"owner": str, "grants": int} if op == "withdraw" else {"tenants": list} if op == "tenants" else {}
        kinds |= {"tenant": str, "rate": float, "burst": int, "quotas": dict} if op == "limits" else {}
        return {name: answer.field(name, kind) for name, kind in (kinds or {"tenant": str}).items()}
