"""Checks a receipt from files alone, as a stranger would: nothing is asked of the broker, the nodes or the network.

1. The receipt is an in-toto statement in its canonical form, signed by the driver's key.
2. The job's form has the job digest, which is the one the reader expects, and the policy in it the policy's digest.
3. Each node's evidence is genuine and meets the policy as of the time it was judged, with the collateral of then; it is bound to this
   job, run, node, role and key; the driver's key is the one that signed.
   What it showed when it was attested for the last time is of the same node and newer, and meets the policy as of then.
4. A worker that was refused for its evidence, at first or later, is refused for it again.
5. Input manifests are signed by the keys that the job pins, output manifests by the driver.
6. Keys went to accepted nodes only, for the job's own inputs and outputs, each under a grant of every owner concerned.
7. Counts of rows and bytes are of the run's nodes, once each.  They are the nodes' word.
8. The head of the broker's audit log is signed.

A reader who names no job learns that *some* job ran as the receipt says, under a policy and with a broker of that job's own choice.

What this does not show: that times in the records are true (they are the driver's word), and anything that a simulated TEE "protects".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from confide.attest.collateral_sources import AnyCollateral, FixedCollateral, read_collateral
from confide.attest.policy import AttestationResult, Check, Policy
from confide.attest.roots import TrustRoots
from confide.attest.tpm_trust import TpmTrust
from confide.attest.verify import Verifier
from confide.canonical import Json, digest_of, from_b64url, parse_object, sha384_hex
from confide.config import Settings
from confide.crypto.sign import PublicKey, dsse_verify, unverified_payload
from confide.data.manifest import Manifest, read_payload, verify_manifest
from confide.errors import AppraisalError, AttestationError, CollateralError, ConfideError, ManifestError, ParseError, ReceiptError
from confide.ids import Role
from confide.job_form import form_goes_on, kbs_resource
from confide.jobs.release_checks import check_data, check_releases, require_same
from confide.jobs.statement import PAYLOAD_TYPE, DatasetEntry, NodeEntry, ReceiptBundle, RefusedEntry, Statement
from confide.keys.audit import AuditHead
from confide.node.record import EvidenceRecord
from confide.regular_file import open_regular

MAX_FILE_BYTES = 96 * 1024 * 1024
"""Cap on one file of a receipt's folder: a manifest may have 64 MiB, and more in base64."""
_EPOCH_NUMBERS = {"tcb_eval": "TCB evaluation", "crl_number": "revocation list"}
"""What the vendors number their collateral by: Intel and AMD."""


@dataclass(frozen=True, slots=True)
class Verification:
    """Every check of one receipt, in order.

    ``statement`` is there if the receipt could be read; trust it only after :meth:`require`.  ``job_given``: the reader said which job.
    """

    checks: tuple[Check, ...]
    statement: Statement | None = None
    job_given: bool = False

    @property
    def accepted(self) -> bool:
        """Whether no check failed: for display.  Code calls :meth:`require`."""
        return all(check.ok for check in self.checks)

    def require(self) -> Statement:
        """The statement, if every check passed.

        Raises:
            ReceiptError: with the first check that did not.
        """
        for check in self.checks:
            if not check.ok:
                raise ReceiptError(f"{check.name}: {check.got}", check=check.name, expected=check.expected, got=check.got)
        if self.statement is None:
            raise ReceiptError("nothing was checked")
        return self.statement

    def to_json(self) -> Json:
        """The verification as JSON."""
        rows = [{"name": c.name, "expected": c.expected, "got": c.got, "ok": c.ok} for c in self.checks]
        return {
            "accepted": self.accepted,
            "simulated": self.statement.simulated if self.statement else None,
            "run": self.statement.run if self.statement else None,
            "job": self.statement.job if self.statement else None,
            "job_given": self.job_given,
            "checks": rows,
        }


def verify(source: Path | ReceiptBundle, *, settings: Settings | None = None, roots: TrustRoots | None = None,
           policy: Policy | None = None, job: str | None = None) -> Verification:  # fmt: skip
    """Check a receipt and return what was checked; see the module for the steps.

    ``source`` is a run's folder or the ``receipt.json`` in one.  ``policy`` replaces the job's own for judging nodes.  ``roots``: by
    default Intel's, and this installation's simulated one if there is one.  ``job`` is the digest of the job that must have run, which
    also pins the broker: give it whenever the receipt comes from somebody else.

    Raises:
        ReceiptError: a check failed, or there is no receipt.
    """
    found = examine(source, settings=settings, roots=roots, policy=policy, job=job)
    found.require()
    return found


