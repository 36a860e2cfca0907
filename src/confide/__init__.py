"""Confide: run Spark jobs on encrypted data, on machines you do not trust, and keep the proof of what ran.

The public list is short on purpose; everything else is reached through its own module.  Names load when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from confide.attest.policy import Policy
    from confide.data.spark import session
    from confide.job import Job
    from confide.jobs.receipt import verify
    from confide.jobs.submit import submit

__version__ = "0.1.0"
__all__ = ["Job", "Policy", "session", "submit", "verify"]

_WHERE = {
    "Job": "confide.job",
    "Policy": "confide.attest.policy",
    "session": "confide.data.spark",
    "submit": "confide.jobs.submit",
    "verify": "confide.jobs.receipt",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'confide' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)
