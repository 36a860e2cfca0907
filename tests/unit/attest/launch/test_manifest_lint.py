"""Each way in that a Gramine manifest can leave open is found, and a manifest that leaves none open is not told off."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from confide.attest.launch import manifest_lint
from confide.attest.launch.manifest_lint import lint
from confide.errors import ParseError

ROOT = Path(__file__).parents[4]
HASH = "ab" * 32
GOOD = f"""
libos.entrypoint = "/usr/bin/python3.11"
loader.entrypoint = "file:/gramine/libsysdb.so"
loader.argv = ["python3.11", "-m", "program"]
loader.env.PATH = "/usr/bin"
loader.env.LD_LIBRARY_PATH = "/lib:/usr/lib"
fs.root.uri = "file:/"
fs.mounts = [
  {{ path = "/lib", uri = "file:/gramine/runtime" }},
  {{ type = "tmpfs", path = "/tmp" }},
  {{ type = "encrypted", path = "/scratch", uri = "file:/host/scratch", key_name = "_sgx_mrenclave" }},
]
sgx.debug = false
sgx.remote_attestation = "dcap"
sgx.file_check_policy = "strict"
sgx.trusted_files = [
  {{ uri = "file:/usr/bin/python3.11", sha256 = "{HASH}" }},
  {{ uri = "file:/gramine/libsysdb.so", sha256 = "{HASH}" }},
  {{ uri = "file:/usr/lib/python3.11/os.py", sha256 = "{HASH}" }},
]
"""


def codes(text: str) -> list[tuple[str, str]]:
    return [(finding.severity, finding.code) for finding in lint(text.encode())]


def without(option: str) -> str:
    """The good manifest without the line of an option."""
    lines = [line for line in GOOD.splitlines() if not line.startswith(option)]
    assert len(lines) < len(GOOD.splitlines())
    return "\n".join(lines)


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def test_manifest_that_lets_nobody_in_has_no_findings() -> None:
    assert lint(GOOD.encode()) == ()


ADDED = {
    "loader.insecure__use_host_env = true": ("error", "host-environment"),
    "loader.insecure__use_cmdline_argv = true": ("error", "host-arguments"),
    'loader.argv_src_file = "file:/args"': ("error", "untrusted-arguments"),
    'loader.env_src_file = "file:/environment"': ("error", "untrusted-environment"),
    "loader.env.LD_PRELOAD = { passthrough = true }": ("error", "passthrough-code"),
    "loader.env.PYTHONPATH = { passthrough = true }": ("error", "passthrough-code"),
    "loader.env.JAVA_TOOL_OPTIONS = { passthrough = true }": ("error", "passthrough-code"),
    "loader.env._JAVA_OPTIONS = { passthrough = true }": ("error", "passthrough-code"),
    "loader.env.TZ = { passthrough = true }": ("warning", "passthrough"),
    'sgx.allowed_files = ["file:/srv/plugins/"]': ("error", "allowed-folder"),
    'sgx.allowed_files = ["file:/srv/plugin.py"]': ("error", "allowed-code"),
    'sgx.allowed_files = ["file:/srv/libm.so.6"]': ("error", "allowed-code"),
    'sgx.allowed_files = ["file:/srv/spec.json"]': ("warning", "allowed-file"),
    'sgx.allowed_files.spec = "file:/srv/spec.json"': ("warning", "allowed-file"),
    'fs.insecure__keys.default = "00112233445566778899aabbccddeeff"': ("error", "key-in-manifest"),
    'sgx.insecure__protected_files_key = "00112233445566778899aabbccddeeff"': ("error", "key-in-manifest"),
    "sys.insecure__allow_eventfd = true": ("error", "insecure-option"),
    "sgx.insecure__rpc_thread_num = 4": ("error", "insecure-option"),
    "loader.insecure__disable_aslr = true": ("error", "insecure-option"),
    "sys.insecure__of_tomorrow = true": ("error", "insecure-option"),
    'loader.log_level = "trace"': ("error", "verbose-log"),
    'loader.log_level = "warning"': ("warning", "verbose-log"),
    "sgx.enable_stats = true": ("error", "profiled"),
    'sgx.profile.enable = "all"': ("error", "profiled"),
    "sys.allowed_ioctls = [{ request_code = 1 }]": ("warning", "ioctl"),
}


@pytest.mark.parametrize("line", ADDED)
def test_option_that_lets_the_host_in_is_found(line: str) -> None:
    assert codes(f"{GOOD}\n{line}\n") == [ADDED[line]]


@pytest.mark.parametrize(
    "line",
    [
        "loader.insecure__use_host_env = false", "loader.insecure__use_cmdline_argv = false", "sys.insecure__allow_eventfd = false",
        "sgx.insecure__rpc_thread_num = 0", 'loader.log_level = "none"', 'sgx.profile.enable = "none"', "sgx.allowed_files = []",
        'loader.env.TZ = { value = "UTC" }', 'loader.env_src_file = "file:/usr/lib/python3.11/os.py"',
    ],
)  # fmt: skip
def test_option_that_is_off_or_fixed_is_not_told_off(line: str) -> None:
    assert codes(f"{GOOD}\n{line}\n") == []


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        (changed("debug = false", "debug = true"), ("error", "debug")),
        (changed('"strict"', '"allow_all_but_log"'), ("error", "file-check-policy")),
        (changed('"dcap"', '"none"'), ("error", "no-attestation")),
        (changed('"dcap"', '"epid"'), ("error", "no-attestation")),
        (changed('"dcap"', "true"), ("error", "no-attestation")),
        (without("sgx.remote_attestation"), ("error", "no-attestation")),
        (without("loader.argv"), ("error", "no-arguments")),
        (without("libos.entrypoint"), ("error", "no-entrypoint")),
        (changed('libos.entrypoint = "/usr/bin/', 'libos.entrypoint = "/srv/'), ("error", "entrypoint-untrusted")),
        (changed('libsysdb.so"\nloader.argv', 'other.so"\nloader.argv'), ("error", "libos-untrusted")),
        (changed(f'uri = "file:/usr/lib/python3.11/os.py", sha256 = "{HASH}"', 'uri = "file:/usr/lib/"'), ("error", "trusted-unhashed")),
        (changed(f'os.py", sha256 = "{HASH}"', 'os.py", sha256 = "ab"'), ("error", "trusted-unhashed")),
        (changed('type = "tmpfs", path = "/tmp"', 'type = "tmpfs", path = "/usr/lib"'), ("error", "mount-over-code")),
        (changed('type = "tmpfs", path = "/tmp"', 'type = "untrusted_shm", path = "/tmp", uri = "dev:tmp"'), ("error", "untrusted-memory")),
        (changed("_sgx_mrenclave", "_sgx_mrsigner"), ("warning", "signer-sealed")),
    ],
)  # fmt: skip
def test_option_that_should_be_otherwise_is_found(text: str, finding: tuple[str, str]) -> None:
    assert codes(text) == [finding]


def test_program_in_a_folder_that_the_enclave_writes_is_not_trusted() -> None:
    text = changed('type = "tmpfs", path = "/tmp"', 'type = "tmpfs", path = "/usr/bin"')
    assert codes(text) == [("error", "entrypoint-untrusted"), ("error", "mount-over-code")]


def test_mounts_say_which_file_of_the_host_has_to_be_trusted() -> None:
    moved = changed('"/usr/bin/python3.11"\nloader', '"/app/python3.11"\nloader')
    assert codes(moved) == [("error", "entrypoint-untrusted")]
    mounted = moved.replace("fs.mounts = [", 'fs.mounts = [\n  { path = "/app/", uri = "file:/usr//bin" },')
    assert codes(mounted) == []
    assert codes(GOOD.replace("file:/usr/bin/python3.11", "file:/usr/./bin/../bin/python3.11")) == []


def test_library_os_is_trusted_by_its_own_digest_too() -> None:
    own = f'loader.entrypoint = {{ uri = "file:/other.so", sha256 = "{HASH}" }}'
    table = changed('loader.entrypoint = "file:/gramine/libsysdb.so"', own)
    assert codes(table) == []
    assert codes(table.replace(f', sha256 = "{HASH}" }}\nloader', " }\nloader")) == [("error", "libos-untrusted")]


def test_trusted_folder_covers_its_files_and_no_others() -> None:
    folder = changed(f'{{ uri = "file:/usr/bin/python3.11", sha256 = "{HASH}" }}', '"file:/usr/bin/"')
    assert codes(folder) == [("error", "trusted-unhashed")]
    assert ("error", "entrypoint-untrusted") in codes(folder.replace('"file:/usr/bin/"', '"file:/usr/bi/"'))


def test_errors_come_first_and_say_how_to_mend_it() -> None:
    found = lint(f'{GOOD}\nloader.env.TZ = {{ passthrough = true }}\nsgx.enable_stats = true\nsgx.allowed_files = ["file:/a"]'.encode())
    assert [finding.severity for finding in found] == ["error", "warning", "warning"]
    assert all(finding.message and finding.hint and finding.subject for finding in found)
    assert set(found[0].to_json()) == {"code", "severity", "subject", "message", "hint"}


@pytest.mark.parametrize(
    "text",
    [
        "{% set a = 1 %}", "a = ", "fs.mounts = 1", "sgx.trusted_files = [1]", 'sgx.trusted_files = ["/no/scheme"]', "fs.mounts = [{}]",
        'fs.mounts = [{ path = "relative", uri = "file:/" }]', 'sgx.allowed_files = "file:/a"',
    ],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(ParseError):
        lint(text.encode())


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(ParseError, match="not TOML"):
        lint(b"\xff")


def found_codes() -> set[str]:
    """Every code that the rules can find, from their source."""
    tree = ast.parse(Path(manifest_lint.__file__).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    made = [node.args[0] for node in calls if isinstance(node.func, ast.Name) and node.func.id in {"_error", "_warning", "make"}]
    return {node.value for node in made if isinstance(node, ast.Constant)} | {"untrusted-arguments", "untrusted-environment"}


def test_every_code_is_found_by_a_test_of_its_own() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert len(found_codes()) == 25
    assert [code for code in found_codes() if f'"{code}")' not in source] == []
