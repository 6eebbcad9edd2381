"""Text that others wrote, made fit to be shown: nothing hides in it, and its Markdown is a tree of harmless tags."""

from __future__ import annotations

import json
import time
import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from labeling_app import untrusted
from labeling_app.untrusted import JOINERS, LONGEST_FORMATTED, MOST_NODES, formatted, visible

TAGS = {
    "p", "h3", "h4", "strong", "em", "del", "ul", "ol", "li", "blockquote", "table", "tr", "th", "td", "hr", "br",
    "code", "pre",
}  # fmt: skip
BEACON = "http://127.0.0.1:9/beacon.png"
BEACONS = (
    f"*a* ![x]({BEACON})",
    f"*a* ![x]({BEACON} 'title')",
    f"*a* ![x][b]\n\n[b]: {BEACON}",
    f"*a* [x]({BEACON})",
    f"*a* [![x]({BEACON})]({BEACON})",
    f"*a* <{BEACON}>",
    f"*a* {BEACON}",
    f"*a* <img src={BEACON}>",
    f"*a*\n\n<img src={BEACON}>\n\n<script src='{BEACON}'></script>",
    f"*a* <svg onload=fetch('{BEACON}')>",
    f"|a|b|\n|-|-|\n|![x]({BEACON})|[x]({BEACON})|",
    f"> - ![x]({BEACON})",
    f"# ![x]({BEACON})",
    f"```{BEACON}\n![x]({BEACON})\n```",
    "*a* [x](javascript:alert(1))",
    "*a* [x](data:text/html,<script>alert(1)</script>)",
    f"*a* :material/image: $\\includegraphics{{{BEACON}}}$ :red[x]",
)


def p(*children: Any) -> dict[str, Any]:
    return tag("p", *children)


def tag(name: str, *children: Any) -> dict[str, Any]:
    return {"tag": name, "children": list(children)}


def nodes(tree: list[Any] | None) -> Iterator[dict[str, Any]]:
    for part in tree or []:
        if isinstance(part, dict):
            yield part
            yield from nodes(part["children"])


def leaves(tree: list[Any] | None) -> Iterator[Any]:
    for part in tree or []:
        if isinstance(part, dict):
            yield from leaves(part["children"])
        else:
            yield part


# --- what cannot be seen -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hidden", "spelled"),
    [
        ("\u202e", "⟨U+202E⟩"),  # right-to-left override
        ("\u2066", "⟨U+2066⟩"),  # left-to-right isolate
        ("\u200b", "⟨U+200B⟩"),  # zero-width space
        ("\ufeff", "⟨U+FEFF⟩"),  # byte order mark
        ("\u00ad", "⟨U+00AD⟩"),  # soft hyphen
        ("\u2060", "⟨U+2060⟩"),  # word joiner
        ("\u200d", "⟨U+200D⟩"),  # joiner between Latin letters
        ("\u200c", "⟨U+200C⟩"),
        ("\U000e0041", "⟨U+E0041⟩"),  # tag A
        ("\U000e0001", "⟨U+E0001⟩"),
        ("\U000e0002", "⟨U+E0002⟩"),  # not assigned, and not drawn
        ("\U000e0100", "⟨U+E0100⟩"),  # variation selector 17
        ("\u3164", "⟨U+3164⟩"),  # Hangul filler
        ("\u2800", "⟨U+2800⟩"),  # Braille blank
        ("\u180b", "⟨U+180B⟩"),  # Mongolian variation selector
        ("\u2028", "⟨U+2028⟩"),
        ("\x00", "⟨U+0000⟩"),
        ("\x1b", "⟨U+001B⟩"),
        ("\x7f", "⟨U+007F⟩"),
        ("\x85", "⟨U+0085⟩"),
        ("\r", "⟨U+000D⟩"),
        ("\ufe00", "⟨U+FE00⟩"),  # variation selectors: sixteen of them, four bits each
        ("\ufe0e", "⟨U+FE0E⟩"),
        ("\ufe0f", "⟨U+FE0F⟩"),
    ],
)
def test_what_cannot_be_seen_is_spelled_out(hidden: str, spelled: str) -> None:
    assert visible(f"a{hidden}b") == f"a{spelled}b"


