"""Clients of the broker: one for attested nodes, one for owners and recipients.  Fail closed.

Any answer but the expected one is an error and never yields a key: a status of 500, another content type or a missing field
is :class:`~confide.errors.BrokerError`; a refusal that the broker explains is raised as the leaf that the broker raised.
Endpoints: ``confide.keys.routes``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.cookies import CookieError, SimpleCookie
from typing import Final, Self

from confide.attest.binding import NONCE_BYTES, report_data
from confide.attest.collect import Attester
from confide.attest.evidence import NodeContext
from confide.canonical import Json, b64url, from_b64url
from confide.crypto.derive import check_dataset_id
from confide.crypto.envelope import WrappedKey
from confide.crypto.seal import SealKey
from confide.crypto.secret import SecretBytes
from confide.crypto.sign import PublicKey
from confide.crypto.tls import Channel, Identity
from confide.errors import BrokerError, KeyRevokedError, ManifestError, ParseError, UsageError, error_from_json
from confide.ids import DatasetId, NodeId, Nonce, Purpose, Role, SpkiDigest
from confide.keys.audit import AuditHead
from confide.keys.audit_client import AuditCalls
from confide.keys.connection import Answer, Connection, as_key, as_keys, was_lost
from confide.keys.escrow_client import EscrowClient
from confide.keys.grant_client import GrantCalls
from confide.keys.manifest_claims import unverified_dataset
from confide.keys.portions import portions
from confide.keys.readings import Reading
from confide.keys.released_keys import MintedDataset, OutputKey, ReleasedKey, released
from confide.keys.seal_contexts import joint_seal_context, seal_context

KBS_VERSION: Final = "0.4.0"
COOKIE: Final = "kbs-session-id"
RESTART_S: Final = 5.0
"""How long a node asks again after its connection was lost, in seconds: a broker that starts anew is back before that."""
_PAUSE_S: Final = 0.25
_SESSION_MARGIN: Final = timedelta(seconds=30)
"""Evidence is made anew this long before the broker's session ends."""


