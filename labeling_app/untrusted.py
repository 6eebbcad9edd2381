"""Text that somebody else wrote, made fit to be shown: nothing hides in it, and nothing in it is markup or a link.

Two ways to show it. `visible` gives the text itself, character by character. `formatted` reads it as Markdown and gives
a tree of a few harmless tags; images and links come out as the text that they were written as, so that looking at a
text never asks anybody for anything.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markdown_it.tree import SyntaxTreeNode

LONGEST_FORMATTED = 20_000  # characters; reading longer ones as Markdown would hold the page up
MOST_NODES = 3_000  # of a tree, which goes to the browser and is kept in memory
MOST_CELLS = 3_000  # of tables: the parser fills every row up to the width of its table

# Seen as nothing, yet neither "format" nor "control" to Unicode: fillers, joiners, blanks, other selectors, and what is
# not assigned but to be left out when drawn.
UNSEEN = {
    *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F),
    *(0x2028, 0x2029, 0x2065, 0x2800, 0x3164, 0xFFA0, *range(0xFFF0, 0xFFF9), *range(0xE0000, 0xE1000)),
}
JOINERS = "\u200c\u200d"
PRESENTATIONS = "\ufe0e\ufe0f"  # a symbol as text, or as emoji
# The blocks whose letters are joined or kept apart by joiners: Arabic to Sinhala, Tibetan to Mongolian, and the like.
JOINED = re.compile(
    "[\u0600-\u0dff\u0f00-\u109f\u1780-\u18af\u1900-\u1cff\ua800-\uabff\ufb50-\ufdff\ufe70-\ufefc"
    "\U00010a00-\U00011fff\U0001e900-\U0001e95f]"
)
_SUSPECT = re.compile("[^\n\t -~]")


def visible(text: str) -> str:
    """The text with every character that cannot be seen spelled out: `⟨U+202E⟩` for a right-to-left override.

    A joiner stays between letters of scripts that use them and between emoji, a variation selector after an emoji;
    elsewhere they only hide something.
    """
    return _kept(text) if len(text) <= LONGEST_FORMATTED else _spelled_out(text)


def _spelled_out(text: str) -> str:
    text = text.replace("\r\n", "\n")
    return _SUSPECT.sub(lambda found: _spelled(text, found.start()), text)


_kept = functools.lru_cache(maxsize=256)(_spelled_out)


def _spelled(text: str, at: int) -> str:
    character = text[at]
    selector = "\ufe00" <= character <= "\ufe0f"
    hidden = selector or unicodedata.category(character) in ("Cc", "Cf") or ord(character) in UNSEEN
    if not hidden:
        return character
    before, after = text[at - 1 : at], text[at + 1 : at + 2]
    fits = False
    if before and character in PRESENTATIONS:
        fits = _is_symbol(before) or (before in "0123456789#*" and after == "\u20e3")  # the latter: a keycap
    elif before and after and character in JOINERS:
        emoji = character == "\u200d" and (_is_symbol(before) or before == "\ufe0f") and _is_symbol(after)
        fits = emoji or (_is_joined(before) and _is_joined(after))
    return character if fits else f"⟨U+{ord(character):04X}⟩"


def _is_joined(character: str) -> bool:
    return bool(JOINED.match(character)) and unicodedata.category(character)[0] in "LM"


def _is_symbol(character: str) -> bool:
    """Emoji and their like; three of them count as punctuation."""
    return character > "\x7f" and (unicodedata.category(character)[0] == "S" or character in "\u203c\u2049\u3030")


Tree = list[Any]  # of texts and {"tag": ..., "children": Tree}

TAGS = {
    "paragraph": "p",
    "strong": "strong",
    "em": "em",
    "s": "del",
    "bullet_list": "ul",
    "ordered_list": "ol",
    "list_item": "li",
    "blockquote": "blockquote",
    "table": "table",
    "tr": "tr",
    "th": "th",
    "td": "td",
    "hr": "hr",
    "hardbreak": "br",
}
PLAIN = ("root", "inline", "thead", "tbody")  # no tag of their own
LANGUAGE = re.compile(r"[\w+#.-]{0,20}")  # what a code block may be labelled with and nobody misses
DEEPEST = 20  # what is nested deeper is shown as text: the parser would leave it out, or we run out of stack
# Without `reference`, which takes definitions (`[//]: # (words)`) off the page.
_markdown = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("reference")


def formatted(text: str) -> Tree | None:
    """The text read as Markdown: a tree of harmless tags. None where that shows nothing that the text does not.

    None too for what would be too much work or too large a tree.
    """
    return _tree(text) if len(text) <= LONGEST_FORMATTED else None


@functools.lru_cache(maxsize=64)
def _tree(text: str) -> Tree | None:
    text = visible(text)
    if len(text) > LONGEST_FORMATTED or _cells(text) > MOST_CELLS:
        return None
    tokens = _markdown.parse(text)
    if max((_depth(token) for token in tokens), default=0) >= DEEPEST - 1:
        return None
    if sum(inner.nesting >= 0 for token in tokens for inner in (token, *(token.children or ()))) > MOST_NODES:
        return None
    tree = _children(SyntaxTreeNode(tokens))
    return tree if _has_form(tree) else None


def _cells(text: str) -> int:
    """At least as many cells as the tables in this text have: no table is wider than a line, or goes past a blank."""
    runs = re.split(r"\n[ \t]*(?=\n)", text)
    return sum((1 + pipes) * run.count("\n") for run in runs if (pipes := max(s.count("|") for s in run.split("\n"))))


def _depth(token: Token) -> int:
    return max((token.level, *(inner.level for inner in token.children or ())))


def _children(node: SyntaxTreeNode) -> Tree:
    return [part for child in node.children for part in _parts(child)]


def _parts(node: SyntaxTreeNode) -> Tree:
    kind = node.type
    if kind in TAGS:
        return [{"tag": TAGS[kind], "children": _children(node)}]
    if kind in PLAIN:
        return _children(node)
    if kind == "heading":
        return [{"tag": "h3" if node.tag in ("h1", "h2") else "h4", "children": _children(node)}]
    if kind == "code_inline":
        return [{"tag": "code", "children": [node.content]}]
    if kind in ("fence", "code_block"):
        label = [] if LANGUAGE.fullmatch(node.info) else [{"tag": "p", "children": [node.info]}]
        return [*label, {"tag": "pre", "children": [{"tag": "code", "children": [node.content]}]}]
    if kind == "softbreak":
        return ["\n"]
    if kind == "link":
        return _link(_children(node), _target(node, "href"))
    if kind == "image":
        return [f"![{node.content}]({_target(node, 'src')})"]
    # Made visible again: the parser has read entities (`&#x202E;`) and addresses (`%E2%80%AE`).
    return [visible(node.content)] if node.content else []


def _link(inside: Tree, address: str) -> Tree:
    """What the link says, and where it would lead; not a link."""
    return inside if inside == [address] else [*inside, f" ({address})"]


def _target(node: SyntaxTreeNode, name: str) -> str:
    title = node.attrs.get("title")
    return visible(f'{node.attrs.get(name, "")} "{title}"' if title else str(node.attrs.get(name, "")))


def _has_form(tree: Tree) -> bool:
    return any(
        isinstance(part, dict) and (part["tag"] not in ("p", "br") or _has_form(part["children"])) for part in tree
    )
