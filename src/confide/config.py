"""Settings as one value, built once at the edge and passed down.  Security choices are not settings.

Order: built-in default, then the settings file (``config.toml`` in the home folder), then ``CONFIDE_HOME`` for the home folder
alone, then the command line.  Unknown keys are errors; :meth:`Settings.explain` says where each value came from.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from confide.canonical import parse_toml
from confide.errors import ConfigError, ParseError
from confide.regular_file import read_regular

_FILE = "config.toml"
_MAX_FILE = 1024 * 1024
_PATHS = {"runs", "service_ca_file", "tpm_chain_file", "database_password_file", "database_ca_file", "token_file",
          "token_certificate_file", "traces_ca_file"}  # fmt: skip
_TEXTS = {"database", "intel_service", "amd_service", "tpm_key", "tpm_pcrs", "tpm_log", "tpm_tcti", "token_command", "traces"}


@dataclass(frozen=True, slots=True)
class Settings:
    """Where Confide keeps its state, and limits that users may want to change.  Times in seconds."""

    home: Path = field(default_factory=lambda: Path.home() / ".confide")
    runs: Path | None = None
    intel_service: str = ""
    amd_service: str = ""
    service_ca_file: Path | None = None
    tpm_key: str = ""
    tpm_pcrs: str = "0,1,2,3,4,5,6,7"
    tpm_chain_file: Path | None = None
    tpm_log: str = ""
    tpm_tcti: str = "device:/dev/tpmrm0"
    database: str = ""
    database_password_file: Path | None = None
    database_ca_file: Path | None = None
    traces: str = ""
    traces_ca_file: Path | None = None
    traces_share: float = 1.0
    token_file: Path | None = None
    token_command: str = ""
    token_certificate_file: Path | None = None
    node_start_timeout_s: float = 30.0
    heartbeat_s: float = 2.0
    node_lost_after_s: float = 10.0
    nonce_ttl_s: float = 60.0
    drain_s: float = 20.0
    reattest_every_s: float = 300.0
    reattest_grace_s: float = 120.0
    origin: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def runs_dir(self) -> Path:
        """Folder of the run store."""
        return self.runs if self.runs is not None else self.home / "runs"

    @property
    def collateral_dir(self) -> Path:
        """Folder of the vendors' collateral (``confide.attest.collateral_service``)."""
        return self.home / "collateral"

    @property
    def simulation_dir(self) -> Path:
        """Folder of this installation's simulated TEE root (``confide.attest.insecure``)."""
        return self.home / "simulated"

    @property
    def tpm_dir(self) -> Path:
        """Folder of what is trusted in TPMs (``confide.attest.tpm_trust``), and of open challenges to machines."""
        return self.home / "tpm"

    @property
    def key_store(self) -> Path:
        """File of the broker's key store (``confide.keys.store``); the broker's other files are beside it."""
        return self.home / "broker" / "store.sqlite"

    @property
    def uploads_dir(self) -> Path:
        """Folder of journals of what is encrypted into datasets at URLs."""
        return self.home / "uploads"

    @property
    def credentials_dir(self) -> Path:
        """Folder of owners' and recipients' credentials (private keys, mode 0600)."""
        return self.home / "credentials"

    def explain(self) -> dict[str, tuple[str, str]]:
        """Each setting's value and where it came from (``default``, ``file``, ``environment``, ``command line``)."""
        names = [f.name for f in fields(self) if f.name != "origin"]
        return {name: (str(getattr(self, name)), self.origin.get(name, "default")) for name in names}

    @classmethod
    def load(cls, *, environ: Mapping[str, str] | None = None, home: Path | None = None) -> Settings:
        """Build the settings for one process.

        Raises:
            ConfigError: the settings file is not TOML, has an unknown key or a value of the wrong type.
        """
        environ = os.environ if environ is None else environ
        settings, origin = cls(), {}
        if environ.get("CONFIDE_HOME"):
            settings, origin["home"] = replace(settings, home=Path(environ["CONFIDE_HOME"]).absolute()), "environment"
        if home is not None:
            settings, origin["home"] = replace(settings, home=home.absolute()), "command line"
        for name, value in _read_file(settings.home / _FILE).items():
            settings, origin[name] = replace(settings, **{name: value}), "file"
        return replace(settings, origin=origin)


def _read_file(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        table = parse_toml(read_regular(path, _MAX_FILE).decode("utf-8"))
    except (ParseError, OSError, UnicodeDecodeError) as cause:
        raise ConfigError(f"cannot read {path}: {cause}", path=str(path)) from cause
    numbers = {f.name for f in fields(Settings) if f.type == "float"}
    values: dict[str, Any] = {}
    for name, value in table.items():
        if name in numbers and isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            values[name] = float(value)
        elif name in _PATHS and isinstance(value, str) and "\0" not in value:
            values[name] = _place(value, path)
        elif name in _TEXTS and isinstance(value, str):
            values[name] = value
        else:
            raise ConfigError(f"{path}: unknown setting or wrong value: {name}", path=str(path), setting=name)
    return values


def _place(text: str, path: Path) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as cause:  # the home folder of a user that there is not
        raise ConfigError(f"{path}: {text[:120]}: {cause}", path=str(path)) from cause
