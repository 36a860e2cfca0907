"""``confide attest tpm``: which TPMs an owner trusts, and how a machine's attestation key is enrolled, a command for each side's step."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from confide.cli.output import Context, answers, print_facts, print_table, say, short
from confide.errors import UsageError

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

    from confide.attest.tpm_exchange import OpenChallenges
    from confide.attest.tpm_tools import TpmTools
    from confide.attest.tpm_trust import RootUse
    from confide.canonical import Json
    from confide.crypto.sign import SigningKey

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)
_NEW_FILE = click.Path(path_type=Path, dir_okay=False)
_KEY = click.option("--key", metavar="HANDLE", help="The attestation key in the TPM, for instance 0x81010002 [default: setting tpm_key].")


@click.group("tpm")
def command() -> None:
    """Enrol attestation keys of machines with a TPM, and say which are trusted.  None is by default.

    A TPM says what was started on a machine.  It protects no memory: whoever operates the machine can read what runs.

    On the machine: request, answer.  At the owner: trust, challenge, enrol, list, revoke.
    """


# --- the machine ---------------------------------------------------------------------------------------------------


@command.command("request")
@click.argument("machine")
@_KEY
@click.option("--make", is_flag=True, help="Make the key first, and keep it in the TPM at HANDLE.")
@click.option("--chain", type=_FILE, help="Certificates (PEM) from the issuer of the endorsement key's certificate up to the root.")
@click.option("--out", type=_NEW_FILE, required=True, help="File to write.")
@answers
def request(context: Context, machine: str, key: str | None, chain: Path | None, out: Path, *, make: bool) -> None:
    """Ask an owner to enrol this machine's attestation key as MACHINE: the owner's name for it.

    The certificate of the endorsement key is read from the TPM.  Its manufacturer publishes the certificates above it.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    from confide.attest.evidence_files import read_file
    from confide.attest.tpm_exchange import Request
    from confide.attest.tpm_format import Public
    from confide.ids import check_name

    check_name(machine, "machine")
    tools, handle = _tools(context), _key(context, key)
    above = read_file(chain) if chain else b""
    leaf = tools.ek_certificate().public_bytes(Encoding.PEM)
    if make:
        tools.make_attestation_key(handle)
    made = Request.from_json(Request(machine, leaf + above, tools.public(handle)).to_json())
    _write(out, made.to_json())
    context.answer({"machine": machine, "key": Public.parse(made.key).name.hex(), "ek": made.ek, "file": str(out)})


@command.command("answer")
@click.argument("challenge", type=_FILE)
@_KEY
@click.option("--out", type=_NEW_FILE, required=True, help="File to write.  Give it to the owner who made the challenge, and nobody else.")
@answers
def answer(context: Context, challenge: Path, key: str | None, out: Path) -> None:
    """Answer an owner's CHALLENGE: only the TPM that it is for can."""
    from confide.attest.tpm_exchange import Answer, Sent, read
    from confide.crypto.sign import write_private_file

    asked = Sent.from_json(read(challenge))
    secret = _tools(context).activate(_key(context, key), asked.credential, asked.encrypted_secret)
    write_private_file(out, json.dumps(Answer(asked.id, secret).to_json(), indent=1).encode())
    context.answer({"challenge": asked.id, "file": str(out)})


# --- the owner -----------------------------------------------------------------------------------------------------


@command.command("trust")
@click.argument("root", type=_FILE)
@click.option("--for", "use", type=click.Choice(["manufacturer", "issuer"]), required=True,
              help="Trust its certificates for endorsement keys (asked when a key is enrolled), or for attestation keys.")  # fmt: skip
