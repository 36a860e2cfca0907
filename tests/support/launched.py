"""A simulated TEE whose host started it with init-data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from confide.attest.insecure import Fault, InsecureAttester, Installation
from confide.ids import Tee


class Launched(InsecureAttester):
    """``held``: what the host gave it at launch, in MRCONFIGID or CONFIGID."""

    def __init__(self, installation: Installation, tee: Tee, measurement: str, held: bytes, *, fault: Fault | None = None) -> None:
        super().__init__(installation, tee, measurement, fault=fault)
        self._held = held

    def _td_body(self, report_data: bytes) -> Any:
        return replace(super()._td_body(report_data), mr_config_id=self._held.ljust(48, b"\0"))

    def _sgx_body(self, report_data: bytes) -> Any:
        return replace(super()._sgx_body(report_data), reserved3=bytes(32) + self._held.ljust(64, b"\0"))
