"""What keys that are sealed to a node are bound to: broker and node build it each for themselves, of what the answer says in the clear.

The form of the JWE, and how it is bound: ``crypto.seal``.
"""

from __future__ import annotations

from collections.abc import Sequence

from confide.attest.evidence import NodeContext
from confide.canonical import Json
from confide.ids import Purpose


def seal_context(dataset: str, context: NodeContext, purpose: Purpose) -> Json:
    """What one dataset's key is bound to."""
    return {"dataset": dataset, "job": context.job, "run": context.run, "purpose": purpose.value}


def joint_seal_context(told: Sequence[Json], context: NodeContext, purpose: Purpose) -> Json:
    """What several keys that are sealed together are bound to: in their order, the dataset of each, its key and version, and its end."""
    keys = [[one["dataset"], one["key"], one["version"], one["expires"]] for one in told]
    return {"keys": keys, "job": context.job, "run": context.run, "purpose": purpose.value}