class NodeBrokerClient:
    """A node's side: attests to the broker on the TLS channel and asks for keys.  Not for use from several threads at once.

    ``signatures`` of its job are shown with each request for a key (``keys.job_signatures``).
    ``context.seal`` must be ``seal_key``'s public half.  Connects and attests when first used, and again when the session has ended.
    A request whose connection is lost is asked again on a new one, for :data:`RESTART_S`, if the broker was ever reached: each of them
    may be done twice (a release is counted by run, an output by its name, a manifest by its snapshot).
    """

    def __init__(
        self,
        url: str,
        spki: SpkiDigest,
        *,
        identity: Identity,
        attester: Attester,
        context: NodeContext,
        seal_key: SealKey,
        role: Role,
        signatures: Sequence[Json] = (),
        timeout: float = 10.0,
    ) -> None:
        if context.seal != seal_key.public_jwk():
            raise UsageError("the context names another seal key than the node's")
        self._connection = Connection(url, spki, identity, timeout)
        self._identity = identity
        self._attester = attester
        self._context = context
        self._seal_key = seal_key
        self._role = role
        self._signatures = list(signatures)
        self._cookie: dict[str, str] = {}
        self._left = threading.Event()
        self._expires = datetime.min.replace(tzinfo=UTC)

    def release(self, manifest: Json, purpose: Purpose = Purpose.READ) -> ReleasedKey:
        """The key of the dataset whose signed manifest (DSSE envelope) is given.

        Raises:
            AttestationError: this node's evidence is refused.
            GrantError: no grant covers this job, role and purpose.
            ManifestError, RollbackError: the manifest is not a current one of a dataset that the broker knows.
            BrokerError: the broker is down or answered anything else.
        """
        answer = self._ask("POST", "/confide/v0/release", {"manifest": manifest, "purpose": purpose.value, **self._shown()})
        dataset = answer.dataset_named(unverified_dataset(manifest))
        return released(answer, dataset, self._opened(answer, purpose))

    def releases(
        self, manifests: Sequence[Json], purpose: Purpose = Purpose.READ, *, groups: Sequence[Mapping[str, DatasetId]] | None = None
    ) -> list[ReleasedKey]:
        """As :meth:`release`, for several datasets: asked for together, and of those in one request either all are given or none.

        ``groups``: column groups of each that are asked for too, by name, with the ids that the manifest has for them.

        Raises as :meth:`release`.
        """
        found: list[ReleasedKey] = []
        for portion in portions(list(zip(manifests, groups or [{}] * len(manifests), strict=True))):
            body: Json = {"manifests": [manifest for manifest, _ in portion], "purpose": purpose.value, **self._shown()}
            if any(wanted for _, wanted in portion):
                body["groups"] = [list(wanted) for _, wanted in portion]
            named = [dataset for manifest, wanted in portion for dataset in (unverified_dataset(manifest), *wanted.values())]
            coming = iter(self._opened_together(self._ask("POST", "/confide/v0/releases", body), named, purpose))
            found += [replace(next(coming), groups={name: next(coming) for name in wanted}) for _, wanted in portion]
        return found

    def _opened_together(self, answer: Answer, named: Sequence[DatasetId], purpose: Purpose) -> list[ReleasedKey]:
        """The keys of one answer, which must be those of the datasets ``named``, in their order."""
        parts = answer.parts("releases", sharing="policies")
        if len(parts) != len(named):
            raise BrokerError("the broker's answer is for another number of datasets", expected=len(named), got=len(parts))
        context = joint_seal_context([part.sealed_for() for part in parts], self._context, purpose)
        secrets = as_keys(self._seal_key.open(answer.field("jwe", str), context=context), len(parts))
        return [released(*each) for each in zip(parts, named, secrets, strict=True)]

    def output(
        self,
        name: str,
        *,
        inputs: Sequence[DatasetId],
        recipients: Sequence[str],
        newest: Sequence[Reading] = (),
        parent: Json | None = None,
    ) -> OutputKey:
        """The key of this run's output ``name``.  The driver's first call makes it; workers and later calls get the same.

        ``newest``: what the driver reads because it was shown nothing newer.  ``parent``: the newest manifest of an earlier run's output
        that the run goes on with (the driver's first call).

        Raises:
            AttestationError, GrantError, ManifestError, BrokerError: as :meth:`release`; ``GrantError`` also for a worker that asks
                before the driver has.
            RollbackError: the broker has seen a newer one.
        """
        body: Json = {"name": name, "inputs": list(inputs), "recipients": list(recipients), **self._shown()}
        if newest:
            body["newest"] = [one.to_json() for one in newest]
        if parent is not None:
            body["parent"] = parent
        answer = self._ask("POST", "/confide/v0/outputs", body)
        signer = answer.field("signer", str)
        if self._role is Role.DRIVER and signer != self._identity.spki_digest:
            raise BrokerError("the broker registered another signer than this driver for its output", got=signer[:80])
        return OutputKey(
            dataset=answer.dataset(),
            key=answer.key_ref(),
            secret=self._opened(answer, Purpose.WRITE),
            expires=answer.time("expires"),
            wrapped=answer.wrapped(),
            signer=SpkiDigest(signer),
            recipients=answer.texts("recipients"),
            inherits=answer.texts("inherits"),
            grants=answer.grants(),
            policies=answer.policies(),
        )

    def register_manifest(self, manifest: Json, *, announce: bool = False) -> None:
        """Tell the broker of a new snapshot of an output of this run (the manifest is signed by the driver's identity key).

        ``announce``: it is about to be committed, after a snapshot of an earlier run.

        Raises:
            AttestationError, GrantError, ManifestError, RollbackError, BrokerError: as :meth:`release`.
            SnapshotConflictError: another writer's snapshot came first.
        """
        body: Json = {"manifest": manifest, **({"announce": True} if announce else {})}
        self._ask("PUT", f"/confide/v0/{_manifest_path(manifest)}", body)

    def cut_off(self, node: NodeId) -> None:
        """Have the broker give ``node`` of this node's run no key any more (drivers only).  Raises as :meth:`release` does."""
        self._ask("POST", "/confide/v0/cut-off", {"node": node})

    def watch(self) -> None:
        """Wait for up to 25 seconds; return if nothing was withdrawn that this node's run was given.  Ask again and again.

        For a client of its own, with a ``timeout`` that is longer than that.

        Raises:
            KeyRevokedError: a grant or a key version was withdrawn, or this node was cut off: what it holds must not be used any more.
            AttestationError, BrokerError: as :meth:`release`; nothing is known of withdrawals then.
        """
        found = self._ask("POST", "/confide/v0/watch", {}).field("withdrawn", dict)
        if found:
            cause = error_from_json(found)
            error = KeyRevokedError(f"a key that this run was given was withdrawn: {cause.message}")
            error.facts = {**cause.facts, "reason": cause.code}
            raise error

    def audit_head(self) -> Json:
        """The signed head of the broker's audit log (DSSE envelope), verified: for the receipt, next to :meth:`broker_key`.

        Raises:
            AuditError: it is not signed by the broker's key.
            AttestationError, BrokerError: as :meth:`release`.
        """
        head: Json = self._ask("POST", "/confide/v0/audit-head", {}).field("head", dict)
        AuditHead.verify(head, self._connection.broker_key())
        return head

    def broker_key(self) -> PublicKey:
        """The broker's public key: its digest is the pinned one, and it signs audit heads."""
        return self._connection.broker_key()

    def close(self) -> None:
        """End the connection, and the session with it.  A request that another thread has under way ends by it."""
        left, self._left = self._left, threading.Event()
        left.set()
        self._connection.close()
        self._cookie = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ask(self, method: str, path: str, body: Json) -> Answer:
        left, until = self._left, time.monotonic() + RESTART_S
        while True:
            try:
                channel = self._attest_if_needed()
                return Answer(self._connection.call(method, path, body, self._cookie, on=channel)[0])
            except BrokerError as error:
                if not (was_lost(error) and self._connection.reached) or time.monotonic() > until or left.wait(_PAUSE_S):
                    raise

    def _shown(self) -> Json:
        return {"signatures": self._signatures} if self._signatures else {}

    def _attest_if_needed(self) -> Channel:
        """The channel on which there is an attested session."""
        channel, fresh = self._connection.channel()
        if not fresh and self._cookie and datetime.now(UTC) + _SESSION_MARGIN < self._expires:
            return channel
        self._cookie = {}
        auth: Json = {"version": KBS_VERSION, "tee": self._attester.tee.value, "extra-params": {}}
        challenge, headers = self._connection.call("POST", "/kbs/v0/auth", auth, on=channel)
        nonce, cookie = _nonce(Answer(challenge).field("nonce", str)), {"cookie": f"{COOKIE}={_session_of(headers)}"}
        data = report_data(
            role=self._role, exporter=channel.exporter(), nonce=nonce, spki=self._identity.spki_der, context=self._context.digest
        )
        runtime = {
            "nonce": b64url(nonce),
            "tee-pubkey": self._seal_key.public_jwk(),
            "confide-context": self._context.to_json(),
            "role": self._role.value,
        }
        evidence = {"primary_evidence": self._attester.quote(data).to_json(), "additional_evidence": ""}
        body: Json = {"runtime-data": runtime, "tee-evidence": evidence}
        answer, _ = self._connection.call("POST", "/kbs/v0/attest", body, cookie, on=channel)
        self._expires = Answer(answer).time("expires")
        self._cookie = cookie
        return channel

    def _opened(self, answer: Answer, purpose: Purpose) -> SecretBytes:
        context = seal_context(answer.dataset(), self._context, purpose)
        return as_key(self._seal_key.open(answer.field("jwe", str), context=context))


