"""What a run writes derives from what it was given to read: its outputs, the keys they inherit, and who may open them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from confide.attest.evidence import NodeContext
from confide.canonical import Json
from confide.crypto.sign import PublicKey
from confide.errors import BindingError, GrantError, ManifestError, SnapshotConflictError, StoreError, UsageError
from confide.ids import JOB_PREFIX, DatasetId, Purpose, Role, check_name
from confide.keys.asker import Asker
from confide.keys.hierarchy import KeyHierarchy
from confide.keys.lineage import Announced, Continuation, Origin
from confide.keys.manifest_claims import ManifestClaims, ShownManifest
from confide.keys.readings import Reading
from confide.keys.records import Dataset, Release, run_ref
from confide.keys.runs import Runs
from confide.keys.standing import Standings
from confide.keys.store import Store

_MAX_INPUTS: Final = 1000


class Outputs:
    """The outputs of runs.  Its methods are called inside the broker's transactions."""

    def __init__(self, store: Store, keys: KeyHierarchy, standings: Standings, runs: Runs) -> None:
        self._store = store
        self._runs = runs
        self._keys = keys
        self._standings = standings

    def note_given(self, dataset: Dataset, asker: Asker, purpose: Purpose) -> None:
        """From now on, what the run writes derives from this dataset: outputs that exist already inherit its owners' grants too.

        Whatever purpose the key was given for: a key that can write can read.

        Raises:
            GrantError: the run goes on with an earlier run's output that does not inherit them: what is in it would be less protected.
        """
        for one in self._continued(asker.context):
            _check_inherits(known_dataset(self._store, one.dataset), dataset.roots)
        self._keep(dataset, asker, purpose)
        for output in self.of_run(asker.context):
            origin = origin_of(output)
            if not set(dataset.roots) <= set(origin.inherits):
                inherits = tuple(sorted({*origin.inherits, *dataset.roots}))
                allowed = self._recipients(dataset.roots, origin.recipients, asker)
                self._store.put(replace(output, origin=replace(origin, inherits=inherits, recipients=allowed)))

    def note_written(self, output: Dataset, asker: Asker) -> None:
        """The key of an output was given to one of the run's nodes: of an earlier run's, all that is in it can be read by it."""
        if not is_earlier(output, asker.context):
            self._keep(output, asker, Purpose.WRITE)
            return
        for purpose in (Purpose.READ, Purpose.WRITE):
            self.note_given(output, asker, purpose)

    def _keep(self, dataset: Dataset, asker: Asker, purpose: Purpose) -> None:
        context = asker.context
        release = Release(context.job, context.run, dataset.dataset, asker.attested.role, purpose)
        self._runs.keep(release, context, asker.now)

    def of_run(self, context: NodeContext) -> list[Dataset]:
        """All outputs that the run has made so far."""
        found = self._store.find(Dataset, run_ref(context.run))
        return [d for d in found if d.origin is not None and (d.origin.job, d.origin.run) == (context.job, context.run)]

    def named(self, asker: Asker, name: str) -> Dataset | None:
        """The output of that name of the node's run, if it was made already, or if the run goes on with it."""
        made = next((d for d in self.of_run(asker.context) if origin_of(d).name == name), None)
        going = next((one for one in self._continued(asker.context) if one.name == name), None)
        return made if going is None else known_dataset(self._store, going.dataset)

    def _continued(self, context: NodeContext) -> list[Continuation]:
        return [one for one in self._store.find(Continuation, run_ref(context.run)) if one.job == context.job]

    def _continuation(self, output: Dataset, context: NodeContext) -> Continuation | None:
        return next((one for one in self._continued(context) if one.dataset == output.dataset), None)

    def signer(self, output: Dataset, context: NodeContext) -> bytes:
        """Who signs what the run writes into an output of it (DER SPKI)."""
        going = self._continuation(output, context)
        return output.signer if going is None else going.signer

    def check_driver(self, asker: Asker) -> None:
        """Return if no output of the node's run is another driver's.

        Raises:
            BindingError: one is.
        """
        signers = {output.signer for output in self.of_run(asker.context)} | {one.signer for one in self._continued(asker.context)}
        if signers - {asker.attested.binding.spki}:
            raise BindingError("an output of this run was made by another driver", run=asker.context.run)

    def roots(self, inputs: Sequence[str], asker: Asker) -> tuple[str, ...]:
        """The root keys of what the node names and of what its run was given to read.

        Raises:
            UsageError: more than 1,000 inputs.
            ManifestError: an input is not known here.
        """
        if len(inputs) > _MAX_INPUTS:
            raise UsageError("too many inputs", limit=_MAX_INPUTS, got=len(inputs))
        context = asker.context
        own = {output.dataset for output in self.of_run(context)}  # what they hold derives from what was read
        read = {r.dataset for r in self._store.find(Release, run_ref(context.run)) if r.job == context.job} - own
        roots: set[str] = set()
        for dataset in {*map(DatasetId, inputs), *read}:
            roots |= set(known_dataset(self._store, dataset).roots)
        return tuple(sorted(roots))

    def check_newest(self, readings: Sequence[Reading], inputs: Sequence[str]) -> None:
        """Return if no newer snapshot of any of these ``inputs`` has been seen than the driver reads.

        Raises:
            RollbackError: one has.
            ManifestError: one is no input, or not known here.
        """
        for one in readings:
            if one.dataset not in inputs:
                raise ManifestError("a snapshot that the driver reads is of no input", dataset=one.dataset[:80])
            known_dataset(self._store, DatasetId(one.dataset)).check_newest(one.snapshot, one.digest)

    def mint(self, asker: Asker, name: str, roots: tuple[str, ...], wanted: Sequence[str]) -> Dataset:
        """Make the output ``name`` of the node's run, under a key of its own that inherits the grants of ``roots``.

        Raises:
            GrantError: the node is not the driver.
        """
        if asker.attested.role is not Role.DRIVER:
            raise GrantError("the driver of this run has not made this output yet", hint="the driver asks for it first", output=name)
        context = asker.context
        # The full digest is in the key's record: 16 characters of it are a name, not an identity.
        key = self._keys.for_output(f"{JOB_PREFIX}{context.job[:16]}", name, context.job, asker.now)
        wrapped, _ = self._keys.mint(key)
        allowed = self._recipients(roots, [check_name(w, "recipient") for w in wanted], asker)
        origin = Origin(context.job, context.run, name, roots, allowed)
        made = Dataset(DatasetId(wrapped.dataset), wrapped, asker.attested.binding.spki, origin=origin)
        self._store.put(made)
        return made

    def parent(self, manifest: Json, asker: Asker) -> Dataset:
        """The output of an earlier run whose newest manifest the driver shows, to go on with it; :meth:`go_on` says whether it may.

        Raises:
            GrantError: the node is not the driver, or the dataset is not an earlier run's output.
            ManifestError, RollbackError: the manifest is not the newest of a dataset that is known here.
        """
        if asker.attested.role is not Role.DRIVER:
            raise GrantError("the driver of this run has not asked for this output yet", hint="the driver asks for it first")
        shown = ShownManifest(manifest)
        found, claims = known_dataset(self._store, shown.unverified_dataset()).signed(shown)
        found = found.after(claims)
        if not is_earlier(found, asker.context):
            hint = "an owner adds to an own dataset with `confide data encrypt --mode append`; a run writes another one"
            raise GrantError("a run goes on with outputs of earlier runs only", hint=hint, dataset=found.dataset)
        return found

    def go_on(self, found: Dataset, asker: Asker, name: str, inputs: Sequence[str], wanted: Sequence[str]) -> None:
        """Take note that the run makes the next snapshot of an earlier run's output.  That its owners have granted it was decided.

        What the run puts into the dataset derives from what it reads, so all of that must decide over the dataset already; and who may
        open the dataset must be allowed to open what this job makes.

        Raises:
            GrantError: it is not so.
        """
        context = asker.context
        _check_inherits(found, self.roots(inputs, asker))
        more = set(origin_of(found).recipients) - set(self._recipients(found.roots, wanted, asker))
        if more:
            hint = "name them in the job file, and have the owners' grants to this job name them; or write another dataset"
            message = "those who may open this output may not open what this job makes"
            raise GrantError(message, hint=hint, dataset=found.dataset, recipients=", ".join(sorted(more))[:400])
        self._store.put(found)
        parent = found.manifest_digest or ""
        going = Continuation(context.job, context.run, name, found.dataset, asker.attested.binding.spki, parent)
        self._runs.keep(going, context, asker.now)

    def announced(self, found: Dataset, shown: ShownManifest, asker: Asker) -> tuple[Dataset, ManifestClaims]:
        """An earlier run's output once the run's manifest may be its next snapshot, and what that says.  Committing it is up to storage.

        Raises:
            GrantError: the run does not go on with this dataset.
            ManifestError: the manifest is not by the run's driver, or not of the snapshot after the one that the run began with.
            SnapshotConflictError: another writer's snapshot came first.
        """
        going = self._continuation(found, asker.context)
        if going is None:
            raise GrantError("only the run that made an output registers its manifest", dataset=found.dataset)
        claims = shown.claims(PublicKey.from_spki(going.signer))
        if found.manifest_digest == claims.digest:  # it was asked twice
            return found, claims
        if found.manifest_digest != going.parent:
            hint = "nothing of this run is visible; look at the new snapshot and run it again"
            raise SnapshotConflictError("another writer committed a snapshot first", hint=hint, dataset=found.dataset)
        if claims.parent != going.parent or claims.snapshot != (found.snapshot or 0) + 1 or not found.is_known_as(claims.wrapped):
            raise ManifestError("the manifest is not of the snapshot after the newest one", dataset=found.dataset)
        return found.announcing(Announced(claims.digest, going.signer, asker.context.job)), claims

    def _recipients(self, roots: Sequence[str], wanted: Sequence[str], asker: Asker) -> tuple[str, ...]:
        allowed = set(wanted)
        for key in roots:
            allowed &= self._standings.recipients(key, asker.context.job, asker.now)
        return tuple(sorted(allowed))


