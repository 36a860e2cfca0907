"""Primitives that the rest is built from: canonical forms, keys, authenticated encryption, sealing, channels.

Knows nothing of attestation, jobs or the network beyond one TLS channel.
"""
