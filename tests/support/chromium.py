"""Chromium without a window, for tests of pages."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, sync_playwright
from support.page_world import Office, Visit


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    found = shutil.which("chromium")
    assert found, "the tests of pages need Chromium: scripts/install_chromium.sh"
    # Chromium's sandbox does not work for root, whom tests in containers run as.  These pages are our own.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


@dataclass
class Screen:
    """One tab, what its console says, and whom it asks."""

    visit: Visit
    context: BrowserContext
    page: Page = field(init=False)
    said: list[str] = field(default_factory=list)
    asked: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page = self.context.new_page()
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", self._note)

    def _hear(self, message: ConsoleMessage) -> None:
        self.said.append(f"{message.text} {message.location['url']}")

    def _note(self, request: Request) -> None:
        self.asked.append(request)

    def enter(self) -> Screen:
        """Type the code into the field that has the focus."""
        self.page.goto(f"{self.visit.admission.origin}/")
        self.page.wait_for_selector("#code:focus")
        self.page.keyboard.type(self.visit.code)
        self.page.keyboard.press("Enter")
        self.page.wait_for_url("**/overview")
        return self

    def open(self, name: str) -> None:
        self.page.goto(self.visit.admission.origin + self.visit.admission.path + name)

    def tab_to(self, text: str) -> None:
        """Press Tab until what has the focus says ``text``; it must show that it has it."""
        for _ in range(80):
            self.page.keyboard.press("Tab")
            if text in self.page.evaluate("(document.activeElement.labels?.[0] || document.activeElement).innerText || ''"):
                assert self.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
                return
        raise AssertionError(f"{text!r} cannot be reached by Tab")

    @property
    def heading(self) -> str:
        return self.page.inner_text("h1")

    def check_quiet(self) -> None:
        """The browser has complained of nothing and asked nobody else."""
        assert self.said == []
        assert {request.url.partition("://")[2].partition("/")[0] for request in self.asked} == {self.visit.admission.host}


class Screens:
    """Tabs of one test."""

    def __init__(self, chromium: Browser, office: Office, clean: contextlib.ExitStack) -> None:
        self._chromium, self._office, self._clean = chromium, office, clean

    def of(self, visit: Visit, **options: object) -> Screen:
        context = self._chromium.new_context(**options)  # type: ignore[arg-type]
        self._clean.callback(context.close)
        return Screen(visit, context)


@pytest.fixture
def screens(chromium: Browser, office: Office) -> Iterator[Screens]:
    with contextlib.ExitStack() as clean:
        yield Screens(chromium, office, clean)
