"""Signatures over a job's digest: a reviewer's word that nodes show when they ask for keys.  Public; pure.

Whether a signer's word counts is for each owner to say (``Grant.signer``).  Nothing here says what the signer looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Final, Self

from confide.canonical import Json, b64url, canonical, from_b64url
from confide.crypto.sign import PublicKey, SigningKey, dsse_sign, dsse_verify
from confide.errors import ConfideError, GrantError, ParseError
from confide.ids import JobDigest, SpkiDigest
from confide.job import MAX_SIGNATURES

PAYLOAD_TYPE: Final = "application/vnd.confide.job-signature+json"
FORMAT: Final = "confide-job-signature-v1"


@dataclass(frozen=True, slots=True)
class JobSignature:
    """A verified signature of ``signer`` (DER) over a job's digest.  Made by :meth:`sign`, or read by :meth:`verify` only."""

    kind: ClassVar[str] = "job-signature"
    job: JobDigest
    signer: bytes
    envelope: Json

    @property
    def signer_digest(self) -> SpkiDigest:
        """The signer's public name: what grants have."""
        return PublicKey(self.signer).digest

    @property
    def id(self) -> str:
        """Job and signer."""
        return f"{self.job}/{self.signer_digest}"

    @property
    def ref(self) -> str:
        """The job."""
        return self.job

    @classmethod
    def sign(cls, key: SigningKey, job: JobDigest) -> Self:
        """The signature of ``key`` over ``job``."""
        return cls(job, key.spki_der, dsse_sign(key, PAYLOAD_TYPE, _statement(job)))

    @classmethod
    def verify(cls, data: object, job: JobDigest) -> Self:
        """The signature in ``data``, if it is of exactly this job by the key that it names.

        Raises:
            GrantError: it is not.
        """
        match data:
            case {"format": str(form), "job": str(named), "signer": str(signer), "envelope": dict(envelope), **rest}:
                if rest or form != FORMAT:
                    raise GrantError("not a signature of a job", hint="`confide job sign` makes one")
                try:
                    key = PublicKey.from_spki(from_b64url(signer))
                    payload = dsse_verify(envelope, key, PAYLOAD_TYPE)
                except ConfideError as cause:
                    raise GrantError(f"a signature of the job does not verify: {cause.message}", hint="sign the job again") from cause
                if payload != _statement(job) or named != job:
                    raise GrantError("a signature is of another job than this one", hint="sign this job, or leave the signature out")
                return cls(job, key.spki_der, envelope)
        raise GrantError("not a signature of a job", hint="`confide job sign` makes one")

    def to_json(self) -> Json:
        """The signature as files, nodes and the store have it."""
        return {"format": FORMAT, "job": self.job, "signer": b64url(self.signer), "envelope": self.envelope}

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """The inverse of :meth:`to_json`: verified again.

        Raises:
            ParseError: it is not a signature of the job that it names.
        """
        try:
            return cls.verify(data, JobDigest(str(data.get("job"))))
        except GrantError as cause:
            raise ParseError(cause.message) from cause


def verify_all(shown: Iterable[object], job: JobDigest) -> tuple[JobSignature, ...]:
    """All signatures that a node shows, of its attested job.  A wrong one is refused, not skipped: its submitter should know.

    Raises:
        GrantError: one is not of this job, does not verify, or there are too many.
    """
    found = list(shown)
    if len(found) > MAX_SIGNATURES:
        raise GrantError(f"a job shows at most {MAX_SIGNATURES} signatures", hint="leave out those that no owner asks for")
    return tuple(JobSignature.verify(one, job) for one in found)


def _statement(job: JobDigest) -> bytes:
    return canonical({"format": FORMAT, "job": job})
