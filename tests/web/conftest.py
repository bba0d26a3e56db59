"""The page of a tiny model in Debian's Chromium; `make test-web` runs these, and `make test` leaves them out."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge import BridgePipeline
from bridge.serve.app import Served, served
from tests.fixtures import make_tiny_pipeline

CHROMIUM = shutil.which("chromium")
ASKED, MODEL, SHOTS = (os.environ.get(f"BRIDGE_WEB{name}") for name in ("", "_MODEL", "_SHOTS"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip with the reason where there is no browser, or nobody asked for one."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            if not ASKED:
                item.add_marker(pytest.mark.skip(reason="tests in a browser run by `make test-web`"))
            elif CHROMIUM is None:
                item.add_marker(pytest.mark.skip(reason="no chromium; `apt-get install chromium` installs it"))


@pytest.fixture(scope="session")
def site(encoder) -> Iterator[Served]:
    """The page; of BRIDGE_WEB_MODEL where that is set."""
    with served(BridgePipeline.from_pretrained(MODEL) if MODEL else make_tiny_pipeline(encoder)) as found:
        yield found


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Visitor:
    """A tab of the browser, and what it was sent and complained of."""

    def __init__(self, tab: Any, url: str) -> None:
        self.tab, self.url = tab, url
        self.asked: list[str] = []
        self.complaints: list[str] = []
        tab.set_default_timeout(60_000)
        tab.on("request", lambda request: self.asked.append(request.url))
        tab.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        tab.on("pageerror", lambda error: self.complaints.append(str(error)))

    def open(self, query: str = "") -> Any:
        """Go to the page; returns the tab."""
        self.tab.goto(f"{self.url}/{query}")
        self.tab.wait_for_selector("#captions textarea")
        self.tab.wait_for_selector(".said")
        self.tab.wait_for_timeout(500)  # until Gradio listens
        return self.tab

    def choose(self, tab: str) -> None:
        """Open one of the page's tabs."""
        self.tab.get_by_role("tab", name=tab, exact=True).click()

    def shoot(self, name: str) -> None:
        """A screenshot below BRIDGE_WEB_SHOTS, where that is set."""
        if SHOTS:
            self.tab.wait_for_timeout(800)
            Path(SHOTS).mkdir(parents=True, exist_ok=True)
            self.tab.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)


@pytest.fixture
def visit(browser, site, request) -> Iterator[Any]:
    """Makes visitors, each on its own; at the end none may have asked another host or complained."""
    contexts, visitors = [], []

    def new(width: int = 1280, height: int = 900, dark: bool = False) -> Visitor:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            accept_downloads=True,
            has_touch=width < 500,
        )
        contexts.append(context)
        visitors.append(Visitor(context.new_page(), site.url))
        return visitors[-1]

    yield new
    for context in contexts:
        context.close()
    for visitor in visitors:
        foreign = [url for url in visitor.asked if not url.startswith((visitor.url, "data:", "blob:"))]
        assert (foreign, visitor.complaints) == ([], [])
