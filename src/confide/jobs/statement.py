"""What a receipt says: an in-toto Statement v1 about one run.  Pure: builds and reads values, verifies nothing.

Format: ``docs/formats/receipt.md``.  The statement holds digests; what they are digests of (evidence records, collateral, manifests)
lies beside it in the run store and travels with it as a :class:`ReceiptBundle`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass
from datetime import datetime
from typing import Any, Self

from confide.canonical import Json, b64url, canonical, digest_of, parse_object
from confide.errors import ReceiptError
from confide.ids import JobDigest, Role, RunId

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:confide:receipt:v2"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
_SHA384 = re.compile(r"[0-9a-f]{96}")


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """One accepted node.  ``record`` names its evidence record, ``collateral`` the set that it was verified with (SHA-384, hex).

    ``again`` counts how many times it was attested again and accepted; ``latest`` and ``latest_collateral`` name what it showed the last
    time, and are empty if it never was.
    """

    node: str
    role: str
    ended: str
    tee: str
    simulated: bool
    measurement: str
    tcb_status: str
    evidence: str
    record: str
    collateral: str
    epoch: Json
    spki: str
    at: str
    again: int
    latest: str
    latest_collateral: str


@dataclass(frozen=True, slots=True)
class RefusedEntry:
    """One worker that was refused: who it said it was, and the error's code.

    ``record`` names what it showed, ``collateral`` the set it was judged with; empty where there was none.
    """

    node: str
    code: str
    record: str
    collateral: str


@dataclass(frozen=True, slots=True)
class DatasetEntry:
    """One input or output: ``manifest`` is the digest of its signed manifest (SHA-384 over the DSSE payload, hex).

    ``parent``, of an output that goes on with an earlier run's dataset: the digest of the manifest of the snapshot before.  It is not
    written where it is empty.
    """

    name: str
    dataset: str
    snapshot: int
    manifest: str
    key: str
    version: int
    signer: str
    parent: str = ""


@dataclass(frozen=True, slots=True)
class ReleaseEntry:
    """One dataset key that the broker gave to one node.  ``name`` is the job's, of the input or output.

    ``grants`` says why, by root key ``owner/key``: ``grant`` is the id of the owner's grant, ``policy`` the digest of its policy.
    """

    node: str
    name: str
    purpose: str
    key: str
    version: int
    grants: Json


@dataclass(frozen=True, slots=True)
class DataEntry:
    """What one node's tasks did with datasets, all of them, also those that failed or were done twice; the node's own word.

    ``bytes_*``: plaintext of containers, and Parquet files as they are stored.  ``open_us``, ``seal_us``: microseconds in the containers'
    cipher.  ``keys_asked``: file keys that the node's engine asked its agent for; ``keys_held``: those for which the broker was not asked.
    """

    node: str
    tasks: int
    rows_read: int
    rows_written: int
    bytes_read: int
    bytes_written: int
    open_us: int
    seal_us: int
    keys_asked: int
    keys_held: int


@dataclass(frozen=True, slots=True)
class Statement:
    """The predicate of a receipt, parsed."""

    run: RunId
    job: JobDigest
    form: Json
    policy: str
    started: str
    finished: str
    nodes: tuple[NodeEntry, ...]
    refused: tuple[RefusedEntry, ...]
    inputs: tuple[DatasetEntry, ...]
    outputs: tuple[DatasetEntry, ...]
    releases: tuple[ReleaseEntry, ...]
    data: tuple[DataEntry, ...]
    audit_head: Json
    broker_key: str
    """The broker's public key, base64url of its DER SPKI: its digest is in the job, and it signed the audit head."""
    confide: str

    @property
    def simulated(self) -> bool:
        """Whether any node's TEE was simulated, which protects nothing."""
        return any(node.simulated for node in self.nodes)

    @property
    def driver(self) -> NodeEntry:
        """The node that signed.

        Raises:
            ReceiptError: there is not exactly one.
        """
        drivers = [node for node in self.nodes if node.role == Role.DRIVER]
        if len(drivers) != 1:
            raise ReceiptError("a receipt names exactly one driver", got=len(drivers))
        return drivers[0]

    def to_json(self) -> Json:
        """The whole in-toto statement.  Subjects are the job and its outputs."""
        subject = [{"name": f"job:{self.form['name']}", "digest": {"sha384": self.job}}]
        subject += [{"name": f"output:{output.name}", "digest": {"sha384": output.manifest}} for output in self.outputs]
        predicate = asdict(self)
        for row in (*predicate["inputs"], *predicate["outputs"]):
            if not row["parent"]:
                del row["parent"]
        return {"_type": STATEMENT_TYPE, "subject": subject, "predicateType": PREDICATE_TYPE, "predicate": predicate}

    def to_bytes(self) -> bytes:
        """The RFC 8785 form: what is signed."""
        return canonical(self.to_json())

    @classmethod
    def from_bytes(cls, payload: bytes) -> Self:
        """Read a statement, totally: unknown and missing fields are refused, and it has to be in its one canonical form.

        Raises:
            ReceiptError: it is not a receipt.
            ParseError: it is not JSON.
        """
        data = parse_object(payload)
        match data:
            case {"_type": str(kind), "predicateType": str(predicate_type), "predicate": dict(predicate), "subject": list()}:
                if (kind, predicate_type) != (STATEMENT_TYPE, PREDICATE_TYPE):
                    raise ReceiptError("a signed statement, but not a receipt", expected=PREDICATE_TYPE, got=predicate_type[:120])
            case _:
                raise ReceiptError("not an in-toto statement")
        rows = {
            "nodes": NodeEntry,
            "refused": RefusedEntry,
            "inputs": DatasetEntry,
            "outputs": DatasetEntry,
            "releases": ReleaseEntry,
            "data": DataEntry,
        }
        values = dict(predicate)
        for name, entry in rows.items():
            values[name] = tuple(_entry(entry, row, name) for row in _list(predicate, name))
        statement: Self = _entry(cls, values, "predicate")
        if not isinstance(statement.form.get("name"), str):  # the subject's name is made of it
            raise ReceiptError("a receipt's job has no name")
        if statement.to_bytes() != payload:  # subjects, order and spelling included
            raise ReceiptError("a receipt is not in its canonical form")
        return statement


