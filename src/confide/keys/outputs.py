"""What a run writes derives from what it was given to read: its outputs, the keys they inherit, and who may open them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from confide.attest.evidence import NodeContext
from confide.errors import GrantError, ManifestError, StoreError, UsageError
from confide.ids import DatasetId, Purpose, Role, check_name
from confide.keys.asker import Asker
from confide.keys.hierarchy import KeyHierarchy
from confide.keys.owners import JOB_PREFIX
from confide.keys.readings import Reading
from confide.keys.records import Dataset, Origin, Release, run_ref
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
        """
        self._keep(dataset, asker, purpose)
        for output in self.of_run(asker.context):
            origin = origin_of(output)
            if not set(dataset.roots) <= set(origin.inherits):
                inherits = tuple(sorted({*origin.inherits, *dataset.roots}))
                allowed = self._recipients(dataset.roots, origin.recipients, asker)
                self._store.put(replace(output, origin=replace(origin, inherits=inherits, recipients=allowed)))

    def note_written(self, output: Dataset, asker: Asker) -> None:
        """The key of the run's own output was given to one of its nodes."""
        self._keep(output, asker, Purpose.WRITE)

    def _keep(self, dataset: Dataset, asker: Asker, purpose: Purpose) -> None:
        context = asker.context
        release = Release(context.job, context.run, dataset.dataset, asker.attested.role, purpose)
        self._runs.keep(release, context, asker.now)

    def of_run(self, context: NodeContext) -> list[Dataset]:
        """All outputs that the run has made so far."""
        found = self._store.find(Dataset, run_ref(context.run))
        return [d for d in found if d.origin is not None and (d.origin.job, d.origin.run) == (context.job, context.run)]

    def named(self, asker: Asker, name: str) -> Dataset | None:
        """The output of that name of the node's run, if it was made already."""
        return next((d for d in self.of_run(asker.context) if origin_of(d).name == name), None)

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

    def _recipients(self, roots: Sequence[str], wanted: Sequence[str], asker: Asker) -> tuple[str, ...]:
        allowed = set(wanted)
        for key in roots:
            allowed &= self._standings.recipients(key, asker.context.job, asker.now)
        return tuple(sorted(allowed))


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
