"""The one error tree: every failure that a user can do something about is a leaf here.

A leaf has a unique ``code`` (kebab-case, documented in ``docs/errors/``), an ``exit_status`` by class and, where there is one,
a default ``hint``.  Messages say what failed and never hold key bytes, plaintext or evidence bodies.
Knows nothing of the rest of the package.
"""

from __future__ import annotations

from typing import ClassVar

Fact = str | int | float | bool | None


class ConfideError(Exception):
    """Root of the tree.  ``facts`` are public values that explain the failure (expected, got, path, offset)."""

    code: ClassVar[str] = "confide"
    exit_status: ClassVar[int] = 1
    default_hint: ClassVar[str | None] = None

    def __init__(self, message: str, *, hint: str | None = None, **facts: Fact) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint if hint is not None else self.default_hint
        self.facts: dict[str, Fact] = facts
        if self.hint is not None:
            self.add_note(f"hint: {self.hint}")  # a program's log has the traceback and nothing else

    def to_json(self) -> dict[str, object]:
        """The error as the JSON object that ``--json`` prints and that nodes send to the client."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "facts": dict(self.facts), "exit_status": self.exit_status}


# --- usage and configuration (exit 2) ----------------------------------------------------------------------------


class UsageError(ConfideError):
    """The request itself is wrong: nothing was started."""

    code = "usage"
    exit_status = 2


class ConfigError(UsageError):
    """A setting is unknown, missing or of the wrong type."""

    code = "config-invalid"


class JobError(UsageError):
    """The job file or job object is not a valid job."""

    code = "job-invalid"


class ExtraMissingError(UsageError):
    """An optional dependency is not installed, or too old; the hint says what to install."""

    code = "extra-missing"


class OutputExistsError(UsageError):
    """The output folder exists and the job did not ask to add a snapshot to it."""

    code = "output-exists"
    default_hint = "choose another output path, or remove the folder"


class ImageError(UsageError):
    """An image of nodes cannot be built, signed or used as it is.  Nothing was written."""

    code = "image-refused"


# --- parsing (exit 5: bytes that are not what they claim to be) ---------------------------------------------------


class ParseError(ConfideError):
    """Bytes from outside do not have the documented layout.  ``offset`` (bytes) is in ``facts`` where it is known."""

    code = "parse"
    exit_status = 5


# --- secrets ------------------------------------------------------------------------------------------------------


class SecretLeakError(ConfideError):
    """A secret was about to leave the process by pickle, copy or formatting.  A bug in the caller, stopped here."""

    code = "secret-leak"
    default_hint = "pass the reference, not the key: the node that needs the key opens it after attesting"


# --- attestation (exit 3: evidence refused) -----------------------------------------------------------------------


class AttestationError(ConfideError):
    """Evidence was refused."""

    code = "attestation"
    exit_status = 3


class EvidenceInvalidError(AttestationError):
    """Evidence is not genuine: layout, signature, chain, revocation or collateral failed."""

    code = "evidence-invalid"


class CollateralError(AttestationError):
    """Collateral is missing, stale, rolled back or not signed by whom it must be."""

    code = "collateral-invalid"


class AppraisalError(AttestationError):
    """Evidence is genuine but is not what the policy asks for.  ``facts`` hold check, expected, got."""

    code = "appraisal-refused"


class BindingError(AttestationError):
    """Evidence is not bound to this session, nonce, key, role or job: replayed, relayed or reflected."""

    code = "binding-mismatch"


class NonceError(AttestationError):
    """A nonce is unknown, used twice or expired."""

    code = "nonce-refused"


class TokenInvalidError(AttestationError):
    """A token is not genuine: layout, algorithm, key or signature.  Nothing that it says was looked at."""

    code = "token-invalid"


class TokenExpiredError(AttestationError):
    """A token is genuine but not of this time: expired, not valid yet, or valid for longer than tokens may be."""

    code = "token-expired"


class TokenMisdirectedError(AttestationError):
    """A token is genuine but not for this reader: another issuer, audience, nonce or profile."""

    code = "token-misdirected"


class TokenReplayError(AttestationError):
    """A token's id was seen before."""

    code = "token-replayed"


class OverdueError(AttestationError):
    """A node in a run has not attested itself again in time."""

    code = "evidence-overdue"
    default_hint = "see its log: its attester gave no evidence, or it is cut off from the network"


class PolicyError(AttestationError):
    """A policy cannot be built or loaded: it asks nothing, or too little."""

    code = "policy-invalid"
    exit_status = 2


# --- keys (exit 4: a key was refused) -----------------------------------------------------------------------------


