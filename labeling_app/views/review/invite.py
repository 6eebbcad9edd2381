"""Inviting somebody: a form, and the personal link that is shown once."""

from __future__ import annotations

import os

import streamlit as st

from labeling_app.actions import act
from labeling_app.components.texts import show_text
from labeling_app.launch import Serving
from labeling_app.views import sign_in
from rlhf.errors import ConfigError
from rlhf.preferences import Labeler, LabelStore
from rlhf.preferences.access import ROLES
from rlhf.preferences.people import NAME_LENGTH

FIELDS = ("review-invite-name", "review-invite-email", "review-invite-role")


def keep_token(name: str, token: str) -> None:
    """Have the invite shown, until it is put away; it is in no other place."""
    st.session_state["review-token"] = (name, token)


def show_token() -> None:
    """The invite that was just made."""
    if "review-token" not in st.session_state:
        return
    name, token = st.session_state["review-token"]
    with st.container(border=True, key="review-token-card", gap="xsmall"):
        if sign_in.by_provider():
            st.write("Invited. They sign in with your identity provider, with the e-mail address you gave:")
            show_text(f"{name}: {_address()}")
        else:
            st.write("Send this link to them alone: whoever has it, comes in as them. It is not shown again.")
            show_text(name)
            show_text(f"{_address()}/invite/{token}")
        st.button("I have it, put it away", key="review-token-away", on_click=_put_away)


def _put_away() -> None:
    st.session_state.pop("review-token", None)


def _address() -> str:
    """The page's own address, as it was told to the server; else as this browser has it."""
    try:
        return Serving.from_environment(os.environ).address
    except ConfigError:
        url = st.context.url or ""
        return url.rpartition("/")[0]


def show_form(store: LabelStore, labeler: Labeler) -> None:
    """Who shall come in, as what."""
    with st.expander("Invite somebody new", icon=":material/person_add:"):
        st.text_input("Name, as it shall stand on their rankings", key=FIELDS[0], max_chars=NAME_LENGTH)
        st.text_input("E-mail (needed for sign-in with an identity provider)", key=FIELDS[1], max_chars=320)
        st.selectbox("As", ROLES, key=FIELDS[2])
        st.button("Make the invite", key="review-invite-new", on_click=_invite, args=(store, labeler))


def _invite(store: LabelStore, labeler: Labeler) -> None:
    def action() -> None:
        name, email, role = (str(st.session_state[field]) for field in FIELDS)
        if sign_in.by_provider() and not email.strip():
            st.session_state["notice"] = "email"
            return
        known = {person.name for person in store.people(by=labeler)}
        if name.strip() in known:
            st.session_state["notice"] = "known"
            return
        keep_token(name.strip(), store.invite(name, role, email=email, by=labeler))
        for field in FIELDS:
            st.session_state.pop(field, None)

    act(store, labeler, action)
