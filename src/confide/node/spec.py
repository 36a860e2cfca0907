"""What a backend tells a new node: public information only, and trusted by nobody.

Whoever starts the node wrote this file, so nothing here may weaken a check: the job digest counts because it goes into the
node's evidence, where the client, the driver and the broker compare it with their own; times are capped.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from confide.canonical import Json, canonical, parse_object
from confide.errors import ConfideError, ConfigError
from confide.ids import JobDigest, NodeId, Role, RunId, Tee

SPEC_FORMAT = "confide-node-v1"
ANNOUNCE_FORMAT = "confide-announce-v1"
MAX_NONCE_TTL_S = 300.0
"""A verifier's nonce never lives longer, whatever the spec says (docs/formats/session-protocol.md)."""

MIN_REATTEST_S = 1.0
"""Nodes are not attested again more often: a real TEE needs up to a second for a quote."""
MAX_REATTEST_S = 900.0
MAX_REATTEST_GRACE_S = 300.0
"""Nodes are attested again at least this often, and have at most so long to answer, whatever the spec says."""

_ID = r"^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Simulation(_Value):
    """Where the simulated TEE's installation is, and the fault that it is asked to show.  Absent on real TEEs."""

    dir: Path
    fault: str | None = None


class Timing(_Value):
    """How long a node waits, in seconds; from the settings of whoever started the run."""

    start_timeout_s: float = Field(default=30.0, gt=0, le=3600)
    heartbeat_s: float = Field(default=2.0, gt=0, le=60)
    lost_after_s: float = Field(default=10.0, gt=0, le=600)
    nonce_ttl_s: float = Field(default=60.0, gt=0, le=MAX_NONCE_TTL_S)
    reattest_every_s: float = Field(default=300.0, ge=MIN_REATTEST_S, le=MAX_REATTEST_S)
    reattest_grace_s: float = Field(default=120.0, ge=MIN_REATTEST_S, le=MAX_REATTEST_GRACE_S)


class Services(_Value):
    """Where what vendors signed is asked for, from the settings of whoever started the run; empty: at the vendors.

    What comes from there is believed for its signatures alone.
    """

    intel: str = Field(default="", max_length=1000)
    amd: str = Field(default="", max_length=1000)
    ca_file: Path | None = None


class NodeSpec(_Value):
    """One node of one run.  ``index`` is 0 for the driver and 1, 2, ... for workers."""

    run_id: RunId = Field(pattern=_ID)
    node_id: NodeId = Field(pattern=_ID)
    role: Role
    job_digest: JobDigest = Field(pattern=r"^[0-9a-f]{96}$")
    tee: Tee
    index: int = Field(default=0, ge=0)
    announce_path: Path | None = None
    listen_host: str = "127.0.0.1"
    """What the node binds to; where that is every address, ``peer_host`` says which one others use."""
    listen_port: int = Field(default=0, ge=0, le=65535)
    """Where a driver takes its client and its workers; 0: any free port."""
    peer_host: str | None = None
    driver_host: str | None = None
    driver_port: int | None = Field(default=None, ge=1, le=65535)
    cores: int = Field(default=1, ge=1)
    memory_mb: int = Field(default=1024, ge=128)
    log_path: Path
    work_dir: Path
    """The agent's current folder.  The host can write to it, so nothing is read from it and nothing of an engine lies in it."""
    timing: Timing = Timing()
    services: Services = Services()
    simulation: Simulation | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.role is Role.DRIVER and self.announce_path is None:
            raise ValueError("a driver needs announce_path")
        if self.role is Role.WORKER and (self.driver_host is None or self.driver_port is None):
            raise ValueError("a worker needs driver_host and driver_port")
        return self

    @property
    def reached_at(self) -> str:
        """The address under which other nodes reach this one (also in its certificates)."""
        return self.listen_host if self.peer_host is None else self.peer_host

    def to_json(self) -> Json:
        """The spec as the JSON object of the spec file."""
        return {"format": SPEC_FORMAT, **self.model_dump(mode="json")}

    @classmethod
    def from_json(cls, data: Json) -> NodeSpec:
        """The inverse of :meth:`to_json`.

        Raises:
            ConfigError: with the first field that is wrong, or another format.
        """
        fields = dict(data)
        if fields.pop("format", None) != SPEC_FORMAT:
            raise ConfigError("not a node spec", expected=SPEC_FORMAT)
        try:
            return cls.model_validate(fields)
        except ValidationError as cause:
            first = cause.errors(include_input=False, include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "spec"
            raise ConfigError(f"node spec: {field}: {first['msg']}", field=field) from None

    def save(self, path: Path) -> None:
        """Write the spec file, atomically."""
        _write(path, self.to_json())

    @classmethod
    def load(cls, path: Path) -> NodeSpec:
        """Read a spec file.

        Raises:
            ConfigError: the file cannot be read or is not a spec.
        """
        return cls.from_json(_read(path))


class Announcement(_Value):
    """Where a driver listens.  Public and unauthenticated: the client believes the driver's evidence, not this file."""

    run_id: RunId
    node_id: NodeId
    host: str
    port: int = Field(ge=1, le=65535)

    def save(self, path: Path) -> None:
        """Write the announcement, atomically, so that a reader sees all of it or nothing."""
        _write(path, {"format": ANNOUNCE_FORMAT, **self.model_dump(mode="json")})

    @classmethod
    def load(cls, path: Path) -> Announcement:
        """Read an announcement.

        Raises:
            ConfigError: the file cannot be read or is not an announcement.
        """
        fields = _read(path)
        if fields.pop("format", None) != ANNOUNCE_FORMAT:
            raise ConfigError(f"not an announcement: {path}", expected=ANNOUNCE_FORMAT)
        try:
            return cls.model_validate(fields)
        except ValidationError:
            raise ConfigError(f"not an announcement: {path}", path=str(path)) from None


def _write(path: Path, value: Json) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    staged.write_bytes(canonical(value))
    staged.replace(path)


def _read(path: Path) -> Json:
    try:
        return parse_object(path.read_bytes())
    except (OSError, ConfideError) as cause:
        raise ConfigError(f"cannot read {path}", path=str(path)) from cause
