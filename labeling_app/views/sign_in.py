"""Who is this? The person behind the browser's session cookie, or behind an identity provider's word (OIDC).

The store is asked on every run of the page, so that whoever is suspended is out with the next click. Names and invites
are taken in before Streamlit, by the server's plain sign-in page (`door.py`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import streamlit as st
from streamlit.components.v2.types import ComponentRenderer

from labeling_app.components.texts import show_text
from labeling_app.launch import SESSION_COOKIE, SIGN_IN_VARIABLE
from rlhf.errors import StoreError
from rlhf.preferences import Labeler, LabelStore

OPEN_SECONDS = 12 * 3600.0  # how long a page that stays open outlives its identity token; providers give it minutes

LEAVE = """
export default function () {
    window.location.replace("/sign-in");
}
"""


def signed_in(store: LabelStore) -> Labeler | None:
    """The person whose page this is; None if nobody is signed in, or not any more."""
    person = _person(store)
    if person is not None and st.session_state.setdefault("person", person.id) != person.id:
        _forget()  # a tab that reconnected after somebody else signed in: nothing of the first one may stay
        st.session_state["person"] = person.id
        st.rerun()  # what this run has put there already is gone too
    return person


def is_still(store: LabelStore, labeler: Labeler) -> bool:
    """Whether this page's session is alive, and this labeler's: asked before anything is done in their name."""
    person = _person(store)
    return person is not None and person.id == labeler.id


def sign_out(store: LabelStore) -> None:
    """End the session for all tabs of this browser.

    What was submitted stays, and so do drafts: the form's in the store, the sheet's in this browser, each by person.
    """
    _forget()
    if by_provider():
        st.logout()
    else:
        store.sign_out(session_key())


def show(store: LabelStore) -> None:
    """What somebody sees who is not signed in: how to, and why not where there is a reason."""
    st.space("large")
    _, middle, _ = st.columns([1, 4, 1])
    with middle:
        if by_provider():
            _show_provider(store)
        else:
            st.title("You are signed out", anchor=False)
            st.write("To go on ranking, sign in again.")
            _to_sign_in()(key="to-sign-in")


def by_provider() -> bool:
    """Whether people sign in with an identity provider."""
    return os.environ.get(SIGN_IN_VARIABLE) == "oidc"


def session_key() -> str:
    """The secret in this browser's cookie; nothing if it has none."""
    return st.context.cookies.get(SESSION_COOKIE, "")


def admitted(claims: Mapping[str, Any], now: float) -> str:
    """The e-mail address that an identity provider vouches for, at this time (seconds since 1970).

    StoreError if it vouches for none. Streamlit keeps claims in a cookie for 30 days and checks none of this.
    """
    email, expires = claims.get("email"), claims.get("exp")
    if not isinstance(email, str) or not email.strip():
        raise StoreError("your identity provider gave no e-mail address; ask your lead which account to use")
    if claims.get("email_verified") is not True:
        raise StoreError(
            "your identity provider has not verified this e-mail address; verify it there, then sign in again"
        )
    if isinstance(expires, bool) or not isinstance(expires, int | float) or not expires > now:
        raise StoreError("this sign-in has run out; sign in again")
    return email.strip()


def _person(store: LabelStore) -> Labeler | None:
    return _by_provider(store) if by_provider() else store.signed_in(session_key())


def _claims() -> dict[str, Any]:
    """What the provider said about whoever is signed in there; empty if nobody is."""
    claims: dict[str, Any] = dict(st.user.to_dict())
    return claims if claims.get("is_logged_in") is True else {}


def _by_provider(store: LabelStore) -> Labeler | None:
    try:
        email = _vouched(_claims())
    except StoreError:
        return None  # `show` says why
    return store.labeler_by_email(email)


def _vouched(claims: Mapping[str, Any]) -> str:
    """As `admitted`, but a page that was let in stays so for OPEN_SECONDS: nobody loses a ranking to a token's end."""
    who = tuple(str(claims.get(name)) for name in ("iss", "sub", "email"))
    known, until = st.session_state.get("admitted", (None, 0.0))
    now = time.time()
    if claims and known == who and now < until:
        return who[2]
    email = admitted(claims, now)
    st.session_state["admitted"] = (who, now + OPEN_SECONDS)
    return email


def _show_provider(store: LabelStore) -> None:
    st.title("Rank answers", anchor=False)
    claims = _claims()
    if not claims:
        st.write(
            "You will see a prompt and a few answers to it. Say which is best, which comes next, and which are tied."
        )
        st.button("Sign in", type="primary", key="login", on_click=st.login)
        return
    try:
        email = _vouched(claims)
        st.info("Nobody was invited with this e-mail address, or the invitation has ended. Ask your lead for one.")
        show_text(email)
    except StoreError as error:
        st.info("You are not signed in yet.")
        show_text(str(error))
    with st.container(horizontal=True):
        st.button("Sign in again", type="primary", key="login", on_click=st.login)
        st.button("Use another account", key="logout", on_click=st.logout)


def _forget() -> None:
    for name in list(st.session_state):
        del st.session_state[name]


@st.cache_resource(show_spinner=False)
def _to_sign_in() -> ComponentRenderer:
    return st.components.v2.component(
        "rlhf_to_sign_in", html='<p><a href="/sign-in">Sign in</a></p>', js=LEAVE, isolate_styles=False
    )
