"""What owners ask of the broker as a KBS: keep resources, policies, rules and reference values for guests.

An owner is who proves the enrolled key in the TLS handshake, or who shows a token signed by a key that the owner registered over such a
connection: Ed25519 (EdDSA), with issuer, audience and expiry; or whom a token of one of the broker's issuers names (``keys.tokens``), which
``keys.kbs.routes`` has read by then.  Every command is in the audit log, refusals included.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from jwcrypto.jwk import JWK

from confide.attest.policy import Policy
from confide.attest.tokens.jwt import UnverifiedJwt, Validity, check_audience, text_claim
from confide.canonical import Json, b64url, from_b64url, parse_object
from confide.crypto.secret import SecretBytes
from confide.errors import AttestationError, CredentialError, Fact, ParseError, ResourceMissingError, UsageError
from confide.ids import check_name
from confide.keys.audit import new_event
from confide.keys.callers import standing
from confide.keys.kbs.guests import audience_of
from confide.keys.kbs.resources import (
    MAX_RESOURCE_BYTES,
    SAMPLE_POLICY,
    NamedPolicy,
    ReferenceValue,
    Resource,
    ResourceName,
    ResourcePolicy,
    Rule,
    TokenKey,
    context_of,
    resolved,
)
from confide.keys.quotas import Quotas
from confide.keys.records import Owner
from confide.keys.refusals import refusals_audited
from confide.keys.tenant_records import Repository
from confide.keys.tenants import Tenants

if TYPE_CHECKING:
    from confide.keys.owners import Owners
    from confide.keys.sessions import Peer
    from confide.keys.store import Store

LONGEST_TOKEN: Final = timedelta(hours=1)
_LEEWAY: Final = timedelta(seconds=30)
_ED25519_CHARS: Final = 43
"""32 bytes in base64url."""
_MAX_VALUES: Final = 4096
_MAX_POLICY_CHARS: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: the TLS peer (or whom an issuer's token names in it), or the bearer of ``token``, which an owner's own key has signed."""

    peer: Peer
    token: str | None = field(default=None, repr=False)