@answers
def trust(context: Context, root: Path, use: RootUse) -> None:
    """Trust a root certificate: a TPM manufacturer's, or that of an owner who certifies attestation keys."""
    import hashlib

    from confide.attest.amd_certs import load_der
    from confide.attest.certs import common_name, der, parse_chain
    from confide.attest.evidence_files import read_file
    from confide.attest.tpm_trust import TpmTrust

    data = read_file(root)
    certificate = parse_chain(data)[0] if data.startswith(b"-----BEGIN") else load_der(data)
    if certificate.subject != certificate.issuer:
        raise UsageError("this is no root certificate", hint="name the certificate at the end of the chain", path=str(root))
    digest = hashlib.sha256(der(certificate)).hexdigest()
    TpmTrust.update(context.settings.tpm_dir, lambda before: before.with_root(use, digest))
    context.answer({"use": use, "root": digest, "subject": common_name(certificate.subject)})


@command.command("distrust")
@click.argument("root", metavar="SHA256")
@answers
def distrust(context: Context, root: str) -> None:
    """Trust a root no more.  Keys that were enrolled by it stay enrolled: `revoke` ends them."""
    from confide.attest.tpm_trust import TpmTrust

    TpmTrust.update(context.settings.tpm_dir, lambda before: before.without_root(root))
    context.answer({"root": root, "trusted": False})


@command.command("challenge")
@click.argument("request", type=_FILE)
@click.option("--out", type=_NEW_FILE, required=True, help="File to write, for the machine.")
@answers
def challenge(context: Context, request: Path, out: Path) -> None:
    """Check a machine's REQUEST, and make a challenge that only its TPM can answer.  It is open for a week, and for one answer."""
    from confide.attest.certs import parse_chain
    from confide.attest.tpm_enrol import challenge as made_for
    from confide.attest.tpm_exchange import Request, read
    from confide.attest.tpm_format import Public
    from confide.attest.tpm_trust import TpmTrust

    asked, now = Request.from_json(read(request)), datetime.now(UTC)
    known, public = TpmTrust.load(context.settings.tpm_dir), Public.parse(asked.key)
    known.check_not_revoked(public.name.hex())
    if known.has_revoked_key_of(asked.ek):
        say("warning: another key of this TPM was revoked", err=True)
    made = made_for(parse_chain(asked.ek_chain), public, known.manufacturers, now)
    sent = _open(context).put(made, asked, now)
    _write(out, sent.to_json())
    context.answer({"machine": asked.machine, "key": public.name.hex(), "challenge": sent.id, "file": str(out)})


@command.command("enrol")
@click.argument("answer", type=_FILE)
@click.option("--days", type=click.IntRange(1, 366), default=90, show_default=True, help="For how long; at most 90 for a certificate.")
@click.option("--issuer", type=_FILE, help="Issue a certificate (for other verifiers) by this CA instead, whose root they trust.")
@click.option("--issuer-key", type=_FILE, help="The CA's private key (PEM, P-256, mode 0600).")
@click.option("--out", type=_NEW_FILE, help="File for the certificate and the CA's.")
@answers
def enrol(context: Context, answer: Path, days: int, issuer: Path | None, issuer_key: Path | None, out: Path | None) -> None:
    """Enrol the key whose machine gave this ANSWER: trust it here, or certify it with --issuer."""
    from cryptography.hazmat.primitives.serialization import Encoding

    from confide.attest.tpm_exchange import Answer, read
    from confide.attest.tpm_trust import TpmTrust

    issued_by = _issuer(issuer, issuer_key, out, days)
    given, now = Answer.from_json(read(answer)), datetime.now(UTC).replace(microsecond=0)
    asked = _open(context).take(given.id, now)
    TpmTrust.load(context.settings.tpm_dir).check_not_revoked(asked.challenge.public.name.hex())
    if issued_by is not None:
        chain, key, target = issued_by
        made = asked.challenge.certify(given.secret, chain[0], key.unwrapped(), now=now, valid=timedelta(days=days))
        _write_text(target, b"".join(one.public_bytes(Encoding.PEM) for one in (made, *chain)).decode())
        context.answer({"machine": asked.machine, "key": asked.challenge.public.name.hex(), "days": days, "certificate": str(target)})
        return
    record = asked.challenge.enrol(given.secret, asked.machine, asked.ek, now=now, valid=timedelta(days=days))
    TpmTrust.update(context.settings.tpm_dir, lambda before: before.with_key(record))
    context.answer(record.to_json(), lambda: print_facts({"enrolled": record.machine, **record.to_json()}))


