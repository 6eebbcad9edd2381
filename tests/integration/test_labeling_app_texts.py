"""Text that others wrote reaches the page through `st.text` alone: shown by reading the app's own source.

Streamlit reads labels, captions, headings and messages as Markdown, which fetches images from anywhere. So what such
calls are given must be a constant, or a call of one of our own functions that can only return letters and numbers.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import labeling_app

ROOT = Path(labeling_app.__file__).parent
FORBIDDEN_NAMES = {"html", "iframe", "write_stream", "unsafe_allow_html", "unsafe_allow_javascript", "latex", "table"}
# Functions that make numbers and our own nouns: of session.py, statistics/estimate.py and views/dashboard/numbers.py.
OUR_WORDS = {"listed", "counted", "words", "progress_words", "lasting"}
OUR_FILES = {"style", "source"}  # of components/ranking: what lies beside it
NUMBERS = re.compile(r"\d*d|\.\d+f|%[^{]*")  # formats that raise for a text: nothing but a number or a date passes
# Where somebody else's text may go, and by which argument.
AS_TEXT = {"text", "show_text", "show_prompt", "show_refusal"}
MARKDOWN = {
    "markdown", "write", "caption", "title", "header", "subheader", "badge", "info", "warning", "error", "success",
    "toast", "exception", "button", "form_submit_button", "link_button", "download_button", "text_input", "text_area",
    "radio", "selectbox", "checkbox", "toggle", "segmented_control", "pills", "popover", "expander", "tabs", "metric",
    "status", "spinner", "progress", "multiselect", "slider", "select_slider", "number_input", "feedback", "dialog",
    "chat_message", "json", "code", "Page", "set_page_config", "page_link",
}  # fmt: skip
LABELS = {"label", "body", "help", "caption", "text", "title", "page_title", "placeholder", "icon", "page_icon"}
BOUND = {"bound", "field"}  # of views/plain.py: a widget, a name, a label
OPTIONS_ARE_MARKDOWN = {"radio", "pills", "segmented_control"}  # those of selectbox and multiselect are plain text
# Not Markdown, but to be used with care: in one place each, where the care is taken.
ONLY_IN = {
    "dataframe": "components/tables.py", "data_editor": "", "column_config": "components/tables.py",
    "altair_chart": "components/charts.py", "vega_lite_chart": "", "pydeck_chart": "", "map": "", "graphviz_chart": "",
    "image": "", "video": "", "audio": "", "logo": "", "pdf": "", "line_chart": "", "bar_chart": "", "area_chart": "",
}  # fmt: skip
# Not Markdown: a bar's length, and radio's own constants, which the next argument names in capitals.
FREE = {"progress"}


def is_ours(node: ast.expr) -> bool:
    """Whether this expression can only be text of our own."""
    match node:
        case ast.Constant():
            return True
        case ast.Name(id=name):
            return name.isupper()  # a constant of the module
        case ast.IfExp(body=body, orelse=other):
            return is_ours(body) and is_ours(other)
        case ast.Subscript(value=ast.Name(id=name)) | ast.Attribute(value=ast.Subscript(value=ast.Name(id=name))):
            return name.isupper()  # a table of constants
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)):
            return name in OUR_WORDS | OUR_FILES | {"range"}
        case ast.FormattedValue(value=value, format_spec=ast.JoinedStr(values=[ast.Constant(value=spec)])):
            return bool(NUMBERS.fullmatch(spec)) or is_ours(value)
        case ast.FormattedValue(value=value):
            return is_ours(value)
        case ast.JoinedStr(values=values):
            return all(is_ours(v) for v in values)
    return False


def complaints(source: str, place: str = "somewhere") -> Iterator[str]:
    """What in this module, at this place in the app, would let foreign text be read as Markdown or HTML."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        of_streamlit = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "st"
        if of_streamlit and ONLY_IN.get(node.attr, place) != place:
            yield f"line {node.lineno}: st.{node.attr} belongs into {ONLY_IN[node.attr] or 'no page'}"
    # A component's code is looked at below: it may have any name, but must be constant.
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)]
    components = [keyword for call in calls if call.func.attr == "component" for keyword in call.keywords]
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.keyword):
            name = node.attr if isinstance(node, ast.Attribute) else node.arg
            if name in FORBIDDEN_NAMES and node not in components:
                yield f"line {node.lineno}: {name}"
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name = node.func.attr
        if name == "component" and not all(is_ours(k.value) for k in node.keywords):
            yield f"line {node.lineno}: a component's code must be constant"
        # A function or a page, not a label.
        a_page = name in ("Page", "page_link") and node.args and not isinstance(node.args[0], ast.Constant)
        if name in MARKDOWN and name not in FREE and node.args and not a_page and not is_ours(node.args[0]):
            yield f"line {node.lineno}: {name}({ast.unparse(node.args[0])})"
        shown = [*node.args[1:], *(k.value for k in node.keywords if k.arg in ("value", "delta"))]
        if name == "metric" and not all(map(is_ours, shown)):
            yield f"line {node.lineno}: metric shows what is not ours"
        for keyword in node.keywords:
            if name in MARKDOWN and keyword.arg in LABELS and not is_ours(keyword.value):
                yield f"line {node.lineno}: {name}({keyword.arg}={ast.unparse(keyword.value)})"
        if name in BOUND and not is_ours(node.args[2]):
            yield f"line {node.lineno}: {name}({ast.unparse(node.args[2])})"
        widget = node.args[0].attr if name in BOUND and isinstance(node.args[0], ast.Attribute) else name
        options = [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "options")]
        given = options if widget == name else options[1:]  # of a bound widget the second argument is its name
        if widget in OPTIONS_ARE_MARKDOWN and not all(is_ours(o) for o in given):
            yield f"line {node.lineno}: {widget}'s options are Markdown too"


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_foreign_text_is_read_as_markup(path: Path) -> None:
    assert list(complaints(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))) == []


