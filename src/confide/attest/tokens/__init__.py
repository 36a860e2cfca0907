"""Signed tokens: strict reading of JWTs, and the tokens of verifiers that an owner's policy names.  Knows nothing of policies."""
