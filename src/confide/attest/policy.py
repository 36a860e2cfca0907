"""The language of appraisal policies in one import; each part is in a module of its own.

``policy_values`` has the words, ``policy_rules`` the fields, ``policy_checks`` what is expected beside what was got, ``policy_tree``
composition and files, ``appraisal`` the decision.
"""

from confide.attest.appraisal import AttestationResult, appraise
from confide.attest.policy_checks import Check
from confide.attest.policy_tree import AllOf, AnyOf, Policy, Rules, json_schema

__all__ = ["AllOf", "AnyOf", "AttestationResult", "Check", "Policy", "Rules", "appraise", "json_schema"]