class KeyAccessError(ConfideError):
    """A key was not released or an owner command was not allowed."""

    code = "key-refused"
    exit_status = 4


class GrantError(KeyAccessError):
    """No grant of the key's owner covers this job, role and purpose."""

    code = "grant-missing"
    default_hint = "ask the key's owner to run `confide keys grant` for this job digest"


class CredentialError(KeyAccessError):
    """The owner's or recipient's credential is missing, unknown or not allowed to do this."""

    code = "credential-refused"


class UnwrapError(KeyAccessError):
    """A wrapped key does not open: wrong key-encryption key, changed bytes, or bound to another use."""

    code = "unwrap-failed"


class WeakKeyError(KeyAccessError):
    """A key from elsewhere is so short that whoever has the data finds it by trying."""

    code = "key-weak"
    default_hint = "treat the data as known to whoever could copy it; `--accept-weak-key` imports it all the same"


class KeyRevokedError(KeyAccessError):
    """A key that a run was given was withdrawn: its grant, its version, or the node's good standing has ended."""

    code = "key-revoked"
    default_hint = "ask the key's owner; a run that is started anew needs a grant that is in force"


class TransferError(KeyAccessError):
    """A key's export or import was refused: a signature is another's, or it is for another broker or key."""

    code = "transfer-refused"
    default_hint = "export again at the broker that has the key, to the wrapping key of the broker that is to have it"


class EscrowError(KeyAccessError):
    """An escrow of a key, or its recovery, was refused: a signature or a share is not what it must be, or it is to another recovery."""

    code = "escrow-refused"


class KeyDestroyedError(KeyAccessError):
    """The version of the key-encryption key that this is under was destroyed: it can never be opened again."""

    code = "key-destroyed"
    default_hint = "if a copy is under another key version, use that one; the broker keeps nothing of this one"


class StoreError(KeyAccessError):
    """The key store cannot be opened: another key than it was made with, another version, damaged."""

    code = "store-unavailable"


class StepUnknownError(StoreError):
    """The key store's database was lost while it committed a step, and could not be asked whether it has kept it.  Never yields a key."""

    code = "step-unknown"
    exit_status = 6
    default_hint = "`confide audit export` shows whether it has happened, once the database is back; look before you do it again"


class WitnessError(KeyAccessError):
    """A witness of the audit log cannot be asked or told: without it, a store that was rolled back would not show."""

    code = "witness-unavailable"
    default_hint = "see that its file or address can be reached; the broker does not start without asking it"


class QuotaError(KeyAccessError):
    """A tenant has as much of something as it may."""

    code = "quota-exceeded"
    default_hint = "remove some, or ask the broker's operator: `confide broker tenants limit`"


class ResourceDeniedError(KeyAccessError):
    """No resource policy of the repository's owner lets this guest have the resource."""

    code = "resource-denied"
    default_hint = "the resource's owner makes rules with `confide kbs policy allow`"


class ResourceMissingError(KeyAccessError):
    """The key broker service has no resource of that name."""

    code = "resource-missing"


class CustodyError(KeyAccessError):
    """What keeps the master key refuses: its key is disabled or gone, access is denied, or the PIN or token is wrong."""

    code = "custody-refused"


class CustodyOfflineError(CustodyError):
    """What keeps the master key cannot be reached, is too slow, or answers what is no answer.  Never yields a key."""

    code = "custody-offline"
    exit_status = 6
    default_hint = "see whether the key service or device is up, and reachable from here"


class ShareError(KeyAccessError):
    """A share of the master key is not one, is of another set, was changed, or was given twice."""

    code = "share-refused"


class AuditError(ConfideError):
    """The audit log, its head or a proof of it does not verify."""

    code = "audit-broken"
    exit_status = 5


# --- data (exit 5: integrity) -------------------------------------------------------------------------------------


class DataError(ConfideError):
    """Data is not what its manifest or its authentication tag says."""

    code = "data-invalid"
    exit_status = 5


class IntegrityError(DataError):
    """An authentication tag or digest does not match: bytes were changed, swapped, reordered or cut."""

    code = "data-integrity"


class ManifestError(DataError):
    """The manifest is missing, unsigned, signed by another, of another dataset, or does not list the file."""

    code = "manifest-invalid"


class RollbackError(DataError):
    """The snapshot is older than one that was already seen."""

    code = "manifest-rollback"
    default_hint = "the storage shows an older state, as a restored copy does: put the newest snapshot back"


class SnapshotConflictError(DataError):
    """Another writer committed the dataset's next snapshot first."""

    code = "snapshot-conflict"


class PlaintextError(DataError):
    """A file that must be encrypted is not."""

    code = "plaintext-found"