@dataclass(frozen=True, slots=True)
class ReceiptBundle:
    """A receipt and everything that its digests name: enough to check it again years later.

    ``evidence`` and ``latest`` (evidence records) by node id, ``refused`` (evidence records too) and ``collateral`` by digest,
    ``manifests`` (DSSE envelopes) by name.
    """

    receipt: Json
    evidence: Mapping[str, Json]
    latest: Mapping[str, Json]
    refused: Mapping[str, Json]
    collateral: Mapping[str, Json]
    manifests: Mapping[str, Json]

    def to_json(self) -> Json:
        """The bundle as JSON, for the channel to the client."""
        return {
            "receipt": self.receipt,
            "evidence": dict(self.evidence),
            "latest": dict(self.latest),
            "refused": dict(self.refused),
            "collateral": dict(self.collateral),
            "manifests": dict(self.manifests),
        }

    @classmethod
    def from_json(cls, data: object) -> Self:
        """The inverse of :meth:`to_json`.  Names become file names, so they are checked here; contents are not.

        Raises:
            ReceiptError: it is not a bundle.
        """
        match data:
            case {
                "receipt": dict(receipt),
                "evidence": dict(evidence),
                "latest": dict(latest),
                "refused": dict(refused),
                "collateral": dict(collateral),
                "manifests": dict(manifests),
            }:
                named, hashed = (evidence, latest, manifests), (refused, collateral)
                for table, form in (*((table, _NAME) for table in named), *((table, _SHA384) for table in hashed)):
                    if not all(isinstance(k, str) and form.fullmatch(k) and isinstance(v, dict) for k, v in table.items()):
                        raise ReceiptError("a receipt's bundle has an entry that is not one")
                return cls(receipt, evidence, latest, refused, collateral, manifests)
            case _:
                raise ReceiptError("not a receipt's bundle")


_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")


def build_statement(
    *,
    run: RunId,
    form: Json,
    policy: str,
    times: tuple[datetime, datetime],
    nodes: Sequence[NodeEntry],
    refused: Sequence[RefusedEntry],
    inputs: Sequence[DatasetEntry],
    outputs: Sequence[DatasetEntry],
    releases: Iterable[ReleaseEntry],
    data: Iterable[DataEntry],
    audit_head: Json,
    broker_key: bytes,
    version: str,
) -> Statement:
    """The statement of one run.  Rows are sorted, so that one run has one statement; ``form`` is the job's canonical form."""
    return Statement(
        run=run,
        job=JobDigest(digest_of(form)),
        form=form,
        policy=policy,
        started=times[0].isoformat(),
        finished=times[1].isoformat(),
        nodes=tuple(sorted(nodes, key=lambda node: node.node)),
        refused=tuple(sorted(refused, key=lambda row: (row.node, row.code, row.record))),
        inputs=tuple(sorted(inputs, key=lambda row: row.name)),
        outputs=tuple(sorted(outputs, key=lambda row: row.name)),
        releases=tuple(sorted(releases, key=lambda row: canonical(asdict(row)))),
        data=tuple(sorted(data, key=lambda row: row.node)),
        audit_head=audit_head,
        broker_key=b64url(broker_key),
        confide=version,
    )


_TYPES: dict[str, type | tuple[type, ...]] = {"str": str, "int": int, "bool": bool, "Json": dict, "RunId": str, "JobDigest": str}


def _list(data: Json, name: str) -> list[Any]:
    value = data.get(name)
    if not isinstance(value, list):
        raise ReceiptError("a receipt lacks a list", field=name)
    return value


def _entry(kind: Any, row: object, where: str) -> Any:
    """A dataclass from exactly its own fields, each of its own type.  One that has a default may be missing."""
    names = kind.__dataclass_fields__
    needed = {name for name, field in names.items() if field.default is MISSING}
    if not isinstance(row, dict) or not needed <= set(row) <= set(names):
        raise ReceiptError("a receipt has missing or unknown fields", field=where)
    for name in row:
        expected = _TYPES.get(str(names[name].type), tuple)
        if not isinstance(row[name], expected) or (expected is int and isinstance(row[name], bool)):
            raise ReceiptError("a receipt's field is of the wrong type", field=f"{where}.{name}")
    return kind(**row)