@pytest.mark.parametrize(
    "line",
    [
        "st.markdown(assignment.prompt)",
        "st.caption(f'by {labeler.name}')",
        "st.button('Go' if x else labeler.name)",
        "st.info(body=str(error))",
        "st.text_area('Comment', placeholder=draft.comment)",
        "st.radio('Why?', reasons)",
        "st.html('<b>')",
        "st.text('x', unsafe_allow_html=True)",
        "st.components.v2.component('x', js=code)",
        "column.write(completion.text)",
        "st.title('a' + text)",
        "st.title(f'{text}')",
        "st.title(f'{text:>8}')",
        "form.field(st.radio, 'x', labeler.name)",
        "form.bound(st.radio, 'x', 'X', value, take, options=flags)",
        "st.page_link(page, label=labeler.name)",
        "st.dataframe(rows)",
        "st.metric('Best', name)",
        "st.metric('Best', 1, delta=name)",
        "st.column_config.LinkColumn('x')",
        "st.image(answer)",
    ],
)
def test_the_reader_has_teeth(line: str) -> None:
    assert list(complaints(line)) != []


def test_the_reader_lets_safe_lines_pass() -> None:
    safe = (
        "st.text(prompt)\nst.markdown(f'**{i:d}** {draft.words()}')\nst.radio('Why?', SKIP_REASONS)\n"
        "st.selectbox('Why?', reasons)\nform.field(st.radio, 'x', f'Answer {i:d}', options=range(1, 8))"
    )
    assert list(complaints(safe)) == []


def test_the_app_imports_the_lower_layers_only() -> None:
    """And nothing of the toolkit imports the app at its top level."""
    allowed = ("rlhf.preferences", "rlhf.data.", "rlhf.report", "rlhf.config", "rlhf.errors")
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rlhf"):
                assert (node.module or "").startswith(allowed), f"{path}: {node.module}"
            if isinstance(node, ast.Import):
                assert not any(a.name.split(".")[0] == "rlhf" for a in node.names), path
