"""What guests ask of the broker: a session, attestation, a resource.  A state machine over the store; no sockets, the clock is an argument.

For each resource it (1) finds the guest by cookie or token, (2) verifies its evidence anew, (3) lets the rules of the repository's owner
decide, (4) writes the audit log, and only then (5) decrypts the resource and encrypts it to the guest's attested key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from jwcrypto.jwk import JWK

from confide.attest.ear import EarReader, EarRequest, write_guest_ear
from confide.attest.policy import Policy
from confide.canonical import Json, canonical, parse_object
from confide.errors import ConfideError, EvidenceInvalidError, Fact, ParseError, PolicyError, ResourceDeniedError, ResourceMissingError
from confide.keys.audit import new_event
from confide.keys.kbs.messages import AttestRequest, AuthRequest, GuestTee
from confide.keys.kbs.resources import (
    SAMPLE_POLICY,
    NamedPolicy,
    ReferenceValue,
    Resource,
    ResourceName,
    ResourcePolicy,
    Rule,
    context_of,
    resolved,
)
from confide.keys.kbs.session_records import Challenge, Guest
from confide.keys.kbs.sessions import GuestSessions
from confide.keys.kbs.tee_evidence import unverified_kind
from confide.keys.limits import RateLimits
from confide.keys.quotas import Quotas
from confide.keys.records import Owner
from confide.keys.refusals import refusals_audited
from confide.keys.tenant_records import Repository

if TYPE_CHECKING:
    from confide.attest.verify import VerifiedEvidence, Verifier
    from confide.keys.store import Store

NONCE_TTL: Final = timedelta(seconds=60)
SESSION_TTL: Final = timedelta(minutes=15)
_MAX_REASONS: Final = 300
_KNOWN_POLICIES: Final = 256


@dataclass(frozen=True, slots=True)
class _Judged:
    """A guest whose evidence has just been verified again; ``verified`` is ``None`` for a sample."""

    guest: Guest
    verified: VerifiedEvidence | None
    now: datetime

    def facts(self) -> dict[str, Fact]:
        """What the audit log says of the guest."""
        digest = self.guest.init_data_digest
        known: dict[str, Fact] = {} if digest is None else {"init_data": digest}
        if self.verified is None:
            return {**known, "tee": GuestTee.SAMPLE.value}
        claims = self.verified.claims
        simulated = "yes" if claims.simulated else "no"
        found = {"tee": claims.tee.value, "evidence": claims.evidence_digest, "measurement": claims.measurement, "simulated": simulated}
        return {**known, **found}


@dataclass(frozen=True, slots=True)
class _Resolved:
    """A policy with its reference values, and the records that it is of.  The store makes another record when its row is another one."""

    named: NamedPolicy
    references: Sequence[ReferenceValue]
    policy: Policy

    def is_of(self, named: NamedPolicy, references: Sequence[ReferenceValue]) -> bool:
        """Whether these records say the same because they are the same."""
        same = named is self.named and len(references) == len(self.references)
        return same and all(one is known for one, known in zip(references, self.references, strict=True))


class Guests:
    """Sessions, tokens and resources of guests, over one store.  Safe to use from several threads."""

    def __init__(
        self,
        store: Store,
        verifier: Verifier,
        clock: Callable[[], datetime],
        *,
        nonce_ttl: timedelta = NONCE_TTL,
        session_ttl: timedelta = SESSION_TTL,
        limits: RateLimits | None = None,
    ) -> None:
        self._limits = limits or RateLimits(store)
        self._quotas = Quotas(store, clock)
        self._store = store
        self._verifier = verifier
        self._policies: dict[str, _Resolved] = {}
        self._clock = clock
        self.sessions = GuestSessions(store, nonce_ttl=nonce_ttl, session_ttl=session_ttl)
        self.audience = audience_of(store)
        self._key = store.signing_key.unwrapped()
        self._reader = EarReader(self.audience, JWK.from_pyca(self._key.public_key()), self.audience)

    def auth(self, message: Json) -> tuple[str, Json]:
        """``POST auth``: a session's name (for the cookie), and the challenge.

        Raises:
            ProtocolError, ParseError: not a request of protocol 0.4.0.
            EvidenceInvalidError: evidence of that kind of TEE is not verified here, or proves nothing and no owner's rule accepts that.
        """
        tee = AuthRequest.from_json(message).tee
        if tee is GuestTee.SAMPLE:
            self._check_sample()
        elif tee.tee is None:
            raise unverified_kind(tee)
        name, nonce = self.sessions.begin(tee, self._clock())
        return name, {"nonce": nonce, "extra-params": {"selected-hash-algorithm": "sha384"}}

    def attest(self, name: str, message: Json, client: str) -> tuple[Json, GuestTee]:
        """``POST attest``: take in evidence; the answer's token says what was found and is as good as the cookie.

        A session has one try, at whichever broker of the store: its nonce is used up, whatever comes of it.  ``client`` is where the
        request came from.

        Raises:
            ParseError: not a request of the protocol.
            AttestationError: the leaf says which step refused.
        """
        now = self._clock()
        with self._audited("kbs-attest", [], {}):
            request = AttestRequest.from_json(message)
            challenge = self.sessions.open(name, request.nonce, now)
            guest, verified = self._verified(request, challenge, client, now)
            claims = None if verified is None else verified.claims
            told = EarRequest(self.audience, self.audience, lifetime=self.sessions.ttl)
            token, token_id = write_guest_ear(claims, guest.runtime_claims(), told, self._key, now=now)
            with self._store.transaction():  # what cannot be written down does not happen
                self.sessions.admit(challenge, client, guest, token_id, now)
                self._store.append_audit(new_event("kbs-attest", [], now, **_Judged(guest, verified, now).facts()))
        return {"token": token}, GuestTee.SAMPLE if verified is None else GuestTee(verified.claims.tee.value)

    def _verified(self, request: AttestRequest, challenge: Challenge, client: str, now: datetime) -> tuple[Guest, VerifiedEvidence | None]:
        """The guest of a request and what its evidence says.  One that is refused has used its nonce up."""
        try:
            guest = Guest.of(request, challenge.tee)
            return guest, guest.verified(self._verifier, now)
        except ConfideError:
            self.sessions.spend(challenge, client, now)
            raise

    def of_token(self, token: str) -> Guest:
        """The guest that one of our tokens was issued for.

        Raises:
            TokenInvalidError, TokenExpiredError, TokenMisdirectedError: it is not ours, for us, and of this time.
            BindingError: its session has ended.
        """
        now = self._clock()
        with self._audited("kbs-token", [], {}):
            found = self._reader.read(token, now=now)
            runtime = found.evidence.get("runtime_data_claims")
            return self.sessions.of_token(found.token_id, runtime.get("nonce") if isinstance(runtime, dict) else None, now)

    def of_cookie(self, name: str) -> Guest:
        """The guest of a session.

        Raises:
            BindingError: there is no such session, or it was not attested.
        """
        return self.sessions.of_cookie(name, self._clock())

    def resource(self, guest: Guest, name: ResourceName, client: str) -> Json:
        """The newest version of a resource, encrypted to the guest's attested key.  ``client`` is where the request came from.

        Raises:
            AttestationError: the guest's evidence does not hold any more.
            ResourceDeniedError: no rule lets the guest have it.  The answer is the same whether the resource exists or not.
            ResourceMissingError: a rule does, and there is no such resource.
        """
        now = self._clock()
        with self._audited("kbs-resource", [], {"resource": name.path}):
            judged = _Judged(guest, guest.verified(self._verifier, now), now)
        repository = self._store.get(Repository, name.repository)
        owners = [] if repository is None else [repository.owner]
        tenants = self._limits.of(owners)
        facts: dict[str, Fact] = {**judged.facts(), "resource": name.path}
        with self._audited("kbs-resource", owners, facts), self._store.transaction():
            with self._limits.strangers(tenants, client):
                rule, reasons = self._decide(name, repository, judged)
                if rule is None:
                    # What failed is for the owner's log, not for the guest: by it, somebody else's could learn the policy.
                    facts["reasons"] = "; ".join(reasons)[:_MAX_REASONS]
                    raise ResourceDeniedError("no resource policy lets this guest have this resource")
            self._limits.tenants(tenants)
            found = self._store.get(Resource, name.path)
            if found is None or not found.sealed:
                raise ResourceMissingError("there is no such resource")
            self._quotas.release(tenants)
            secret = found.decrypt(self._store.kms.unwrap(found.wrapped_key, context=context_of(name, found.version)))
            self._store.append_audit(new_event("kbs-resource", owners, now, **facts, version=found.version, policy=rule.policy))
        return guest.request.key.encrypt(secret)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _decide(self, name: ResourceName, repository: Repository | None, judged: _Judged) -> tuple[Rule | None, list[str]]:
        """The first rule of the repository's owner that accepts the guest for this resource, if one does; and why the others do not."""
        owner = None if repository is None else self._store.get(Owner, repository.owner)
        found = None if owner is None or owner.withdrawn is not None else self._store.get(ResourcePolicy, owner.name)
        if found is None:
            return None, ["no rules"]
        reasons: list[str] = []
        for rule in found.rules:
            if rule.resource.matches(name):
                reason = self._refusal(rule, found.owner, judged)
                if reason is None:
                    return rule, reasons
                reasons.append(f"{rule.policy}: {reason}")
        return None, reasons

    def _refusal(self, rule: Rule, owner: str, judged: _Judged) -> str | None:
        """Why a rule does not accept a guest, or ``None`` if it does."""
        if rule.init_data and judged.guest.init_data_digest not in rule.init_data:
            return "init-data is not one of those named"
        if judged.verified is None or rule.policy == SAMPLE_POLICY:
            return None if judged.verified is None and rule.policy == SAMPLE_POLICY else "a sample is not evidence"
        try:
            policy = self._policy(owner, rule.policy)
        except (ParseError, PolicyError) as error:
            return error.message
        checks = policy.explain(judged.verified, role=None, job=None, now=judged.now)
        return next((f"{check.name} is {check.got}" for check in checks if not check.ok), None)

    def _policy(self, owner: str, name: str) -> Policy:
        found = self._store.get(NamedPolicy, f"{owner}/{name}")
        if found is None:
            raise PolicyError("there is no policy of this name", policy=name)
        references = self._store.find(ReferenceValue, owner)
        known = self._policies.get(found.id)
        if known is not None and known.is_of(found, references):
            return known.policy
        policy = _read_policy(canonical(resolved(found.policy, {one.name: one.values for one in references})))
        if len(self._policies) >= _KNOWN_POLICIES:
            self._policies.clear()
        self._policies[found.id] = _Resolved(found, references, policy)
        return policy

    def _check_sample(self) -> None:
        policies = self._store.find(ResourcePolicy, "all")
        if not any(rule.policy == SAMPLE_POLICY for policy in policies for rule in policy.rules):
            raise EvidenceInvalidError("a sample is no evidence of anything", hint="an owner's rule would have to name the policy 'sample'")

    def _audited(self, action: str, owners: list[str], facts: dict[str, Fact]) -> AbstractContextManager[None]:
        return refusals_audited(self._store, self._clock, action, owners, facts)


@lru_cache(_KNOWN_POLICIES)
def _read_policy(text: bytes) -> Policy:
    """The policy in these words, which are read anew from the store each time: other words are another policy."""
    return Policy.from_json(parse_object(text))


def audience_of(store: Store) -> str:
    """The broker's name as issuer and audience of tokens: its key's digest as a URN."""
    return f"urn:confide:kbs:{store.signing_key.spki_digest}"
