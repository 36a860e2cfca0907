"""Drafts of policies: what evidence or a build pins, and that what is written reads back."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from confide.attest.claims import Claims
from confide.attest.policy import Policy
from confide.attest.policy_draft import of_claims, of_reference, to_toml, unverified_reference
from confide.errors import ParseError, PolicyError
from confide.ids import Tee
