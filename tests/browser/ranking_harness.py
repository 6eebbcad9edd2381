"""A page that mounts the ranking sheet as Streamlit does, without Streamlit.

A host element with the theme's variables and a shadow root; the module from a blob; `rerun(data)` calls its default
export as a rerun of the script would; every trigger is recorded. The page has the product's Content-Security-Policy.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route

from labeling_app.components import ranking

ADDRESS = "http://sheet.test/"
POLICY = (
    "default-src 'self'; script-src 'self' blob: 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:"
)
SETTLED = 300  # milliseconds: a task has been on screen for longer than keys are held back


# The page's colours: primary, background, secondary background, text, border.
COLOURS = {
    "light": ("#1f6f68", "#fafaf7", "#ffffff", "#1d2a2c", "#d9ddd8"),
    "dark": ("#2a8179", "#15191a", "#1d2324", "#e4e9e7", "#364041"),
}
COLOUR_NAMES = ("primary-color", "background-color", "secondary-background-color", "text-color", "border-color")


def theme(name: str) -> str:
    """The theme's variables as Streamlit names them."""
    lines = [f"--st-{variable}: {colour};" for variable, colour in zip(COLOUR_NAMES, COLOURS[name], strict=True)]
    return " ".join([*lines, "--st-base-radius: 0.5rem;", "--st-font: 'Source Sans', sans-serif;"])


PAGE = """<!doctype html><html lang="en"><head><title>Sheet</title><style>
html, body { margin: 0; height: 100%; color-scheme: SCHEME; }
[data-testid="stMain"] { height: 100%; overflow: auto; background: var(--st-background-color); }
#block { max-width: WIDTH; margin: 0 auto; padding: 1.5rem 1rem; }
</style></head><body style="THEME"><div data-testid="stMain"><div id="block">
<input id="outside" aria-label="A field of the page"><div id="host"></div></div></div></body></html>"""

SETUP = """
async ({ source, style }) => {
    const root = document.getElementById("host").attachShadow({ mode: "open" });
    const sheet = document.createElement("style");
    sheet.textContent = style;
    root.append(sheet);
    const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    const module = await import(url);
    window.events = [];
    window.pageKeys = [];
    window.addEventListener("keydown", (event) => window.pageKeys.push(event.key));
    window.rerun = (data) => {
        window.cleanup = module.default({
            name: "rlhf_ranking", key: "ranking", parentElement: root, data: structuredClone(data),
            setStateValue: () => {},
            setTriggerValue: (name, value) => window.events.push([name, structuredClone(value)]),
        });
    };
    window.send = (codes) => {
        for (const code of codes) {
            const shift = code.startsWith("Shift+");
            const target = root.activeElement ?? document.activeElement;
            target.dispatchEvent(new KeyboardEvent("keydown", {
                code: code.replace("Shift+", ""), shiftKey: shift, bubbles: true, composed: true, cancelable: true,
            }));
        }
    };
}
"""


def task(count: int = 4, name: str = "17-0", **changes: Any) -> dict[str, Any]:
    """What Python hands to the sheet; `settings` given here are merged into the usual ones."""
    settings = {
        "allow_partial": False,
        "strength": False,
        "quality": True,
        "flags": ["Not true", "Harmful", "Off topic"],
        "comment_length": 200,
        "better_answer": True,
        "better_length": 2000,
        "skip_reasons": ["I cannot judge this topic", "The prompt makes no sense", "Something else"],
        **changes.pop("settings", {}),
    }
    completions = [{"id": str(n - 1), "text": f"Answer number {n}.", "tree": None} for n in range(1, count + 1)]
    return {
        "task": name,
        "storage": "ab12",
        "prompt": [{"role": "", "text": "Why is the sky blue?", "tree": None}],
        "completions": completions,
        "guidelines": None,
        "settings": settings,
        "reopened": False,
        "can_reopen": True,
        "before": None,
        "renew_seconds": 600,
        "answer": None,
        **changes,
    }


class Sheet:
    """The mounted sheet, and what a person or a rerun does to it."""

    def __init__(self, page: Page) -> None:
        self.page = page

    def rerun(self, data: dict[str, Any], settle: bool = True) -> None:
        self.page.evaluate("data => window.rerun(data)", data)
        if settle:
            self.page.wait_for_timeout(SETTLED)

    def keys(self, *codes: str) -> None:
        """All of them in one JavaScript task: no time passes in between."""
        self.page.evaluate("codes => window.send(codes)", list(codes))

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def events(self, do: str = "") -> list[dict[str, Any]]:
        sent = self.page.evaluate("window.events")
        assert all(name == "event" for name, _ in sent)
        return [event for _, event in sent if not do or event["do"] == do]

    def said(self) -> str:
        """The order in words, as a screen reader hears it."""
        return self.page.locator(".dock [aria-live]").first.inner_text()

    def strip(self) -> str:
        return "".join(self.page.locator(".strip .chip, .strip .equals, .strip .gap:not(.last)").all_inner_texts())

    def message(self) -> str:
        return self.page.locator(".message").inner_text() if self.page.locator(".message").is_visible() else ""

    def chip(self, number: int) -> Locator:
        return self.page.locator(f'[data-chip="{number}"]')

    def card(self, number: int) -> Locator:
        return self.page.locator(f'[data-card="{number}"]')

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name)

    def drafts(self) -> dict[str, Any]:
        stored = self.page.evaluate("({...localStorage})")
        return {name: json.loads(value) for name, value in stored.items() if ":draft:" in name}


def open_page(context: BrowserContext, scheme: str = "light", width: str = "46rem") -> tuple[Page, list[str]]:
    """A page with nothing mounted yet, and the list of all addresses that it asks for besides its own."""
    asked: list[str] = []
    html = PAGE.replace("SCHEME", scheme).replace("THEME", theme(scheme)).replace("WIDTH", width)

    def answer(route: Route) -> None:
        if route.request.url != ADDRESS:
            asked.append(route.request.url)
            route.abort()
            return
        route.fulfill(body=html, content_type="text/html", headers={"Content-Security-Policy": POLICY})

    context.route("**/*", answer)
    page = context.new_page()
    page.set_default_timeout(8000)
    page.on("pageerror", lambda error: asked.append(f"error: {error}"))
    return page, asked


def mount(page: Page, data: dict[str, Any]) -> Sheet:
    """Load the page, mount the sheet and wait until it takes keys."""
    page.goto(ADDRESS)
    page.evaluate(SETUP, {"source": ranking.source(), "style": ranking.style()})
    sheet = Sheet(page)
    sheet.rerun(data)
    return sheet


@contextmanager
def mounted(browser: Browser, data: dict[str, Any], **options: Any) -> Iterator[Sheet]:
    """A sheet in a browser profile of its own; afterwards nothing may have failed or been fetched."""
    context = browser.new_context(viewport=options.pop("viewport", {"width": 1200, "height": 900}))
    page, asked = open_page(context, **options)
    yield mount(page, data)
    assert asked == []
    context.close()
