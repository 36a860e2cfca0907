"""What a run has to know of a cluster, as one value from a TOML file.  Nothing in it is secret, and nothing in it weakens a check.

``docs/reference/cluster-profile.md`` describes each field.  Reads its file and the init-data files that it names; talks to no cluster.
"""

from __future__ import annotations

import ipaddress
import re
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Annotated, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from confide.canonical import Json, parse_toml
from confide.errors import ConfigError, ParseError, UsageError
from confide.jobs.kubernetes import names
from confide.regular_file import read_regular

_MAX_FILE: Final = 1024 * 1024
_MAX_INIT_DATA: Final = 128 * 1024
_DIGEST: Final = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")
_IMAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}")
_POD_PLACES: Final = ("/etc/confide", "/var/confide", "/dev", "/proc", "/sys", "/var/run/secrets", "/var/run/aesmd")
"""What a run's pods mount themselves, and the kernel's: no volume goes there, above it or below it."""
_IMAGE_PLACES: Final = ("/bin", "/boot", "/etc", "/lib", "/lib32", "/lib64", "/opt", "/root", "/run", "/sbin", "/usr", "/var/run")
"""Where the image's code lies: no claim is mounted over it, above it or below it."""
INIT_DATA_KEY: Final = "io.katacontainers.config.hypervisor.cc_init_data"
"""Annotation of a pod that Kata Containers gives its virtual machine's init-data in."""
QUEUE_KEY: Final = "kueue.x-k8s.io/queue-name"
QUEUE_PRIORITY_KEY: Final = "kueue.x-k8s.io/priority-class"
"""Label with Kueue's WorkloadPriorityClass: in which order a queue lets runs start, and which are taken back for others."""
_OWN_KEYS: Final = frozenset({"app.kubernetes.io/name", "app.kubernetes.io/managed-by", QUEUE_KEY, QUEUE_PRIORITY_KEY, INIT_DATA_KEY})

Name = Annotated[str, StringConstraints(pattern=names.SUBDOMAIN, max_length=253)]
Label = Annotated[str, StringConstraints(pattern=names.LABEL, max_length=63)]
Quantity = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,14}(Ki|Mi|Gi|Ti)?\Z")]


class Shape(StrEnum):
    """In what kind of protected place the pods run.  ``SIMULATED`` protects nothing."""

    SGX = "sgx"
    TDX = "tdx"
    SNP = "snp"
    TDX_VM = "tdx-vm"
    SNP_VM = "snp-vm"
    SIMULATED = "simulated"


KATA: Final = frozenset({Shape.TDX, Shape.SNP})
"""Shapes whose pods are confidential virtual machines of their own (Kata Containers), and take init-data."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", regex_engine="python-re")


class Toleration(_Value):
    """A taint of nodes that the pods put up with, in Kubernetes' words."""

    key: str = Field(default="", pattern=names.KEY_OR_NONE)
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str = Field(default="", pattern=names.VALUE)
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    toleration_seconds: StrictInt | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.operator == "Exists" and self.value:
            raise ValueError("operator Exists takes no value")
        if not self.key and self.operator != "Exists":
            raise ValueError("without a key, the operator is Exists")
        if self.toleration_seconds is not None and self.effect != "NoExecute":
            raise ValueError("toleration_seconds goes with the effect NoExecute")
        return self


class Volume(_Value):
    """A persistent volume claim of the namespace, or (in test clusters) a folder of each cluster node, in every pod of the run."""

    mount: str = Field(max_length=512)
    claim: Name | None = None
    host_path: str | None = Field(default=None, max_length=512)
    read_only: StrictBool = False

    @field_validator("mount", "host_path")
    @classmethod
    def _absolute(cls, path: str | None) -> str | None:
        if path is not None:
            pure = PurePosixPath(path)
            if not pure.is_absolute() or ".." in pure.parts or str(pure) != path or path.startswith("//") or ":" in path or "\0" in path:
                raise ValueError("write an absolute path without '..' and ':'")
        return path

    @model_validator(mode="after")
    def _in_its_place(self) -> Self:
        if (self.claim is None) == (self.host_path is None):
            raise ValueError("a volume is one of claim and host_path")
        kept = _POD_PLACES if self.claim is None else (*_POD_PLACES, *_IMAGE_PLACES)
        if self.mount == "/tmp" or any(_overlaps(self.mount, place) for place in kept):  # noqa: S108  a path within the pod
            raise ValueError(f"{self.mount} is a place of the image or of the pod itself: mount it elsewhere, as at /data")
        return self


