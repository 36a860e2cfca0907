"""Files that somebody else wrote: builds, firmware, tokens, certificates with a quote, jobs, receipts with all that lies beside them."""

from __future__ import annotations

import gzip
import hashlib
import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from jwcrypto.jwk import JWK
from jwcrypto.jws import JWS
from support.gramine import libpal

from confide.attest import ratls, tpm_exchange
from confide.attest.annotate import annotate
from confide.attest.collateral_service import import_bundle
from confide.attest.collateral_sources import CollateralStore, _read_epoch
from confide.attest.ear import EarReader
from confide.attest.launch.elf import SharedObject
from confide.attest.launch.firmware import Firmware
from confide.attest.launch.gramine import from_files
from confide.attest.launch.manifest_lint import lint
from confide.attest.launch.sigstruct import Sigstruct
from confide.attest.policy_draft import of_reference
from confide.attest.ratls import RatlsCertificate
from confide.attest.roots import TrustRoots
from confide.attest.tokens.issuers import TokenIssuer
from confide.attest.tokens.jwks import KeySet
from confide.attest.tokens.jwt import Validity
from confide.attest.tokens.statement import read_statement
from confide.attest.tpm_device import TpmAttester
from confide.attest.tpm_trust import TpmTrust
from confide.canonical import Json, canonical, parse_object
from confide.cli.owners import Enrolment
from confide.config import Settings
from confide.crypto.sign import PublicKey, SigningKey
from confide.data.folder import verify_files
from confide.data.manifest import verify_manifest
from confide.data.parquet_footer import Footer
from confide.data.parquet_modules import file_unique
from confide.data.s3 import S3Access
from confide.data.snapshots import load_manifest
from confide.ids import KeyRef, RunId
from confide.job import Job
from confide.jobs.images import lock
from confide.jobs.images.context import Context as ImageContext
from confide.jobs.images.private_keys import holds_private_key
from confide.jobs.kubernetes.changes import parse_event
from confide.jobs.kubernetes.condition import condition_of, job_condition
from confide.jobs.kubernetes.following import parse_log_line
from confide.jobs.kubernetes.pod import load_left
from confide.jobs.kubernetes.pod_host import load_workers
from confide.jobs.kubernetes.processes import is_starting, runs
from confide.jobs.kubernetes.profile import ClusterProfile
from confide.jobs.kubernetes.quantity import parse_quantity
from confide.jobs.kubernetes.said import label_of, name_of
from confide.jobs.kubernetes.standing import node_standing
from confide.jobs.receipt import examine, load_bundle
from confide.jobs.statement import ReceiptBundle
from confide.keys.custody import settings as custody_settings
from confide.keys.kbs.certificate import kept_identity
from confide.keys.storage.backup import restore
from confide.keys.storage.locations import SqliteFile
from confide.node.kept_result import KeptResult, open_result
from confide.node.spec import Announcement, NodeSpec

from .peer_targets import each

_FOLDER = tempfile.TemporaryDirectory(prefix="confide-fuzz-files-")
NOW = datetime(2030, 1, 1, tzinfo=UTC)
LIBPAL = libpal()
ISSUER, AUDIENCE = "broker.example", "analyst.example"
TOKEN_KEY = ec.derive_private_key(1, ec.SECP256R1())
"""The scalar 1: a key that anybody has, so that what is inside of a signature is searched and not the signature."""
LONGEST = timedelta(hours=1)


def firmware(data: bytes) -> None:
    found = Firmware.parse(data)
    each(found.tdx_sections, found.sev_sections)


def elf(data: bytes) -> None:
    for segment in SharedObject.parse(data).segments:
        for at in segment.pages[:16]:
            segment.page(at)


def sigstruct(data: bytes) -> None:
    each(lambda: Sigstruct.find(data).verified(), lambda: annotate(data))


def gramine_files(data: bytes) -> None:
    root = Path(_FOLDER.name) / "root"
    root.mkdir(exist_ok=True)
    (root / "trusted").write_bytes(b"")
    (root / "manifest").write_bytes(data)
    (root / "libpal").write_bytes(LIBPAL)
    from_files(root / "manifest", root / "libpal", root)


