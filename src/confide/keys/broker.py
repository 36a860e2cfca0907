"""The broker's answers to nodes: releases of dataset keys, keys for outputs, withdrawals, signed audit heads.

A state machine over the store: no sockets, and the clock is an argument.  For each request it (1) verifies the session's evidence anew,
(2) finds the dataset and checks its manifest, (3) lets every owner concerned decide through grants, (4) writes the audit log, and only
then (5) unwraps and seals.  A refusal is written to the audit log as well.  The decisions themselves
are ``keys.decisions``, requests for outputs ``keys.output_requests``; owners' commands are in ``keys.owners`` and the modules
``keys.*_commands``, operators' in ``keys.operators``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Final

from confide.attest.verify import Verifier
from confide.canonical import Json, b64url
from confide.crypto.secret import SecretBytes
from confide.errors import Fact, GrantError, ParseError, UsageError
from confide.ids import DatasetId, NodeId, Purpose, Role, Tee, check_name
from confide.keys.answers import Answers, Given
from confide.keys.asker import Asker
from confide.keys.audit import new_event
from confide.keys.clock import SteadyClock
from confide.keys.column_groups import group_of
from confide.keys.decisions import Decisions, granted, key_facts
from confide.keys.escrow_commands import EscrowCommands
from confide.keys.grant_commands import GrantCommands
from confide.keys.grants import Decision
from confide.keys.hierarchy import KeyHierarchy
from confide.keys.key_commands import KeyCommands
from confide.keys.limits import RateLimits
from confide.keys.manifest_claims import MAX_MANIFESTS
from confide.keys.operators import OperatorCommands
from confide.keys.output_requests import OutputRequests, Wanted
from confide.keys.outputs import Outputs
from confide.keys.owners import Owners
from confide.keys.readings import Reading
from confide.keys.records import CutOff, Dataset
from confide.keys.runs import Runs
from confide.keys.sessions import SESSION_TTL, Peer, Sessions, read_attest
from confide.keys.standing import Standings
from confide.keys.store import Store
from confide.keys.tenants import settle
from confide.keys.token_issuers import OwnerIssuer
from confide.keys.token_links import TokenLinks
from confide.keys.tokens import Tokens
from confide.keys.transfer_commands import TransferCommands
from confide.keys.withdrawals import Bell, why_withdrawn, withdrawn

KBS_VERSION: Final = "0.4.0"
LEASE: Final = timedelta(hours=1)
"""How long a node may use a released key before it must ask again."""
NONCE_TTL: Final = timedelta(seconds=60)
WATCH_S: Final = 25.0
"""How long a node's question for withdrawals stays open when there are none; less than the idle time of what may lie between."""


