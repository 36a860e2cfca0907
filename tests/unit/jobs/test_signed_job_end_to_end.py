"""A job that no owner has granted by its digest, with real processes: a reviewer's signature goes with it to every node."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support.stage import Stage, outputs_of

from confide.attest.collateral_sources import FixedCollateral
from confide.crypto.sign import SigningKey
from confide.data.snapshots import load_manifest
from confide.errors import AppraisalError, GrantError
from confide.ids import JobDigest, Purpose, Role
from confide.jobs.grant_trial import Proposal, read_stored
from confide.jobs.signatures import with_signatures
from confide.keys.grants import Grant
from confide.keys.job_signatures import JobSignature

pytestmark = [pytest.mark.run, pytest.mark.timeout(300), pytest.mark.usefixtures("nothing_left_behind")]


def test_signed_job_runs_under_a_signers_grant_for_one_run(stage: Stage) -> None:
    reviewer = SigningKey.generate()
    for owner, key in (("airline", "people"), ("weather", "cities")):
        signer = reviewer.spki_digest
        stage.clients[owner].grant(key, signer=signer, policy=stage.parsed, recipients=["analyst"], max_runs=1)
    job = stage.job(arguments=("signed",))
    with pytest.raises(GrantError, match="covers this job") as refused:
        stage.run(job)
    _dry_run_of_what_is_left(stage, stage.settings.runs_dir / str(refused.value.facts["run"]))
    signed = with_signatures(job, [JobSignature.sign(reviewer, job.digest)])
    assert signed.digest == job.digest
    result, _ = stage.run(signed, faults={"worker-2": "tampered"})
    result.verification.require()
    made = load_manifest(Path(job.outputs["names"].path))
    assert stage.clients["analyst"].open(made.envelope).dataset == made.unverified.dataset

    # A dry run on the run's folder says what the broker did, and why.
    grant = stage.clients["airline"].grants()[-1]
    proposal = Proposal(grant, 0, stage.tee.roots, FixedCollateral(), signed.signatures)
    tried = proposal.tried(read_stored(result.folder), datetime.now(UTC))
    found = {(trial.stored.label.partition(": ")[2], trial.purpose.value): (trial.outcome, trial.why) for trial in tried}
    assert {label for label, _ in found} == {"driver", "worker-1", "worker-2 (refused)"}
    assert found["driver", "write"][0] == found["worker-1", "read"][0] == "released"
    assert "measurement" in found["worker-2 (refused)", "read"][1]

    again = stage.job(arguments=("signed",))
    with pytest.raises(GrantError, match="all the runs"):
        stage.run(with_signatures(again, [JobSignature.sign(reviewer, again.digest)]))
    assert outputs_of(again) == []


def _dry_run_of_what_is_left(stage: Stage, folder: Path) -> None:
    """The owner sees, by what a run that had no grant left behind, that a grant of its digest is what was missing."""
    assert not (folder / "receipt.json").exists()
    stored = read_stored(folder)
    for digest, outcome in ((stored[0].record.context.job, "released"), (JobDigest("00" * 48), "refused")):
        tried = Proposal(_grant(stage, digest), 0, stage.tee.roots, FixedCollateral()).tried(stored, datetime.now(UTC))
        assert {trial.outcome for trial in tried if trial.stored.record.role == Role.DRIVER} == {outcome}


def _grant(stage: Stage, job: JobDigest) -> Grant:
    everything: dict[str, Any] = {"roles": list(Role), "purposes": list(Purpose), "recipients": [], "not_after": None}
    return Grant.new("airline/people", job=job, policy=stage.parsed, now=datetime.now(UTC), **everything)


def test_run_whose_driver_was_refused_leaves_its_evidence(stage: Stage) -> None:
    job = stage.job()
    with pytest.raises(AppraisalError) as refused:
        stage.run(job, faults={"driver": "tampered"})
    (stored,) = read_stored(stage.settings.runs_dir / str(refused.value.facts["run"]))
    assert stored.label.endswith(": driver (refused)")
    for trial in Proposal(_grant(stage, job.digest), 0, stage.tee.roots, FixedCollateral()).tried([stored], datetime.now(UTC)):
        assert (trial.outcome, "measurement" in trial.why) == ("refused", True)