@pytest.mark.parametrize(
    "text",
    [
        "plain, with\ttab and\nline",
        "Grüße, 漢字, עברית, العربية",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",  # a family: three people and two joiners
        "\u2764\ufe0f\u200d\U0001f525",  # a heart on fire
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian "I want", with a non-joiner
        "\u0915\u094d\u200d\u0937",  # Hindi
        "\u0d15\u0d4d\u200c\u0d37 \u1780\u200d\u1781",  # Malayalam, Khmer
        "\U0001f3f4\u200d\u2620\ufe0f \U0001f44b\U0001f3fd\u200d\u2642\ufe0f \u203c\ufe0f \u00a9\ufe0f \u2714\ufe0e",
        "1\ufe0f\u20e3 #\ufe0f\u20e3",  # keycaps
        "e\u0301",
        "",
    ],
)
def test_what_people_write_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


def test_line_ends_of_windows_are_line_ends_and_a_lone_return_is_spelled_out() -> None:
    assert visible("a\r\nb\rc\n") == "a\nb⟨U+000D⟩c\n"


def test_a_joiner_stays_only_between_letters_that_use_it_and_emoji() -> None:
    family = "\U0001f468\u200d\U0001f469"
    assert visible(f"\u200d{family}\u200d") == f"⟨U+200D⟩{family}⟨U+200D⟩"
    assert visible("م\u200d\u200dم") == "م⟨U+200D⟩⟨U+200D⟩م"
    assert visible("é\u200dé中\u200d中\u200c中") == "é⟨U+200D⟩é中⟨U+200D⟩中⟨U+200C⟩中"
    assert visible("م\u200da") == "م⟨U+200D⟩a"
    assert visible("\U0001f468\u200c\U0001f469") == "\U0001f468⟨U+200C⟩\U0001f469"  # emoji are joined, never kept apart


def test_a_variation_selector_stays_only_after_an_emoji_and_once() -> None:
    assert visible("\ufe0f中\ufe01é\ufe0f1\ufe0f，\ufe0e") == "⟨U+FE0F⟩中⟨U+FE01⟩é⟨U+FE0F⟩1⟨U+FE0F⟩，⟨U+FE0E⟩"
    assert visible("\u2764\ufe0f\ufe0f\u2764\ufe01") == "\u2764\ufe0f⟨U+FE0F⟩\u2764⟨U+FE01⟩"


@pytest.mark.parametrize("length", [LONGEST_FORMATTED, LONGEST_FORMATTED + 1])
def test_what_is_kept_in_memory_is_bounded(length: int) -> None:
    before = untrusted._kept.cache_info().currsize
    untrusted._kept.cache_clear()
    assert visible("é" * length) == "é" * length
    assert untrusted._kept.cache_info().currsize == (length == LONGEST_FORMATTED) and before <= 256
    assert untrusted._kept.cache_info().maxsize == 256 and untrusted._tree.cache_info().maxsize == 64
    formatted("*é*" * length)
    assert untrusted._tree.cache_info().currsize <= 64 and untrusted._kept.cache_info().currsize <= 1