def utc_now() -> datetime:
    """The clock of a broker in service."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class _Step:
    """Releases that happen together.  ``owners`` and ``facts``: what the record of a refusal says, of the dataset that is looked at.

    ``told`` is what the log says of the asker; ``tenants`` are those whose business the request is, as far as it has been looked at.
    """

    asker: Asker
    told: Mapping[str, Fact]
    purpose: Purpose
    judge: Callable[[tuple[str, ...]], Sequence[Decision]]
    opened: Callable[[Dataset], SecretBytes]
    owners: list[str]
    facts: dict[str, Fact]
    address: str
    tenants: set[str] = field(default_factory=set)


class Broker:
    """Decides over keys.  Safe to use from several threads; several processes may share one store."""

    def __init__(
        self,
        store: Store,
        verifier: Verifier,
        clock: Callable[[], datetime] = utc_now,
        *,
        lease: timedelta = LEASE,
        nonce_ttl: timedelta = NONCE_TTL,
        session_ttl: timedelta = SESSION_TTL,
        watch_s: float = WATCH_S,
        issuers: Sequence[OwnerIssuer] = (),
    ) -> None:
        """Take the store into service.  ``clock`` is the machine's; ``keys.clock`` says what becomes of one that goes back."""
        self.store = store
        self.clock = SteadyClock(store, clock)
        self.verifier = verifier
        self.limits = RateLimits(store)
        settle(store, self.clock)
        self.owners = Owners(store, self.clock, self.limits)
        self.key_commands = KeyCommands(store, self.clock, self.limits)
        self.transfers = TransferCommands(store, self.clock, self.limits)
        self.escrows = EscrowCommands(store, self.clock, self.limits)
        self.grants = GrantCommands(store, self.clock, self.limits)
        self.operators = OperatorCommands(store, self.clock, self.limits)
        self.tokens = Tokens(store, self.clock, issuers)
        self.token_links = TokenLinks(store, self.clock, self.tokens, self.limits)
        self._standings = Standings(store)
        self._keys = KeyHierarchy(store)
        self._runs = Runs(store)
        self._outputs = Outputs(store, self._keys, self._standings, self._runs)
        self._sessions = Sessions(verifier, nonce_ttl=nonce_ttl, session_ttl=session_ttl)
        self._watch_s = watch_s
        self._bell = Bell(store)
        self._answers = Answers(lease)
        self._decisions = Decisions(
            store, self.clock, verifier=verifier, sessions=self._sessions, standings=self._standings, limits=self.limits
        )
        self._output_requests = OutputRequests(
            store, self._decisions, self._outputs, keys=self._keys, runs=self._runs, limits=self.limits, answers=self._answers
        )

    @property
    def open_sessions(self) -> int:
        """How many nodes have a session here."""
        return len(self._sessions)

    # --- sessions ----------------------------------------------------------------------------------------------------

    def auth(self, peer: Peer, request: Json) -> tuple[str, Json]:
        """KBS ``auth``: a session id (for the cookie) and the challenge.

        Raises:
            ParseError: not an ``auth`` request of this protocol version.
        """
        match request:
            case {"version": str(version), "tee": str(tee)} if version == KBS_VERSION and tee in set(Tee):
                name, nonce = self._sessions.begin(peer, Tee(tee), self.clock())
                return name, {"nonce": b64url(nonce), "extra-params": {}}
        raise ParseError("not an auth request of KBS protocol 0.4.0 for a kind of TEE that is known here")

    def attest(self, peer: Peer, session: str, request: Json) -> Json:
        """KBS ``attest``: take in evidence, bound to nonce, connection, key, role and context.

        Raises:
            ParseError: not an ``attest`` request.
            AttestationError: the leaf says which step refused.
        """
        now = self.clock()
        with self._decisions.audited("attest", [], {}):
            nonce, role, context, evidence = read_attest(request)
            verified, expires = self._sessions.attest(peer, session, nonce=nonce, role=role, context=context, evidence=evidence, now=now)
        asker = Asker(self._sessions.attested(peer, session, now), verified, now)
        self.store.append_audit(new_event("attest", [], now, **asker.facts()))
        return {"token": session, "expires": expires.isoformat()}

    def end(self, peer: Peer) -> None:
        """The connection has ended, and its session with it."""
        self._sessions.end(peer)
        self.limits.end(peer.exporter)

    # --- releases ----------------------------------------------------------------------------------------------------

    def release(self, peer: Peer, session: str, manifest: Json, purpose: Purpose, *, signatures: Sequence[object] = ()) -> Json:
        """The key of the dataset of a signed ``manifest``, sealed to the attested node, if every owner concerned has granted it.

        ``signatures`` of the node's job are what grants to a signer's jobs ask for.

        Raises:
            AttestationError: the session or its evidence does not hold (any more), or no grant's policy accepts it.
            ManifestError, RollbackError: the manifest is not a current one of a dataset that is known here.
            GrantError: no grant covers the job, role and purpose, or a signature is not of this job.
        """
        asker = self._decisions.asker(peer, session, signatures)
        (given,) = self._give_all([(manifest, None)], peer, asker, purpose)
        return self._answers.sealed(given, asker, purpose)

    def releases(
        self,
        peer: Peer,
        session: str,
        manifests: Sequence[Json],
        purpose: Purpose,
        *,
        groups: Sequence[Sequence[str]] | None = None,
        signatures: Sequence[object] = (),
    ) -> Json:
        """As :meth:`release`, for several datasets in one step: the keys of all of them, sealed together, or of none.

        ``groups``: column groups of each, whose keys follow that of their table.  Each key is decided over, and recorded, by itself.
        """
        wanted = [(one, group) for one, names in zip(manifests, groups or [()] * len(manifests), strict=True) for group in (None, *names)]
        asker = self._decisions.asker(peer, session, signatures)
        return self._answers.sealed_together(self._give_all(wanted, peer, asker, purpose), asker, purpose)

    def _give_all(self, wanted: Sequence[tuple[Json, str | None]], peer: Peer, asker: Asker, purpose: Purpose) -> list[Given]:
        """The keys of manifests, or of a column group of one, in one step."""
        told = asker.facts()
        with self._decisions.audited("release", [], {**told, "datasets": len(wanted)}):
            if not 1 <= len(wanted) <= MAX_MANIFESTS:
                raise UsageError(f"one request is for 1 to {MAX_MANIFESTS} datasets", got=len(wanted))
        facts: dict[str, Fact] = {}
        owners: list[str] = []
        judge = cache(partial(self._decisions.decide, purpose=purpose, asker=asker))  # in one step, the same question has the same answer
        undone = self.limits.undone(asker.attested.binding.exporter)
        with self._decisions.audited("release", owners, facts), undone, self.store.transaction(), self._keys.opening() as opened:
            step = _Step(asker, told, purpose, judge, opened, owners, facts, peer.address)
            return [self._give(manifest, group, step) for manifest, group in wanted]

    def _give(self, manifest: Json, group: str | None, step: _Step) -> Given:
        """One dataset's part of the step, or one column group's."""
        owners, facts, asker = step.owners, step.facts, step.asker
        owners.clear()
        facts.clear()
        facts.update(step.told)
        found, claims = self._decisions.dataset_of(manifest, owners, facts)
        facts |= {**key_facts(found), "purpose": step.purpose.value}
        known, found = found, found.after(claims)
        if group is not None:
            facts |= {"table": found.dataset, "group": group[:64]}
            known = found = group_of(self.store, found, claims, group)
            facts |= key_facts(found)
        tenants = self.limits.of(owners)
        with self.limits.strangers(tenants, step.address):
            decisions = step.judge(found.roots)
        self.limits.tenants(set(tenants) - step.tenants)  # each once: by datasets, a request over the burst would never pass
        step.tenants.update(tenants)
        self._decisions.count_given(tenants, asker)
        secret = step.opened(found)
        if found != known:
            self.store.put(found)
        self._outputs.note_given(found, asker, step.purpose)
        self.store.append_audit(granted("release", owners, facts, decisions, asker.now))
        return Given(found, secret, decisions)

    def output(
        self,
        peer: Peer,
        session: str,
        name: str,
        inputs: Sequence[str],
        wanted: Sequence[str],
        *,
        newest: Sequence[Reading] = (),
        parent: Json | None = None,
        signatures: Sequence[object] = (),
    ) -> Json:
        """The key of this run's output ``name``, for ``wanted`` recipients: see :meth:`OutputRequests.key`, whose errors it raises."""
        return self._output_requests.key(peer, session, Wanted(name, inputs, wanted, newest, parent), signatures=signatures)

    def register_output(self, peer: Peer, session: str, dataset: DatasetId, manifest: Json, *, announce: bool = False) -> Json:
        """Take note of an output's new snapshot: see :meth:`OutputRequests.register`, whose errors it raises."""
        return self._output_requests.register(peer, session, dataset, manifest, announce=announce)

    def cut_off(self, peer: Peer, session: str, node: str) -> Json:
        """Give ``node`` of the asking driver's run no key any more: its driver has found that it is not what it was accepted as.

        Raises:
            AttestationError: the session or its evidence does not hold, or another driver made an output of this run.
            GrantError: the node that asks is not a driver, or names itself.
        """
        asker = self._decisions.asker(peer, session)
        context, facts = asker.context, {**asker.facts(), "cut_off": check_name(node, "node")}
        with self._decisions.audited("cut-off", [], facts), self.store.transaction():
            if asker.attested.role is not Role.DRIVER or node == context.node:
                raise GrantError("only a run's driver cuts off a node, and only another one", run=context.run)
            self._outputs.check_driver(asker)
            self._runs.keep(CutOff(context.job, context.run, NodeId(node)), context, asker.now)
            withdrawn(self.store)
            self.store.append_audit(new_event("cut-off", [], asker.now, **facts))
        return {"node": node}

    def watch(self, peer: Peer, session: str, *, going: Callable[[], bool]) -> Json:
        """Wait until a key that the node's run was given would not be given any more, for 25 seconds at most, while ``going()``.

        The answer's ``withdrawn`` is the refusal that the node would get (as an error's JSON form), or empty.

        Raises:
            AttestationError: the session or its evidence does not hold.
        """
        asker, until = self._decisions.asker(peer, session), time.monotonic() + self._watch_s
        asker = replace(asker, seen=self._standings.signers(asker.context.job))
        self._hear(asker)
        while True:
            seen = self._bell.number()
            asker = replace(asker, now=self.clock())
            refusal = why_withdrawn(self.store, asker.context, asker.attested.role, partial(self._decisions.judge, asker=asker), asker.now)
            if refusal is not None:
                facts: dict[str, Fact] = {**asker.facts(), "code": refusal.code, "message": refusal.message[:300]}
                owners = sorted({str(refusal.facts["key"]).partition("/")[0]} if "key" in refusal.facts else ())
                self.store.append_audit(new_event("withdrawn", owners, asker.now, **facts))
                return {"withdrawn": refusal.to_json()}
            if not going() or (left := until - time.monotonic()) <= 0:
                return {"withdrawn": {}}
            self._bell.wait(seen, left, going)

    def audit_head(self, peer: Peer, session: str) -> Json:
        """The signed head of the audit log, for any attested node.

        Raises:
            AttestationError: the session or its evidence does not hold.
        """
        return {"head": self.store.signed_head(self._decisions.asker(peer, session).now)}

    # --- inside ------------------------------------------------------------------------------------------------------

    def _hear(self, asker: Asker) -> None:
        """A run whose nodes wait for withdrawals goes on; one that is over is told so by them."""
        if self._runs.is_due(asker.context, asker.now):
            with suppress(GrantError), self.store.transaction():
                self._runs.heard(asker.context, asker.now)
