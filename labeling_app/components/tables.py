"""A grid of values, some of which somebody else wrote.

`st.dataframe` draws its cells on a canvas and reads none of them as Markdown; every column is declared here as text or
number, so that no column type that makes links or images of a cell can creep in. The grid's own download is hidden
(`frame.py`): it would write cells that a spreadsheet runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from labeling_app.untrusted import visible


def show_table(rows: Sequence[Mapping[str, Any]], *, key: str, height: int | None = None) -> None:
    """One line a row; columns are those of the first row, named by our own words. None is an empty cell."""
    if not rows:
        return
    columns = list(rows[0])
    data = {name: [_cell(row[name]) for row in rows] for name in columns}
    kinds = {name: _column(name, data[name]) for name in columns}
    st.dataframe(
        pd.DataFrame(data),
        column_config=kinds,
        hide_index=True,
        width="stretch",
        height=height or "content",
        key=key,
    )


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float) else visible(str(value))


def _column(name: str, values: Sequence[Any]) -> Any:
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, bool) for value in known):
        return st.column_config.CheckboxColumn(name)
    if known and all(isinstance(value, int | float) for value in known):
        whole = all(isinstance(value, int) for value in known)
        return st.column_config.NumberColumn(name, format="%d" if whole else "%.2f")
    return st.column_config.TextColumn(name)
