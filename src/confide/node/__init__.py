"""What runs inside a node before, around and after the engine: attested sessions, job CA, keys for local children, supervision.

Trusted.  Knows nothing of engines, backends or the command line: the jobs layer passes a workload in (:mod:`confide.node.workload`).
"""
