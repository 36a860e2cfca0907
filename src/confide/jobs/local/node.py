"""A simulated node's process: ``python -m confide.jobs.local.node --spec FILE --parent PID``.

Ties its life to its parent's, reads its spec, measures itself, and hands over to the agent.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from confide.jobs.local.lifeline import end_with_parent
from confide.jobs.local.simulation import SimulatedTee, require_simulated
from confide.jobs.node_main import agent, live
from confide.node.agent import DriverAgent, WorkerAgent
from confide.node.spec import NodeSpec


def main() -> int:
    """Run one node; its exit status."""
    parser = argparse.ArgumentParser(prog="confide-node")
    parser.add_argument("--spec", type=Path, required=True)
    parser.add_argument("--parent", type=int, required=True)
    given = parser.parse_args()
    end_with_parent(given.parent)
    return live(partial(_node, given.spec))


def _node(spec_file: Path) -> DriverAgent | WorkerAgent:
    spec = NodeSpec.load(spec_file)
    tee = SimulatedTee.at(require_simulated(spec).dir)
    return agent(spec, attester=tee.attester(spec), verifier=tee.verifier(spec.services.intel, spec.services.ca_file))


if __name__ == "__main__":
    sys.exit(main())
