"""What the tasks of one node did with data so far, told to the driver by the engine that ran them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from confide.canonical import Json
from confide.jobs.reports import counted, data_counted
from confide.node.control import field

if TYPE_CHECKING:
    from confide.jobs.broker_keys import BrokerKeys
    from confide.node.local_socket import Operation
    from confide.node.workload import NodeServices


def counts_operation(node: NodeServices, keys: BrokerKeys) -> Operation:
    """``data-counts``: what the tasks of this node did so far, ``counts``; the driver has heard when this answers."""

    def operation(request: Json) -> Json:
        asked, held = keys.counts()
        counts = {**field(request, "counts", dict), "keys_asked": asked, "keys_held": held}
        node.tell(data_counted(counted(node.spec.node_id, counts)))
        return {}

    return operation
