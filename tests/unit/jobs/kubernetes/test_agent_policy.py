"""The policy of a guest's agent, evaluated: the run's own pod is made, and each thing that a host may change of it is refused.

Requests have the form that ``genpolicy`` of Kata Containers has in its test data.  The engine is ``regopy``; agents have another one.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import regopy
from support.cluster_plans import IMAGE, profile_for

from confide.canonical import Json
from confide.errors import ConfigError
from confide.jobs.images.layout import ARGUMENTS, ENVIRONMENT
from confide.jobs.kubernetes.agent_policy import agent_policy
from confide.jobs.kubernetes.profile import Shape

ID = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
ROOT = f"/run/kata-containers/{ID}/rootfs"
SHARED = f"/run/kata-containers/shared/containers/{ID}-dc49e1ba3ec278c5-"
EPHEMERAL = "/run/kata-containers/sandbox/ephemeral"
CAPABILITIES = ("Ambient", "Bounding", "Effective", "Inheritable", "Permitted")
PROFILE = profile_for(Shape.TDX, volumes=[{"mount": "/data", "claim": "flights"}], supplemental_groups=[4711], namespace="research")
POLICY = agent_policy(PROFILE)


def answer(request: str, given: Json, *, policy: str = POLICY, state: Json | None = None) -> Any:
    """What the agent is told of a request, and adds to its state."""
    engine = regopy.Interpreter()
    engine.log_level = regopy.LogLevel.NONE
    engine.add_module("policy", policy)
    engine.add_data({"pstate": state or {}})
    engine.set_input(given)
    (found,) = json.loads(str(engine.query("data.agent_policy")))["expressions"]
    return found.get(request, False)


def is_allowed(request: str, given: Json, **options: Any) -> bool:
    found = answer(request, given, **options)
    return found is True or (isinstance(found, dict) and found["allowed"] is True)


def mount(destination: str, source: str, kind: str = "bind") -> Json:
    return {"destination": destination, "source": source, "type_": kind, "options": ["rbind", "rprivate"]}


def container(kind: str, **process: Any) -> Json:
    """What both containers of a pod have."""
    base: Json = {
        "Args": ["/pause"], "Capabilities": {name: [] for name in CAPABILITIES}, "Cwd": "/", "Env": ["PATH=/usr/bin:/bin"],
        "NoNewPrivileges": True, "Terminal": False, "User": {"UID": 65535, "GID": 65535, "AdditionalGids": [], "Username": ""},
    }  # fmt: skip
    system = (("/proc", "proc"), ("/dev", "tmpfs"), ("/dev/pts", "devpts"), ("/dev/mqueue", "mqueue"), ("/sys", "sysfs"))
    linux = {
        "Devices": [], "GIDMappings": [], "UIDMappings": [], "RootfsPropagation": "", "Seccomp": None,
        "Sysctl": {"net.ipv4.ping_group_range": "0 1"},
        "Namespaces": [*({"Type": name, "Path": ""} for name in ("ipc", "uts", "mount")), {"Type": "network", "Path": "/var/run/netns/1"}],
    }  # fmt: skip
    return {
        "OCI": {
            "Annotations": {
                "io.katacontainers.pkg.oci.container_type": f"pod_{kind}",
                "io.kubernetes.cri.container-type": kind,
                "io.kubernetes.cri.sandbox-namespace": "research",
            },
            "Hooks": None, "Solaris": None, "Windows": None, "Linux": linux, "Process": {**base, **process},
            "Mounts": [mount(path, name, name) for path, name in system], "Root": {"Path": ROOT, "Readonly": True}, "Version": "1.1.0",
        },
        "container_id": ID, "devices": [], "shared_mounts": [], "string_user": None, "sandbox_pidns": False,
        "storages": [{
            "driver": "image_guest_pull", "driver_options": [], "fs_group": None, "fstype": "overlay", "mount_point": ROOT, "options": [],
            "source": "pause",
        }],
    }  # fmt: skip


def node() -> Json:
    """The node's container, as a host has it made."""
    environment = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
    environment += ["HOSTNAME=demo-0123456789ab-worker-1", "KUBERNETES_SERVICE_HOST=10.96.0.1", "KUBERNETES_PORT=tcp://10.96.0.1:443"]
    user = {"UID": 10001, "GID": 10001, "AdditionalGids": [4711, 10001], "Username": ""}
    found = container("container", Args=list(ARGUMENTS), Env=environment, Cwd="/var/confide", User=user)
    found["OCI"]["Annotations"]["io.kubernetes.cri.container-name"] = "node"
    names = {"/etc/hosts": "hosts", "/etc/hostname": "hostname", "/etc/resolv.conf": "resolv.conf"}
    names |= {"/dev/termination-log": "termination-log", "/etc/confide/node": "node"}
    names |= {"/var/run/secrets/kubernetes.io/serviceaccount": "serviceaccount"}
    found["OCI"]["Mounts"] += [mount(path, SHARED + name) for path, name in names.items()]
    memory = {"/dev/shm": "shm", "/tmp": "tmp", "/var/confide": "state"}
    found["OCI"]["Mounts"] += [mount(path, f"{EPHEMERAL}/{name}") for path, name in memory.items()]
    found["OCI"]["Mounts"].append(mount("/data", "/run/kata-containers/sandbox/storage/L2RldiN2ZGI="))
    tmpfs = {"driver": "ephemeral", "fstype": "tmpfs", "source": "tmpfs"}
    ephemeral = [{**tmpfs, "mount_point": f"{EPHEMERAL}/{name}"} for name in memory.values()]
    disk = {"driver": "blk", "fstype": "ext4", "source": "02", "mount_point": "/run/kata-containers/sandbox/storage/L2RldiN2ZGI="}
    image = {**found["storages"][0], "source": IMAGE, "driver_options": ['image_guest_pull={"metadata":{}}']}
    found["storages"] = [image, *ephemeral, disk]
    return found