def examine(source: Path | ReceiptBundle, *, settings: Settings | None = None, roots: TrustRoots | None = None,
            policy: Policy | None = None, job: str | None = None) -> Verification:  # fmt: skip
    """Like :func:`verify`, but a failed check is in the list and not raised: to show all of them.

    Raises:
        ReceiptError: there is no receipt, or files beside it are not what they must be.
    """
    bundle = source if isinstance(source, ReceiptBundle) else load_bundle(source)
    if roots is None:
        roots = default_roots(settings if settings is not None else Settings.load())
    return _Examination(bundle, roots, policy, job).run()


def default_roots(settings: Settings) -> TrustRoots:
    """The vendors' roots, this owner's trust in TPMs, and the public root of this installation's simulated TEE if it has one."""
    path, tpm = settings.simulation_dir / "root.pem", TpmTrust.load(settings.tpm_dir)
    if not path.exists():
        return TrustRoots(tpm=tpm)
    return TrustRoots(tpm=tpm, simulated=x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER))


def load_bundle(source: Path) -> ReceiptBundle:
    """Read a receipt and what lies beside it.

    Raises:
        ReceiptError: there is no receipt, or a file is not a JSON object.
    """
    folder = source if source.is_dir() else source.parent
    receipt = source / "receipt.json" if source.is_dir() else source
    tables = {
        name: {path.stem: _object_in(path) for path in sorted((folder / name).glob("*.json"))}
        for name in ("evidence", "latest", "refused", "collateral", "manifests")
    }
    return ReceiptBundle.from_json({"receipt": _object_in(receipt), **tables})


def _object_in(path: Path) -> Json:
    """The JSON object in a file of somebody else's folder, where a link may lead to a device that never ends."""
    try:
        with open_regular(path) as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ReceiptError(f"{path} is too large for a file of a receipt", path=str(path), limit=MAX_FILE_BYTES)
        return parse_object(data)
    except OSError as cause:
        hint = "a run that failed has none" if isinstance(cause, FileNotFoundError) and path.name == "receipt.json" else None
        raise ReceiptError(f"cannot read {path}: {cause.strerror}", hint=hint, path=str(path)) from cause
    except ParseError as cause:
        raise ReceiptError(f"{path} is not a JSON object", path=str(path)) from cause


