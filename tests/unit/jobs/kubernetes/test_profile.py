"""Cluster profiles: what they may say, and what is refused."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cluster_plans import IMAGE, profile_for

from confide.errors import ConfigError
from confide.jobs.kubernetes.profile import ClusterProfile, Shape

GOOD = {"image": IMAGE, "shape": "sgx"}


def refused(**fields: object) -> ConfigError:
    """The error that a profile with these fields meets."""
    with pytest.raises(ConfigError) as met:
        ClusterProfile.from_json({**GOOD, **fields})
    return met.value


def test_three_lines_are_a_profile(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(f'image = "{IMAGE}"\nshape = "tdx"\nnamespace = "team-a"\n', encoding="utf-8")
    profile = ClusterProfile.load(path)
    assert (profile.shape, profile.namespace, profile.image) == (Shape.TDX, "team-a", IMAGE)
    assert profile == profile_for(Shape.TDX, namespace="team-a")


def test_a_profile_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        profile_for(Shape.SGX).allow_tag = True  # type: ignore[misc]


def test_an_unknown_field_is_refused_with_those_that_there_are() -> None:
    error = refused(command=["/bin/sh"])
    assert error.facts["field"] == "command"
    assert "image, " in error.hint
    assert refused(tolerations=[{"key": "a", "operator": "Exists", "seconds": 3}]).facts["field"] == "tolerations.0.seconds"


@pytest.mark.parametrize("missing", ["image", "shape"])
def test_what_must_be_said_is_asked_for(missing) -> None:
    with pytest.raises(ConfigError) as met:
        ClusterProfile.from_json({name: value for name, value in GOOD.items() if name != missing})
    assert met.value.facts["field"] == missing
    assert missing in met.value.hint


def test_an_unknown_shape_is_refused_with_those_that_there_are() -> None:
    error = refused(shape="sev")
    assert error.facts["field"] == "shape"
    assert "snp-vm" in error.hint


@pytest.mark.parametrize("image", ["confide", "registry.example/confide:1.0", "a@sha256:" + "1" * 63, "a@sha256:" + "G" * 64, f"{IMAGE}\n"])
def test_an_image_without_a_digest_is_refused(image) -> None:
    assert refused(image=image).facts["field"] == "image"


def test_a_test_cluster_may_name_an_image_by_its_tag() -> None:
    assert ClusterProfile.from_json({**GOOD, "image": "localhost/confide:test", "allow_tag": True}).image == "localhost/confide:test"
    assert refused(image="two words", allow_tag=True).facts["field"] == "image"
    assert refused(image="", allow_tag=True).facts["field"] == "image"
    assert "allow_tag" in refused(image="localhost/confide:test").hint


@pytest.mark.parametrize(("field", "value"), [
    ("namespace", "Team_A"), ("namespace", "a" * 64), ("namespace", "a.b"), ("namespace", 3), ("namespace", "a\n"),
    ("allow_tag", "yes"), ("allow_tag", 1), ("insecure_host_path", "true"),
    ("image_pull_secrets", ["Registry"]), ("image_pull_secrets", "registry"),
    ("priority_class", "High"), ("queue_priority", "a"), ("queue_priority", "A/b"), ("priorities", {"interactive": {}}),
    ("priorities", {"Inter Active": {"priority_class": "a"}}), ("priorities", {"batch": {"queue_priority": "b"}}),
    ("priorities", {"batch": {"priority_class": "b", "value": 7}}), ("labels", {"kueue.x-k8s.io/priority-class": "x"}),
    ("queue", "a/b"), ("runtime_class", ""),
    ("ttl_s", 59), ("ttl_s", "600"), ("ttl_s", True), ("ttl_s", 600.5), ("ttl_s", 10**9),
    ("start_timeout_s", 0), ("start_timeout_s", "300"), ("start_timeout_s", float("nan")),
    ("labels", {"a b": "c"}), ("labels", {"team": "a/b"}), ("labels", {"team": "x" * 64}), ("labels", {"team": 3}), ("labels", {"/x": "y"}),
    ("labels", {"team": "a\n"}), ("labels", {"UPPER.example/x": "y"}), ("labels", {"x" * 254 + "/y": "z"}),
    ("node_selector", {"a": "b c"}), ("annotations", {"": "x"}), ("annotations", {"a": 1}),
    ("service_account_annotations", {"a/b/c": "x"}),
    ("sgx_epc", "1.5"), ("sgx_epc", "0"), ("sgx_epc", "64M"), ("sgx_epc", 64), ("sgx_quote", "epid"),
    ("supplemental_groups", [0]), ("supplemental_groups", ["994"]),
    ("egress", []), ("egress", ["10.0.0.1/8"]), ("egress", ["everywhere"]), ("egress", "10.0.0.0/8"),
    ("shm_mb", 255), ("shm_mb", 512.0), ("cpu_request", 0), ("cpu_request", 1.5), ("cpu_request", "0.5"), ("cpu_request", True),
    ("cpu_request", float("nan")),
    ("tolerations", [{"key": "a", "operator": "In"}]), ("tolerations", [{"operator": "Equal"}]), ("tolerations", [{}]),
    ("tolerations", [{"key": "a", "operator": "Exists", "value": "b"}]), ("tolerations", [{"key": "a", "effect": "NoRun"}]),
    ("tolerations", [{"key": "a", "toleration_seconds": 5}]),
    ("tolerations", [{"key": "a", "effect": "NoExecute", "toleration_seconds": -1}]),
    ("volumes", [{"mount": "/data"}]), ("volumes", [{"mount": "/data", "claim": "c", "host_path": "/x"}]),
    ("volumes", [{"mount": "data", "claim": "c"}]), ("volumes", [{"mount": "/data/../etc", "claim": "c"}]),
    ("volumes", [{"mount": "/data/", "claim": "c"}]), ("volumes", [{"mount": "//data", "claim": "c"}]),
    ("volumes", [{"mount": "/da:ta", "claim": "c"}]), ("volumes", [{"mount": "/data", "claim": "C"}]),
    ("volumes", [{"mount": "/data", "claim": "a"}, {"mount": "/data", "claim": "b"}]),
])  # fmt: skip
def test_a_wrong_value_is_refused_with_its_field_and_a_hint(field, value) -> None:
    error = refused(**{field: value})
    assert str(error.facts["field"]).split(".")[0] == field
    assert error.hint
    assert field in error.message


@pytest.mark.parametrize("place", [
    "/", "/tmp", "/etc", "/etc/confide", "/etc/confide/node/spec.json", "/var", "/var/confide/x", "/dev/shm", "/proc/1", "/sys",
    "/var/run/secrets/kubernetes.io", "/var/run/aesmd",
])  # fmt: skip
def test_no_volume_is_mounted_over_what_the_pod_itself_mounts(place) -> None:
    assert "mount it elsewhere" in refused(volumes=[{"mount": place, "claim": "c"}]).message
    assert "mount it elsewhere" in refused(volumes=[{"mount": place, "host_path": "/x"}], insecure_host_path=True).message


@pytest.mark.parametrize("place", ["/usr", "/usr/lib/python3", "/opt/confide", "/bin", "/lib64", "/etc/ld.so.preload", "/root", "/run/x"])
def test_no_claim_is_mounted_over_the_images_code(place) -> None:
    assert "mount it elsewhere" in refused(volumes=[{"mount": place, "claim": "c"}]).message


def test_a_folder_of_the_cluster_node_has_to_be_asked_for_by_a_name_that_says_so() -> None:
    volumes = [{"mount": "/data", "host_path": "/srv/data"}]
    error = refused(volumes=volumes)
    assert error.facts["field"] == "volumes"
    assert "insecure_host_path = true" in error.hint
    assert ClusterProfile.from_json({**GOOD, "volumes": volumes, "insecure_host_path": True}).volumes[0].host_path == "/srv/data"


@pytest.mark.parametrize("field", ["labels", "annotations", "service_account_annotations"])
@pytest.mark.parametrize("key", [
    "confide.dev/run", "confide.dev/other", "app.kubernetes.io/name", "app.kubernetes.io/managed-by", "kueue.x-k8s.io/queue-name",
    "io.katacontainers.config.hypervisor.cc_init_data",
])  # fmt: skip
def test_a_key_that_is_the_runs_own_is_refused(field, key) -> None:
    assert refused(**{field: {key: "x"}}).facts["field"] == field


@pytest.mark.parametrize(("field", "value", "shape"), [
    ("sgx_epc", "64Mi", "tdx"), ("sgx_quote", "aesm", "snp"), ("tee_resource", "example.org/tdx-guest", "sgx"),
    ("tee_resource", "example.org/tdx-guest", "tdx"), ("init_data", {"policy.rego": "package agent_policy"}, "sgx"),
    ("init_data", {"policy.rego": "package agent_policy"}, "tdx-vm"),
])  # fmt: skip
def test_a_field_of_another_shape_is_refused(field, value, shape) -> None:
    error = refused(shape=shape, **{field: value})
    assert error.facts["field"] == field
    assert "goes with the shape" in error.message


def test_init_data_is_read_from_files_beside_the_profile(tmp_path: Path) -> None:
    (tmp_path / "agent.rego").write_text("package agent_policy\n", encoding="utf-8")
    path = tmp_path / "cluster.toml"
    path.write_text(f'image = "{IMAGE}"\nshape = "tdx"\n[init_data]\n"policy.rego" = "agent.rego"\n', encoding="utf-8")
    assert ClusterProfile.load(path).init_data == {"policy.rego": "package agent_policy\n"}
    (tmp_path / "agent.rego").unlink()
    with pytest.raises(ConfigError, match=r"cannot read .*agent\.rego"):
        ClusterProfile.load(path)


@pytest.mark.parametrize("value", ['"agent.rego"', '{ "policy.rego" = 3 }', '{ "policy.rego" = "a\\u0000b" }'])
def test_init_data_that_names_no_files_is_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text(f'image = "{IMAGE}"\nshape = "tdx"\ninit_data = {value}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"init_data|cannot read"):
        ClusterProfile.load(path)


def test_a_file_that_is_no_toml_or_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    with pytest.raises(ConfigError, match="cannot read"):
        ClusterProfile.load(path)
    for content in (b"image = ", b"\xff\xfe", b"shape = 1\nshape = 2\n"):
        path.write_bytes(content)
        with pytest.raises(ConfigError) as met:
            ClusterProfile.load(path)
        assert met.value.facts["path"] == str(path)


@given(st.dictionaries(
    st.sampled_from(sorted(ClusterProfile.model_fields)) | st.text(max_size=8),
    st.recursive(
        st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.datetimes(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=6,
    ), max_size=6,
))  # fmt: skip
def test_whatever_a_file_says_is_a_profile_or_refused(table) -> None:
    with suppress(ConfigError):
        ClusterProfile.from_json({**GOOD, **table})


def test_every_field_and_shape_is_documented() -> None:
    page = (Path(__file__).parents[4] / "docs" / "reference" / "cluster-profile.md").read_text(encoding="utf-8")
    for name in (*ClusterProfile.model_fields, *Shape):
        assert f"`{name}`" in page
