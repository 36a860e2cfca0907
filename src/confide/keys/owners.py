"""The broker's decisions for owners and recipients: enrolment, own datasets, opening results, the audit log's views.

Who asks is known as ``keys.callers`` says; an owner never sees another's keys or events.  Keys themselves are in ``keys.key_commands``,
grants in ``keys.grant_commands``.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from confide.canonical import Json, b64url, sha256_hex
from confide.crypto.sign import PublicKey
from confide.errors import CredentialError, Fact, UsageError
from confide.ids import JOB_PREFIX, DatasetId, check_name
from confide.keys.audit import new_event
from confide.keys.callers import Callers, shown_key
from confide.keys.column_groups import group_of, row_of
from confide.keys.limits import RateLimits
from confide.keys.manifest_claims import ManifestClaims, ShownManifest, unverified_dataset
from confide.keys.records import Dataset, Enrolment, Owner
from confide.keys.roles import Office
from confide.keys.sessions import Peer
from confide.keys.standing import Standings
from confide.keys.store import Store
from confide.keys.tenant_records import DEFAULT_TENANT, EVERY_TENANT, Membership

ENROLMENT_TTL: Final = timedelta(hours=24)
AUDIT_PAGE: Final = 1000
"""Entries of the audit log in one answer."""
OPEN_LEASE: Final = timedelta(hours=1)
"""How long an owner or recipient should use an opened key before asking again."""


class Owners(Callers):
    """Owners' and recipients' commands over one store.  Each writes the audit log, refusals included."""

    def __init__(self, store: Store, clock: Callable[[], datetime], limits: RateLimits | None = None) -> None:
        super().__init__(store, clock, limits)
        self._standings = Standings(store)

    # --- who ---------------------------------------------------------------------------------------------------------

    def create_enrolment(self, owner: str, *, tenant: str = DEFAULT_TENANT, office: Office = Office.OWNER, by: str = "") -> str:
        """For the operator: a token, valid once and for 24 hours, with which somebody becomes ``owner``.  Only its digest is kept.

        ``tenant`` is the one that the person will be of; none for operators, and for auditors of the whole broker.  ``by`` is who made it.

        Raises:
            UsageError: not a name that somebody can have, there is no such tenant, or the office is not one within a tenant.
            CredentialError: there is somebody of that name.
        """
        check_name(owner, "owner")
        if owner.startswith(JOB_PREFIX):
            raise UsageError(f"names of owners do not begin with {JOB_PREFIX!r}")
        if (tenant == EVERY_TENANT and office is Office.OWNER) or (tenant != EVERY_TENANT and office is Office.OPERATOR):
            raise UsageError("owners are of one tenant, and operators of none", hint="auditors are of either")
        if tenant != EVERY_TENANT and not self._tenants.exists(tenant):
            raise UsageError(f"there is no tenant {tenant[:64]!r}", hint="make it with `confide broker tenants add`")
        token = secrets.token_urlsafe(32)
        with self._store.transaction():
            self._refuse_taken(owner)
            now = self._clock()
            self._store.sweep(now)
            made = Enrolment(sha256_hex(token.encode()), owner, now + ENROLMENT_TTL, tenant=tenant, office=office, by=by)
            self._store.put(made, expires=made.expires)
            self._store.append_audit(new_event("enrolment", self._told(made), now, owner=owner, tenant=tenant, role=office.value, by=by))
        return token

    def cancel_enrolments(self, owner: str, *, by: str = "") -> int:
        """For the operator: tokens with which somebody could still become ``owner`` are worth nothing from now on; how many.

        Raises:
            UsageError: there is none.
        """
        with self._store.transaction():
            now = self._clock()
            waiting = [one for one in self._store.find(Enrolment, owner) if not one.used and now < one.expires]
            if not waiting:
                hint = "who has redeemed it already is withdrawn: `confide broker withdraw`"
                raise UsageError(f"no enrolment of the name {owner[:64]!r} waits to be redeemed", hint=hint)
            for one in waiting:
                self._store.delete(Enrolment, one.id)
            told = sorted({name for one in waiting for name in self._told(one)})
            self._store.append_audit(new_event("cancel-enrolment", told, now, owner=owner, by=by, enrolments=len(waiting)))
        return len(waiting)

    def enrol(self, peer: Peer, owner: str, token: str) -> Json:
        """Register the client's key as ``owner``'s credential.

        Raises:
            CredentialError: no key was shown, the token is unknown, used, expired, for another name or of an operator who was withdrawn, or
                the name or key is registered.
        """
        with self._audited("enrol", [], {"owner": owner[:64]}), self._store.transaction():
            spki, now = shown_key(peer), self._clock()
            found = self._store.get(Enrolment, sha256_hex(token.encode()))
            if found is None or found.used or found.owner != owner or now >= found.expires:
                hint = "ask the broker's operator for a new one"
                raise CredentialError("the enrolment token is unknown, used, expired or for another name", hint=hint)
            maker = self._store.get(Owner, found.by)  # none if it was made on the broker's machine
            if maker is not None and maker.withdrawn is not None:
                raise CredentialError("the operator who made the enrolment token was withdrawn", hint="ask another one for a new token")
            self._refuse_taken(owner)
            made = Owner(owner, spki.spki_der, now, found.tenant, found.office)
            if self._store.find(Owner, made.ref):
                raise CredentialError("this key is registered under another name", hint="make a new credential for a new name")
            self._quotas.charge(found.tenant, "owners")
            self._store.put(replace(found, used=True), expires=found.expires)
            self._store.put(made)
            self._store.put(Membership(made.tenant, made.name))
            facts: dict[str, Fact] = {"owner": owner, "spki": made.ref, "tenant": made.tenant, "role": made.office.value}
            self._store.append_audit(new_event("enrol", self._told(found), now, **facts))
        return {"owner": owner, "spki": made.ref}

    def _told(self, enrolment: Enrolment) -> list[str]:
        """Who is to know of an enrolment: an auditor's, everybody whom the auditor will see; anybody else's, nobody."""
        if enrolment.office is not Office.AUDITOR:
            return [enrolment.owner]
        tenants = [one.name for one in self._tenants.all()] if enrolment.tenant == EVERY_TENANT else [enrolment.tenant]
        return [enrolment.owner, *(member.name for tenant in tenants for member in self._tenants.members(tenant))]

    def _refuse_taken(self, owner: str) -> None:
        if self._store.get(Owner, owner) is not None:
            raise CredentialError(f"somebody named {owner} is enrolled", hint="choose another name: one that was withdrawn stays taken")

    # --- datasets --------------------------------------------------------------------------------------------------

    def mint_dataset(self, peer: Peer, name: str) -> Json:
        """A new dataset under an own key: its id, its key, and the wrapped form for its manifest.

        Raises:
            CredentialError: the client is not that owner.
            UsageError: there is no such key, or no version of it is active.
        """
        with self._command("mint", peer, {"key": name[:130]}) as owner, self._store.transaction():
            self._quotas.charge(owner.tenant, "datasets")
            wrapped, secret = self._keys.mint(self._own_key(owner, name))
            made = Dataset(DatasetId(wrapped.dataset), wrapped, owner.spki)
            self._store.put(made)
            self._note("mint", owner, dataset=made.dataset, key=wrapped.key, version=wrapped.version)
        return {**_dataset_json(made), "wrapped": wrapped.to_json(), "dataset_key": b64url(secret.reveal())}

    def register_manifest(self, peer: Peer, dataset: DatasetId, manifest: Json) -> Json:
        """Take note of an own dataset's new snapshot: older ones are refused from now on.

        Raises:
            CredentialError: the dataset is not the client's.
            ManifestError, RollbackError: not a newer manifest of that dataset, signed by its owner.
        """
        with self._command("manifest", peer, {"dataset": dataset[:64]}) as owner, self._store.transaction():
            found = self._store.get(Dataset, dataset)
            if found is None or found.origin is not None or not self._is_signer(owner, found):
                raise CredentialError("this credential has no such dataset")
            # Whoever stands in for a lost credential signs with its own: manifests of the lost one do not count from then on.
            claims = ManifestClaims.verify(manifest, PublicKey.from_spki(owner.spki))
            self._store.put(replace(found.after(claims), signer=owner.spki))
            self._note("manifest", owner, dataset=dataset, snapshot=claims.snapshot)
        return {"dataset": dataset, "snapshot": claims.snapshot}

    def wrapped_form(self, peer: Peer, manifest: Json, group: str | None = None) -> Json:
        """The form of an own dataset's key that the broker opens now, for the dataset's next manifest.  No key is given.

        Or, with ``group``, that of a column group of such a table.

        What the newest ``manifest`` has for a wrapped key does not count: a broker that came back from a backup may not know it.

        Raises:
            CredentialError: the dataset is not the client's, or a run's output.
            ManifestError, RollbackError: the manifest is not the newest one, signed by the dataset's signer.
            KeyDestroyedError: the version that it is under was destroyed.
        """
        with self._command("wrapped-form", peer, {}) as owner, self._store.transaction():
            shown = ShownManifest(manifest)
            found = self._store.get(Dataset, shown.unverified_dataset())
            if found is None or found.origin is not None or not self._is_signer(owner, found):
                raise CredentialError("this credential has no such dataset")
            claims = shown.claims(PublicKey.from_spki(found.signer))
            found.check_newest(claims.snapshot, claims.digest)
            found = replace(found, snapshot=claims.snapshot, manifest_digest=claims.digest)
            of_group: dict[str, str] = {}
            if group is not None:
                self._store.put(found)
                of_group = {"table": found.dataset, "group": group[:64]}
                found = row_of(self._store, found, claims, group)
                if not self._is_signer(owner, found):
                    raise CredentialError("this credential has no such column group")
            self._keys.check_there(found)
            self._store.put(found.giving())
            key, version = found.wrapped.key, found.wrapped.version
            self._note("wrapped-form", owner, dataset=found.dataset, key=key, version=version, snapshot=claims.snapshot, **of_group)
        return {**_dataset_json(found), "wrapped": found.wrapped.to_json()}

    def open(self, peer: Peer, manifest: Json, group: str | None = None) -> Json:
        """The key of an own dataset, or of an output that names the client as recipient while every input's owner agrees.

        Or, with ``group``, that of a column group of such a table.

        Raises:
            CredentialError: the client may not open it, or there is no such dataset.
            ManifestError, RollbackError: the manifest is not a current one, signed by the dataset's signer.
        """
        with self._command("open", peer, {}) as owner:
            dataset = unverified_dataset(manifest)
        concerned = self._store.get(Dataset, dataset)
        facts: dict[str, Fact] = {"owner": owner.name, "dataset": dataset[:64]}
        with self._audited("open", [owner.name, *(concerned.owners if concerned else [])], facts), self._store.transaction():
            now = self._clock()
            found = self._store.get(Dataset, dataset)
            if found is None or not self._may_open(found, owner, now):
                raise CredentialError(
                    "this credential may not open that dataset", hint="its owners name recipients with `confide keys grant`"
                )
            found, claims = found.signed(ShownManifest(manifest))
            found = found.after(claims)
            if not self._may_open(found, owner, now):  # the snapshot may be of another job, to which the owners have granted less
                hint = "the grants of owners to the job that made it say who may"
                raise CredentialError("this credential may not open that snapshot", hint=hint)
            self._store.put(found)
            snapshot = found.snapshot
            if group is not None:
                facts["group"] = group[:64]
                found = group_of(self._store, found, claims, group)
                if not self._may_open(found, owner, now):  # one that stands in for another has what trustees gave it, key by key
                    raise CredentialError("this credential may not open that column group")
            secret = self._keys.dataset_key(found)
            facts |= {"key": found.wrapped.key, "version": found.wrapped.version, "snapshot": snapshot}
            self._store.append_audit(new_event("open", [owner.name, *found.owners], now, **facts))
        return {**_dataset_json(found), "dataset_key": b64url(secret.reveal()), "expires": (now + OPEN_LEASE).isoformat()}

    def _may_open(self, dataset: Dataset, owner: Owner, now: datetime) -> bool:
        if dataset.origin is None:
            return self._is_signer(owner, dataset)
        origin = dataset.origin
        agreed = [owner.name in self._standings.recipients(key, job, now) for key in dataset.roots for job in origin.jobs]
        return owner.name in origin.recipients and bool(agreed) and all(agreed)

    # --- audit -------------------------------------------------------------------------------------------------------

    def audit(self, peer: Peer, first: int, limit: int) -> Json:
        """At most ``limit`` entries of the audit log from number ``first``, as the client may see them, and the log's signed head.

        Raises:
            UsageError: the range is none.
        """
        with self._command("audit", peer, {}) as owner:
            if first < 1 or not 1 <= limit <= AUDIT_PAGE:
                raise UsageError("not a part of the audit log", hint=f"entries count from 1, and one answer holds at most {AUDIT_PAGE}")
            entries, head = self._store.audit_page(first, limit, self._clock())
            shown = self._tenants.view(entries, owner)
            return {"entries": [entry.to_json() for entry in shown], "head": head.sign(self._store.signing_key)}

    def audit_head(self, peer: Peer) -> Json:
        """The signed head alone."""
        with self._command("audit", peer, {}):
            return {"head": self._store.signed_head(self._clock())}

    def audit_proof(self, peer: Peer, seq: int) -> Json:
        """The proof that entry ``seq`` is in the log of a head that is signed now.  Somebody else's entry shows as its leaf only.

        Raises:
            UsageError: there is no such entry.
        """
        with self._command("audit", peer, {}) as owner:
            proof = self._store.prove(seq, self._clock())
            return {"proof": replace(proof, entry=self._tenants.view([proof.entry], owner)[0]).to_json()}

    def audit_consistency(self, peer: Peer, old: int, new: int) -> Json:
        """The proof that the log of ``new`` entries continues the one of ``old``.

        Raises:
            UsageError: these are not lengths that the log has had.
        """
        with self._command("audit", peer, {}):
            size = self._store.head(self._clock()).size
            if not 0 <= old <= new <= size:
                raise UsageError("the audit log has not had these lengths", hint="ask for the head first", entries=size)
            return {"proof": [node.hex() for node in self._store.consistency(old, new)]}


def _dataset_json(dataset: Dataset) -> Json:
    return {"dataset": dataset.dataset, "key": dataset.wrapped.key, "version": dataset.wrapped.version}
