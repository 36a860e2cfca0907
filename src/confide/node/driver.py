"""The driver's agent: the first code in the driver node, from the first key to the last wipe (design section 7).

Identity and announcement -> attested to the client -> bundle, checked against the job digest -> workers, each attested, certified and
supervised -> the program -> receipt -> wipe.  All decisions are taken on the thread that calls :meth:`DriverAgent.run`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from confide.attest.evidence import NodeContext
from confide.attest.policy import Policy
from confide.crypto.identity import AnyKeyUntilAttested, Identity, IssuedBy
from confide.crypto.seal import SealKey
from confide.errors import BindingError, ConfideError, ConfigError, InterruptedRunError, NodeLostError, ProtocolError, UnavailableError
from confide.ids import NodeId, Role
from confide.job import Job
from confide.node.control import PROTOCOL, EventType, Kind, Link, field, read
from confide.node.host import ClientHost
from confide.node.jobca import JobCa
from confide.node.kept_result import seal_result
from confide.node.mailbox import Mailbox
from confide.node.private_dir import PrivateDir
from confide.node.reattest import Presenter
from confide.node.reception import Reception
from confide.node.remains import Remains
from confide.node.run_client import RunClient
from confide.node.session import MAX_SESSION_FRAME, Clock, present, utc_now
from confide.node.spec import Announcement
from confide.node.workers import Workers
from confide.node.workload import JobCertificate, NodeReport, NodeServices

if TYPE_CHECKING:
    from confide.attest.collect import Attester
    from confide.attest.verify import Verifier
    from confide.canonical import Json
    from confide.crypto.tls import Channel
    from confide.node.host import DriverHost
    from confide.node.left_job import LeftJob
    from confide.node.record import EvidenceRecord
    from confide.node.spec import NodeSpec
    from confide.node.workload import DriverWorkload

_log = logging.getLogger(__name__)
_FAREWELL_S = 5.0
"""How long the driver waits for the client to take the result."""


class DriverAgent:
    """One driver node.  ``run`` returns the result that the client got, or raises what ended the run; either way all is wiped."""

    def __init__(
        self,
        spec: NodeSpec,
        workload: DriverWorkload,
        *,
        attester: Attester,
        verifier: Verifier,
        host: DriverHost | None = None,
        left: LeftJob | None = None,
        clock: Clock = utc_now,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """``host`` runs the node; without one, the client does.  ``left``: the job, of a run that no client accompanies.

        ``clock`` tells the date, ``now`` counts seconds and never goes back, so that setting a date does not put off re-attestation.
        """
        if spec.role is not Role.DRIVER or spec.announce_path is None:
            raise ConfigError("not a driver's spec", role=str(spec.role))
        self._host: DriverHost = ClientHost(spec.announce_path) if host is None else host
        if left is not None and not self._host.goes_on_alone:
            raise ConfigError("a job can be left with a driver only whose run goes on without a client")
        self._spec = spec
        self._workload = workload
        self._attester = attester
        self._verifier = verifier
        self._left = left
        self._clock = clock
        self._now = now
        self._mail = Mailbox()
        self._identity = Identity.generate(spec.node_id)
        self._seal = SealKey.generate()
        self._context = NodeContext(spec.job_digest, spec.run_id, spec.node_id, self._seal.public_jwk())
        self._ca = JobCa(spec.run_id, now=clock())
        self._client = RunClient(
            spec.timing,
            on_frame=lambda frame: self._mail.post(lambda: self._on_client_frame(frame)),
            on_lost=lambda link, error: self._mail.post(lambda: self._on_client_lost(link, error)),
            comes_back=self._host.goes_on_alone,
            left=left,
        )
        self._record: EvidenceRecord | None = None
        self._job: Job | None = None
        self._init_data: str | None = None
        self._workers: Workers | None = None
        self._services: NodeServices | None = None
        self._engine: Json | None = None
        self._summary: Json | None = None

    def stop(self, reason: str = "the driver was asked to stop") -> None:
        """End the run.  Safe from other threads and from signal handlers."""
        self._mail.post_error(InterruptedRunError(reason))

    def run(self) -> Json:
        """Live the node's whole life.

        Raises:
            ConfideError: what ended the run; the client was told, if it still listened.
        """
        spec = self._spec
        failure: ConfideError | None = None
        with PrivateDir(spec.run_id, spec.node_id) as private:
            bootstrap = Reception(
                spec.listen_host, self._identity, AnyKeyUntilAttested(), self._receive, name="bootstrap", port=spec.listen_port
            )
            try:
                bootstrap.start()
                self._host.announce(Announcement(run_id=spec.run_id, node_id=spec.node_id, host=spec.reached_at, port=bootstrap.port))
                if self._left is not None:
                    bring = partial(self._left.bring, spec, bootstrap.port, verifier=self._verifier, clock=self._clock)
                    self._mail.background(bring, lambda _: None, name="left-job")
                if not self._mail.pump(lambda: self._client.known, timeout_s=spec.timing.start_timeout_s):
                    raise NodeLostError("no client came with the job in time", timeout_s=spec.timing.start_timeout_s)
                result = self._run_job(private, bootstrap)
                self._conclude(result)
            except ConfideError as error:
                failure = error
                raise
            except Exception as error:  # outermost edge of the node: a bug here must still be told to the client, and wipe
                _log.exception("the driver failed")
                failure = UnavailableError(f"the driver failed inside: {type(error).__name__}", hint="see the driver's log")
                raise failure from error
            finally:
                self._end(bootstrap, failure)
        return result

    # --- connections (on threads of the reception) ---------------------------------------------------------------------

    def _receive(self, channel: Channel) -> None:
        """A connection at the bootstrap address: the client, or a worker."""
        hello = read(channel.recv_frame(MAX_SESSION_FRAME), Kind.HELLO)
        if hello.get("protocol") != PROTOCOL:
            raise ProtocolError("a peer speaks another protocol", expected=PROTOCOL)
        match field(hello, "role", str):
            case "client":
                self._receive_client(channel)
            case "worker" if self._workers is not None:
                self._workers.admit(channel, NodeId(field(hello, "node", str)[:128]))
            case _:
                raise ProtocolError("a peer came that is not expected now")

    def _receive_client(self, channel: Channel) -> None:
        """Let a client attest this node and bring the job.  The first that brings the right job is the run's client.

        Clients are not attested and need no account: the job digest in this node's evidence decides what can be run here.
        """
        begun = self._now()
        record = present(channel, attester=self._attester, role=Role.DRIVER, context=self._context, clock=self._clock)
        _log.info("a client has attested this node: %.3f s", self._now() - begun)
        try:
            bundle = read(channel.recv_frame(), Kind.BUNDLE)
            job = Job.from_json(field(bundle, "job", dict))
            if job.digest != self._spec.job_digest:
                raise BindingError(
                    "the bundle is not the job that this driver was started for", expected=self._spec.job_digest, got=job.digest
                )
            Policy.from_json(job.policy)
            asked = field(bundle, "init_data", str) if "init_data" in bundle else None
            self._mail.ask(lambda: self._take_client(channel, record, job, asked))
        except ConfideError as error:
            with suppress(ConfideError):
                channel.send_frame({"kind": str(Kind.ERROR), "error": error.to_json()})
            raise

    def _take_client(self, channel: Channel, record: EvidenceRecord, job: Job, init_data: str | None) -> None:
        def presenter(link: Link) -> Presenter:
            return Presenter(
                channel, attester=self._attester, role=Role.DRIVER, context=self._context, send=link.send, clock=self._clock
            )

        self._client.take(channel, presenter)
        if self._job is None:  # what the receipt shows of this node is what its first client saw
            self._record, self._job, self._init_data = record, job, init_data

    # --- decisions (on the thread of run) ------------------------------------------------------------------------------

    def _on_client_frame(self, frame: Json) -> None:
        match frame.get("kind"):
            case Kind.STOP:
                raise InterruptedRunError("the client stopped the run")
            case Kind.REATTEST if self._client.presenter is not None:
                self._client.presenter.challenged(frame)
            case Kind.REATTEST_VERDICT if self._client.presenter is not None:
                self._client.presenter.verdict(frame)
            case Kind.WORKER_ENDED if self._workers is not None:
                self._workers.heard_of_end(NodeId(field(frame, "node", str)))
            case kind:
                raise ProtocolError("the client sent a frame that is not allowed here", got=str(kind)[:80])

    def _on_client_lost(self, link: Link, error: ConfideError) -> None:
        if not self._client.gone(link):
            return
        if not self._host.goes_on_alone:
            raise NodeLostError("the client is gone: the run ends", reason=error.message)
        _log.info("the client is gone, and the run goes on: %s", error.message)

    def _run_job(self, private: PrivateDir, bootstrap: Reception) -> Json:
        job, spec = self._job, self._spec
        if job is None or self._record is None:
            raise UnavailableError("there is no job")
        collateral = self._verifier.verify(self._record.evidence, self._record.at).collateral
        self._emit(EventType.JOB_ACCEPTED, job=job.digest, workers=job.resources.workers)
        services = self._services = self._build_services(job, private)
        control_identity = self._identity.with_certificate(self._certify(self._identity), self._ca.ca_pem)
        workers = Workers(
            services,
            self._mail,
            self._ca,
            self._clock,
            on_report=self._workload.heard,
            check_worker=self._workload.check_worker,
            cut_off=self._workload.cut_off,
            now=self._now,
        )
        control = Reception(spec.listen_host, control_identity, IssuedBy(self._ca.ca_pem), workers.connect, name="control")
        workers.open(control)
        self._workers = workers
        nodes = [str(node) for node in workers.roster.phases]
        if nodes:  # not every engine has workers

            def follow(started: bool) -> None:  # noqa: FBT001  it is what the host has answered
                if not started:
                    self._client.tell(Kind.START_WORKERS, count=len(nodes), nodes=nodes, host=spec.reached_at, port=bootstrap.port)

            start = partial(self._host.start_workers, [*workers.roster.phases], heard=self._heard_of, ended=self._heard_of_end)
            self._mail.background(start, follow, name="start-workers")
        self._mail.background(lambda: self._workload.prepare(services), self._on_prepared, name="prepare")
        self._await_workers(workers)
        self._emit(EventType.PROGRAM_STARTED, workers=len(workers.started))
        self._mail.background(self._workload.run, self._on_program_ended, name="program")
        self._mail.pump(lambda: self._summary is not None, tick=workers.tick)
        self._emit(EventType.PROGRAM_ENDED)
        presenter = self._client.presenter
        again, latest = (0, None) if presenter is None else (presenter.count, presenter.latest)
        own = NodeReport(spec.node_id, self._record, "ok", again, latest, collateral)
        receipt = self._workload.receipt([own, *workers.reports], workers.roster.refusals)
        return {"ok": True, "summary": self._summary, "receipt": receipt}

    def _await_workers(self, workers: Workers) -> None:
        """Wait until the engine is ready, and every worker has started or ended, or their time is over and enough have started."""
        limit = self._spec.timing.start_timeout_s
        self._mail.pump(lambda: self._engine is not None, tick=workers.tick)
        self._mail.pump(lambda: workers.roster.settled, timeout_s=limit, tick=workers.tick)
        workers.check_started()

    def _on_prepared(self, engine: Json) -> None:
        self._engine = engine
        if self._workers is not None:
            self._workers.engine_ready(engine, self._workload.worker_lost)

    def _on_program_ended(self, summary: Json) -> None:
        self._summary = summary
        if self._workers is not None:
            self._workers.ending = True

    def _build_services(self, job: Job, private: PrivateDir) -> NodeServices:
        spec = self._spec
        engine = Identity.generate(spec.node_id)
        return NodeServices(
            spec=spec,
            job=job,
            policy=Policy.from_json(job.policy),
            identity=self._identity,
            seal_key=self._seal,
            context=self._context,
            attester=self._attester,
            verifier=self._verifier,
            certificate=JobCertificate(self._certify(engine), self._ca.ca_pem, engine.key.private_pem()),
            private_dir=private,
            emit=self._emit,
            tell=lambda report: self._workload.heard(spec.node_id, report),
            fail=self._mail.post_error,
            init_data=self._init_data,
        )

    def _certify(self, identity: Identity) -> bytes:
        spec = self._spec
        return self._ca.issue(identity.spki_der, node=spec.node_id, role=Role.DRIVER, host=spec.reached_at, now=self._clock())

    # --- speaking to the client, and ending ----------------------------------------------------------------------------

    def _emit(self, kind: str, /, *, node: str | None = None, **fields: object) -> None:
        name = self._spec.node_id if node is None else node
        self._client.emit(type=str(kind), node=name, at=self._clock().isoformat(), fields=fields)
        self._host.tell(str(kind), NodeId(name), fields)

    def _heard_of(self, kind: str, node: NodeId, fields: Json) -> None:
        self._mail.post(lambda: self._emit(kind, node=node, **fields))

    def _heard_of_end(self, node: NodeId) -> None:
        def letter() -> None:
            if self._workers is not None:
                self._workers.heard_of_end(node)

        self._mail.post(letter)

    def _conclude(self, result: Json) -> None:
        """Keep the result where a client finds it that comes later, and tell the one that is here."""
        try:
            if self._host.goes_on_alone and self._client.key is not None and self._record is not None:
                self._host.keep(seal_result(result, self._client.key, self._identity.key, self._record))
        except ConfideError as error:  # the client that is here gets it all the same
            _log.warning("the result cannot be kept: %s: %s %s", error.code, error.message, error.facts)
        self._client.tell(Kind.RESULT, **result)

    def _remains(self) -> Json:
        """The workers' evidence, for the client of a run that failed."""
        if self._workers is None:
            return Remains().to_json()
        return Remains.of(self._workers.reports, self._workers.roster.refusals, self._verifier).to_json()

    def _end(self, bootstrap: Reception, failure: ConfideError | None) -> None:
        """Stop and wipe everything, then tell the client of a failure, and give it the time to take the result.

        In that order: what there is to tell of a failure has to be collected, from a collateral service too, and no key waits for that.
        """
        self._wipe(bootstrap)
        try:
            if failure is not None:
                self._conclude({"ok": False, "error": failure.to_json(), "evidence": self._remains()})
        finally:
            self._part()

    def _wipe(self, bootstrap: Reception) -> None:
        bootstrap.close()
        if self._client.presenter is not None:
            self._client.presenter.close()
        if self._services is not None:
            self._services.stopping.set()
        if self._workers is not None:
            self._workers.close()
        try:
            self._workload.stop()
        except Exception:  # noqa: BLE001  whatever fails there, the rest is wiped
            _log.exception("the workload did not stop cleanly")
        if self._services is not None:
            self._services.certificate.private_key_pem.wipe()

    def _part(self) -> None:
        """Wait until the client has left, which it does with the result, whatever else comes meanwhile."""
        until = time.monotonic() + _FAREWELL_S
        while self._client.here and time.monotonic() < until:
            with suppress(ConfideError):  # what the end itself has caused, such as that the program was stopped
                self._mail.pump(lambda: not self._client.here, timeout_s=until - time.monotonic())
        self._mail.close()
        self._client.close()
        self._host.close()
