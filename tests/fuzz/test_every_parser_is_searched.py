"""No parser of outside bytes is left out: every function of ``src/confide`` that is named like one is run by some target's seeds."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import CodeType, FrameType

from fuzz import targets
from fuzz.seeds import seeds

from confide.errors import ConfideError

SOURCE = Path(targets.http.__file__).resolve().parents[1]
_NAME = re.compile(r"_?(parse|decode|load|read|split|unverified|from_(bytes|json|spki|device|b64url)|of_(device|reference))(_.*)?|_?parsed")

EXEMPT: dict[str, str] = {
    # Read by functions of other modules, which are searched, or ask for them.
    "jobs/broker_keys.py:BrokerKeys._read_key": "asks for a key; the answer is read by NodeBrokerClient",
    "jobs/broker_keys.py:BrokerKeys._read_keys": "asks for keys; the answer is read by NodeBrokerClient",
    "keys/grant_client.py:read_grant_list": "fields of an answer by Answer; grants and rules by their from_json",
    "keys/key_client.py:read_keys": "fields of an answer by Answer",
    # Interfaces of the machine itself.
    "jobs/kubernetes/client.py:Cluster._read": "an answer's bytes, at most a fixed number; what they say is read by others",
    "attest/device_files.py:read_when_free": "a device's bytes as they are; the quote in them is read by Evidence.of_device",
    "attest/tpm_tools.py:TpmTools._load": "runs a program that loads a key into the TPM; reads no bytes",
    "crypto/wire.py:Wire.read": "bytes of a socket for the TLS library, which reads them; frames begin above it",
    # What this installation wrote, in folders of its user's.
    "attest/insecure/installation.py:_load_certificate": "the simulated vendor's own file: it protects nothing",
    "attest/measure.py:_load": "whether a file of the installed software is there, by the interpreter's own finder",
    "jobs/store.py:RunDir.read": "parse_object of a file that this user's client wrote",
    "keys/credentials.py:Credential.load": "SigningKey.load_private, which is a target, under a name",
    "keys/records.py:CutOff.from_json": "a row of the broker's own store, opened only if its MAC is right",
    "keys/approvals.py:Approvership.from_json": "as CutOff.from_json",
    "keys/approvals.py:GrantRun.from_json": "as CutOff.from_json",
    "keys/approvals.py:Vote.from_json": "as CutOff.from_json",
    "keys/escrow_records.py:FormerCredential.from_json": "as CutOff.from_json",
    "keys/escrow_records.py:KeptEscrow.from_json": "as CutOff.from_json",
    "keys/escrow_records.py:KeptRecovery.from_json": "as CutOff.from_json",
    "keys/escrow_records.py:KeptTrusteeKey.from_json": "as CutOff.from_json",
    "keys/key_commands.py:Rewrap.from_json": "as CutOff.from_json",
    "keys/transfer_commands.py:KeptWrappingKey.from_json": "as CutOff.from_json",
    "keys/withdrawals.py:Withdrawals.from_json": "as CutOff.from_json",
    "keys/tenant_records.py:Tenant.from_json": "as CutOff.from_json",
    "keys/tenant_records.py:Membership.from_json": "as CutOff.from_json",
    "keys/token_records.py:TokenLink.from_json": "as CutOff.from_json",
    "keys/limits.py:Limits.from_json": "as CutOff.from_json",
    "keys/quotas.py:Usage.from_json": "as CutOff.from_json",
    "keys/records.py:Enrolment.from_json": "as CutOff.from_json",
    "keys/lineage.py:Announced.from_json": "as CutOff.from_json",
    "keys/lineage.py:Continuation.from_json": "as CutOff.from_json",
    "keys/lineage.py:Origin.from_json": "as CutOff.from_json",
    "keys/manifest_claims.py:ShownManifest.unverified_digest": "unverified_payload, which is a target, and a hash",
    "keys/records.py:Owner.from_json": "as CutOff.from_json",
    "keys/runs.py:RunSeen.from_json": "as CutOff.from_json",
    "keys/records.py:Release.from_json": "as CutOff.from_json",
    "keys/records.py:Swept.from_json": "as CutOff.from_json",
    "keys/kbs/session_records.py:SpentNonce.from_json": "as CutOff.from_json",
    "keys/tenant_records.py:Repository.from_json": "as CutOff.from_json",
    "keys/storage/contents.py:Contents.load": "tags of the store's own rows, which its signed head is a tag over",
    "keys/storage/rows.py:Rows.load_tags": "as Contents.load",
    "keys/custody/shares.py:split": "makes shares of a key; reads no bytes",
    # Words of the command line, and what hands over to a parser that is a target.
    "cli/audit.py:_read": "text for AuditLog.load, AuditProof.from_json and PublicKey.from_pem, which are targets",
    "cli/collateral.py:_read_bundle": "bytes for import_bundle, which is a target",
    "cli/broker.py:_split": "an option's HOST:PORT",
    "cli/evidence.py:load": "load_evidence with an option's endorsement",
    "cli/key_transfer.py:read_object": "parse_object, which is a target, of a file of bounded size",
    "cli/grants.py:_load": "Job.load, which is a target",
    # Bytes that were authenticated first.
    "data/files.py:read_table": "Parquet, of which every byte was authenticated under the dataset's key",
    "data/spark.py:DataContext.read": "makes a reader of names; reads no bytes",
    "data/spark.py:DataContext.read_stream": "as DataContext.read",
    "data/streaming.py:read_stream": "as DataContext.read",
    "data/polars.py:DataContext.read": "makes a frame of verified names; files are read by PinnedFile",
    "data/polars.py:DataContext._read_key": "asks the agent for a key",
    "jobs/driver_files.py:DriverFiles._read": "asks the keyring for a key",
    # The owner's own plaintext, by Arrow's readers.
    "data/files.py:_read": "counts batches that Arrow's readers made",
    "data/tables.py:CountingFile.read": "counts the bytes of a file that is read through it",
    "data/tables.py:read_jsonl": "Arrow's reader",
    # What this node's own program and agent say to each other, read by parse_object.
    "data/committed.py:Committed.from_json": "fields of the agent's answer",
    "jobs/saves.py:Save.from_json": "fields of the program's request, each checked",
    # Loops.
    "node/control.py:Link._read": "recv_frame, which is a target, on a thread",
    "node/mailbox.py:Mailbox._read_one": "takes a function from a queue; reads no bytes",
}
"""Why a function that is named like a parser has no target."""


def _is_stub(function: ast.FunctionDef) -> bool:
    """Of a protocol: a docstring and an ellipsis."""
    return isinstance(function.body[-1], ast.Expr) and isinstance(function.body[-1].value, ast.Constant)


def _functions(tree: ast.AST, outer: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{outer}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            yield f"{outer}{node.name}", node
            yield from _functions(node, f"{outer}{node.name}.<locals>.")
        else:
            yield from _functions(node, outer)


def parsers() -> set[str]:
    """``path:qualified name`` of each function that is named like a parser."""
    found = set()
    for path in sorted(SOURCE.rglob("*.py")):
        for name, function in _functions(ast.parse(path.read_text(encoding="utf-8"))):
            if _NAME.fullmatch(function.name) and not _is_stub(function):
                found.add(f"{path.relative_to(SOURCE)}:{name}")
    return found


def reached() -> set[str]:
    """What runs of ``src/confide`` while every target reads its seeds."""
    codes: set[CodeType] = set()

    def note(frame: FrameType, event: str, _arg: object) -> None:
        if event == "call":
            codes.add(frame.f_code)

    for name, target in targets.TARGETS.items():
        inputs = seeds(name)
        sys.setprofile(note)
        try:
            for data in inputs:
                with suppress(ConfideError):
                    target(data)
        finally:
            sys.setprofile(None)
    files = {code: Path(code.co_filename) for code in codes}
    return {f"{file.relative_to(SOURCE)}:{code.co_qualname}" for code, file in files.items() if file.is_relative_to(SOURCE)}


def test_every_parser_of_outside_bytes_is_run_by_some_targets_seeds() -> None:
    """A name that is in neither list is a parser without a target; one in both is an exemption that is not needed any more."""
    assert parsers() - reached() == set(EXEMPT)


def test_parsers_are_found_by_their_names() -> None:
    found = parsers()
    assert len(found) > 80
    assert {"attest/quote.py:parse_quote", "job.py:Job.from_json", "canonical.py:parse_object", "attest/cbor.py:decode"} <= found
