"""A run of no job: for asking whether a cluster would take a run's pod, and whether a node that it really starts gives evidence.

Rendered by the code that renders runs.  Nothing secret goes to the node, whatever it is: nobody's policy accepts it.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Final

from confide.attest.policy import Policy
from confide.attest.policy_draft import of_claims
from confide.errors import AttestationError, ConfideError, NodeLostError, UnavailableError
from confide.ids import Tee, new_run_id
from confide.job import Job
from confide.jobs.findings import Finding
from confide.jobs.kubernetes.objects import render
from confide.jobs.kubernetes.profile import ClusterProfile, Shape
from confide.jobs.plan import Plan, Site, make_plan
from confide.node.client import DriverClient

if TYPE_CHECKING:
    from confide.attest.verify import Verifier
    from confide.canonical import Json
    from confide.config import Settings
    from confide.jobs.backend import Address, Backend, NodeHandle
    from confide.node.record import EvidenceRecord

_TEES: Final = {Shape.SGX: Tee.SGX, Shape.TDX: Tee.TDX, Shape.SNP: Tee.SNP, Shape.TDX_VM: Tee.TDX, Shape.SNP_VM: Tee.SNP}
_MEASURED: Final = {Tee.SGX: 32, Tee.TDX: 48, Tee.SNP: 48}
"""Bytes of MRENCLAVE, MRTD and MEASUREMENT."""
_MEMORY_MB: Final = 256
_POLL_S: Final = 0.1
_NODE: Final = "probe node"
_EVIDENCE: Final = "probe evidence"


def probe_job(tee: Tee, *, simulated: bool) -> Job:
    """A job of nothing, whose policy accepts no node: its measurements are random, and nothing has them."""
    policy: Json = {"name": "nobody", "measurements": {tee.value: [secrets.token_hex(_MEASURED[tee])]}}
    policy |= {"registers": {name: [secrets.token_hex(48)] for name in ("rtmr1", "rtmr2")}} if tee is Tee.TDX else {}
    policy |= {"min_tcb": {"Milan": {"bootloader": 0, "tee": 0, "snp": 0, "microcode": 0}}} if tee is Tee.SNP else {}
    policy |= {"allow": ["simulated"]} if simulated else {}
    parts = {"name": "probe", "program": "main.py", "files": {"main.py": b""}, "engine": "polars", "policy": policy}
    nowhere = {"url": "https://127.0.0.1:1", "spki": "0" * 64}
    return Job.build({**parts, "broker": nowhere, "resources": {"driver_memory_mb": _MEMORY_MB}})


def probe_plan(profile: ClusterProfile, settings: Settings) -> tuple[Job, Plan]:
    """The job of nothing for the profile's shape, and the plan of a run of it: a driver alone."""
    simulated = profile.shape is Shape.SIMULATED
    job = probe_job(_TEES.get(profile.shape, Tee.SGX), simulated=simulated)
    site = Site.of_pods(max(profile.start_timeout_s, settings.node_start_timeout_s))
    return job, make_plan(job, run=new_run_id(job.name), site=site, settings=settings, simulate=simulated)


def probe_pod(profile: ClusterProfile, settings: Settings) -> Json:
    """A driver's pod for a dry run: under the namespace's own service account, because a dry run makes none.

    Raises:
        ConfigError: the profile's init-data is none.
    """
    plan = probe_plan(profile, settings)[1]
    template = render(plan, profile, simulated_tee={} if plan.simulated else None).driver_job["spec"]["template"]
    about = {"name": plan.run, "namespace": profile.namespace, **template["metadata"]}
    spec = {**template["spec"], "serviceAccountName": "default", "automountServiceAccountToken": False}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": spec}


def probe(backend: Backend, job: Job, plan: Plan, verifier: Verifier) -> list[Finding]:
    """Start the plan's driver, ask it for evidence, end it, and say what came of it.  Everything that was started is removed."""
    begun = time.monotonic()
    try:
        handle = backend.start(plan.driver)
    except ConfideError as error:
        return [_failed(_NODE, error)]
    try:
        address = _listening(backend, handle, begun + plan.driver.timing.start_timeout_s)
    except ConfideError as error:
        backend.stop([handle])
        return [_failed(_NODE, error)]
    started = Finding(_NODE, ok=True, found=f"listens after {time.monotonic() - begun:.0f} s")
    try:
        return [started, _judged(_shown(address, job, plan, verifier), verifier)]
    except ConfideError as error:
        return [started, _failed(_EVIDENCE, error)]
    finally:
        backend.stop([handle])


def _listening(backend: Backend, handle: NodeHandle, deadline: float) -> Address:
    waits_for = ""
    while time.monotonic() < deadline:
        status = backend.poll(handle)
        waits_for = status.condition or waits_for
        if not status.running:
            why = waits_for or f"exit status {status.exit_status}"
            raise NodeLostError(f"the node has ended before it listened: {why}", hint="see the pod's log and events")
        address = backend.announced(handle)
        if address is not None:
            return address
        time.sleep(_POLL_S)
    why = waits_for or "the cluster says no reason"
    raise NodeLostError(f"the node did not listen in time: {why}", hint="see the pod's events, and the profile's start_timeout_s")


def _shown(address: Address, job: Job, plan: Plan, verifier: Verifier) -> EvidenceRecord:
    """What the node shows in a session with us, which ends with our refusing it."""
    shown: list[EvidenceRecord] = []
    try:
        DriverClient.attest(
            address.host,
            address.port,
            job=job,
            run=plan.run,
            node=plan.driver.node_id,
            verifier=verifier,
            timing=plan.driver.timing,
            on_refused=shown.append,
        ).close()
    except AttestationError:
        if not shown:
            raise
    if not shown:
        raise UnavailableError("the node was accepted by a policy that accepts nobody")
    return shown[0]


def _judged(shown: EvidenceRecord, verifier: Verifier) -> Finding:
    """Whether evidence is genuine, of this session, and of a platform that its own first policy accepts; and of which software it is."""
    claims = verifier.verify(shown.evidence, shown.at).claims
    what = "SIMULATED, which protects nothing" if claims.simulated else "genuine"
    words = f"{what}: {claims.tee}, measurement {claims.measurement}, {claims.tcb_status}"
    try:
        shown.recheck(verifier, Policy.from_json({"name": "itself", **of_claims(claims)}), shown.at)
    except AttestationError as error:
        hint = error.hint or "update the machine's firmware and microcode; docs/reference/policy.md says how a policy accepts it as it is"
        return Finding(_EVIDENCE, ok=False, found=f"{words}; {error.message}", hint=hint)
    return Finding(_EVIDENCE, ok=True, found=words)


def _failed(check: str, error: ConfideError) -> Finding:
    return Finding(check, ok=False, found=error.message, hint=error.hint or "see what the cluster says of the pod and its events")
