"""Reference values before launch: what a TEE will report, computed from what it will be started from.

Nothing here asks a running node, and nothing here is trusted by a verifier: the values go into a policy, by a person.  What each module
follows, and against what it was checked, is in ``docs/guides/reference-values.md``.
"""