def package_lock(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    each(lambda: lock.needed(lock.parse(text), ["app"]), lambda: lock.requirements(text, ["spark"]), lambda: holds_private_key(data))


def ratls_certificate(data: bytes) -> None:
    """The certificate, and the same bytes as what is in its extension: few changed certificates still parse."""
    spki = SigningKey(TOKEN_KEY).public.spki_der
    each(lambda: RatlsCertificate.parse(data), lambda: annotate(data), lambda: ratls._interoperable(data, spki))


def token_claims(data: bytes) -> None:
    """Claims that a key which anybody has signed, as each reader of tokens sees them."""
    claims = parse_object(data)
    issuers = [TokenIssuer(kind=kind, issuer="https://issuer.example", jwks="{}", snp_product="Milan") for kind in ("ita", "maa")]
    reader = EarReader(ISSUER, JWK.from_pyca(TOKEN_KEY.public_key()), AUDIENCE)
    each(
        lambda: Validity.of(claims, now=NOW, leeway=timedelta(seconds=30), longest=LONGEST),
        *(lambda issuer=issuer: read_statement(claims, issuer, NOW) for issuer in issuers),
        lambda: reader.read(_signed(claims), now=NOW),
    )


def _signed(claims: Json) -> str:
    token = JWS(canonical(claims))
    token.add_signature(JWK.from_pyca(TOKEN_KEY), protected=canonical({"alg": "ES256", "typ": "JWT"}).decode())
    return str(token.serialize(compact=True))


def key_set(data: bytes) -> None:
    each(lambda: KeySet.parse(data, root=None, now=NOW), lambda: KeySet.parse(data, root="ab" * 32, now=NOW))


def receipt_bundle(data: bytes) -> None:
    """Every step of checking a receipt: each is a failed check or a passed one, whatever the receipt says."""
    bundle = ReceiptBundle.from_json(parse_object(data))
    examine(bundle, roots=TrustRoots()).to_json()


@cache
def _store() -> CollateralStore:
    return CollateralStore(Path(_FOLDER.name) / "store")


def folder(name: str, *readers: Callable[[Path], object], mode: int = 0o644) -> Callable[[bytes], None]:
    """A target that puts its input into a file of that name in a folder of its own."""
    path = Path(_FOLDER.name) / name

    def target(data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=mode)
        path.write_bytes(data)
        each(*(lambda read=read: read(path) for read in readers))

    return target


def _image(path: Path) -> None:
    image = ImageContext.load(path.parent)
    each(lambda: image.shape, image.check)


def _dataset(path: Path) -> None:
    found = load_manifest(path.parent)
    verify_manifest(found.envelope, found.signer)
    verify_files(path.parent, found.unverified)


def backup(data: bytes) -> None:
    """The lines of a backup, packed and with the line behind them that fits them; and the same bytes as the whole file."""
    lines = data.splitlines(keepends=True)
    end = json.dumps({"rows": len(lines) - 1, "sha256": hashlib.sha256(data).hexdigest()}).encode()
    source, target = (Path(_FOLDER.name) / name for name in ("backup", "restored.db"))

    def restored(raw: bytes) -> None:
        source.write_bytes(raw)
        try:
            restore(source, SqliteFile(target))
        finally:
            target.unlink(missing_ok=True)

    each(lambda: restored(gzip.compress(data + end, 1)), lambda: restored(data))


def _words(data: bytes) -> None:
    text = data.decode("utf-8", errors="replace")
    each(lambda: KeyRef.parse(text), lambda: PublicKey.from_spki(data), lambda: PublicKey.from_pem(data))


def _objects(*readers: Callable[[Any], object]) -> Callable[[bytes], None]:
    def target(data: bytes) -> None:
        value = parse_object(data)
        each(*(lambda read=read: read(value) for read in readers))

    return target


def _parquet_footer(data: bytes) -> object:
    """An opened footer, which only somebody with the file's key can have made; and what says how it is encrypted, which anybody can."""

    def footer() -> Footer:
        found = Footer.parse(data)
        assert Footer.parse(data, found.layout) == found
        return found

    return each(footer, lambda: file_unique(data))


def cluster_words(data: bytes) -> object:
    """What an API server says: a watch's line, a log's line, a quantity, and what was kept of a run."""
    text = data.decode("utf-8", "replace")
    return each(
        lambda: parse_event(data, "look"),
        lambda: parse_log_line(data),
        lambda: parse_quantity(text),
        lambda: open_result(text, SigningKey(TOKEN_KEY), RunId("demo-1")),
        lambda: KeptResult.parse(data, b""),
    )


def cluster_objects(data: bytes) -> None:
    """A pod or a Job and its events, as an API server has them: whatever they are, they are words about a state."""
    found = parse_object(data)
    about, events = found.get("object"), found.get("events")
    if isinstance(about, dict) and isinstance(events, list):
        told = [each for each in events if isinstance(each, dict)]
        condition_of(about, told)
        condition_of(about, told, gone=True)
        job_condition(about, told)
        node_standing(about, json.dumps(found.get("said")))
        runs(about)
        is_starting(about)
        name_of(about)
        label_of(about, "confide.dev/node")


TARGETS: dict[str, Callable[[bytes], object]] = {
    "firmware": firmware,
    "elf": elf,
    "sigstruct": sigstruct,
    "gramine-files": gramine_files,
    "gramine-lint": lint,
    "package-lock": package_lock,
    "image-folder": folder("image/image.json", _image),
    "cluster-profile": folder("profile.toml", ClusterProfile.load),
    "cluster-words": cluster_words,
    "cluster-objects": cluster_objects,
    "worker-pods": folder("workers.json", load_workers),
    "left-job": folder("left.json", load_left),
    "ratls": ratls_certificate,
    "token-claims": token_claims,
    "key-set": key_set,
    "receipt-bundle": receipt_bundle,
    "receipt-folder": folder("receipt/receipt.json", load_bundle),
    "dataset-folder": folder("dataset/_confide.json", _dataset),
    "job-toml": folder("job/job.toml", lambda path: Job.load(path).digest),
    "settings": folder("home/config.toml", lambda path: Settings.load(environ={}, home=path.parent)),
    "node-spec": folder("spec.json", NodeSpec.load, Announcement.load),
    "enrolment": folder("enrolment.json", Enrolment.load),
    "private-key": folder("key.pem", SigningKey.load_private, mode=0o600),
    "collateral-epoch": _objects(_read_epoch),
    "tpm-device-log": folder("tpm/log", lambda path: TpmAttester("0x81010002", b"", range(24), log=path)._read_log()),
    "tpm-exchange-file": folder("tpm/exchange.json", tpm_exchange.read),
    "tpm-trust-file": folder("tpm/trust.json", lambda path: TpmTrust.load(path.parent)),
    "custody-settings": folder("custody.toml", custody_settings.load),
    "kbs-certificate": folder("broker.pem", lambda path: kept_identity(path, SigningKey(TOKEN_KEY), ("127.0.0.1",), datetime.now(UTC))),
    "backup": backup,
    "collateral-bundle": _objects(lambda value: import_bundle(_store(), value, TrustRoots())),
    "reference-values": _objects(of_reference),
    "parquet-footer": _parquet_footer,
    "storage-credential": S3Access.parse,
    "words": _words,
}