class KbsAdmin:
    """Owners' commands.  Safe to use from several threads."""

    def __init__(self, store: Store, owners: Owners, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._owners = owners
        self._clock = clock
        self._tenants = Tenants(store)
        self._quotas = Quotas(store, clock)
        self._audience = audience_of(store)

    # --- resources ---------------------------------------------------------------------------------------------------

    def put_resource(self, caller: Caller, name: ResourceName, content: bytes) -> Json:
        """Keep ``content`` as the newest version of a resource of an own repository, or of one that nobody has yet.

        Raises:
            CredentialError: the repository is another owner's.
            ParseError: it is empty or too large.
        """
        with self._command("kbs-put", caller, {"resource": name.path}) as owner, self._store.transaction():
            if not 0 < len(content) <= MAX_RESOURCE_BYTES:
                raise ParseError("a resource has at least one byte, and at most 1 MiB", got=len(content))
            self._claim(name, owner)
            self._charge(owner, name, len(content))
            made = self._next(name, content)
            self._store.put(made)
            self._note("kbs-put", owner, resource=name.path, version=made.version)
        return {"resource": name.path, "version": made.version}

    def delete_resource(self, caller: Caller, name: ResourceName) -> Json:
        """Forget the content of an own resource.

        Raises:
            CredentialError: the repository is not the caller's.
            ResourceMissingError: there is no such resource.
        """
        with self._command("kbs-delete", caller, {"resource": name.path}) as owner, self._store.transaction():
            self._check_own(name.repository, owner)
            found = self._store.get(Resource, name.path)
            if found is None or not found.sealed:
                raise ResourceMissingError("there is no such resource")
            self._charge(owner, name, -1)
            self._store.put(Resource(name, found.version + 1, b"", b"", self._clock()))
            self._note("kbs-delete", owner, resource=name.path, version=found.version + 1)
        return {"resource": name.path, "deleted": True}

    def _charge(self, owner: Owner, name: ResourceName, size: int) -> None:
        """Count a resource that will have ``size`` bytes, or none at all if below zero, in the place of what it has now."""
        before = self._store.get(Resource, name.path)
        now = -1 if before is None else before.size
        more = (size >= 0) - (now >= 0)
        self._quotas.charge(owner.tenant, "resources", more, before=lambda: len(self._sizes(owner.tenant)))
        self._quotas.charge(owner.tenant, "resource-bytes", max(size, 0) - max(now, 0), before=lambda: sum(self._sizes(owner.tenant)))

    def _sizes(self, tenant: str) -> list[int]:
        """The sizes of all resources of a tenant."""
        repositories = [one for member in self._tenants.members(tenant) for one in self._store.find(Repository, member.name)]
        resources = [found for one in repositories for found in self._store.find(Resource, f"repository:{one.name}")]
        return [found.size for found in resources if found.sealed]

    def _next(self, name: ResourceName, content: bytes) -> Resource:
        before = self._store.get(Resource, name.path)
        version = 1 if before is None else before.version + 1
        key = SecretBytes.random()
        wrapped = self._store.kms.wrap(key, context=context_of(name, version))
        return Resource.encrypt(name, version, content, key=key, wrapped_key=wrapped, now=self._clock())

    def _claim(self, name: ResourceName, owner: Owner) -> None:
        if self._store.get(Repository, name.repository) is None:
            self._tenants.check_may_claim(owner, name.repository)
            self._store.put(Repository(name.repository, owner.name))
        self._check_own(name.repository, owner)

    def _check_own(self, repository: str, owner: Owner) -> None:
        """The answer for another's repository is the same whether it exists or not."""
        found = self._store.get(Repository, repository)
        if found is None or found.owner != owner.name:
            raise CredentialError("this credential does not own that repository", repository=repository)

    # --- policies ----------------------------------------------------------------------------------------------------

    def set_policy(self, caller: Caller, message: Json) -> Json:
        """``POST attestation-policy``: keep an appraisal policy under a name, for own rules.

        Raises:
            ParseError, PolicyError, UsageError: it is none, asks nothing, names values that are not there, or is of another language.
        """
        with self._command("kbs-set-policy", caller, {}) as owner, self._store.transaction():
            match message:
                case {"policy_id": str(name), "policy": str(text), **rest} if set(rest) <= {"type"}:
                    if rest.get("type", "confide") != "confide":
                        hint = "write it as a policy of Confide: docs/reference/policy.md"
                        raise UsageError("this broker evaluates no programs as policies", hint=hint)
                    template = _encoded_object(text)
                case _:
                    raise ParseError("an attestation policy has policy_id, policy (base64) and type (confide)")
            if check_name(name, "policy name") == SAMPLE_POLICY:
                raise UsageError(f"{SAMPLE_POLICY!r} is the name of the policy for guests that prove nothing")
            policy = Policy.from_json(resolved(template, self._values(owner)))
            self._store.put(NamedPolicy(owner.name, name, template))
            self._note("kbs-set-policy", owner, policy=name, digest=policy.digest)
        return {"policy_id": name, "digest": policy.digest}

    def policies(self, caller: Caller) -> Json:
        """The caller's own policies, as they were written."""
        with self._command("kbs-list", caller, {}) as owner:
            return {"policies": {found.name: found.policy for found in self._store.find(NamedPolicy, owner.name)}}

    def set_rules(self, caller: Caller, message: Json) -> Json:
        """``POST resource-policy``: all rules of the caller, in the place of those before.

        Raises:
            ParseError, UsageError: not rules, or one names a policy that is not there.
            CredentialError: one is for another owner's repository.
        """
        with self._command("kbs-set-rules", caller, {}) as owner, self._store.transaction():
            rules = _rules(message)
            for rule in rules:
                if self._store.get(Repository, rule.resource.repository) is not None:
                    self._check_own(rule.resource.repository, owner)
                else:
                    self._tenants.check_may_claim(owner, rule.resource.repository)
                if rule.policy != SAMPLE_POLICY and self._store.get(NamedPolicy, f"{owner.name}/{rule.policy}") is None:
                    raise UsageError(f"there is no policy {rule.policy}", hint="set it first, with attestation-policy")
            made = ResourcePolicy(owner.name, rules)
            self._store.put(made)
            self._note("kbs-set-rules", owner, rules=len(rules), samples=any(rule.policy == SAMPLE_POLICY for rule in rules))
        return {"rules": [rule.to_json() for rule in rules]}

    def rules(self, caller: Caller) -> Json:
        """The caller's own rules."""
        with self._command("kbs-list", caller, {}) as owner:
            found = self._store.get(ResourcePolicy, owner.name)
            return {"rules": [] if found is None else [rule.to_json() for rule in found.rules]}

    # --- reference values ----------------------------------------------------------------------------------------------

    def set_reference(self, caller: Caller, message: Json) -> Json:
        """``POST reference-value``: lists of values by name, in the place of those of the same name.

        Raises:
            ParseError, UsageError: not a message of Trustee's type ``sample`` with lists of texts.
        """
        with self._command("kbs-set-reference", caller, {}) as owner, self._store.transaction():
            found = _reference_values(message)
            for name, values in found.items():
                self._store.put(ReferenceValue(owner.name, name, values))
            self._note("kbs-set-reference", owner, names=sorted(found))
        return {"references": sorted(found)}

    def references(self, caller: Caller) -> Json:
        """The caller's own reference values."""
        with self._command("kbs-list", caller, {}) as owner:
            return {"references": {name: list(values) for name, values in self._values(owner).items()}}

    def _values(self, owner: Owner) -> dict[str, tuple[str, ...]]:
        return {found.name: found.values for found in self._store.find(ReferenceValue, owner.name)}

    # --- who ---------------------------------------------------------------------------------------------------------

    def set_token_key(self, caller: Caller, message: Json) -> Json:
        """Register an Ed25519 key by which the caller's tokens are signed, or revoke one for good.

        Only over TLS with the enrolled key: no token makes tokens.

        Raises:
            CredentialError: the client showed no enrolled key, or the key was revoked before.
            ParseError: not a key.
        """
        with self._command("kbs-token-key", Caller(caller.peer), {}) as owner, self._store.transaction():
            match message:
                case {"public_key": str(text), "revoked": bool(revoked), **rest} if not rest and len(text) == _ED25519_CHARS:
                    key = from_b64url(text)
                    made = TokenKey(owner.name, key, revoked)
                case _:
                    raise ParseError("a token key is public_key (Ed25519: 32 bytes in base64url) and revoked (true or false)")
            before = self._store.get(TokenKey, made.id)
            if before is not None and before.revoked and not revoked:
                raise CredentialError("this token key was revoked", hint="make a new one")
            self._store.put(made)
            self._note("kbs-token-key", owner, public_key=b64url(key), revoked=revoked)
        return {"owner": owner.name, "audience": self._audience, "revoked": revoked}

    def _who(self, caller: Caller, action: str) -> Owner:
        if caller.token is None:
            return self._owners.who(caller.peer, action)
        try:
            return self._bearer(caller.token)
        except AttestationError as cause:  # the token's own errors speak of attestation, which this is none of
            raise CredentialError(f"the admin token is refused: {cause.message}") from cause

    def _bearer(self, text: str) -> Owner:
        token = UnverifiedJwt.parse(text)
        issuer = text_claim(token.unverified_claims(), "iss")
        owner = self._store.get(Owner, issuer)
        keys = [] if owner is None else self._store.find(TokenKey, owner.name)
        for key in keys:
            if key.revoked:
                continue
            jwk = JWK(kty="OKP", crv="Ed25519", x=b64url(key.public_key))
            try:
                claims = token.verified(jwk, ("EdDSA",))
            except AttestationError:
                continue
            check_audience(claims, self._audience)
            Validity.of(claims, now=self._clock(), leeway=_LEEWAY, longest=LONGEST_TOKEN)
            if owner is not None:
                return standing(owner)
        raise CredentialError("the admin token is not signed by a key that its issuer has registered")

    @contextmanager
    def _command(self, action: str, caller: Caller, facts: dict[str, Fact]) -> Iterator[Owner]:
        """Find out who asks; refusals inside the block are recorded as theirs."""
        with refusals_audited(self._store, self._clock, action, [], facts):
            owner = self._who(caller, action)
        with self._owners.admitted(action, owner, facts):
            yield owner

    def _note(self, action: str, owner: Owner, **facts: Any) -> None:
        standing(self._store.get(Owner, owner.name) or owner)  # withdrawn since the request was admitted: see Callers._note
        self._store.append_audit(new_event(action, [owner.name], self._clock(), owner=owner.name, **facts))


def _encoded_object(text: str) -> Json:
    """A JSON object in base64, with either alphabet, with or without padding: clients differ.

    Raises:
        ParseError: it is none.
    """
    if len(text) > _MAX_POLICY_CHARS:
        raise ParseError("a policy is too large", limit=_MAX_POLICY_CHARS)
    plain = text.rstrip("=").translate(str.maketrans("+/", "-_"))
    try:
        data = base64.urlsafe_b64decode(plain + "=" * (-len(plain) % 4))
    except (binascii.Error, ValueError) as cause:
        raise ParseError("not base64") from cause
    return parse_object(data)


def _rules(message: Json) -> tuple[Rule, ...]:
    match message:
        case {"policy": str(text), **rest} if not rest:
            found = _encoded_object(text)
            if set(found) == {"rules"} and isinstance(found["rules"], list):
                return tuple(Rule.from_json(rule) for rule in found["rules"])
    raise ParseError('a resource policy has policy: the base64 of {"rules": [...]}', hint="docs/reference/kbs.md")


def _reference_values(message: Json) -> dict[str, tuple[str, ...]]:
    match message:
        case {"version": "0.1.0", "type": "sample", "payload": str(text), **rest} if not rest:
            found = {}
            for name, values in _encoded_object(text).items():
                if not isinstance(values, list) or not 0 < len(values) <= _MAX_VALUES or not all(isinstance(one, str) for one in values):
                    raise ParseError("reference values are lists of texts", name=name[:64])
                found[check_name(name, "name of reference values")] = tuple(values)
            if found:
                return found
    raise ParseError("reference values come as version 0.1.0, type sample and payload (base64 of names and lists)")
