"""An owner's side of the broker as a KBS: keeps resources, policies and rules for guests, under the owner's enrolled key.  Fails closed."""

from __future__ import annotations

import base64
from typing import Self

from confide.attest.policy import Policy
from confide.canonical import Json, canonical
from confide.ids import SpkiDigest
from confide.keys.connection import Answer, Connection
from confide.keys.credentials import Credential
from confide.keys.kbs.resources import ResourceName, Rule


class KbsOwnerClient:
    """Commands of one owner.  Not for use from several threads at once."""

    def __init__(self, url: str, spki: SpkiDigest, credential: Credential, *, timeout: float = 10.0) -> None:
        self._connection = Connection(url, spki, credential.identity(), timeout)

    def put(self, name: ResourceName, content: bytes) -> int:
        """Keep ``content`` as the newest version of a resource; returns the version.

        Raises:
            CredentialError: the repository is another owner's.
            ParseError: it is empty or too large.
            BrokerError: the broker does not answer as it must.
        """
        answer, _ = self._connection.call("POST", f"/kbs/v0/resource/{name.path}", content)
        return int(Answer(answer).field("version", int))

    def delete(self, name: ResourceName) -> None:
        """Forget a resource.  Raises as :meth:`put`, and ``ResourceMissingError``."""
        self._connection.call("DELETE", f"/kbs/v0/resource/{name.path}")

    def set_policy(self, name: str, policy: Policy) -> str:
        """Keep a policy under a name, for rules; returns its digest as the broker computed it."""
        body = {"type": "confide", "policy_id": name, "policy": _encoded(policy.to_json())}
        answer, _ = self._connection.call("POST", "/kbs/v0/attestation-policy", body)
        return str(Answer(answer).field("digest", str))

    def set_rules(self, rules: tuple[Rule, ...]) -> None:
        """Put ``rules`` in the place of all rules of this owner."""
        body = {"policy": _encoded({"rules": [rule.to_json() for rule in rules]})}
        self._connection.call("POST", "/kbs/v0/resource-policy", body)

    def rules(self) -> tuple[Rule, ...]:
        """This owner's rules."""
        answer, _ = self._connection.call("GET", "/kbs/v0/resource-policy")
        return tuple(Rule.from_json(rule) for rule in Answer(answer).field("rules", list))

    def policies(self) -> Json:
        """This owner's policies by name, as they were written."""
        answer, _ = self._connection.call("GET", "/kbs/v0/attestation-policy")
        return dict(Answer(answer).field("policies", dict))

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _encoded(value: Json) -> str:
    return base64.b64encode(canonical(value)).decode()
