"""Requests for outputs of runs: the key of one, which the run's nodes share, and notes of its snapshots.

What an output derives from and who may open it is ``keys.outputs``' affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from confide.canonical import Json
from confide.crypto.sign import PublicKey
from confide.errors import Fact, ManifestError
from confide.ids import DatasetId, Purpose, Role, check_name
from confide.keys.answers import Answers, Given
from confide.keys.asker import Asker
from confide.keys.audit import new_event
from confide.keys.decisions import Decisions, granted, key_facts
from confide.keys.grants import Decision
from confide.keys.hierarchy import KeyHierarchy
from confide.keys.limits import RateLimits
from confide.keys.outputs import Outputs, is_earlier, origin_of
from confide.keys.readings import Reading
from confide.keys.records import Dataset, owners_of
from confide.keys.runs import Runs
from confide.keys.sessions import Peer
from confide.keys.store import Store


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for: the output of that name, by what the driver says of it (``OutputRequests.key``)."""

    name: str
    inputs: Sequence[str]
    recipients: Sequence[str]
    newest: Sequence[Reading] = ()
    parent: Json | None = None


class OutputRequests:
    """Answers nodes of runs.  Each request is one step of the store."""

    def __init__(
        self,
        store: Store,
        decisions: Decisions,
        outputs: Outputs,
        *,
        keys: KeyHierarchy,
        runs: Runs,
        limits: RateLimits,
        answers: Answers,
    ) -> None:
        self._store = store
        self._decisions = decisions
        self._outputs = outputs
        self._keys = keys
        self._runs = runs
        self._limits = limits
        self._answers = answers

    def key(self, peer: Peer, session: str, wanted: Wanted, *, signatures: Sequence[object] = ()) -> Json:
        """The key of this run's output: made for the driver when first asked, the same for all nodes of the run afterwards.

        With ``parent``, the newest manifest of an earlier run's output, it is that dataset's: the run goes on with it, if the owners of
        what is in it have granted reading and writing, and of them are all whose data the run reads (``Outputs.go_on``).

        The output derives from ``inputs`` and from every dataset whose key the run was given.  ``recipients`` are those
        that the job names; those that any input's grants do not name are left out.  ``newest`` is what the driver reads because it was
        shown nothing newer: workers are given keys for what is newest by then, so nobody else would notice that a storage has hidden it.

        Raises:
            AttestationError: the session or its evidence does not hold, or no grant's policy accepts it.
            ManifestError: an input is not known here.
            RollbackError: an input of ``newest`` is older than one that was seen here.
            GrantError: an input's grants do not cover writing by this job, there is no input, or the driver has not made the output yet;
                or the run may not go on with that dataset.
            BindingError: another driver made this output.
        """
        asker = self._decisions.asker(peer, session, signatures)
        check_name(wanted.name, "output name")
        facts: dict[str, Fact] = {**asker.facts(), "output": wanted.name}
        with self._decisions.audited("output", [], facts):
            concerned = owners_of(self._outputs.roots(wanted.inputs, asker))
        undone = self._limits.undone(asker.attested.binding.exporter)
        with self._decisions.audited("output", concerned, facts), undone, self._store.transaction():
            found, decisions = self._decided(wanted, asker, concerned, peer.address)
            secret = self._keys.dataset_key(found)
            self._outputs.note_written(found, asker)
            facts |= key_facts(found)
            self._store.append_audit(granted("output", found.owners, facts, decisions, asker.now))
        origin = origin_of(found)
        extra = {
            "wrapped": found.wrapped.to_json(),
            "signer": PublicKey(self._outputs.signer(found, asker.context)).digest,
            "recipients": list(origin.recipients),
            "inherits": list(origin.inherits),
        }
        return {**self._answers.sealed(Given(found, secret, decisions), asker, Purpose.WRITE), **extra}

    def _decided(self, wanted: Wanted, asker: Asker, concerned: list[str], address: str) -> tuple[Dataset, list[Decision]]:
        """The output, made if there is none, and who lets the node have its key.  Adds to ``concerned`` whose data is in it."""
        found = known = self._outputs.named(asker, wanted.name)
        if asker.attested.role is Role.DRIVER:
            self._outputs.check_driver(asker)
        if found is None and wanted.parent is not None:
            found = self._outputs.parent(wanted.parent, asker)
            concerned[:] = sorted({*concerned, *found.owners})
        tenants = self._limits.of(concerned)
        roots = found.roots if found else self._outputs.roots(wanted.inputs, asker)
        with self._limits.strangers(tenants, address):
            if found is not None and is_earlier(found, asker.context):
                self._decisions.decide(roots, Purpose.READ, asker)  # what is in it already comes with its key
            decisions = self._decisions.decide(roots, Purpose.WRITE, asker)
        self._limits.tenants(tenants)
        self._outputs.check_newest(wanted.newest, wanted.inputs)
        if found is None:
            found = self._outputs.mint(asker, wanted.name, roots, wanted.recipients)
        elif known is None:
            self._outputs.go_on(found, asker, wanted.name, wanted.inputs, wanted.recipients)
        self._decisions.count_given(tenants, asker)
        return found, decisions

    def register(self, peer: Peer, session: str, dataset: DatasetId, manifest: Json, *, announce: bool = False) -> Json:
        """Take note of an output's new snapshot, so that older ones are refused from now on.

        A snapshot of an earlier run's output is told twice: with ``announce`` before it is committed, which lets it be shown from then
        on and refuses nothing, and again once it is.

        Raises:
            AttestationError: the session or its evidence does not hold.
            ManifestError, RollbackError: not a newer manifest of that output, signed by the driver that made it.
            GrantError: the node is not of the run that made the output, or goes on with it.
            SnapshotConflictError: another writer's snapshot came first.
        """
        asker = self._decisions.asker(peer, session)
        facts: dict[str, Fact] = dict(asker.facts())
        owners: list[str] = []
        with self._decisions.audited("manifest", owners, facts), self._store.transaction():
            known, shown = self._decisions.known(manifest, owners, facts)
            if known.dataset != dataset:
                raise ManifestError("the manifest is of another dataset", expected=dataset, got=known.dataset)
            if announce or is_earlier(known, asker.context) or known.origin is None:
                known, claims = self._outputs.announced(known, shown, asker)
            found, claims = known.signed(shown)
            facts["snapshot"] = claims.snapshot
            self._runs.heard(asker.context, asker.now)
            found = known if announce else found.after(claims)
            self._store.put(found)
            self._store.append_audit(new_event("announced" if announce else "manifest", owners, asker.now, **facts))
        return {"dataset": found.dataset, "snapshot": claims.snapshot}