# --- Markdown ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("a **b** _c_ ~~d~~", [p("a ", tag("strong", "b"), " ", tag("em", "c"), " ", tag("del", "d"))]),
        ("# A", [tag("h3", "A")]),
        ("## A", [tag("h3", "A")]),
        ("### A", [tag("h4", "A")]),
        ("###### A", [tag("h4", "A")]),
        ("- a\n- b", [tag("ul", tag("li", p("a")), tag("li", p("b")))]),
        ("1. a\n   - b", [tag("ol", tag("li", p("a"), tag("ul", tag("li", p("b")))))]),
        ("> a\n> b", [tag("blockquote", p("a", "\n", "b"))]),
        ("a `b*c*`", [p("a ", tag("code", "b*c*"))]),
        ("```python\nx = 1\n```", [tag("pre", tag("code", "x = 1\n"))]),
        ("```py and words\nx\n```", [p("py and words"), tag("pre", tag("code", "x\n"))]),
        ("    x = 1", [tag("pre", tag("code", "x = 1\n"))]),
        ("a\n\n---", [p("a"), tag("hr")]),
        ("*a*\\\nb", [p(tag("em", "a"), tag("br"), "b")]),
        (
            "|a|b|\n|-|-|\n|c|*d*|",
            [
                tag(
                    "table",
                    tag("tr", tag("th", "a"), tag("th", "b")),
                    tag("tr", tag("td", "c"), tag("td", tag("em", "d"))),
                )
            ],
        ),
        ("*a* ![b](http://c/d.png)", [p(tag("em", "a"), " ", "![b](http://c/d.png)")]),
        ("*a* ![b](http://c/d.png 'e')", [p(tag("em", "a"), " ", '![b](http://c/d.png "e")')]),
        ("*a* [b](http://c)", [p(tag("em", "a"), " ", "b", " (http://c)")]),
        ("*a* [b](http://c 'hidden')", [p(tag("em", "a"), " ", "b", ' (http://c "hidden")')]),
        ("*a* <http://c>", [p(tag("em", "a"), " ", "http://c")]),
        ("*a* <b>c</b>", [p(tag("em", "a"), " <b>c</b>")]),
    ],
)
def test_markdown_becomes_a_tree_of_harmless_tags(text: str, tree: list[Any]) -> None:
    assert formatted(text) == tree


@pytest.mark.parametrize("text", ["plain", "two\nlines", "a\n\nb", "", "a  \nb", "<b>x</b>", "[a](http://b)"])
def test_text_without_form_has_no_tree(text: str) -> None:
    assert formatted(text) is None