@dataclass(slots=True)
class _Examination:
    """One walk through the steps.  Each step leaves checks; a step that raises is a failed check."""

    bundle: ReceiptBundle
    roots: TrustRoots
    own_policy: Policy | None
    expected_job: str | None
    checks: list[Check] = field(default_factory=list)

    def run(self) -> Verification:
        try:
            statement = Statement.from_bytes(unverified_payload(self.bundle.receipt))
            driver = statement.driver
        except ConfideError as error:
            return Verification((_failed("receipt", "an in-toto statement", error),), None, self.expected_job is not None)
        self._step("signature", "by the driver's attested key", partial(self._signature, driver))
        self._step("job", _short(self.expected_job or statement.job), partial(self._job, statement))
        self._step("policy", _short(statement.policy), partial(self._policy_digest, statement))
        for node in statement.nodes:
            self._step(f"node {node.node}", _expected(node), partial(self._node, statement, node))
            if node.again or node.latest:
                self._step(f"again {node.node}", f"accepted {node.again} times more", partial(self._latest, statement, node))
        for refused in statement.refused:
            self._step(f"refused {refused.node}", refused.code, partial(self._refused, statement, refused))
        for entry in statement.inputs:
            self._step(f"input {entry.name}", _short(entry.manifest), partial(self._input, statement, entry))
        self._step("inputs", "all that the job names", partial(_names, statement.inputs, statement.form, "inputs"))
        for entry in statement.outputs:
            self._step(f"output {entry.name}", _short(entry.manifest), partial(self._output, statement, entry, driver))
        self._step("outputs", "all that the job names", partial(_names, statement.outputs, statement.form, "outputs"))
        self._step("keys", "to accepted nodes, under grants", partial(self._releases, statement))
        self._step("data", "counted by the run's nodes", partial(check_data, statement))
        self._step("audit head", "signed by the broker", partial(_audit_head, statement))
        return Verification(tuple(self.checks), statement, self.expected_job is not None)

    def _step(self, name: str, expected: str, step: Callable[[], str]) -> None:
        try:
            self.checks.append(Check(name, expected, step(), ok=True))
        except ConfideError as error:
            self.checks.append(_failed(name, expected, error))

    def _record(self, node: NodeEntry) -> EvidenceRecord:
        data = self.bundle.evidence.get(node.node)
        if data is None:
            raise ReceiptError("the node's evidence is not kept", node=node.node)
        record = EvidenceRecord.from_json(data)
        require_same("the evidence record", record.digest, node.record)
        return record

    def _signature(self, driver: NodeEntry) -> str:
        key = PublicKey.from_spki(self._record(driver).spki)
        require_same("the driver's key", key.digest, driver.spki)
        dsse_verify(self.bundle.receipt, key, PAYLOAD_TYPE)
        return f"key {_short(key.digest)}"

    def _job(self, statement: Statement) -> str:
        if self.expected_job is not None and statement.job != self.expected_job:
            raise ReceiptError("the receipt is of another job", expected=self.expected_job[:200], got=statement.job[:200])
        return _short(require_same("the job's form", digest_of(statement.form), statement.job))

    def _policy_digest(self, statement: Statement) -> str:
        return _short(require_same("the job's policy", Policy.from_json(statement.form.get("policy")).digest, statement.policy))

    def _node(self, statement: Statement, node: NodeEntry) -> str:
        record = self._record(node)
        for what, got, expected in (
            ("job", record.context.job, statement.job),
            ("run", record.context.run, statement.run),
            ("node", record.context.node, node.node),
            ("role", str(record.role), node.role),
            ("time", record.at.isoformat(), node.at),
            ("role of a run", node.role, node.role if node.role in {Role.DRIVER, Role.WORKER} else ""),
        ):
            require_same(what, got, expected)
        policy = self.own_policy or Policy.from_json(statement.form.get("policy"))
        collateral = self._collateral(node.node, node.collateral)
        result = record.recheck(Verifier(self.roots, FixedCollateral(collateral)), policy, record.at)
        _same_claims(node, result, collateral)
        return f"{node.tcb_status}, {'SIMULATED' if result.claims.simulated else 'genuine'}, collateral {_epoch(node)}"

    def _latest(self, statement: Statement, node: NodeEntry) -> str:
        """What a node showed when it was attested for the last time is of the very same node, fresh, and meets the policy as of then."""
        first, data = self._record(node), self.bundle.latest.get(node.node)
        if data is None or node.again < 1:
            raise ReceiptError("the node's latest evidence is not kept, or nothing is said of it", node=node.node)
        record = EvidenceRecord.from_json(data)
        require_same("the latest evidence record", record.digest, node.latest)
        if (record.role, record.context, record.spki) != (first.role, first.context, first.spki):
            raise ReceiptError("the latest evidence is another node's", node=node.node)
        if record.nonce == first.nonce or record.at < first.at:
            raise ReceiptError("the latest evidence is not newer than the first", node=node.node)
        policy = self.own_policy or Policy.from_json(statement.form.get("policy"))
        collateral = self._collateral(node.node, node.latest_collateral)
        claims = record.recheck(Verifier(self.roots, FixedCollateral(collateral)), policy, record.at).claims
        require_same("the TEE and its measurement", f"{claims.tee} {claims.measurement}", f"{node.tee} {node.measurement}")
        return f"{claims.tcb_status} at {record.at.isoformat(timespec='seconds')}"

    def _collateral(self, node: str, digest: str) -> AnyCollateral:
        data = self.bundle.collateral.get(digest)
        if data is None:
            raise CollateralError("the node's collateral is not kept", node=node)
        collateral = read_collateral(data)
        require_same("the collateral", collateral.digest, digest)
        return collateral

    def _refused(self, statement: Statement, entry: RefusedEntry) -> str:
        """Refuse the worker again for what it showed.  Without collateral of then, or evidence, there is nothing to go by."""
        if not entry.record or not entry.collateral:
            return "kept no evidence that is genuine"
        data = self.bundle.refused.get(entry.record)
        if data is None:
            raise ReceiptError("the refused evidence is not kept", node=entry.node)
        record = EvidenceRecord.from_json(data)
        require_same("the evidence record", record.digest, entry.record)
        if entry.code != AppraisalError.code:  # a nonce that was used, a role that was not wanted
            return "refused for its session, which files do not show"
        policy = Policy.from_json(statement.form.get("policy"))
        verifier = Verifier(self.roots, FixedCollateral(self._collateral(entry.node, entry.collateral)))
        try:
            record.recheck(verifier, policy, record.at)
        except AttestationError as refusal:
            return f"{require_same('the reason', refusal.code, entry.code)} again: {refusal.facts.get('check', 'policy')}"
        raise ReceiptError("evidence that the driver refused is acceptable", node=entry.node, code=entry.code)

    def _releases(self, statement: Statement) -> str:
        """See :func:`check_releases`; the manifests were verified in the inputs' own steps."""
        kept = {entry.name: self.bundle.manifests[entry.name] for entry in statement.inputs if entry.name in self.bundle.manifests}
        return check_releases(statement, {name: read_payload(unverified_payload(envelope)) for name, envelope in kept.items()})

    def _dataset(self, entry: DatasetEntry, signer: str) -> None:
        """The kept manifest is the one named, is signed by the key ``signer`` (its digest), and says what the row says."""
        envelope = self.bundle.manifests.get(entry.name)
        if envelope is None:
            raise ManifestError("the dataset's manifest is not kept", name=entry.name)
        payload = unverified_payload(envelope)
        require_same("the manifest", sha384_hex(payload), entry.manifest)
        key = Manifest.from_json(parse_object(payload)).signer
        require_same("the signer", key.digest, signer)
        manifest = verify_manifest(envelope, key)
        said = (key.digest, manifest.dataset, manifest.snapshot, manifest.key, manifest.version)
        require_same("the dataset's row", str(said), str((entry.signer, entry.dataset, entry.snapshot, entry.key, entry.version)))

    def _input(self, statement: Statement, entry: DatasetEntry) -> str:
        pin = _object(_object(statement.form, "inputs"), entry.name)
        self._dataset(entry, str(pin.get("signer")))
        require_same("the dataset", entry.dataset, str(pin.get("dataset")))
        require_same("the snapshot", str(entry.snapshot), str(pin.get("snapshot", entry.snapshot)))
        require_same("the snapshot before", entry.parent, "")
        source = kbs_resource(statement.form, entry.name)
        return f"dataset {entry.dataset[:12]}, snapshot {entry.snapshot}, key {source or f'{entry.key}@{entry.version}'}"

    def _output(self, statement: Statement, entry: DatasetEntry, driver: NodeEntry) -> str:
        """Of a dataset that the job goes on with, the row names the snapshot before; every other output is a new dataset."""
        self._dataset(entry, driver.spki)
        goes_on = form_goes_on(statement.form, entry.name)
        require_same("the snapshot before", entry.parent, self._manifest(entry).parent or "")
        require_same("the dataset", entry.dataset, goes_on or entry.dataset)
        require_same("the output", "a further snapshot" if entry.parent else "new", "a further snapshot" if goes_on else "new")
        after = f", snapshot {entry.snapshot} after {_short(entry.parent)}" if entry.parent else ""
        return f"dataset {entry.dataset[:12]}{after}, key {entry.key}@{entry.version}"

    def _manifest(self, entry: DatasetEntry) -> Manifest:
        return read_payload(unverified_payload(self.bundle.manifests[entry.name]))


