"""The server's pure parts: whose page sent a request, and how often somebody may guess."""

from __future__ import annotations

from starlette.datastructures import Headers

from labeling_app.door import Failures
from labeling_app.guard import from_own_page, same_origin


def test_origins_are_compared_with_the_address_that_was_asked() -> None:
    asked = Headers({"host": "labels.example.org"})
    assert same_origin("https://labels.example.org", asked, https=True)
    assert same_origin("https://labels.example.org:443", Headers({"host": "labels.example.org:443"}), https=True)
    assert same_origin("http://labels.example.org", asked, https=False)
    assert not same_origin("http://labels.example.org", asked, https=True)
    assert same_origin("http://localhost:8501", Headers({"host": "localhost:8501"}), https=True)
    for wrong in ("https://labels.example.org/x", "https://a@labels.example.org", "ftp://labels.example.org", "x", ""):
        assert not same_origin(wrong, asked, https=False)


def test_a_form_is_from_our_own_page_if_the_browser_says_so() -> None:
    assert from_own_page(Headers({"host": "h", "sec-fetch-site": "same-origin", "origin": "null"}), https=False)
    assert not from_own_page(Headers({"host": "h", "sec-fetch-site": "none"}), https=False)


def test_failures_are_counted_by_the_minute() -> None:
    clock = [0.0]
    failures = Failures(limit=2, seconds=60, clock=lambda: clock[0])
    assert failures.note("a") == 0
    clock[0] = 10.0
    assert failures.note("a") == 0
    clock[0] = 20.0
    assert (failures.note("a"), failures.note("b")) == (40.0, 0.0)
    clock[0] = 70.0  # the first two are a minute old
    assert failures.note("a") == 0