def test_the_pods_own_containers_are_made_once_each() -> None:
    assert is_allowed("CreateContainerRequest", container("sandbox"))
    assert is_allowed("CreateContainerRequest", node(), state={"sandbox": True})
    assert not is_allowed("CreateContainerRequest", node(), state={"sandbox": True, "node": True})
    assert not is_allowed("CreateContainerRequest", container("sandbox"), state={"sandbox": True})
    assert answer("CreateContainerRequest", node())["ops"] == [{"op": "add", "path": "/pstate/node", "value": True}]


def process(name: str, value: Any) -> Callable[[Json], None]:
    return lambda found: found["OCI"]["Process"].__setitem__(name, value)


def more(name: str, *values: Any) -> Callable[[Json], None]:
    return lambda found: found["OCI"]["Process"][name].extend(values)


def mounted(*further: Json) -> Callable[[Json], None]:
    return lambda found: found["OCI"]["Mounts"].extend(further)


def stored(index: int, **fields: Any) -> Callable[[Json], None]:
    return lambda found: found["storages"][index].update(fields)


def user(**fields: Any) -> Callable[[Json], None]:
    return lambda found: found["OCI"]["Process"]["User"].update(fields)


def oci(name: str, value: Any) -> Callable[[Json], None]:
    return lambda found: found["OCI"].__setitem__(name, value)


def sourced(destination: str, source: str) -> Callable[[Json], None]:
    return lambda found: next(one for one in found["OCI"]["Mounts"] if one["destination"] == destination).update(source=source)


def annotated(name: str, value: str) -> Callable[[Json], None]:
    return lambda found: found["OCI"]["Annotations"].__setitem__(name, value)