def is_earlier(dataset: Dataset, context: NodeContext) -> bool:
    """Whether it is the output of another run."""
    return dataset.origin is not None and (dataset.origin.job, dataset.origin.run) != (context.job, context.run)


def _check_inherits(output: Dataset, roots: Sequence[str]) -> None:
    """Return if everyone who decides over ``roots`` decides over an earlier run's output, too."""
    missing = set(roots) - set(output.roots)
    if missing:
        raise GrantError(
            "what this run reads is under keys whose owners do not decide over the output that it goes on with",
            hint="write a new output: it inherits the grants of everything that the run reads",
            dataset=output.dataset,
            missing=", ".join(sorted(missing))[:400],
        )


def known_dataset(store: Store, dataset: DatasetId) -> Dataset:
    """The dataset as the transaction sees it.

    Raises:
        ManifestError: there is none of that id.
    """
    found = store.get(Dataset, dataset)
    if found is None:
        raise ManifestError("a dataset is not known to this broker", dataset=dataset[:80])
    return found


def origin_of(dataset: Dataset) -> Origin:
    """Where an output comes from.

    Raises:
        StoreError: the dataset is no output, although the store must have found one.
    """
    if dataset.origin is None:
        raise StoreError("a dataset that must be an output is none", dataset=dataset.dataset)
    return dataset.origin