# --- transport, nodes, runs (exit 6: something needed is not there; exit 1: the job failed) ------------------------


class UnavailableError(ConfideError):
    """A peer, the broker or the backend could not be reached or answered with an error."""

    code = "unavailable"
    exit_status = 6


class ChannelError(UnavailableError):
    """A TLS channel could not be opened, or broke."""

    code = "channel-failed"


class ChannelTimeoutError(ChannelError):
    """The peer was silent, or took nothing, for longer than the caller would wait."""

    code = "channel-timeout"


class ProtocolError(UnavailableError):
    """A peer sent a message that the protocol does not allow here."""

    code = "protocol-violation"


class ClusterRefusedError(UnavailableError):
    """A Kubernetes cluster refused a request: no right, a quota, a wrong object.  ``facts`` hold the HTTP status and the reason."""

    code = "cluster-refused"


class BrokerError(UnavailableError):
    """The broker is down or answered anything but the expected status.  Never yields a key."""

    code = "broker-unavailable"
    default_hint = "check that `confide broker serve` is running and that the job names its address"


class RateLimitedError(UnavailableError):
    """A client or tenant asks more often than it may.  Nothing was done: ask again after ``retry_after_s`` seconds."""

    code = "rate-limited"
    default_hint = "ask again later, and less often"


class IssuerError(UnavailableError):
    """The keys of a token's issuer cannot be had: it is away, too slow, or answers what are none.  No token of it counts meanwhile."""

    code = "issuer-unavailable"
    default_hint = "see that the issuer's address answers and its certificate is trusted; the enrolled key works without it"


class KbsError(UnavailableError):
    """A key broker service is down or answered anything but what KBS protocol 0.4.0 has.  Never yields a resource."""

    code = "kbs-unavailable"
    default_hint = "check its address and certificate, and that it speaks KBS protocol 0.4.0"


class SealedError(UnavailableError):
    """The broker holds no master key now: its custody refuses or was silent for too long.  No key is used until it is unsealed."""

    code = "broker-sealed"
    default_hint = "the broker's log says why; it opens by itself once the custody gives the key again"


class ClockError(UnavailableError):
    """The broker's clock is behind a time at which it has acted before: nothing that has expired may count again, so it decides nothing."""

    code = "clock-set-back"
    default_hint = "set the machine's clock right; if it was wrong before and is right now, `confide broker accept-clock`"


class AttesterError(UnavailableError):
    """This node has no TEE that evidence can be got from, or the TEE's driver gave none."""

    code = "attester-unavailable"
    default_hint = "run the node inside a TEE, or use --simulate, which protects nothing"


class NodeLostError(UnavailableError):
    """A node ended, or stopped its heartbeat, while the run needed it."""

    code = "node-lost"


class JobFailedError(ConfideError):
    """The job's program ended with an error."""

    code = "job-failed"
    exit_status = 1


class RunNotFoundError(UsageError):
    """No run of that id is in the run store."""

    code = "run-not-found"


class ReceiptError(ConfideError):
    """A receipt does not verify."""

    code = "receipt-refused"
    exit_status = 3


class InterruptedRunError(ConfideError):
    """The user stopped the run; everything it started was ended."""

    code = "interrupted"
    exit_status = 130


# --- errors that crossed a channel --------------------------------------------------------------------------------


def leaf_of(code: object) -> type[ConfideError] | None:
    """The class with that code, or ``None`` for a code that this version does not know."""
    return next((leaf for leaf in _tree(ConfideError) if leaf.code == code), None)


def error_from_json(data: object) -> ConfideError:
    """The leaf that a peer's :meth:`ConfideError.to_json` describes; anything else becomes a :class:`ProtocolError`.

    The exit status is the leaf's own, never the peer's.  Message and facts are the peer's words: print them, do not act on them.
    """
    if not isinstance(data, dict):
        return ProtocolError("a peer reported an error that is not one")
    leaf, message, hint, facts = leaf_of(data.get("code")), data.get("message"), data.get("hint"), data.get("facts")
    if leaf is None or not isinstance(message, str) or not isinstance(hint, str | None):
        return ProtocolError("a peer reported an error that this version does not know", code=str(data.get("code"))[:80])
    known = facts if isinstance(facts, dict) else {}
    error = leaf(message[:2000], hint=hint)
    error.facts = {str(k)[:80]: v for k, v in known.items() if isinstance(v, str | int | float | bool | None)}
    return error


def _tree(root: type[ConfideError]) -> list[type[ConfideError]]:
    return [root, *(found for leaf in root.__subclasses__() for found in _tree(leaf))]