OTHER_IMAGE = IMAGE.replace("12" * 32, "13" * 32)
CHANGES: dict[str, Callable[[Json], None]] = {
    "another image": stored(0, source=OTHER_IMAGE),
    "an image by its tag": stored(0, source="registry.example/confide/node:latest"),
    "a digest before the digest": stored(0, source=f"{OTHER_IMAGE}@{IMAGE.partition('@')[2]}"),
    "an image that is no guest pull": stored(0, driver="virtio-fs"),
    "an image elsewhere": stored(0, mount_point="/run/kata-containers/other/rootfs"),
    "a second image": lambda found: found["storages"].append(dict(found["storages"][0])),
    "no image": lambda found: found["storages"].pop(0),
    "a shared folder": lambda found: found["storages"].append({"driver": "virtio-fs", "fstype": "virtiofs", "mount_point": "/x"}),
    "a disk over the image": stored(-1, mount_point=ROOT),
    "another program": process("Args", ["/bin/sh"]),
    "an argument more": more("Args", "--debug"),
    "no arguments": process("Args", []),
    "a variable": more("Env", "LD_PRELOAD=/data/evil.so"),
    "another path": more("Env", "PATH=/data"),
    "a variable that only looks like the kubelet's": more("Env", "KUBERNETES_SERVICE_HOST=x\nLD_PRELOAD=y"),
    "another folder": process("Cwd", "/data"),
    "another user": user(UID=0),
    "another group": user(GID=0),
    "a further group": user(AdditionalGids=[0]),
    "a user by name": user(Username="root"),
    "privileges to be had": process("NoNewPrivileges", False),
    "a terminal": process("Terminal", True),
    **{f"a capability, {kind}": (lambda found, kind=kind: found["OCI"]["Process"]["Capabilities"].__setitem__(kind, ["CAP_SYS_ADMIN"]))
       for kind in CAPABILITIES},
    "a root that is written to": oci("Root", {"Path": ROOT, "Readonly": False}),
    "another root": oci("Root", {"Path": "/run/other/rootfs", "Readonly": True}),
    "hooks": oci("Hooks", {"Prestart": [{"Path": "/data/x"}]}),
    "a device": lambda found: found["devices"].append({"container_path": "/dev/mem"}),
    "a device in the specification": lambda found: found["OCI"]["Linux"]["Devices"].append({"Path": "/dev/mem"}),
    "a namespace of another": lambda found: found["OCI"]["Linux"]["Namespaces"].append({"Type": "pid", "Path": "/proc/1/ns/pid"}),
    "mounts that spread": lambda found: found["OCI"]["Linux"].__setitem__("RootfsPropagation", "shared"),
    "processes of the whole pod": lambda found: found.__setitem__("sandbox_pidns", True),
    "mounts of another container": lambda found: found["shared_mounts"].append({"src": "x"}),
    "a file over the code": mounted(mount("/opt/confide/lib/python3.11/site-packages/confide/errors.py", SHARED + "errors.py")),
    "the guest's files": mounted(mount("/data2", "/")),
    "the guest's files as data": lambda found: found["OCI"]["Mounts"].__setitem__(-1, mount("/data", "/run")),
    "a copied file under another's name": mounted(mount("/etc/passwd", SHARED + "hosts")),
    "a mount twice": mounted(mount("/data", SHARED + "data")),
    "another source of the hosts": sourced("/etc/hosts", SHARED + "node"),
    "memory that is a host's folder": sourced("/tmp", SHARED + "tmp"),
    "a setting of the kernel": lambda found: found["OCI"]["Linux"]["Sysctl"].update({"kernel.core_pattern": "|/data/x"}),
    "a container of another name": annotated("io.kubernetes.cri.container-name", "sidecar"),
    "another namespace": annotated("io.kubernetes.cri.sandbox-namespace", "default"),
    "a sandbox that runs the node": annotated("io.kubernetes.cri.container-type", "sandbox"),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_a_node_that_was_changed_is_not_made(what: str) -> None:
    changed = copy.deepcopy(node())
    CHANGES[what](changed)
    assert not is_allowed("CreateContainerRequest", changed)


@pytest.mark.parametrize(
    "change",
    [
        process("Args", ["/bin/sh"]),
        more("Env", "LD_PRELOAD=x"),
        stored(0, source=OTHER_IMAGE),
        stored(0, driver="blk"),
        mounted(mount("/data", SHARED + "data")),
        oci("Hooks", {"Prestart": []}),
        annotated("io.katacontainers.pkg.oci.container_type", "pod_container"),
    ],
)
def test_a_pause_container_that_was_changed_is_not_made(change: Callable[[Json], None]) -> None:
    changed = container("sandbox")
    change(changed)
    assert not is_allowed("CreateContainerRequest", changed)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        (SHARED + "resolv.conf", True),
        (SHARED + "node/spec.json", True),
        (SHARED + "node/..2026_11_28_10_00_00.1/spec.json", True),
        (SHARED + "serviceaccount/token", True),
        (SHARED + "other", False),
        (SHARED + "node/../../../../../etc/passwd", False),
        (SHARED + "node/..", False),
        (SHARED + "resolvxconf", False),
        ("/etc/passwd", False),
        ("etc/passwd", False),
        (f"/run/kata-containers/{ID}/rootfs/opt/confide/bin/python", False),
        (f"/run/kata-containers/shared/containers/{ID}/rootfs/opt/confide/bin/python", False),
        (SHARED + "hosts\n/etc/passwd", False),
    ],
)
def test_files_are_copied_to_the_places_of_mounts_only(path: str, allowed: bool) -> None:
    assert is_allowed("CopyFileRequest", {"path": path}) is allowed


