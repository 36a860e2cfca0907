"""``confide job``: sign a job, for owners who grant their keys to what somebody has signed; and say what its guests are started with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from confide.cli.output import Context, answers, print_facts, say
from confide.errors import UsageError

if TYPE_CHECKING:
    from confide.crypto.sign import SigningKey

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.group("job")
def command() -> None:
    """Sign jobs, for owners who grant by signer; say what a job's guests are started with."""


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


@command.command("init-data")
@click.argument("job_file", metavar="JOB", type=_FILE)
@click.option("--cluster", "profile_file", type=_FILE, required=True, help="The cluster's profile (TOML), of the shape tdx or snp.")
@answers
def init_data(context: Context, job_file: Path, profile_file: Path) -> None:
    """Print the init-data that guests of JOB are started with, and what their evidence then holds.

    It goes into the policy of an owner who wants guests that were started with it and nothing else: the value as `init_data`, for this job
    alone; or its entries beside the job digest as `job_init_data`, for each job that the owner grants.
    """
    from confide.job import Job
    from confide.jobs.kubernetes.profile import ClusterProfile
    from confide.jobs.kubernetes.shapes import init_data_of, tee_of
    from confide.jobs.submit import pin_datasets

    profile, job = ClusterProfile.load(profile_file), pin_datasets(Job.load(job_file), shares_files=False)
    tee = tee_of(profile.shape)
    document = None if tee is None else init_data_of(profile, tee, job.digest)
    if tee is None or document is None:
        raise UsageError(f"guests of the shape {profile.shape} are given no init-data", hint="it goes with the shapes tdx and snp")
    held = document.bound_value(tee).hex()
    value = {"job": job.name, "digest": job.digest, "tee": str(tee), "init_data": held, "document": document.body}

    def text() -> None:
        print_facts({"job": job.name, "digest": job.digest, str(tee): held})
        for line in ("", *document.body.splitlines()):
            say(line)

    context.answer(value, text)


def _key(context: Context, who: str | None, key_file: Path | None) -> tuple[str, SigningKey]:
    from confide.cli.owners import credential_of
    from confide.crypto.sign import SigningKey

    if key_file is not None:
        key = SigningKey.load_private(key_file)
        return key.spki_digest[:16], key
    credential = credential_of(context.settings, who)
    return credential.name, credential.key