def _same_claims(node: NodeEntry, result: AttestationResult, collateral: AnyCollateral) -> None:
    """What the receipt says of a node must be what its evidence says."""
    claims = result.claims
    for what, got, expected in (
        ("tee", claims.tee.value, node.tee),
        ("measurement", claims.measurement, node.measurement),
        ("TCB status", claims.tcb_status, node.tcb_status),
        ("evidence", claims.evidence_digest, node.evidence),
        ("key", result.spki_digest, node.spki),
        ("simulated", str(claims.simulated), str(node.simulated)),
        ("collateral epoch", digest_of(collateral.epoch.to_json()), digest_of(node.epoch)),
    ):
        require_same(what, got, expected)


def _expected(node: NodeEntry) -> str:
    return f"{node.role}, {node.tee} {_short(node.measurement)}"


def _object(table: Json, name: str) -> Json:
    value = table.get(name)
    if not isinstance(value, dict):
        raise ReceiptError("the job in the receipt lacks a part", name=name)
    return value


def _names(entries: tuple[DatasetEntry, ...], form: Json, kind: str) -> str:
    names = sorted(_object(form, kind))
    if sorted(entry.name for entry in entries) != names:
        raise ReceiptError(f"the receipt's {kind} are not those of the job", expected=", ".join(names))
    return ", ".join(names) or "none"


def _audit_head(statement: Statement) -> str:
    """The broker that the job pins signed how far its log had come when the receipt was made."""
    key = PublicKey.from_spki(from_b64url(statement.broker_key))
    require_same("the broker's key", key.digest, str(_object(statement.form, "broker").get("spki")))
    head = AuditHead.verify(statement.audit_head, key)
    return f"{head.size} entries, {_short(head.root)}"


def _failed(name: str, expected: str, error: ConfideError) -> Check:
    return Check(name, expected, f"{error.code}: {error.message}", ok=False)


def _short(digest: str) -> str:
    return digest[:16]


def _epoch(node: NodeEntry) -> str:
    number = next((f"{label} {node.epoch[name]}" for name, label in _EPOCH_NUMBERS.items() if name in node.epoch), "unnumbered")
    return f"{number}, until {node.epoch.get('earliest_next_update')}"