@pytest.mark.parametrize(
    ("target", "allowed"), [("..2026_11_28/spec.json", True), ("/etc/passwd", False), ("../../x", False), ("a/..", False)]
)
def test_links_lead_nowhere_else(target: str, allowed: bool) -> None:
    assert is_allowed("CopyFileRequest", {"path": SHARED + "node/..data", "symlink_src": target}) is allowed


def test_logs_are_read_if_the_profile_says_so() -> None:
    assert is_allowed("ReadStreamRequest", {"container_id": ID})
    without = agent_policy(profile_for(Shape.SNP, guest_logs=False))
    assert not is_allowed("ReadStreamRequest", {"container_id": ID}, policy=without)


@pytest.mark.parametrize(
    "request_",
    [
        "ExecProcessRequest", "WriteStreamRequest", "CloseStdinRequest", "SetPolicyRequest", "UpdateContainerRequest", "AddSwapRequest",
        "UpdateEphemeralMountsRequest", "PauseContainerRequest", "ReseedRandomDevRequest", "SetGuestDateTimeRequest", "StartTracingRequest",
        "MemHotplugByProbeRequest", "AddARPNeighborsRequest", "TtyWinResizeRequest", "GetDiagnosticDataRequest",
        "AllowRequestsFailingPolicy", "ARequestOfTheFuture",
    ],
)  # fmt: skip
def test_nothing_else_is_done_for_a_host(request_: str) -> None:
    assert not is_allowed(request_, {"process": {"Args": list(ARGUMENTS)}, "container_id": ID})


def test_sandboxes_are_plain() -> None:
    shm = {"driver": "ephemeral", "fstype": "tmpfs", "source": "shm", "mount_point": "/run/kata-containers/sandbox/shm"}
    plain: Json = {"guest_hook_path": "", "kernel_modules": [], "sandbox_pidns": False, "storages": [shm]}
    assert is_allowed("CreateSandboxRequest", plain)
    for change in ({"guest_hook_path": "/data/hooks"}, {"kernel_modules": [{"name": "x"}]}, {"sandbox_pidns": True},
                   {"storages": [{**shm, "driver": "virtio-fs"}]}, {"storages": [{**shm, "mount_point": "/"}]}):  # fmt: skip
        assert not is_allowed("CreateSandboxRequest", {**plain, **change})


def test_the_guests_loopback_stays_as_it_is() -> None:
    assert is_allowed("UpdateInterfaceRequest", {"interface": {"name": "eth0", "hwAddr": "02:42:ac:11:00:02"}})
    assert not is_allowed("UpdateInterfaceRequest", {"interface": {"name": "lo", "hwAddr": "02:42:ac:11:00:02"}})
    assert not is_allowed("UpdateInterfaceRequest", {"interface": {"name": "eth0", "hwAddr": "00:00:00:00:00:00"}})
    assert is_allowed("UpdateRoutesRequest", {"routes": {"Routes": [{"device": "eth0", "source": ""}]}})
    assert not is_allowed("UpdateRoutesRequest", {"routes": {"Routes": [{"device": "eth0"}, {"device": "lo"}]}})


def test_data_is_mounted_where_the_profile_says_only() -> None:
    without = agent_policy(profile_for(Shape.TDX, supplemental_groups=[4711], namespace="research"))
    assert not is_allowed("CreateContainerRequest", node(), policy=without)


def test_a_profile_that_names_its_image_by_a_tag_has_none() -> None:
    with pytest.raises(ConfigError, match="by its tag"):
        agent_policy(profile_for(Shape.TDX, image="registry.example/node:1", allow_tag=True))


def test_every_request_that_is_allowed_without_a_look_is_on_this_list() -> None:
    told = set(re.findall(r"^default (\w+) := true$", POLICY, re.MULTILINE))
    assert told == {
        "DestroySandboxRequest", "GetOOMEventRequest", "GuestDetailsRequest", "OnlineCPUMemRequest", "RemoveContainerRequest",
        "RemoveStaleVirtiofsShareMountsRequest", "SignalProcessRequest", "StartContainerRequest", "StatsContainerRequest",
        "WaitProcessRequest",
    }  # fmt: skip
