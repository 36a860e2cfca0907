"""``confide job``: sign a job, for owners who grant their keys to what somebody has signed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from confide.cli.output import Context, answers, print_facts
from confide.errors import UsageError

if TYPE_CHECKING:
    from confide.crypto.sign import SigningKey

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.group("job")
def command() -> None:
    """Sign jobs, for owners who grant by signer."""


@command.command("sign")
@click.argument("job_file", metavar="JOB", type=_FILE)
@click.option("--as", "who", metavar="NAME", help="Whose credential to sign with [default: the only one there is].")
@click.option("--key", "key_file", type=_FILE, help="Private key to sign with instead (PEM, P-256, readable by you alone).")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Where to write it [default: JOB.NAME.sig].")
@answers
def sign(context: Context, job_file: Path, who: str | None, key_file: Path | None, out: Path | None) -> None:
    """Sign the digest of JOB: you have reviewed its code, arguments, inputs, outputs and policy.

    The signature is public.  `confide run JOB` takes it along, and owners who have granted a key to the jobs of your key release it.
    """
    from confide.job import Job
    from confide.jobs.signatures import save_signature, signature_path
    from confide.jobs.submit import pin_datasets
    from confide.keys.job_signatures import JobSignature

    if who is not None and key_file is not None:
        raise UsageError("a job is signed with one key at a time", hint="give either --as NAME or --key FILE")
    name, key = _key(context, who, key_file)
    job = pin_datasets(Job.load(job_file))
    made = JobSignature.sign(key, job.digest)
    path = out or signature_path(job_file, name)
    save_signature(path, made)
    value = {"job": job.name, "digest": job.digest, "signer": made.signer_digest, "path": str(path)}
    context.answer(value, lambda: print_facts(value))


def _key(context: Context, who: str | None, key_file: Path | None) -> tuple[str, SigningKey]:
    from confide.cli.owners import credential_of
    from confide.crypto.sign import SigningKey

    if key_file is not None:
        key = SigningKey.load_private(key_file)
        return key.spki_digest[:16], key
    credential = credential_of(context.settings, who)
    return credential.name, credential.key
