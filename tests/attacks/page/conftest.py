"""An office with a companion for each test of the pages."""

from __future__ import annotations

from support.page_fixtures import chromium, office, tee

__all__ = ["chromium", "office", "tee"]
