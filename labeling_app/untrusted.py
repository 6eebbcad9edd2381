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

LONGEST_FORMATTED = 50_000  # characters; reading longer ones as Markdown would hold the page up

# Seen as nothing, yet neither "format" nor "control" to Unicode: fillers, joiners, blanks, other selectors, and what is
# not assigned but to be left out when drawn.
UNSEEN = {
    *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F),
    *(0x2028, 0x2029, 0x2065, 0x2800, 0x3164, 0xFFA0, *range(0xFFF0, 0xFFF9), *range(0xE0000, 0xE1000)),
}
JOINERS = "\u200c\u200d"  # Persian, Indic scripts and emoji are written with these
_SUSPECT = re.compile("[^\n\t -~]")


@functools.lru_cache(maxsize=2048)
def visible(text: str) -> str:
    """The text with every character that cannot be seen spelled out: `⟨U+202E⟩` for a right-to-left override.

    A joiner between two letters outside ASCII stays, as in emoji and Persian; elsewhere it only hides something.
    """
    text = text.replace("\r\n", "\n")
    return _SUSPECT.sub(lambda found: _spelled(text, found.start()), text)


def _spelled(text: str, at: int) -> str:
    character = text[at]
    hidden = unicodedata.category(character) in ("Cc", "Cf") or ord(character) in UNSEEN
    if not hidden:
        return character
    around = text[at - 1 : at] + text[at + 1 : at + 2]
    if character in JOINERS and len(around) == 2 and all(c > "\x7f" and c not in JOINERS for c in around):
        return character
    return f"⟨U+{ord(character):04X}⟩"


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


@functools.lru_cache(maxsize=512)
def formatted(text: str) -> Tree | None:
    """The text read as Markdown: a tree of harmless tags. None where that shows nothing that the text does not."""
    if len(text) > LONGEST_FORMATTED:
        return None
    tokens = _markdown.parse(visible(text))
    if max((_depth(token) for token in tokens), default=0) >= DEEPEST - 1:
        return None
    tree = _children(SyntaxTreeNode(tokens))
    return tree if _has_form(tree) else None


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