def _issuer(issuer: Path | None, issuer_key: Path | None, out: Path | None, days: int) -> tuple[list[Certificate], SigningKey, Path] | None:
    """The CA that is to certify the key, and where to write it; None if it is to be enrolled here.  Checked before an answer is used up."""
    from confide.attest.certs import parse_chain
    from confide.attest.evidence_files import read_file
    from confide.attest.tpm_enrol import MAX_VALIDITY
    from confide.crypto.sign import SigningKey

    if issuer is None and issuer_key is None and out is None:
        return None
    if issuer is None or issuer_key is None or out is None:
        raise UsageError("a certificate needs --issuer, --issuer-key and --out")
    if out.exists():
        raise UsageError(f"{out} exists", hint="choose another file with --out")
    if timedelta(days=days) > MAX_VALIDITY:
        raise UsageError("a certificate for an attestation key is for 90 days at most", hint="give fewer --days")
    chain, key = parse_chain(read_file(issuer)), SigningKey.load_private(issuer_key)
    if chain[0].public_key() != key.unwrapped().public_key():
        raise UsageError("--issuer-key is not the key of --issuer")
    return chain, key, out


@command.command("list")
@answers
def list_(context: Context) -> None:
    """List trusted roots, enrolled keys and revoked ones."""
    from confide.attest.tpm_trust import TpmTrust

    found = TpmTrust.load(context.settings.tpm_dir)

    def text() -> None:
        now = datetime.now(UTC)
        rows = [(key.machine, key.name, "revoked" if key.name in found.revoked else "until" if now <= key.until else "expired",
                 key.until.isoformat(timespec="seconds"), short(key.ek)) for key in found.keys.values()]  # fmt: skip
        print_table(("machine", "key", "state", "until", "endorsement key"), sorted(rows), empty="no key is enrolled here")
        roots = [(use, root) for use, some in (("manufacturer", found.manufacturers), ("issuer", found.issuers)) for root in sorted(some)]
        print_table(("root of", "SHA-256"), roots, empty="no root is trusted")
        for name in sorted(found.revoked - found.keys.keys()):
            say(f"revoked: {name}")

    context.answer(found.to_json(), text)


@command.command("revoke")
@click.argument("key", metavar="NAME")
@answers
def revoke(context: Context, key: str) -> None:
    """Refuse an attestation key from now on, for good, whoever certified it.  NAME: the TPM's name of it, or an enrolled machine's.

    Brokers of this home folder notice it at the next session.  Old receipts with its evidence are refused too.
    """
    from confide.attest.tpm_trust import TpmTrust

    def without(before: TpmTrust) -> TpmTrust:
        for name in before.keys_of(key) or (key,):
            before = before.without_key(name)
        return before

    after = TpmTrust.update(context.settings.tpm_dir, without)
    context.answer({"revoked": list(after.keys_of(key) or (key,))})


def _open(context: Context) -> OpenChallenges:
    from confide.attest.tpm_exchange import OpenChallenges

    return OpenChallenges(context.settings.tpm_dir / "open")


def _tools(context: Context) -> TpmTools:
    from confide.attest.tpm_tools import TpmTools

    return TpmTools(context.settings.tpm_tcti)


def _key(context: Context, given: str | None) -> str:
    found = given or context.settings.tpm_key
    if not found:
        raise UsageError("which key?", hint="give --key, or set tpm_key")
    return found


def _write(path: Path, value: Json) -> None:
    _write_text(path, json.dumps(value, indent=1) + "\n")


def _write_text(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as cause:
        raise UsageError(f"cannot write {path}: {cause.strerror}", path=str(path)) from cause