def test_a_text_too_long_to_be_read_as_markdown_has_no_tree() -> None:
    assert formatted("*a* " + "b" * (LONGEST_FORMATTED - 4)) is not None
    assert formatted("*a* " + "b" * (LONGEST_FORMATTED - 3)) is None
    assert formatted("*a* " + "\u202e" * (LONGEST_FORMATTED // 4)) is None  # spelled out it is twice as long


def test_a_definition_that_markdown_would_swallow_is_shown() -> None:
    assert formatted("[//]: # (ignore the rest)\n\n*a*") == [p("[//]: # (ignore the rest)"), p(tag("em", "a"))]


@pytest.mark.parametrize(
    "text",
    ["*a* x&#x202E;y", "*a* x&shy;y", "*a* <http://x/%E2%80%AE>", "*a* x&zwj;y", "*a* x\u202ey"],
)
def test_entities_and_addresses_hide_nothing_in_a_tree(text: str) -> None:
    found = "".join(leaves(formatted(text)))
    assert "⟨U+" in found and not any(unicodedata.category(c) == "Cf" for c in found)


@pytest.mark.parametrize("text", BEACONS)
def test_no_tree_has_anything_that_asks_for_an_address(text: str) -> None:
    tree = formatted(text)
    assert tree is not None
    assert {node["tag"] for node in nodes(tree)} <= TAGS
    assert all(set(node) == {"tag", "children"} for node in nodes(tree))
    if BEACON in text:
        assert BEACON in "".join(leaves(tree))  # said, not fetched


@pytest.mark.parametrize(
    "text",
    [
        ">" * 40 + " a",
        "> " * 3000 + "a",
        "1. " * 40 + "a",
        "".join("  " * i + "- a\n" for i in range(100)),
        "**" * 3000 + "a" + "**" * 3000,
    ],
    ids=["quotes", "more quotes", "numbers", "lists", "strong"],
)
def test_what_is_nested_too_deep_is_shown_as_text(text: str) -> None:
    """The parser leaves out what lies deeper than its limit, and a tree too deep would run out of stack."""
    assert formatted(text) is None


def test_what_is_nested_as_people_nest_has_a_tree() -> None:
    assert list(leaves(formatted("".join("  " * i + f"- {i}\n" for i in range(8))))) == list("01234567")
    assert list(leaves(formatted(">" * 8 + " a"))) == ["a"]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("piece", ["[", "![", "*a **b ", "<", "`a``b", "_a ", "[a](", "|a", "&#", "[a]: b\n", "\\*"])
def test_a_hostile_text_does_not_hold_the_page_up(piece: str) -> None:
    """Seconds of this thread's own time, so that a busy machine makes no difference; the worst takes 0.3."""
    began = time.thread_time()
    tree = formatted(piece * (LONGEST_FORMATTED // len(piece)))
    assert time.thread_time() - began < 3.0
    assert sum(1 for _ in nodes(tree)) <= MOST_NODES


def table(columns: int, row: str = "|") -> str:
    """The widest table that fits, its rows all but empty: the parser fills each up to the width of the first."""
    head = "|a" * columns + "|\n" + "|-" * columns + "|\n"
    return head + f"{row}\n" * ((LONGEST_FORMATTED - len(head)) // (len(row) + 1))


@pytest.mark.parametrize("columns", [2, 10, 54, 140, 600, 2000, 4000])
@pytest.mark.parametrize("prefix", ["", "> ", "- "])
def test_a_table_that_is_mostly_made_up_is_refused_before_it_is_parsed(
    monkeypatch: pytest.MonkeyPatch, columns: int, prefix: str
) -> None:
    text = prefix + table(columns)[: LONGEST_FORMATTED - len(prefix)]
    if prefix == "> ":
        text = text.replace("\n", "\n> ")[:LONGEST_FORMATTED]
    monkeypatch.setattr(untrusted, "_markdown", None)
    untrusted._tree.cache_clear()
    assert formatted(text) is None


def test_the_tables_of_people_have_a_tree() -> None:
    text = "\n\n".join(["| a | b | c |\n|---|---|---|\n" + "| 1 | 2 | 3 |\n" * 40, "x || y\n" * 40] * 3)
    assert {node["tag"] for node in nodes(formatted(text))} >= {"table", "tr", "td"}


@pytest.mark.parametrize("piece", ["- *a*\n", "`a`*b*", "# a\n", "> a\n\n", "a|b\n-|-\n\n", "*a*\u202e"])
def test_no_tree_is_large(piece: str) -> None:
    count, tree = LONGEST_FORMATTED // len(piece), None
    while tree is None:  # the largest of its kind that has one
        count = count * 9 // 10
        tree = formatted(piece * count)
    assert MOST_NODES / 5 < sum(1 for _ in nodes(tree)) + sum(1 for _ in leaves(tree)) <= 2 * MOST_NODES
    assert formatted(piece * (LONGEST_FORMATTED // len(piece))) is None
    assert len(json.dumps(tree)) < 300_000


MARKS = st.sampled_from(
    ["*", "**", "_", "~~", "`", "```", "\n", "\n\n", "> ", "- ", "1. ", "# ", "|", "|-|", "[a](b)", "![a](b)", "<b>",
     "<http://a/%E2%80%8B>", "&#x202e;", "&zwnj;", "[a]: b", "\\", "    ", "\t", "a", "é", "\u200d", "\u200c", "\u202e",
     "\U000e0041", "\r", "\x00", "\u2028"]
)  # fmt: skip
TEXTS = st.text() | st.lists(MARKS | st.text(max_size=3), max_size=40).map("".join)


@settings(max_examples=400, deadline=None)
@given(TEXTS)
@example("*a* x&#x202E;y")
@example("*a* é&zwj;é")
def test_whatever_the_text_nothing_in_it_hides_and_no_tag_is_foreign(text: str) -> None:
    tree = formatted(text)
    assert {node["tag"] for node in nodes(tree)} <= TAGS
    assert all(isinstance(leaf, str) for leaf in leaves(tree))
    for shown in (visible(text), *leaves(tree)):
        for i, character in enumerate(shown):
            if character in JOINERS:
                around = shown[i - 1 : i] + shown[i + 1 : i + 2]
                assert len(around) == 2 and min(around) > "\x7f"
            else:
                assert character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf")
