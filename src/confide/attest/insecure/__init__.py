"""The simulated TEE: evidence in the vendor's exact formats that protects nothing.

Fenced: only ``confide.jobs.local`` and what wires ``--simulate`` may import this package (an import-linter contract), and evidence from
here verifies under this installation's own root alone.  What it is for: every code path of the real thing, on a machine without it.
"""

from confide.attest.insecure.attester import Fault, InsecureAttester
from confide.attest.insecure.installation import Installation

__all__ = ["Fault", "InsecureAttester", "Installation"]
