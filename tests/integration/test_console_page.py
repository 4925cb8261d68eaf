"""The console's page in a real browser: what it shows, to whom, and that names are text."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.console_hour import HOSTILE, hour
from tests.console_rig import ConsoleUnderTest, answering_console, status_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HAS_TOOLS = all(importlib.util.find_spec(name) for name in ("playwright", "axe_playwright_python"))
pytestmark = pytest.mark.skipif(not (CHROMIUM and HAS_TOOLS), reason="no browser: 'make browser' installs it")
WAIT_MS = 90_000
PID = 2**22 + 1
"""A process that is nobody's: an engine that does not run."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleUnderTest]:
    with answering_console(tmp_path_factory.mktemp("console")) as console:
        yield console


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(running: ConsoleUnderTest, browser: Any) -> Iterator[Any]:
    """A page that has shown an hour with everything in it; whatever it complains of is a failure."""
    running.write(hour())
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(WAIT_MS)
    page, complaints = context.new_page(), list[str]()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.goto(f"{running.url}/")
    page.wait_for_selector('body[data-condition="not well"]')
    page.wait_for_selector("#happened tbody tr")
    yield page
    context.close()
    assert complaints == []


def test_it_shows_what_there_is(page: Any) -> None:
    """Lag, rates, routes, nodes, processes and what has happened are there to be read."""
    assert page.locator("#condition").inner_text() == "not well"
    assert "has failed for" in page.locator("#line").inner_text()
    assert "24,587/s" in page.locator("#now").inner_text()
    rows = {"lags": 4, "routes": 2, "nodes": 1, "processes": 5, "happened": 5}
    assert {place: page.locator(f"#{place} tbody tr").count() for place in rows} == rows
    assert "looked at 1,204,000 keys, found 1,200; took 4 min" in page.locator("#happened").inner_text()
    assert page.locator("#chart svg path.p99").count() == 1
    assert page.locator("#chart rect.gap").count() == 2
    assert page.locator("#connection").inner_text().endswith("live")


def test_hostile_names_are_text(page: Any) -> None:
    """A route, an error: what looks like markup is shown as it is written, and does nothing."""
    assert page.locator("#routes tbody th").first.inner_text() == HOSTILE.replace("\u202e", "\\u202e")
    assert page.locator("main img, main script").count() == 0
    assert page.evaluate("document.body.dataset.hacked") is None
    assert page.title() == "not well – Ingest engine"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_it_is_accessible(width: int, scheme: str, running: ConsoleUnderTest, browser: Any) -> None:
    """No rule of axe is broken, wide and narrow, light and dark, and a phone need not scroll sideways."""
    from axe_playwright_python.sync_playwright import Axe

    running.write(hour())
    # The rules are run by a script of their own, which the page's policy does not let in.
    context = browser.new_context(bypass_csp=True, viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    page.goto(f"{running.url}/")
    page.wait_for_selector("#happened tbody tr")
    broken = [(one["id"], one["nodes"][0]["html"]) for one in Axe().run(page).response["violations"]]
    fits = page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()
    assert broken == []
    assert fits


def test_it_is_used_by_keyboard(page: Any) -> None:
    """The first tab skips to the state; a finding's runbook takes the focus, and tables can be scrolled."""
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Runbook: Route failing"
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.id === 'runbook-route-failing'")
    assert page.locator(".scroll:not([tabindex='0'])").count() == 0


def test_it_is_live(page: Any, running: ConsoleUnderTest) -> None:
    """What changes is shown without a reload, and an engine that is gone as well."""
    running.write(status_of(1))
    page.wait_for_selector('body[data-condition="well"]')
    assert page.locator("#findings li").count() == 0
    running.write(hour(pid=PID))
    page.wait_for_selector('body[data-condition="not well"]')
    assert page.locator("#line").inner_text() == "no engine runs here"


def test_a_console_that_dies_is_said(tmp_path: Path, browser: Any) -> None:
    """A page whose console is gone says so, with the time of what it shows."""
    with answering_console(tmp_path) as console:
        page = browser.new_page()
        page.set_default_timeout(WAIT_MS)
        page.goto(f"{console.url}/")
        page.wait_for_selector('#connection[data-state="live"]')
        console.process.kill()
        page.wait_for_selector('#connection[data-state="lost"]')
        assert "not connected; shown as of" in page.locator("#connection").inner_text()
        page.close()
