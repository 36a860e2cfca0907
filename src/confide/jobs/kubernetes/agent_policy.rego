# What the agent of a Kata guest may do for a node of a run: make this one container, and nothing else.
# The agent asks for data.agent_policy.<request>; a request that is not named here is refused.  Behind these rules stands `pod`.
package agent_policy

import future.keywords.every
import future.keywords.if
import future.keywords.in

default AllowRequestsFailingPolicy := false

default AddARPNeighborsRequest := false
default AddSwapPathRequest := false
default AddSwapRequest := false
default CloseStdinRequest := false
default CopyFileRequest := false
default CreateContainerRequest := false
default CreateSandboxRequest := false
default DestroySandboxRequest := true
default ExecProcessRequest := false
default GetDiagnosticDataRequest := false
default GetMetricsRequest := false
default GetOOMEventRequest := true
default GuestDetailsRequest := true
default ListInterfacesRequest := false
default ListRoutesRequest := false
default MemAgentCompactConfig := false
default MemAgentMemcgConfig := false
default MemHotplugByProbeRequest := false
default OnlineCPUMemRequest := true
default PauseContainerRequest := false
default ReadStreamRequest := false
default RemoveContainerRequest := true
default RemoveStaleVirtiofsShareMountsRequest := true
default ReseedRandomDevRequest := false
default ResizeVolumeRequest := false
default ResumeContainerRequest := false
default SetGuestDateTimeRequest := false
default SetIPTablesRequest := false
default SetPolicyRequest := false
default SignalProcessRequest := true
default StartContainerRequest := true
default StartTracingRequest := false
default StatsContainerRequest := true
default StopTracingRequest := false
default TtyWinResizeRequest := false
default UpdateContainerRequest := false
default UpdateEphemeralMountsRequest := false
default UpdateInterfaceRequest := false
default UpdateRoutesRequest := false
default VolumeStatsRequest := false
default WaitProcessRequest := true
default WriteStreamRequest := false

# --- containers -------------------------------------------------------------------------------------------------------

# Each of the two is made once: what was made stands in the agent's own state (data.pstate), which this answer adds to.
CreateContainerRequest := {"allowed": true, "ops": [{"op": "add", "path": "/pstate/sandbox", "value": true}]} if {
    not data.pstate.sandbox
    is_common
    is_pause
}

CreateContainerRequest := {"allowed": true, "ops": [{"op": "add", "path": "/pstate/node", "value": true}]} if {
    not data.pstate.node
    is_common
    is_node
}

is_common if {
    nothing(object.get(input, "devices", []))
    nothing(object.get(input, "shared_mounts", []))
    object.get(input, "string_user", null) == null
    object.get(input, "sandbox_pidns", false) == false
    oci := input.OCI
    object.get(oci, "Hooks", null) == null
    object.get(oci, "Solaris", null) == null
    object.get(oci, "Windows", null) == null
    oci.Annotations["io.kubernetes.cri.sandbox-namespace"] == pod.namespace
    nothing(object.get(oci.Linux, "Devices", []))
    nothing(object.get(oci.Linux, "UIDMappings", []))
    nothing(object.get(oci.Linux, "GIDMappings", []))
    object.get(oci.Linux, "RootfsPropagation", "") == ""
    every name, _ in object.get(oci.Linux, "Sysctl", {}) {
        name in {"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ping_group_range"}
    }
    every namespace in oci.Linux.Namespaces {
        is_namespace(namespace)
    }
    oci.Root.Readonly == true
    regex.match(`^/run/kata-containers/(shared/containers/)?[a-z0-9]{64}/rootfs$`, oci.Root.Path)
    oci.Process.Terminal == false
    oci.Process.NoNewPrivileges == true
    object.get(oci.Process.User, "Username", "") == ""
    destinations := {mount.destination | some mount in oci.Mounts}
    count(destinations) == count(oci.Mounts)
}

# Guests have the pause container's files themselves.
is_pause if {
    oci := input.OCI
    oci.Annotations["io.kubernetes.cri.container-type"] == "sandbox"
    oci.Annotations["io.katacontainers.pkg.oci.container_type"] == "pod_sandbox"
    oci.Process.Args == ["/pause"]
    every variable in oci.Process.Env {
        startswith(variable, "PATH=")
    }
    every mount in oci.Mounts {
        is_usual(mount)
    }
    every storage in object.get(input, "storages", []) {
        storage.driver == "image_guest_pull"
        storage.source == "pause"
        storage.mount_point == oci.Root.Path
    }
}

is_node if {
    oci := input.OCI
    oci.Annotations["io.kubernetes.cri.container-type"] == "container"
    oci.Annotations["io.katacontainers.pkg.oci.container_type"] == "pod_container"
    oci.Annotations["io.kubernetes.cri.container-name"] == pod.container
    oci.Process.Args == pod.args
    oci.Process.Cwd == pod.cwd
    oci.Process.User.UID == pod.user
    oci.Process.User.GID == pod.user
    every group in object.get(oci.Process.User, "AdditionalGids", []) {
        group in pod.groups
    }
    every kind in ["Ambient", "Bounding", "Effective", "Inheritable", "Permitted"] {
        nothing(object.get(oci.Process.Capabilities, kind, []))
    }
    every variable in oci.Process.Env {
        is_variable(variable)
    }
    every mount in oci.Mounts {
        is_mount(mount)
    }
    images := [storage | some storage in input.storages; storage.driver == "image_guest_pull"]
    count(images) == 1
    every storage in input.storages {
        is_storage(storage)
    }
}

