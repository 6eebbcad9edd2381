"""The labeling page. Run by Streamlit, which executes this file anew on every click; `server.py` serves it."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import NamedTuple

import streamlit as st

from labeling_app.actions import show_notices
from labeling_app.components.frame import show_frame
from labeling_app.components.texts import show_text
from labeling_app.launch import PROJECT_VARIABLE, STORE_VARIABLE, is_local
from labeling_app.session import progress_words, share
from labeling_app.views import finished, history, instructions, plain, rank, sign_in
from rlhf.errors import RLHFError, StoreError
from rlhf.preferences import Labeler, LabelStore, Progress
from rlhf.preferences.access import may

FORM = "form"  # in the page's address: `plain` for the form without the ranking sheet


class LeadPage(NamedTuple):
    """A page for whoever has the role, and no sign of it for anybody else: the module of its name in `views`."""

    title: str
    role: str


LEAD_PAGES = {
    "dashboard": LeadPage("Dashboard", "reviewer"),
    "review": LeadPage("Review", "reviewer"),
    "arena": LeadPage("Arena", "admin"),
    "data": LeadPage("Data", "admin"),
    "runs": LeadPage("Runs", "admin"),
}


@st.cache_resource(show_spinner=False)
def open_store(url: str, project: str) -> LabelStore:
    """The store, opened once for all sessions of this process. A failure is not kept: a reload tries again."""
    return LabelStore.open(url, project=project)


def main() -> None:
    """Choose the page by address; each is shown to people who are signed in."""
    st.set_page_config(layout="wide")
    pages = {
        "rank": st.Page(_for_people(_rank), title="Rank answers", url_path="rank", default=True),
        "history": st.Page(_for_people(_history), title="My rankings", url_path="history"),
        "instructions": st.Page(_for_people(_instructions), title="Instructions", url_path="instructions"),
    }
    for name in LEAD_PAGES:
        pages[name] = st.Page(_for_people(_for_role(name)), title=LEAD_PAGES[name].title, url_path=name)
    st.session_state["pages"] = pages
    _keep_form()
    page = st.navigation(list(pages.values()), position="hidden")
    wanted = st.session_state.pop("go", None)
    if wanted in pages and page is not pages[wanted]:
        st.switch_page(pages[wanted])
    page.run()


def _for_people(show: Callable[[LabelStore, Labeler], None]) -> Callable[[], None]:
    def page() -> None:
        try:
            store = open_store(_store_url(), os.environ.get(PROJECT_VARIABLE, "default"))
            labeler = sign_in.signed_in(store)
            if labeler is None:
                show_frame("sign-in")
                sign_in.show(store)
            else:
                show(store, labeler)
        except RLHFError as error:
            st.title("There is nothing to label with", anchor=False)
            show_text(str(error) if is_local(os.environ) else "Please tell your lead.")

    page.__name__ = show.__name__.strip("_")
    return page


def _for_role(name: str) -> Callable[[LabelStore, Labeler], None]:
    def show(store: LabelStore, labeler: Labeler) -> None:
        show_frame(name)
        _header(store, labeler, None)
        show_notices()
        if may(labeler, LEAD_PAGES[name].role):
            # Charts, statistics and file formats come with it: the server imports them before anybody waits.
            importlib.import_module(f"labeling_app.views.{name}.page").show(store, labeler)
        else:  # as at any address where nothing is
            st.write("There is nothing here.")

    show.__name__ = name
    return show


def _store_url() -> str:
    url = os.environ.get(STORE_VARIABLE, "")
    if not url:
        raise StoreError(f"label store: none was named in {STORE_VARIABLE}; start this page with: rlhf label")
    return url


def _rank(store: LabelStore, labeler: Labeler) -> None:
    assignment = store.claim(labeler)
    progress = store.progress(labeler)
    as_form = bool(st.session_state.get("plain"))
    show_frame("finished" if assignment is None else f"{assignment.id}-{assignment.revision}")
    _header(store, labeler, progress)
    show_notices()
    can_reopen = progress.ranked + progress.skipped > 0
    if assignment is None:
        rank.show_last_words()
        finished.show(store, labeler, progress)
        return
    view = plain if as_form else rank
    view.show(store, labeler, assignment, can_reopen)
    st.button(
        "Use the ranking sheet" if as_form else "Use a plain form instead",
        type="tertiary",
        key="form",
        on_click=_switch_form,
        args=(not as_form,),
    )
    st.caption("Each keeps a draft of its own.")


def _history(store: LabelStore, labeler: Labeler) -> None:
    show_frame("history")
    _header(store, labeler, store.progress(labeler))
    show_notices()
    history.show(store, labeler)


def _instructions(store: LabelStore, labeler: Labeler) -> None:
    show_frame("instructions")
    _header(store, labeler, store.progress(labeler))
    instructions.show(store)


def _header(store: LabelStore, labeler: Labeler, progress: Progress | None) -> None:
    """Where one is and where one can go; how far one is, on the pages of a labeler."""
    pages = st.session_state["pages"]
    with st.container(key="header", gap="xxsmall"):
        with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            with st.container(horizontal=True, width="content", gap="small"):
                st.page_link(pages["rank"], label="Rank")
                st.page_link(pages["history"], label="My rankings")
                st.page_link(pages["instructions"], label="Instructions")
                for name, lead in LEAD_PAGES.items():
                    if may(labeler, lead.role):
                        st.page_link(pages[name], label=LEAD_PAGES[name].title)
            with st.container(horizontal=True, vertical_alignment="center", width="content"):
                st.text(labeler.name)
                st.button("Sign out", type="tertiary", key="sign-out", on_click=sign_in.sign_out, args=(store,))
        if progress is not None:
            st.progress(share(progress.ranked, progress.remaining))
            st.caption(progress_words(progress))


def _keep_form() -> None:
    """Who chose the plain form keeps it: links between pages drop it from the address, here it is put there again."""
    if st.query_params.get(FORM) == "plain":
        st.session_state["plain"] = True
    elif st.session_state.get("plain"):
        st.query_params[FORM] = "plain"


def _switch_form(to_plain: bool) -> None:
    st.session_state["plain"] = to_plain
    if to_plain:
        st.query_params[FORM] = "plain"
    else:
        st.query_params.pop(FORM, None)


main()
