"""An office with a companion for each test of the pages."""

from __future__ import annotations

from support.page_fixtures import chromium, office, screens, tee

__all__ = ["chromium", "office", "screens", "tee"]
