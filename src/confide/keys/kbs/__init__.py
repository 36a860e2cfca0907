"""KBS protocol 0.4.0 for guests that are no nodes of ours, as server and as client.

A plain session is bound to a key and a nonce, not to a TLS channel: what it may get is decided by resource policies alone, and never by
the grants of jobs (docs/decisions/0015-kbs-plain-sessions.md).
"""
