"""The driver of one run as its client knows it: attested once, and from then on the same key or none.

What the client knows is in the run's folder, so that it still knows it when it comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from confide.attest.policy import Policy
from confide.errors import AttestationError, BindingError, UnavailableError
from confide.node.client import DriverClient
from confide.node.kept_result import open_result
from confide.node.session import VerifierSide

if TYPE_CHECKING:
    from confide.attest.verify import Verifier
    from confide.canonical import Json
    from confide.crypto.identity import Identity
    from confide.ids import SpkiDigest
    from confide.job import Job
    from confide.jobs.plan import Plan
    from confide.jobs.store import RunDir
    from confide.node.record import EvidenceRecord


@dataclass(frozen=True, slots=True)
class KnownDriver:
    """See the module.  ``identity``: the key by which the run's client is known, if the run goes on without it.

    ``init_data``: what its evidence and its workers' has to hold of the init-data that the backend starts nodes with, in hex, if it does.
    ``on_refused`` gets the evidence of a driver that is refused.
    """

    job: Job
    plan: Plan
    folder: RunDir
    verifier: Verifier
    identity: Identity | None
    init_data: str | None
    on_refused: Callable[[EvidenceRecord], None]

    @property
    def key(self) -> SpkiDigest | None:
        """The driver's key, once it is known."""
        return self.folder.driver_key

    def attest(self, host: str, port: int) -> DriverClient:
        """A channel to the driver, whose evidence is accepted.

        Raises:
            BindingError: it is another node than the one that is known.
            AttestationError: it is not the driver that the job's policy asks for.
            UnavailableError: nobody listens there, or the peer does not keep to the protocol.
        """
        plan = self.plan
        driver = DriverClient.attest(
            host,
            port,
            job=self.job,
            run=plan.run,
            node=plan.driver.node_id,
            verifier=self.verifier,
            identity=self.identity,
            timing=plan.driver.timing,
            on_refused=self.on_refused,
            init_data=self.init_data,
        )
        known, found = self.key, driver.peer.spki
        if known not in {None, found}:
            driver.close()
            raise BindingError("another node is in the driver's place", expected=known, got=found)
        self.folder.keep_driver_key(found)
        return driver

    def result(self, kept: str) -> Json:
        """What was kept of the run, if it is the result by the driver that is known, or by one whose evidence is accepted now.

        Raises:
            UnavailableError: it is no result for this client.
            BindingError: it is not by that driver, or of another run or job.
            AttestationError: the evidence of a driver that was not known is refused.
        """
        if self.identity is None:
            raise UnavailableError("this client has no key to open the run's result with")
        found = open_result(kept, self.identity.key, self.plan.run)
        side = VerifierSide(self.verifier, Policy.from_json(self.job.policy), init_data=self.init_data)
        try:
            result = found.by_driver(self.plan.driver.node_id, job=self.job.digest, run=self.plan.run, side=side, known=self.key)
        except AttestationError:
            self.on_refused(found.evidence)
            raise
        self.folder.keep_driver_key(found.evidence.binding.spki_digest)
        return result
