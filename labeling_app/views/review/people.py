"""Who ranks here and how well; for admins: who may come in, as what, and whose rankings count."""

from __future__ import annotations

import streamlit as st

from labeling_app.components.tables import show_table
from labeling_app.session import counted
from labeling_app.untrusted import visible
from labeling_app.views.review import invite as review_invite
from labeling_app.views.review import person as review_person
from labeling_app.views.review.disputed import counts
from labeling_app.views.review.parts import keep, utc
from rlhf.preferences import Exclusion, GoldResult, Labeler, LabelStore, Person
from rlhf.preferences.access import may
from rlhf.preferences.people import ERASED
from rlhf.preferences.statistics.agreement import pairwise
from rlhf.preferences.statistics.estimate import Estimate

MOST_ROWS = 30  # without a scroll bar of the table's own
ABOUT_EXCLUSION = ("Left out of exports", "By")


def show(store: LabelStore, labeler: Labeler) -> None:
    """The table, and for admins what can be done about one person, and the invite of another."""
    people = store.people(by=labeler)
    excluded = {e.labeler: e for e in store.exclusions(by=labeler)}
    gold = {g.labeler: g for g in store.gold_results(by=labeler)}
    agreed = _agreement(store.name, store.project, store.stamp(by=labeler), store, labeler)
    seen = sorted(people, key=lambda p: p.name not in excluded)  # those who are left out first
    rows = [_row(p, excluded.get(p.name), gold.get(p.name), agreed.get(p.name)) for p in seen]
    if not excluded:
        rows = [{name: value for name, value in row.items() if name not in ABOUT_EXCLUSION} for row in rows]
    show_table(rows, key="review-people", height=None if len(rows) <= MOST_ROWS else 1100)
    st.caption(
        f"{len(rows):d} in all. Judgments are all that a person ever made here, corrections, skips and other projects "
        "included. Agreement is with everybody else who ranked the same task: of the pairs of answers that both order, "
        "the share they order alike. Those who are left out of exports are compared with all, nobody with them."
    )
    if any(not e.by for e in excluded.values()):
        st.caption("Where nobody stands under By, a program or the command line left them out.")
    if not may(labeler, "admin"):
        return
    review_invite.show_token()
    names = [p.name for p in people if not p.name.startswith(ERASED)]
    chosen = st.selectbox(
        "Do something about",
        names,
        index=None,
        format_func=visible,
        placeholder="Choose a person",
        key=keep("review-person", None, [None, *names]),
    )
    person = next((p for p in people if p.name == chosen), None)
    if person is not None:
        review_person.show(store, labeler, person, excluded.get(person.name))
    review_invite.show_form(store, labeler)


@st.cache_data(show_spinner=False, max_entries=4)
def _agreement(
    name: str, project: str, stamp: str, _store: LabelStore, _labeler: Labeler
) -> dict[str, tuple[float | None, str]]:
    """Each one's agreement with the others: the share, and over what, or why there is none."""
    every = [j for j in _store.judged(by=_labeler) if j.ranks and j.gold is None and not j.surplus]
    found = dict(pairwise([j for j in every if counts(j)]).by_labeler)
    outside = {j.labeler for j in every if j.excluded}
    if outside:
        found |= {who: e for who, e in pairwise(every).by_labeler.items() if who in outside}
    return {who: _plain(estimate) for who, estimate in found.items()}


def _plain(estimate: Estimate) -> tuple[float | None, str]:
    return estimate.value, estimate.over if estimate.value is not None else estimate.why


def _row(
    person: Person, exclusion: Exclusion | None, gold: GoldResult | None, agreed: tuple[float | None, str] | None
) -> dict[str, object]:
    share, over = agreed or (None, "has ranked nothing yet")
    right = None if gold is None else gold.accuracy
    return {
        "Name": person.name,
        "Role": person.role,
        "Comes in": review_person.way_in(person),
        "Judgments": person.judgments,
        "Agreement": over if share is None else f"{share:>4.0%} of {over}",
        "Gold right": (
            "no gold task yet" if right is None or gold is None else f"{right:>4.0%} of {counted(gold.pairs, 'pair')}"
        ),
        "Left out of exports": "" if exclusion is None else f"{utc(exclusion.at)}, {exclusion.reason}",
        "By": "" if exclusion is None else exclusion.by,
        "Last": "never" if person.last is None else utc(person.last),
        "E-mail": person.email,
    }
