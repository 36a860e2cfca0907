"""Does a Gramine manifest let the host in?  What Gramine starts with, and no policy should name the measurement of.

A measurement covers the manifest's every byte: whoever pins it pins its weaknesses too.  Rules: Gramine's public manifest syntax, releases
from 1.4.  Pure; reads no file that the manifest names.

Not checked: that the trusted files are those of a build (:func:`confide.attest.launch.gramine.check_trusted_files`), or that what runs
treats its allowed files as hostile.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from confide.canonical import parse_toml
from confide.errors import ParseError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from confide.canonical import Json

_CODE_NAMES: Final = re.compile(
    r"LD_|PYTHON|JAVA|_JAVA|JDK_|CLASSPATH|SPARK_|HADOOP_|PATH$|GLIBC_|MALLOC_|OPENSSL_|SSL_|REQUESTS_|CURL_|PERL|RUBY|NODE_|BASH|ENV$|HOME$|TMP"
)
"""Beginnings of names of variables that choose code, or whom a program trusts."""
_CODE_FILES: Final = re.compile(r".*\.(py[co]?|pth|pyz|egg|whl|so|so\.[0-9.]+|jar|class|jsa|jmod|sh|pl|rb|js|wasm|bin|exe|conf|cfg|toml)")
_INTERPRETERS: Final = re.compile(r"(python|java|sh|bash|dash|perl|ruby|node|Rscript)[0-9.]*")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_OWN_CODES: Final = {"loader.insecure__use_host_env", "loader.insecure__use_cmdline_argv"}
"""Insecure options that have a rule of their own."""


@dataclass(frozen=True, slots=True)
class ManifestFinding:
    """One way in.  ``subject`` is the option or file that it is about; an ``error`` means that no policy should name this enclave."""

    code: str
    severity: Literal["error", "warning"]
    subject: str
    message: str
    hint: str

    def to_json(self) -> Json:
        """The finding as JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Mount:
    kind: str
    path: str
    uri: str
    key: str


@dataclass(frozen=True, slots=True)
class _Manifest:
    """A manifest's options by their dotted names, and its lists in one form."""

    options: Mapping[str, Any]
    environment: Mapping[str, Any]
    trusted: Mapping[str, str | None]
    allowed: tuple[str, ...]
    mounts: tuple[_Mount, ...]

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        try:
            tree = parse_toml(raw.decode("utf-8"))
        except (UnicodeDecodeError, ParseError) as cause:
            hint = "a template is rendered by gramine-manifest first; lint what that wrote"
            raise ParseError("the manifest is not TOML", hint=hint) from cause
        options = dict(_dotted(tree, ""))
        mounts = [_mount(row) for row in _rows(options, "fs.mounts")]
        root = _Mount(str(options.get("fs.root.type", "chroot")), "/", _uri(options.get("fs.root.uri", "file:.")), "")
        environment = {name.removeprefix("loader.env."): value for name, value in options.items() if name.startswith("loader.env.")}
        return cls(options, environment, _trusted(options), _allowed(options), (root, *mounts))

    def says(self, name: str) -> bool:
        """Whether an option is there and is not off."""
        return self.options.get(name) not in (None, False, 0, "", [])

    def source(self, path: str) -> str | None:
        """The URI of the host's file behind a path in the enclave; none if no file of the host is there."""
        inside = posixpath.normpath(path)
        mount = next(m for m in reversed(self.mounts) if inside == m.path or inside.startswith(m.path.rstrip("/") + "/"))
        if mount.kind != "chroot":
            return None
        rest = posixpath.relpath(inside, mount.path)
        return _uri(mount.uri if rest == "." else f"{mount.uri}/{rest}")

    def trusts(self, uri: str) -> bool:
        """Whether a file of the host is a trusted one, or in a folder of such."""
        return uri in self.trusted or any(folder.endswith("/") and uri.startswith(folder) for folder in self.trusted)


def lint(raw: bytes) -> tuple[ManifestFinding, ...]:
    """Everything in a rendered manifest (``.manifest`` or ``.manifest.sgx``) that lets the host in, errors first.

    Raises:
        ParseError: it is no manifest.
    """
    manifest = _Manifest.parse(raw)
    found = [finding for rule in _RULES for finding in rule(manifest)]
    return tuple(sorted(found, key=lambda finding: (finding.severity, finding.code, finding.subject)))


def _program(manifest: _Manifest) -> Iterator[ManifestFinding]:
    """Is it fixed what runs?"""
    entry = manifest.options.get("libos.entrypoint")
    if not isinstance(entry, str) or not entry:
        yield _error("no-entrypoint", "libos.entrypoint", "the manifest names no program", 'set libos.entrypoint = "/path/of/the/program"')
        return
    source = manifest.source(posixpath.join("/", entry))
    if source is None or not manifest.trusts(source):
        message = f"{entry} is no trusted file: the host chooses what runs, or nothing does"
        yield _error("entrypoint-untrusted", source or entry, message, "list the host's file behind it in sgx.trusted_files")
    loaded = manifest.options.get("loader.entrypoint", manifest.options.get("loader.entrypoint.uri"))
    digest = manifest.options.get("loader.entrypoint.sha256")
    if loaded is not None and digest is None and not manifest.trusts(_uri(loaded)):
        message = "the library OS is no trusted file: the host chooses it"
        yield _error("libos-untrusted", str(loaded), message, "list it in sgx.trusted_files, or give loader.entrypoint its sha256")


