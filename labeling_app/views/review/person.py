"""What an admin does about one person. What ends sessions, or takes rankings out of exports, is asked twice."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from labeling_app.actions import act
from labeling_app.components.texts import show_text
from labeling_app.session import counted
from labeling_app.views.review.invite import keep_token
from labeling_app.views.review.parts import utc
from rlhf.preferences import Exclusion, Labeler, LabelStore, Person
from rlhf.preferences.access import ROLES
from rlhf.preferences.judging import REASON_LENGTH
from rlhf.preferences.opinions import in_hand
from rlhf.preferences.people import ERASED


def way_in(person: Person) -> str:
    """How somebody signs in, or that they cannot."""
    if person.name.startswith(ERASED):
        return "no: forgotten"
    if not person.active:
        return "no: suspended"
    if person.invited or person.email:
        return "by invite" if person.invited else "by e-mail"
    return "by name" if person.role == "labeler" and not person.imported else "once invited"


def show(store: LabelStore, labeler: Labeler, person: Person, exclusion: Exclusion | None) -> None:
    """This person, and the buttons."""
    doing = _Doing(store, labeler, person)
    freed = st.session_state.pop("review-freed", None)
    if freed is not None:
        st.caption(f"{counted(freed, 'open task')} freed for others.")
    with st.container(border=True, key="review-person-card", gap="small"):
        show_text(person.name)
        show_text(f"{person.role}; comes in: {way_in(person)}")
        if exclusion is not None:
            by = f"by the person {exclusion.by}" if exclusion.by else "by a program or the command line"
            show_text(f"Left out of exports since {utc(exclusion.at)}, {by}:")
            show_text(exclusion.reason)
        if doing.own:
            st.caption("This is you. What would end your own session, another admin can do.")
        with st.container(horizontal=True, vertical_alignment="center"):
            if person.active:
                doing.suspend()
            else:
                doing.reinstate()
            if exclusion is None:
                doing.exclude()
            else:
                doing.include()
            if person.active:
                doing.role()
                doing.invite()


class _Doing:
    """The buttons for one person. Nothing that would end the admin's own session is done to themselves."""

    def __init__(self, store: LabelStore, labeler: Labeler, person: Person) -> None:
        self._store = store
        self._labeler = labeler
        self._person = person
        self.own = person.id == labeler.id

    def suspend(self) -> None:
        """They come in no more."""
        with st.popover("Suspend", key=self._key("suspend"), disabled=self.own):
            st.write("Their sessions end at once, and what they have open goes to others. What they said stays.")
            show_text(self._person.name)
            self._confirm("suspend", "suspended", self._suspend, away=True)

    def reinstate(self) -> None:
        """They may come in again."""
        st.button("Let in again", key=self._key("reinstate"), on_click=self._do, args=("reinstated", self._reinstate))

    def exclude(self) -> None:
        """Their rankings leave the exports, for a reason that is kept."""
        with st.popover("Leave out of exports", key=self._key("exclude")):
            st.write("None of their rankings is exported any more. They stay here, and can be taken in again.")
            show_text(self._person.name)
            st.text_area("Why? (kept on record)", key=self._key("reason"), max_chars=REASON_LENGTH, height=72)
            st.checkbox("Ask others instead: one more person for each task that they ranked", key=self._key("replace"))
            self._confirm("exclude", "excluded", self._exclude)

    def include(self) -> None:
        """Their rankings are exported again."""
        st.button(
            "Take into exports again", key=self._key("include"), on_click=self._do, args=("included", self._include)
        )

    def role(self) -> None:
        """What they may do here."""
        with st.popover("Change the role", key=self._key("role"), disabled=self.own):
            key = self._key("which")
            st.session_state.setdefault(key, self._person.role)
            st.selectbox("Role", ROLES, key=key)
            st.write("Each may do what those before it may. Their sessions end: they sign in again.")
            same = st.session_state[key] == self._person.role
            self._confirm("set-role", "role", self._set_role, disabled=same, away=True)

    def invite(self) -> None:
        """A new personal link."""
        with st.popover("New invite", key=self._key("invite"), disabled=self.own):
            st.write("The invite that they have becomes worthless, and their sessions end.")
            self._confirm("invite-anew", "", self._invite, away=True)

    def _key(self, name: str) -> str:
        return f"review-{name}-{self._person.id}"

    def _confirm(
        self, name: str, notice: str, what: Callable[[], str | None], disabled: bool = False, away: bool = False
    ) -> None:
        """`away`: it ends the person's sessions. `what` returns another notice than this one where it did nothing."""
        st.button(
            "Yes, do it",
            key=self._key(f"yes-{name}"),
            type="primary",
            disabled=disabled or (away and self.own),
            on_click=self._do,
            args=(notice, what, away),
        )

    def _do(self, notice: str, what: Callable[[], str | None], away: bool = False) -> None:
        def action() -> None:
            if away and self.own:
                st.session_state["notice"] = "self"
                return
            said = what() or notice
            if said:
                st.session_state["notice"] = said

        act(self._store, self._labeler, action)

    def _suspend(self) -> None:
        freed = in_hand(self._store, self._person.name, by=self._labeler)
        self._store.suspend(self._person.name, by=self._labeler)
        st.session_state["review-freed"] = freed

    def _reinstate(self) -> None:
        self._store.reinstate(self._person.name, by=self._labeler)

    def _exclude(self) -> str | None:
        reason, replace = self._key("reason"), self._key("replace")
        why, again = str(st.session_state[reason]).strip(), bool(st.session_state[replace])
        if not why:
            return "reason"
        self._store.exclude(self._person.name, why, replace=again, by=self._labeler)
        for key in (reason, replace):
            st.session_state.pop(key, None)
        return None

    def _include(self) -> None:
        self._store.include(self._person.name, by=self._labeler)

    def _set_role(self) -> None:
        role = st.session_state[self._key("which")]
        self._store.set_role(self._person.name, role, by=self._labeler)
        st.session_state.pop(self._key("which"), None)

    def _invite(self) -> None:
        token = self._store.invite(self._person.name, by=self._labeler)
        keep_token(self._person.name, token)