class Priority(_Value):
    """What a priority that users name is in the cluster: of pods by the scheduler, and of runs in their queue by Kueue."""

    priority_class: Name | None = None
    queue_priority: Label | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.priority_class is None and self.queue_priority is None:
            raise ValueError("a priority has a priority_class, a queue_priority, or both")
        return self


class ClusterProfile(_Value):
    """A cluster and how runs use it.  ``image`` and ``shape`` are all that has to be said."""

    image: str
    shape: Shape
    namespace: Label = "default"
    allow_tag: StrictBool = False
    image_pull_secrets: tuple[Name, ...] = ()
    node_selector: dict[str, str] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    priority_class: Name | None = None
    queue: Label | None = None
    queue_priority: Label | None = None
    priorities: dict[Label, Priority] = Field(default_factory=dict)
    start_timeout_s: StrictFloat = Field(default=300.0, gt=0, le=3600)
    ttl_s: StrictInt = Field(default=3600, ge=60, le=30 * 24 * 3600)
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    volumes: tuple[Volume, ...] = Field(default=(), max_length=64)
    insecure_host_path: StrictBool = False
    runtime_class: Name | None = None
    sgx_epc: Quantity | None = None
    sgx_quote: Literal["in-process", "aesm"] = "in-process"
    tee_resource: str | None = Field(default=None, pattern=names.RESOURCE)
    supplemental_groups: tuple[Annotated[StrictInt, Field(ge=1, le=2**31 - 1)], ...] = ()
    service_account_annotations: dict[str, str] = Field(default_factory=dict)
    egress: tuple[str, ...] | None = None
    shm_mb: StrictInt = Field(default=512, ge=256, le=1024 * 1024)
    cpu_request: StrictFloat = Field(default=1.0, ge=0.01, le=1.0)
    init_data: dict[str, str] = Field(default_factory=dict, repr=False)
    guest_logs: StrictBool = True

    @field_validator("node_selector", "labels")
    @classmethod
    def _are_labels(cls, given: dict[str, str]) -> dict[str, str]:
        for key, value in given.items():
            names.check_key(key)
            if not re.fullmatch(names.VALUE, value):
                raise ValueError(f"{value[:80]!r} is not a label's value: at most 63 letters, digits, dots, dashes and underscores")
        return given

    @field_validator("annotations", "service_account_annotations")
    @classmethod
    def _are_annotations(cls, given: dict[str, str]) -> dict[str, str]:
        for key in given:
            names.check_key(key)
        return given

    @field_validator("egress")
    @classmethod
    def _are_networks(cls, given: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if given is not None and not given:
            raise ValueError("names no network: leave egress out to allow all")
        return given if given is None else tuple(str(ipaddress.ip_network(network)) for network in given)

    @model_validator(mode="after")
    def _image_is_pinned(self) -> Self:
        if not _IMAGE.fullmatch(self.image):
            raise _wrong("image", f"not the name of an image: {self.image[:80]!r}")
        if not self.allow_tag and not _DIGEST.fullmatch(self.image):
            raise _wrong("image", "it has no digest", hint="name it as image@sha256:..., or say allow_tag = true in a test cluster")
        return self

    @model_validator(mode="after")
    def _takes_nothing_of_ours(self) -> Self:
        for name in ("labels", "annotations", "service_account_annotations"):
            for key in getattr(self, name):
                if key in _OWN_KEYS or key.startswith("confide.dev/"):
                    raise _wrong(name, f"{key} is the run's own", hint="choose another key")
        return self

    @model_validator(mode="after")
    def _volumes_are_apart(self) -> Self:
        if any(volume.host_path is not None for volume in self.volumes) and not self.insecure_host_path:
            hint = "use a claim, or say insecure_host_path = true in a test cluster"
            raise _wrong("volumes", "host_path gives pods the cluster node's own files", hint=hint)
        mounts = [volume.mount for volume in self.volumes]
        if len(set(mounts)) != len(mounts):
            raise _wrong("volumes", "two are mounted at one path")
        return self

    @model_validator(mode="after")
    def _queues_have_priorities(self) -> Self:
        named = {"queue_priority": self.queue_priority}
        named |= {f"priorities.{name}": one.queue_priority for name, one in self.priorities.items()}
        for field, value in named.items():
            if value is not None and self.queue is None:
                raise _wrong(field, "a priority within a queue, and there is no queue", hint="say queue = ..., or leave queue_priority out")
        return self

    def at_priority(self, name: str) -> Self:
        """The same cluster for runs of the priority that users call ``name``.

        Raises:
            UsageError: the profile knows none of that name.
        """
        chosen = self.priorities.get(name)
        if chosen is None:
            known = ", ".join(sorted(self.priorities)) or "none"
            raise UsageError(f"the cluster's profile has no priority {name[:80]!r}", hint=f"priorities of the profile: {known}")
        return self.model_copy(update={"priority_class": chosen.priority_class, "queue_priority": chosen.queue_priority})

    @property
    def priority_classes(self) -> tuple[str, ...]:
        """Every priority class of the cluster that runs may ask for."""
        named = (self.priority_class, *(one.priority_class for one in self.priorities.values()))
        return tuple(sorted({name for name in named if name is not None}))

    @property
    def queue_priorities(self) -> tuple[str, ...]:
        """Every ``WorkloadPriorityClass`` of Kueue that runs may ask for."""
        named = (self.queue_priority, *(one.queue_priority for one in self.priorities.values()))
        return tuple(sorted({name for name in named if name is not None}))

    @model_validator(mode="after")
    def _fits_the_shape(self) -> Self:
        fields = {
            "sgx_epc": (self.sgx_epc is not None, {Shape.SGX}),
            "sgx_quote": (self.sgx_quote != "in-process", {Shape.SGX}),
            "tee_resource": (self.tee_resource is not None, {Shape.TDX_VM, Shape.SNP_VM}),
            "init_data": (bool(self.init_data), KATA),
            "guest_logs": (not self.guest_logs, KATA),
        }
        for name, (said, shapes) in fields.items():
            if said and self.shape not in shapes:
                raise _wrong(name, f"goes with the shape {' or '.join(sorted(shapes))}, not with {self.shape}")
        return self

    @classmethod
    def from_json(cls, data: Json) -> Self:
        """Build a profile from a table as TOML has it; ``init_data`` maps names to the texts themselves.

        Raises:
            ConfigError: an unknown field, or a wrong value; ``facts`` name the field.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as cause:
            first = cause.errors(include_input=False, include_url=False)[0]
            context = first.get("ctx", {})
            field = ".".join(str(part) for part in first["loc"]) or str(context.get("field", "profile"))
            said = first["msg"].removeprefix("Value error, ")
            raise ConfigError(f"cluster profile: {field}: {said}", hint=context.get("hint") or _hint(first), field=field) from None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a profile.  Files that ``init_data`` names lie where its folder says.

        Raises:
            ConfigError: a file cannot be read, is not TOML, has an unknown field or a wrong value.
        """
        try:
            table = parse_toml(_text(path, _MAX_FILE))
        except ParseError as cause:
            raise ConfigError(f"{path} is not TOML: {cause}", path=str(path)) from cause
        match table.get("init_data"):
            case dict(files) if all(isinstance(file, str) for file in files.values()):
                table = {**table, "init_data": {name: _text(path.parent / file, _MAX_INIT_DATA) for name, file in files.items()}}
        return cls.from_json(table)


def _wrong(field: str, what: str, *, hint: str = "") -> PydanticCustomError:
    """A rule over several fields that is broken, told of the one to change."""
    return PydanticCustomError("rule", "{what}", {"field": field, "what": what, "hint": hint})


def _overlaps(one: str, other: str) -> bool:
    first, second = PurePosixPath(one), PurePosixPath(other)
    return first.is_relative_to(second) or second.is_relative_to(first)


def _text(path: Path, limit: int) -> str:
    try:
        return read_regular(path, limit).decode("utf-8")
    except (OSError, ValueError) as cause:  # not UTF-8, or a path with a zero byte
        raise ConfigError(f"cannot read {path}: {cause}", path=str(path)) from cause


def _hint(error: object) -> str:
    match error:
        case {"type": "missing", "loc": tuple(where)}:
            return f"say {where[-1]} = ..." if where else "see docs/reference/cluster-profile.md"
        case {"type": "extra_forbidden"}:
            return f"fields: {', '.join(sorted(ClusterProfile.model_fields))}"
        case {"type": "enum"}:
            return f"shapes: {', '.join(Shape)}"
    return "docs/reference/cluster-profile.md describes each field"
