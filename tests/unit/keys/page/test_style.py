"""Colours can be told apart (WCAG 2.2, 1.4.3 and 1.4.11), in the light and in the dark, and nothing comes from elsewhere."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

STYLE = files("confide.keys.page").joinpath("templates", "page.css").read_text(encoding="utf-8")
TEXT_ON = [
    ("ink", "paper"), ("ink", "field"), ("soft", "paper"), ("soft", "field"), ("accent", "paper"), ("on-accent", "accent"),
    ("yes", "yes-field"), ("no", "no-field"), ("wait", "wait-field"), ("sim", "sim-field"),
    ("sim", "sim-stripe"), ("ink", "sim-field"), ("soft", "sim-field"),
    ("accent", "sim-field"),
]  # fmt: skip


def colours(scheme: str) -> dict[str, str]:
    light, dark = (block for block in re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)[:2])
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light if scheme == "light" else dark))


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("text", "ground"), TEXT_ON)
def test_text_stands_out_from_its_ground(scheme: str, text: str, ground: str) -> None:
    found = colours(scheme)
    lighter, darker = sorted((luminance(found[text]), luminance(found[ground])), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def test_both_schemes_have_the_same_colours() -> None:
    assert colours("light").keys() == colours("dark").keys()


def test_style_loads_nothing() -> None:
    assert not re.search(r"url\(|@import|@font-face|expression", STYLE)
    assert "prefers-color-scheme: dark" in STYLE
    assert "prefers-reduced-motion" in STYLE
    assert "@media print" in STYLE
