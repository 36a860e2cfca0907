"""Attestation: evidence in, attestation results out.

``verify`` says whether evidence is genuine, ``policy.appraise`` whether it is what was asked for; both raise, and only they
can make the values that later steps demand.  ``insecure`` is the simulated TEE, fenced off from everything else.
Knows nothing of networks, keys of datasets, jobs or nodes.
"""