is_namespace(namespace) if {
    namespace.Type in {"ipc", "uts", "mount", "pid", "cgroup"}
    namespace.Path == ""
}

# The guest has one network of its own, whatever name the host has for it.
is_namespace(namespace) if namespace.Type == "network"

nothing(found) if found == null

nothing(found) if count(found) == 0

is_variable(variable) if variable in pod.variables

# The pod's name, and where the API server's service is: kubelets set these in every container.
is_variable(variable) if regex.match(`^HOSTNAME=[a-z0-9.-]{1,253}$`, variable)

is_variable(variable) if regex.match(`^KUBERNETES_(SERVICE_(HOST|PORT|PORT_HTTPS)|PORT|PORT_443_TCP(_(PROTO|PORT|ADDR))?)=[A-Za-z0-9.:/-]{0,80}$`, variable)

# --- mounts and storages ----------------------------------------------------------------------------------------------

is_usual(mount) if {
    some usual in pod.usual
    usual.destination == mount.destination
    usual.type == mount.type_
    usual.source == mount.source
}

is_usual(mount) if {
    mount.destination == "/dev/shm"
    mount.type_ == "bind"
    mount.source == "/run/kata-containers/sandbox/shm"
}

is_usual(mount) if is_copied(mount, pod.usual_files)

is_mount(mount) if is_usual(mount)

is_mount(mount) if is_copied(mount, pod.files)

is_mount(mount) if {
    mount.destination in pod.memory
    mount.type_ == "bind"
    regex.match(`^/run/kata-containers/sandbox/ephemeral/[A-Za-z0-9._-]+$`, mount.source)
}

is_mount(mount) if {
    mount.destination in pod.data
    mount.type_ == "bind"
    regex.match(`^/run/kata-containers/(shared/containers/[a-z0-9]{64}-[a-z0-9]{16}-|sandbox/storage/)[A-Za-z0-9._=-]+$`, mount.source)
}

# What the host copies into the guest: it lies under the name that its destination ends with.
is_copied(mount, files) if {
    mount.type_ == "bind"
    some file in files
    file.destination == mount.destination
    regex.match(concat("", [`^/run/kata-containers/shared/containers/(watchable/)?[a-z0-9]{64}-[a-z0-9]{16}-`, file.name, `$`]), mount.source)
}

# The image is pulled within the guest, by its digest.
is_storage(storage) if {
    storage.driver == "image_guest_pull"
    endswith(storage.source, concat("", ["@", pod.image]))
    count(split(storage.source, "@")) == 2
    storage.fstype == "overlay"
    storage.mount_point == input.OCI.Root.Path
    every option in object.get(storage, "driver_options", []) {
        startswith(option, "image_guest_pull=")
    }
}

is_storage(storage) if {
    storage.driver == "ephemeral"
    storage.fstype == "tmpfs"
    storage.source == "tmpfs"
    regex.match(`^/run/kata-containers/sandbox/ephemeral/[A-Za-z0-9._-]+$`, storage.mount_point)
}

is_storage(storage) if {
    storage.driver == "watchable-bind"
    storage.fstype == "bind"
    regex.match(`^/run/kata-containers/shared/containers/watchable/[a-z0-9]{64}-[a-z0-9]{16}-[A-Za-z0-9._-]+$`, storage.mount_point)
}

is_storage(storage) if {
    count(pod.data) > 0
    storage.driver in {"blk", "mmioblk", "scsi"}
    regex.match(`^/run/kata-containers/sandbox/storage/[A-Za-z0-9._=-]+$`, storage.mount_point)
}

# --- everything else --------------------------------------------------------------------------------------------------

# Files of config maps and of the kubelet, each below the place that it is mounted from.  Links lead nowhere else.
CopyFileRequest if {
    not regex.match(`(^|/)\.\.(/|$)`, input.path)
    some name in pod.copied
    pattern := [`^/run/kata-containers/shared/containers/[a-z0-9]{64}-[a-z0-9]{16}-`, name, `(/[A-Za-z0-9._/-]*)?$`]
    regex.match(concat("", pattern), input.path)
    leads_nowhere_else(object.get(input, "symlink_src", ""))
}

leads_nowhere_else(target) if {
    not startswith(target, "/")
    not regex.match(`(^|/)\.\.(/|$)`, target)
}

CreateSandboxRequest if {
    object.get(input, "guest_hook_path", "") == ""
    nothing(object.get(input, "kernel_modules", []))
    object.get(input, "sandbox_pidns", false) == false
    every storage in object.get(input, "storages", []) {
        storage.driver == "ephemeral"
        storage.fstype == "tmpfs"
        storage.mount_point == "/run/kata-containers/sandbox/shm"
    }
}

# What containers write is redacted before; whether it may be read at all, the profile says.
ReadStreamRequest if pod.logs

# The guest's own loopback stays as it is.
UpdateInterfaceRequest if {
    input.interface.name != "lo"
    input.interface.hwAddr != "00:00:00:00:00:00"
}

UpdateRoutesRequest if {
    every route in input.routes.Routes {
        object.get(route, "device", "") != "lo"
    }
}
