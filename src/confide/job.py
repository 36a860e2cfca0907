"""The frozen description of a job, its canonical form and its digest.

A job says *what* runs on *which* datasets under *which* policy.  Where things lie (paths, addresses) and how much of a
machine is used is carried along but is not part of the digest: an owner approves what a job does, not where it runs.
Knows nothing of attestation, keys, engines or files on disk beyond reading the job file and its code.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self, cast

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from confide.canonical import Json, b64url, canonical, digest_of, from_b64url, parse_object, parse_toml, sha256_hex
from confide.errors import JobError, ParseError, UsageError
from confide.ids import JobDigest, check_name
from confide.regular_file import open_regular

JOB_FORMAT = "confide-job-v1"
MAX_SIGNATURES = 16
"""Cap on the signatures that a job carries."""
MAX_GROUPS = 50
"""Cap on the column groups that a job reads of one input: their keys come with the table's in one request."""
MAX_CODE_BYTES = 8 * 1024 * 1024
"""Cap on a job's code, in bytes: a job carries a program, not data."""


Engine = Literal["spark", "polars"]
"""What runs a job's program: Spark on workers, or Polars in the driver's node."""
ALONE: frozenset[Engine] = frozenset({"polars"})
"""Engines whose program has the driver's node to itself.  ``cores = 0`` means all that the node has."""
ALONE_STAGING = "/tmp"  # noqa: S108 - a hidden folder of a name that nobody knows before, and it has to be new; encrypted files only
"""Where a node that is alone stages outputs that go to URLs, if the job names no folder."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class KbsSource(_Value):
    """A resource of a key broker service that a dataset is encrypted under, and by what that service is known.

    That is the certificates of its CA (PEM) or the SHA-256 of its public key.  All of it is in the digest.
    """

    resource: str = Field(pattern=r"^kbs://[A-Za-z0-9.:\[\]-]{1,255}(/[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}){3}$")
    ca: str = Field(default="", max_length=64 * 1024)
    spki: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")

    @model_validator(mode="after")
    def _one_trust(self) -> Self:
        if bool(self.ca) == bool(self.spki):
            raise ValueError("a key broker service is known by one of key_ca and key_spki")
        return self

    def canonical_form(self) -> Json:
        """What the digest is over."""
        return {"resource": self.resource, **({"spki": self.spki} if self.spki else {"ca": sha256_hex(self.ca.encode())})}


class InputSpec(_Value):
    """One input dataset.  ``dataset`` and ``signer`` (from its manifest) are in the digest, ``path`` is not.

    ``snapshot`` asks for that one instead of the newest; ``key`` says where its key comes from, if not from the job's broker.  ``columns``
    are the column groups of a table that the job reads; of the others it gets no key.  ``path`` may be a URL; ``credentials`` says which
    resource of a key broker service nodes get to read it at S3, and is in the digest as little as ``path`` is.
    """

    path: str
    dataset: str = ""
    signer: str = ""
    snapshot: int | None = Field(default=None, ge=1, le=2**53 - 1)
    key: KbsSource | None = None
    credentials: KbsSource | None = None
    columns: tuple[str, ...] = Field(default=(), max_length=MAX_GROUPS)

    @field_validator("columns")
    @classmethod
    def _plain_groups(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) != len(names):
            raise ValueError("a column group is named twice")
        return tuple(sorted(check_name(name, "column group") for name in names))

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.columns and self.key is not None:
            raise ValueError("column groups have their keys from the job's broker, and this input's comes from a key broker service")
        return self

    @model_validator(mode="after")
    def _credentials_where_needed(self) -> Self:
        if self.path.lower().startswith("s3://") != (self.credentials is not None):
            raise ValueError("an input at s3:// has credentials, the name of a resource of a key broker service, and no other input has")
        return self

    def canonical_form(self) -> Json:
        """What the digest is over.  What is not asked for (snapshot, source, columns) is not said: jobs have the digest that they had."""
        snapshot = {} if self.snapshot is None else {"snapshot": self.snapshot}
        source = {} if self.key is None else {"key": self.key.canonical_form()}
        columns = {"columns": list(self.columns)} if self.columns else {}
        return {"dataset": self.dataset, "signer": self.signer, **snapshot, **source, **columns}


OutputMode = Literal["error", "append", "overwrite"]
"""What a run does with a dataset that is at an output's place already: Spark's words."""


class OutputSpec(_Value):
    """One output dataset.  ``recipients`` (who may open it, if every input's owner agrees) are in the digest, ``path`` is not.

    ``mode`` says what becomes of an earlier run's dataset there; ``dataset`` pins it, and is empty while there is none.  ``path`` may be a
    URL, with ``credentials`` as for inputs; ``staging`` is then the folder in which nodes write what the driver sends there at the end.
    """

    path: str
    recipients: tuple[str, ...] = ()
    mode: OutputMode = "error"
    dataset: str = ""
    credentials: KbsSource | None = None
    staging: str = ""

    @model_validator(mode="after")
    def _goes_on(self) -> Self:
        if self.dataset and self.mode == "error":
            raise ValueError("an output that goes on with a dataset says how: mode append or overwrite")
        return self

    @model_validator(mode="after")
    def _whole_at_urls(self) -> Self:
        if self.path.lower().startswith("s3://") != (self.credentials is not None):
            raise ValueError("an output at s3:// has credentials, the name of a resource of a key broker service, and no other output has")
        if self.staging and not self.remote:
            raise ValueError("an output in a folder is staged beside it: staging is for URLs")
        return self

    @property
    def remote(self) -> bool:
        """Whether it lies at a URL."""
        return "://" in self.path

    def folder(self, name: str) -> Path:
        """Its folder; of one at a URL, what would be its folder where the nodes stage it.  ``name`` is the output's."""
        return Path(self.staging or ALONE_STAGING) / f"confide-output-{name}" if self.remote else Path(self.path)

    def canonical_form(self) -> Json:
        """What the digest is over.  What is not asked for is not said: jobs have the digest that they had."""
        mode = {} if self.mode == "error" else {"mode": self.mode}
        return {"recipients": sorted(self.recipients), **mode, **({"dataset": self.dataset} if self.dataset else {})}


class BrokerSpec(_Value):
    """Where the broker is (not in the digest) and the SHA-256 of its public key (in the digest)."""

    url: str
    spki: str = Field(pattern=r"^[0-9a-f]{64}$")


class Resources(_Value):
    """How much of the machines a run may use; not in the digest.

    ``verify_inputs`` says when a changed byte is noticed: ``whole`` compares every input file with its manifest before the program
    starts (one read of all data by the driver); ``as-read`` leaves it to the authenticated reads, which see only what the program reads.
    What a program gets is authentic either way.  The numbers of zero are for engines without workers (:data:`ALONE`).
    """

    workers: int = Field(default=2, ge=0, le=1000)
    min_workers: int = Field(default=1, ge=0)
    cores: int = Field(default=1, ge=0, le=256)
    memory_mb: int = Field(default=1024, ge=256)
    driver_memory_mb: int = Field(default=1024, ge=256)
    refused_worker: Literal["continue", "fail"] = "continue"
    verify_inputs: Literal["whole", "as-read"] = "whole"


class Job(_Value):
    """A job: code, arguments, engine, inputs, outputs, policy and broker.

    ``files`` maps relative POSIX paths to the code's bytes; ``program`` is the one that is run.  ``policy`` is an appraisal
    policy as JSON (``confide.attest.policy`` builds and checks it): it says which nodes the client, driver and workers accept.
    ``signatures`` over the digest (``confide.keys.job_signatures``) are carried along for the nodes to show; they are not in it.
    """

    name: str
    program: str
    files: dict[str, bytes] = Field(repr=False)
    engine: Engine = "spark"
    arguments: tuple[str, ...] = ()
    inputs: dict[str, InputSpec] = Field(default_factory=dict)
    outputs: dict[str, OutputSpec] = Field(default_factory=dict)
    policy: dict[str, Any]
    broker: BrokerSpec
    resources: Resources = Resources()
    signatures: tuple[dict[str, Any], ...] = Field(default=(), repr=False, max_length=MAX_SIGNATURES)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        return check_name(name, "job name")

    @model_validator(mode="before")
    @classmethod
    def _sized_for_engine(cls, data: Any) -> Any:
        """An engine without workers has none if nothing is said."""
        match data:
            case {"engine": str(engine), "resources": dict(said)} if engine in ALONE:
                return {**data, "resources": {"workers": 0, "min_workers": 0, "cores": 0, **said}}
            case {"engine": str(engine)} if engine in ALONE and "resources" not in data:
                return {**data, "resources": {"workers": 0, "min_workers": 0, "cores": 0}}
        return data

    @model_validator(mode="after")
    def _size_fits_engine(self) -> Self:
        said = self.resources
        if self.engine in ALONE and (said.workers or said.min_workers):
            hint = "leave out workers and min_workers, or use the engine spark"
            raise UsageError(f"the engine {self.engine} runs in the driver's node alone: it has no workers", hint=hint)
        if self.engine not in ALONE and not (said.workers and said.min_workers and said.cores):
            raise ValueError(f"the engine {self.engine} needs at least one worker, with at least one core")
        return self

    @model_validator(mode="after")
    def _staged_where_all_see_it(self) -> Self:
        if self.engine not in ALONE and any(spec.remote and not spec.staging for spec in self.outputs.values()):
            raise ValueError("an output at a URL has staging, a folder that all nodes share: workers write there, and the driver sends it")
        return self

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.program not in self.files:
            raise ValueError(f"program {self.program!r} is not among the job's files")
        if sum(map(len, self.files.values())) > MAX_CODE_BYTES:
            raise ValueError(f"the job's code is larger than {MAX_CODE_BYTES} bytes")
        for path in self.files:
            parts = PurePosixPath(path)
            if parts.is_absolute() or ".." in parts.parts or "\\" in path or str(parts) != path:
                raise ValueError(f"not a plain relative path: {path!r}")
        for name in (*self.inputs, *self.outputs):
            check_name(name, "dataset name")
        if set(self.inputs) & set(self.outputs):
            raise ValueError("an input and an output have the same name")
        if sum(bool(spec.dataset) for spec in self.outputs.values()) > 1:
            raise ValueError("one output of a job goes on with an earlier dataset: snapshots of two cannot be committed in one step")
        if self.resources.min_workers > self.resources.workers:
            raise ValueError("min_workers is larger than workers")
        try:
            canonical(self.policy)
        except (rfc8785.CanonicalizationError, RecursionError) as cause:  # TOML has dates, and numbers that JSON cannot carry
            raise ValueError(f"the policy has a value that JSON cannot carry: {cause}") from None
        return self

    def canonical_form(self) -> Json:
        """What the digest is over: everything that decides what the job does and whom it trusts.

        Raises:
            JobError: an input is not pinned to a dataset and signer yet (``confide.jobs.submit.pin_datasets`` does that).
        """
        unpinned = sorted(name for name, spec in self.inputs.items() if not spec.dataset or not spec.signer)
        if unpinned:
            raise JobError(f"inputs are not pinned to a dataset: {', '.join(unpinned)}", hint="pin them from their manifests first")
        return {
            "format": JOB_FORMAT,
            "name": self.name,
            "engine": self.engine,
            "program": self.program,
            "files": {path: sha256_hex(data) for path, data in self.files.items()},
            "arguments": list(self.arguments),
            "inputs": {name: spec.canonical_form() for name, spec in self.inputs.items()},
            "outputs": {name: spec.canonical_form() for name, spec in self.outputs.items()},
            "policy": self.policy,
            "broker": {"spki": self.broker.spki},
        }

    @property
    def digest(self) -> JobDigest:
        """SHA-384 of the canonical form (RFC 8785), lower-case hex."""
        return JobDigest(digest_of(self.canonical_form()))

    def to_json(self) -> Json:
        """The whole job, code included, as JSON for the attested channel."""
        data = self.model_dump(mode="json", exclude={"files"})
        return {**data, "files": {path: b64url(code) for path, code in self.files.items()}}

    @classmethod
    def from_json(cls, data: Json) -> Job:
        """The inverse of :meth:`to_json`.

        Raises:
            JobError: the object is not a job.
        """
        files = data.get("files")
        if not isinstance(files, dict) or not all(isinstance(code, str) for code in files.values()):
            raise JobError("a job needs its files")
        return cls.build({**data, "files": {path: from_b64url(code) for path, code in files.items()}})

    @classmethod
    def build(cls, data: Json) -> Job:
        """Validate ``data`` as a job.

        Raises:
            JobError: with the first field that is wrong.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as cause:
            first = cause.errors(include_input=False, include_url=False)[0]
            field = ".".join(str(part) for part in first["loc"]) or "job"
            if first["type"] == "extra_forbidden":
                raise JobError(f"{field}: there is no such field", hint="docs/reference/job-file.md lists them", field=field) from None
            raise JobError(f"{field}: {first['msg']}", field=field) from None
        except UsageError as cause:
            raise JobError(cause.message, hint=cause.hint) from None

    @classmethod
    def load(cls, path: Path) -> Job:
        """Read a job file (TOML).  Paths in it are relative to the file's folder; see ``docs/reference/job-file.md``.

        ``program`` and ``files`` name the code; ``policy`` is a table, or the name of a policy file (JSON or TOML).

        Raises:
            JobError: the file or a file that it names cannot be read, or is not a valid job.
        """
        data, folder = _read_table(path), path.parent
        if "signatures" in data:
            raise JobError("signatures: not in a job file", hint="they lie beside it: `confide job sign`", field="signatures")
        names = [data.get("program", ""), *_of_type(data.get("files", []), list, "files")]
        code = [(name, _place(folder, name, "files")) for name in names]
        data["files"] = {str(PurePosixPath(name)): _read(path) for name, path in code}
        if isinstance(data.get("policy"), str):
            data["policy"] = _read_table(_place(folder, data["policy"], "policy"))
        for kind in ("inputs", "outputs"):
            table = _of_type(data.get(kind, {}), dict, kind)
            data[kind] = {name: _with_place(folder, spec, f"{kind}.{name}") for name, spec in table.items()}
            data[kind] = {name: _with_source(folder, spec, f"{kind}.{name}", kind) for name, spec in data[kind].items()}
        return cls.build(data)


def _of_type(value: Any, kind: type, field: str) -> Any:
    if not isinstance(value, kind):
        raise JobError(f"{field}: not a {'list' if kind is list else 'table'}", field=field)
    return value


def _place(folder: Path, name: object, field: str) -> Path:
    """Where ``name``, as it is in the job file, lies."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise JobError(f"{field}: not the name of a file", field=field, got=str(name)[:80])
    return folder / name


def _with_place(folder: Path, spec: Any, field: str) -> Json:
    spec = _of_type(spec, dict, field)
    if isinstance(spec.get("path"), str) and "://" in spec["path"]:
        if "staging" not in spec:
            return cast("Json", spec)
        return {**spec, "staging": str(_place(folder, spec["staging"], f"{field}.staging").absolute())}
    path = _place(folder, spec.get("path", ""), f"{field}.path")
    try:
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            path.stat()  # raises for links that go round, which `resolve` leaves as they are from Python 3.13 on
        return {**spec, "path": str(path.resolve())}
    except (OSError, RuntimeError) as cause:  # RuntimeError: until Python 3.12 what `resolve` says of such links
        raise JobError(f"{field}.path: not a place for a dataset: {path}", field=f"{field}.path") from cause


def _with_source(folder: Path, spec: Json, field: str, kind: str) -> Json:
    """An input's ``key``, ``key_ca`` (a file) and ``key_spki`` as the one value that they are; so with ``credentials``, outputs' too."""
    for what in ("key", "credentials") if kind == "inputs" else ("credentials",):
        ca, spki = f"{what}_ca", f"{what}_spki"
        said = {name: spec[name] for name in (what, ca, spki) if name in spec}
        if not said:
            continue
        source: Json = {"resource": said.get(what, ""), "spki": said.get(spki, "")}
        if ca in said:
            try:
                source["ca"] = _read(_place(folder, said[ca], f"{field}.{ca}")).decode("ascii")
            except UnicodeDecodeError:
                raise JobError(f"{field}.{ca}: not certificates (PEM)", field=f"{field}.{ca}") from None
        spec = {**{name: value for name, value in spec.items() if name not in said}, what: source}
    return spec


def _read(path: Path) -> bytes:
    """The bytes of a file of code; one that is longer than code may be is not read to its end."""
    try:
        with open_regular(path) as file:
            return file.read(MAX_CODE_BYTES + 1)
    except OSError as cause:
        raise JobError(f"cannot read {path}: {cause.strerror}", path=str(path)) from cause


def _read_table(path: Path) -> Json:
    """A table from a TOML file, or from a JSON file by its name."""
    text = _read(path)
    try:
        return parse_object(text) if path.suffix == ".json" else parse_toml(text.decode("utf-8"))
    except (UnicodeDecodeError, ParseError) as cause:
        raise JobError(f"{path.name} is not {'JSON' if path.suffix == '.json' else 'TOML'}: {str(cause)[:200]}", path=str(path)) from cause