def _arguments(manifest: _Manifest) -> Iterator[ManifestFinding]:
    """Who chooses the arguments?"""
    fixed = manifest.options.get("loader.argv")
    if manifest.says("loader.insecure__use_cmdline_argv"):
        message = "the host chooses the arguments, so what an interpreter runs"
        yield _error("host-arguments", "loader.insecure__use_cmdline_argv", message, 'write them into loader.argv = ["program", "..."]')
    elif fixed is None and "loader.argv_src_file" not in manifest.options:
        name = posixpath.basename(str(manifest.options.get("libos.entrypoint", "")))
        if _INTERPRETERS.fullmatch(name):
            message = f"{name} without arguments runs what its standard input says, which is the host's"
            yield _error("no-arguments", "loader.argv", message, "name the program in loader.argv")
    yield from _source_file(manifest, "loader.argv_src_file", "untrusted-arguments", "arguments")


def _environment(manifest: _Manifest) -> Iterator[ManifestFinding]:
    """Who chooses the environment?"""
    if manifest.says("loader.insecure__use_host_env"):
        message = "the host chooses every variable, and LD_PRELOAD or PYTHONPATH is another program"
        yield _error("host-environment", "loader.insecure__use_host_env", message, 'write each that is needed: loader.env.NAME = "value"')
    for name in sorted(name.removesuffix(".passthrough") for name in manifest.environment if name.endswith(".passthrough")):
        if _CODE_NAMES.match(name):
            message = f"the host chooses {name}, which decides what code runs or whom it trusts"
            yield _error("passthrough-code", f"loader.env.{name}", message, f'write its value: loader.env.{name} = "value"')
        else:
            message = f"the host chooses {name}: whatever reads it must take it for hostile input"
            yield _warning("passthrough", f"loader.env.{name}", message, "write its value, or see that a lie in it only stops the program")
    yield from _source_file(manifest, "loader.env_src_file", "untrusted-environment", "environment")


def _source_file(manifest: _Manifest, option: str, code: str, what: str) -> Iterator[ManifestFinding]:
    uri = manifest.options.get(option)
    if uri is not None and not manifest.trusts(_uri(uri)):
        message = f"the {what} come from a file that the host can write" if what == "arguments" else f"the {what} is a file of the host's"
        yield _error(code, str(uri), message, "list it in sgx.trusted_files")


def _files(manifest: _Manifest) -> Iterator[ManifestFinding]:
    """Are files what they were?"""
    policy = manifest.options.get("sgx.file_check_policy", "strict")
    if policy != "strict":
        message = f"{policy}: files that nobody listed are opened, whatever is in them"
        yield _error("file-check-policy", "sgx.file_check_policy", message, 'set sgx.file_check_policy = "strict"')
    bare = [uri for uri, digest in manifest.trusted.items() if digest is None]
    if bare:
        message = f"{len(bare)} trusted files or folders have no SHA-256: what is measured is what lies there when somebody signs"
        hint = "lint the .manifest.sgx that gramine-sgx-sign wrote, or list files with sha256"
        yield _error("trusted-unhashed", bare[0], message, hint)
    for uri in manifest.allowed:
        if uri.endswith("/"):
            message = "every file in this folder is the host's to make and to change, code among them"
            yield _error("allowed-folder", uri, message, "allow single files, list the others in sgx.trusted_files")
        elif _CODE_FILES.fullmatch(posixpath.basename(uri)):
            message = "an allowed file is the host's to change, and this one is code or configuration"
            yield _error("allowed-code", uri, message, "list it in sgx.trusted_files")
        else:
            message = "an allowed file is the host's to change: whatever reads it must take it for hostile input"
            yield _warning("allowed-file", uri, message, "see that a lie in it only stops the program, or shows in the evidence")


