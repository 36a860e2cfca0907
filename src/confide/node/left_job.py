"""A job that is left with its driver: no client accompanies the run, so the driver's own process plays that part once, and leaves.

The part is played over a real channel to the driver's own address: its evidence is challenged, verified and appraised by the job's
policy, so that the receipt has the same record of it as that of any run.  Whether to believe that is for who reads the receipt, and for
the brokers, which challenge the driver themselves before they release a key.  Who wrote the job down is not asked: its digest is in the
evidence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from confide.canonical import Json, b64url, from_b64url
from confide.crypto.identity import Identity
from confide.crypto.sign import PublicKey
from confide.errors import BindingError, ParseError
from confide.job import Job
from confide.node.client import DriverClient

if TYPE_CHECKING:
    from confide.attest.verify import Verifier
    from confide.node.session import Clock
    from confide.node.spec import NodeSpec

LEFT_FORMAT: Final = "confide-left-job-v1"


@dataclass(frozen=True, slots=True)
class LeftJob:
    """``owner``: the key (SubjectPublicKeyInfo, DER) that may come to the run, and that its result is sealed to.

    ``bearer``: the key by which the driver knows its own process, the only one that may bring the job.
    """

    job: Job
    owner: bytes
    bearer: Identity = field(default_factory=lambda: Identity.generate("bearer"))

    def bring(self, spec: NodeSpec, port: int, *, verifier: Verifier, clock: Clock) -> None:
        """Attest the driver that ``spec`` describes and listens at ``port``, bring it the job, and leave it to itself.

        Raises:
            BindingError: it is another job than that of the spec.
            ConfideError: the driver's evidence is refused by the job's own policy, or the job by the driver.
        """
        if self.job.digest != spec.job_digest:
            raise BindingError("the job that was left here is not that of this driver", expected=spec.job_digest, got=self.job.digest)
        with DriverClient.attest(
            spec.reached_at,
            port,
            job=self.job,
            run=spec.run_id,
            node=spec.node_id,
            verifier=verifier,
            identity=self.bearer,
            clock=clock,
            timing=spec.timing,
        ) as driver:
            driver.submit()

    def to_json(self) -> Json:
        """The job and whose it is as JSON, for whoever starts the driver."""
        return {"format": LEFT_FORMAT, "job": self.job.to_json(), "owner": b64url(self.owner)}

    @classmethod
    def from_json(cls, data: Json) -> LeftJob:
        """The inverse of :meth:`to_json`.

        Raises:
            ParseError: it is no left job, or its owner's key is none.
            JobError: its job is none.
        """
        if set(data) != {"format", "job", "owner"} or data["format"] != LEFT_FORMAT:
            raise ParseError("not a job that was left with a driver", expected=LEFT_FORMAT)
        if not isinstance(data["job"], dict) or not isinstance(data["owner"], str):
            raise ParseError("a left job's field is of another type")
        return cls(Job.from_json(data["job"]), PublicKey.from_spki(from_b64url(data["owner"])).spki_der)
