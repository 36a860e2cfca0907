"""The vendors' roots that Confide pins.  A root is compared as a whole certificate, never by name or key alone."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from confide.attest.amd_certs import Product
from confide.attest.tpm_trust import TpmTrust
from confide.errors import UsageError

INTEL_SGX_ROOT_SHA256 = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"
"""Fingerprint of "Intel SGX Root CA" (valid until 2049-12-31), from certificates.trustedservices.intel.com/IntelSGXRootCA.der."""

INTEL_SGX_ROOT = base64.b64decode(
    "MIICjzCCAjSgAwIBAgIUImUM1lqdNInzg7SVUr9QGzknBqwwCgYIKoZIzj0EAwIwaDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJvb3Qg"
    "Q0ExGjAYBgNVBAoMEUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJBgNVBAYT"
    "AlVTMB4XDTE4MDUyMTEwNDUxMFoXDTQ5MTIzMTIzNTk1OVowaDEaMBgGA1UEAwwRSW50ZWwgU0dYIFJvb3QgQ0ExGjAYBgNVBAoM"
    "EUludGVsIENvcnBvcmF0aW9uMRQwEgYDVQQHDAtTYW50YSBDbGFyYTELMAkGA1UECAwCQ0ExCzAJBgNVBAYTAlVTMFkwEwYHKoZI"
    "zj0CAQYIKoZIzj0DAQcDQgAEC6nEwMDIYZOj/iPWsCzaEKi71OiOSLRFhWGjbnBVJfVnkY4u3IjkDYYL0MxO4mqsyYjlBalTVYxF"
    "P2sJBK5zlKOBuzCBuDAfBgNVHSMEGDAWgBQiZQzWWp00ifODtJVSv1AbOScGrDBSBgNVHR8ESzBJMEegRaBDhkFodHRwczovL2Nl"
    "cnRpZmljYXRlcy50cnVzdGVkc2VydmljZXMuaW50ZWwuY29tL0ludGVsU0dYUm9vdENBLmRlcjAdBgNVHQ4EFgQUImUM1lqdNInz"
    "g7SVUr9QGzknBqwwDgYDVR0PAQH/BAQDAgEGMBIGA1UdEwEB/wQIMAYBAf8CAQEwCgYIKoZIzj0EAwIDSQAwRgIhAOW/5QkR+S9C"
    "iSDcNoowLuPRLsWGf/Yi7GSX94BgwTwgAiEA4J0lrHoMs+Xo5o/sX6O9QWxHRAvZUGOdRQ7cvqRXaqI="
)
"""The DER form of "Intel SGX Root CA"; it signs for SGX and TDX platforms."""


AMD_ROOTS: Final[Mapping[str, Product]] = {
    "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd": "Milan",
    "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1": "Genoa",
    "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a": "Turin",
}
"""SHA-256 of each "ARK-…" certificate (DER), from kdsintf.amd.com/vcek/v1/{product}/cert_chain."""


@dataclass(frozen=True, slots=True)
class TrustRoots:
    """Whose evidence is genuine.  ``simulated`` is one installation's own root (DER): evidence under it is marked as simulated.

    ``amd``: SHA-256 of each trusted AMD root key's certificate (DER, hex), and the product that it is for.
    ``tpm``: which TPMs' attestation keys are trusted, as an owner says: none by default.
    """

    intel: bytes = field(default=INTEL_SGX_ROOT, repr=False)
    amd: Mapping[str, Product] = field(default_factory=lambda: AMD_ROOTS, repr=False)
    tpm: TpmTrust = field(default_factory=TpmTrust)
    simulated: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.intel or self.simulated in {b"", self.intel, INTEL_SGX_ROOT}:
            raise UsageError("a simulated root must be its own certificate")
