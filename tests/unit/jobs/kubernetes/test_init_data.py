"""Init-data of a run's confidential virtual machines."""

from __future__ import annotations

import base64
import gzip
import hashlib
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cluster_plans import plan_for, profile_for, rendered

from confide.attest.init_data import MAX_BYTES, InitData
from confide.errors import ConfigError
from confide.ids import JobDigest, Tee
from confide.jobs.kubernetes.agent_policy import POLICY_NAME, agent_policy
from confide.jobs.kubernetes.init_data import JOB_DIGEST_NAME, annotation, render_init_data
from confide.jobs.kubernetes.profile import Shape

DIGEST = JobDigest("0123456789abcdef" * 6)
KEY = "io.katacontainers.config.hypervisor.cc_init_data"
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)


def test_the_document_is_this() -> None:
    assert render_init_data(DIGEST, Tee.TDX, {"aa.toml": 'url = "https://kbs.example"\n'}).body == (
        'version = "0.1.0"\nalgorithm = "sha384"\n\n[data]\n'
        f'"confide.dev/job-digest" = "{DIGEST}"\n'
        '"aa.toml" = "url = \\"https://kbs.example\\"\\n"\n'
    )


@pytest.mark.parametrize(("tee", "size", "algorithm"), [(Tee.TDX, 48, "sha384"), (Tee.SNP, 32, "sha256")])
def test_the_digest_fills_the_field_of_the_evidence(tee, size, algorithm) -> None:
    document = render_init_data(DIGEST, tee, {})
    value = document.bound_value(tee)
    assert len(value) == size
    assert value == hashlib.new(algorithm, document.body.encode()).digest()


@pytest.mark.parametrize(("shape", "tee"), [(Shape.TDX, Tee.TDX), (Shape.SNP, Tee.SNP)])
def test_pods_carry_it_as_kata_containers_takes_it(shape, tee) -> None:
    made = rendered(shape)
    for metadata in (made.driver_job["spec"]["template"]["metadata"], *(pod["metadata"] for pod in made.workers.values())):
        body = gzip.decompress(base64.b64decode(metadata["annotations"][KEY], validate=True)).decode()
        policy = {POLICY_NAME: agent_policy(profile_for(shape))}
        assert tomllib.loads(body)["data"] == {JOB_DIGEST_NAME: plan_for(shape).digest, **policy}
        assert InitData.parse(body).bound_value(tee) == render_init_data(plan_for(shape).digest, tee, policy).bound_value(tee)


@pytest.mark.parametrize("shape", [Shape.SGX, Shape.TDX_VM, Shape.SNP_VM, Shape.SIMULATED])
def test_no_other_shape_has_init_data(shape) -> None:
    made = rendered(shape)
    assert KEY not in made.driver_job["spec"]["template"]["metadata"]["annotations"]


def test_another_job_has_another_digest() -> None:
    other = JobDigest("f" + DIGEST[1:])
    assert render_init_data(DIGEST, Tee.SNP, {}).bound_value(Tee.SNP) != render_init_data(other, Tee.SNP, {}).bound_value(Tee.SNP)


def test_a_profile_adds_what_the_guests_components_read() -> None:
    made = rendered(Shape.TDX, init_data={"policy.rego": "package agent_policy\n"})
    packed = made.driver_job["spec"]["template"]["metadata"]["annotations"][KEY]
    data = tomllib.loads(gzip.decompress(base64.b64decode(packed)).decode())["data"]
    assert data["policy.rego"] == "package agent_policy\n"


def test_the_job_digest_cannot_be_said_by_the_profile() -> None:
    with pytest.raises(ConfigError, match="the run's own"):
        render_init_data(DIGEST, Tee.TDX, {JOB_DIGEST_NAME: "another"})


def test_too_much_init_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="too large"):
        render_init_data(DIGEST, Tee.TDX, {"policy.rego": "x" * MAX_BYTES})


@given(st.dictionaries(TEXT.filter(lambda name: name != JOB_DIGEST_NAME), TEXT, max_size=4), st.sampled_from([Tee.TDX, Tee.SNP]))
def test_every_text_comes_back_from_the_document_and_the_same_input_gives_the_same_bytes(more, tee) -> None:
    document = render_init_data(DIGEST, tee, more)
    assert document.data == {JOB_DIGEST_NAME: DIGEST, **more}
    assert annotation(document) == annotation(render_init_data(DIGEST, tee, dict(reversed(more.items()))))
    assert gzip.decompress(base64.b64decode(annotation(document))).decode() == document.body


def test_a_text_that_has_no_utf_8_form_is_refused() -> None:
    with pytest.raises(ConfigError, match="init_data"):
        render_init_data(DIGEST, Tee.TDX, {"a": "\ud800"})


@pytest.mark.parametrize(("shape", "tee"), [(Shape.TDX, Tee.TDX), (Shape.SNP, Tee.SNP)])
def test_the_client_asks_every_node_for_what_the_pods_carry(shape, tee) -> None:
    made = rendered(shape, init_data={"aa.toml": "x"})
    metadata = made.driver_job["spec"]["template"]["metadata"]
    body = gzip.decompress(base64.b64decode(metadata["annotations"][KEY], validate=True)).decode()
    assert made.init_data == InitData.parse(body).bound_value(tee).hex()
    assert {pod["metadata"]["annotations"][KEY] for pod in made.workers.values()} == {metadata["annotations"][KEY]}


@pytest.mark.parametrize("shape", [Shape.SGX, Shape.TDX_VM, Shape.SNP_VM, Shape.SIMULATED])
def test_nothing_is_asked_of_nodes_that_are_given_none(shape) -> None:
    assert rendered(shape).init_data is None