def _nonce(text: str) -> Nonce:
    try:
        nonce = from_b64url(text)
    except ParseError as cause:
        raise BrokerError("the broker's nonce cannot be read") from cause
    if len(nonce) != NONCE_BYTES:
        raise BrokerError("the broker's nonce has the wrong length", got=len(nonce))
    return Nonce(nonce)


def _session_of(headers: Mapping[str, str]) -> str:
    cookies: SimpleCookie = SimpleCookie()
    try:
        cookies.load(headers.get("set-cookie", ""))
        return cookies[COOKIE].value
    except (CookieError, KeyError) as cause:
        raise BrokerError("the broker began no session") from cause


class OwnerClient(GrantCalls, EscrowClient, AuditCalls):
    """An owner's or recipient's side.  Keys, grants and the log are in ``key_client``, ``grant_client``, ``audit_client``."""

    def enrol(self, token: str) -> None:
        """Register the credential under its name; ``token`` is single use, from the broker's operator."""
        self._call("POST", "enrol", {"owner": self._credential.name, "token": token})

    # --- tokens ------------------------------------------------------------------------------------------------------

    def link_token(self, token: str) -> Json:
        """From now on, the subject of this token of an issuer is this credential's name.  The token is shown, and not kept."""
        return _link(self._call("POST", "token-links", {"token": token}))

    def token_links(self) -> list[Json]:
        """Which subjects of which issuers are this credential's name."""
        return [_link(Answer(one)) for one in self._call("GET", "token-links").objects("links")]

    def unlink_token(self, issuer: str, subject: str) -> None:
        """Untie a subject: its tokens count no more."""
        _link(self._call("POST", "token-links/remove", {"issuer": issuer, "subject": subject}))

    # --- datasets --------------------------------------------------------------------------------------------------

    def mint_dataset(self, name: str) -> MintedDataset:
        """A new dataset id and key under the active version of a key."""
        answer = self._call("POST", "datasets", {"key": self._id(name)})
        return MintedDataset(answer.dataset(), answer.key_ref(), answer.dataset_key(), answer.wrapped())

    def register_manifest(self, manifest: Json) -> None:
        """Register a new snapshot of an own dataset (signed by the credential): the broker refuses older ones from now on.

        Raises:
            ManifestError, RollbackError: not a newer manifest of that dataset.
        """
        self._call("PUT", _manifest_path(manifest), {"manifest": manifest})

    def open(self, manifest: Json, group: str | None = None) -> ReleasedKey:
        """The key of an own dataset, or of an output that this credential is a recipient of; or of a column ``group`` of such a table.

        Raises:
            ManifestError, RollbackError: the manifest is not a current one of that dataset.
        """
        answer = self._call("POST", "open", {"manifest": manifest, **_of_group(group)})
        dataset = answer.dataset_named(unverified_dataset(manifest)) if group is None else answer.dataset()
        return ReleasedKey(dataset, answer.key_ref(), answer.dataset_key(), answer.time("expires"), grants={})

    def wrapped_form(self, manifest: Json, group: str | None = None) -> WrappedKey:
        """What the broker opens an own dataset by, whose newest manifest is given: under the newest version since :meth:`rewrap`.

        Or, with ``group``, what it opens a column group of that table by.

        Raises:
            CredentialError: there is no such dataset of this credential's.
            ManifestError, RollbackError: the manifest is not the newest one of that dataset, or has no such group.
            KeyDestroyedError: the version that the key is under was destroyed.
        """
        return self._call("POST", "datasets/wrapped-form", {"manifest": manifest, **_of_group(group)}).wrapped()

    def page(self, path: str) -> tuple[int, str]:
        """Status and HTML of one of the broker's pages for people (``keys.page``)."""
        return self._connection.page(path)


def _of_group(group: str | None) -> Json:
    return {} if group is None else {"group": group}


def _link(answer: Answer) -> Json:
    return {name: answer.field(name, str) for name in ("issuer", "subject", "owner")}


def _manifest_path(manifest: Json) -> str:
    dataset = unverified_dataset(manifest)
    try:
        return f"datasets/{check_dataset_id(dataset)}/manifest"
    except ParseError as cause:
        raise ManifestError("the manifest names no dataset") from cause