def _mounts(manifest: _Manifest) -> Iterator[ManifestFinding]:
    """Can what is written be run, and read by others?"""
    code = [str(manifest.options.get("libos.entrypoint", ""))]
    for name in ("LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "CLASSPATH"):
        code += [part for part in str(manifest.environment.get(name, "")).split(":") if part.startswith("/")]
    for mount in manifest.mounts[1:]:
        over = next((path for path in code if path == mount.path or path.startswith(mount.path.rstrip("/") + "/")), None)
        if mount.kind in {"encrypted", "tmpfs", "untrusted_shm"} and over is not None and manifest.source(over) is None:
            message = f"{over} is looked up in a folder that is written while the enclave runs: no code in it was measured"
            yield _error("mount-over-code", mount.path, message, "mount what is written elsewhere")
        if mount.kind == "untrusted_shm":
            message = "memory that the host reads and writes"
            yield _error("untrusted-memory", mount.path, message, 'use type = "tmpfs" or "encrypted"')
        if mount.kind == "encrypted" and mount.key == "_sgx_mrsigner":
            message = "every enclave of the same signer opens these files, whatever it runs"
            yield _warning("signer-sealed", mount.path, message, 'use key_name = "_sgx_mrenclave"')


def _attestation(manifest: _Manifest) -> Iterator[ManifestFinding]:
    """Can anybody know what runs?"""
    kind = manifest.options.get("sgx.remote_attestation", "none")
    if kind != "dcap":
        message = f"remote attestation is {kind!r}: the enclave gives no quotes that can be verified here"
        yield _error("no-attestation", "sgx.remote_attestation", message, 'set sgx.remote_attestation = "dcap"')
    if manifest.says("sgx.debug"):
        yield _error("debug", "sgx.debug", "the host reads and writes a debug enclave's memory", "set sgx.debug = false")
    profiled = [name for name in ("sgx.enable_stats", "sgx.vtune_profile") if manifest.says(name)]
    profiled += ["sgx.profile.enable"] if manifest.options.get("sgx.profile.enable", "none") != "none" else []
    for name in profiled:
        yield _error("profiled", name, "the enclave tells the host what it does, and needs debug mode for it", f"remove {name}")


def _options(manifest: _Manifest) -> Iterator[ManifestFinding]:
    """Options that Gramine itself calls insecure, and those that say too much."""
    for name in sorted(manifest.options):
        if name.startswith(("fs.insecure__keys.", "sgx.insecure__protected_files_key", "sgx.protected_files_key")):
            message = "a key in the manifest is everybody's: manifests are not secret"
            yield _error("key-in-manifest", name, message, 'use key_name = "_sgx_mrenclave", or a key that comes after attestation')
        elif "insecure__" in name and name not in _OWN_CODES and manifest.says(name):
            message = _INSECURE.get(name, "Gramine itself calls this option insecure")
            yield _error("insecure-option", name, message, f"remove {name}")
    level = manifest.options.get("loader.log_level", "error")
    if level not in ("none", "error"):
        message = f"log level {level} writes what the program does where the host reads it"
        make = _warning if level == "warning" else _error
        yield make("verbose-log", "loader.log_level", message, 'set loader.log_level = "error"')
    for name in ("sys.allowed_ioctls", "sgx.allowed_ioctls"):
        if manifest.says(name):
            message = "what goes through these calls is read and changed by the host"
            yield _warning("ioctl", name, message, "see that what goes through is encrypted, or remove them")


_RULES: Final[tuple[Callable[[_Manifest], Iterator[ManifestFinding]], ...]] = (
    _program, _arguments, _environment, _files, _mounts, _attestation, _options,
)  # fmt: skip
_INSECURE: Final = {
    "sys.insecure__allow_eventfd": "eventfd is emulated by the host, which can wake and block whoever waits on it",
    "sgx.insecure__rpc_thread_num": "exitless calls read memory of the host in ways that leak (INTEL-SA-00615, INTEL-SA-00657)",
    "loader.insecure__disable_aslr": "code lies at addresses that an attacker knows",
    "sgx.insecure__allow_memfaults_without_exinfo": "the host can make up memory faults",
}


def _error(code: str, subject: str, message: str, hint: str) -> ManifestFinding:
    return ManifestFinding(code, "error", subject, message, hint)


def _warning(code: str, subject: str, message: str, hint: str) -> ManifestFinding:
    return ManifestFinding(code, "warning", subject, message, hint)


def _dotted(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _rows(options: Mapping[str, Any], name: str) -> list[Any]:
    """A list; in the syntax of old releases, a table whose keys mean nothing."""
    if name in options:
        rows = options[name]
        if not isinstance(rows, list):
            raise ParseError(f"{name} is not a list")
        return rows
    return [value for key, value in options.items() if key.startswith(f"{name}.")]


def _trusted(options: Mapping[str, Any]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for row in _rows(options, "sgx.trusted_files"):
        uri, digest = (row.get("uri"), row.get("sha256")) if isinstance(row, dict) else (row, None)
        good = isinstance(digest, str) and _SHA256.fullmatch(digest)
        found[_uri(uri)] = digest if good else None
    return found


def _allowed(options: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(_uri(row) for row in _rows(options, "sgx.allowed_files"))


def _mount(row: Any) -> _Mount:
    if not isinstance(row, dict) or not isinstance(row.get("path"), str) or not row["path"].startswith("/"):
        raise ParseError("a mount has no absolute path", got=str(row)[:80])
    kind = str(row.get("type", "chroot"))
    uri = _uri(row["uri"]) if kind != "tmpfs" and "uri" in row else ""
    return _Mount(kind, posixpath.normpath(row["path"]), uri, str(row.get("key_name", "default")))


def _uri(text: Any) -> str:
    """One spelling for each file; a folder keeps its slash at the end.  Devices stay as they are."""
    if not isinstance(text, str) or ":" not in text:
        raise ParseError("not a URI of a file", got=str(text)[:80])
    scheme, _, path = text.partition(":")
    if scheme != "file":
        return text
    plain = posixpath.normpath(re.sub("//+", "/", path)) if path else "."
    return f"file:{plain}/" if path.endswith("/") and plain != "/" else f"file:{plain}"
