"""The page that labelers spend their day on: one prompt, its answers, an order, next."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import streamlit as st

from labeling_app.actions import NOTICES, leave, told
from labeling_app.components.ranking import show_ranking
from labeling_app.components.texts import show_text
from labeling_app.events import UNREADABLE, Event, Leave, Reopen, Skip, Submit, parse_event
from labeling_app.untrusted import formatted, visible
from labeling_app.views.sign_in import is_still
from rlhf.data.records import PromptLike
from rlhf.errors import RLHFError, StoreError
from rlhf.preferences import Assignment, Labeler, LabelStore, Outcome, Said
from rlhf.preferences.judging import BETTER_LENGTH, COMMENT_LENGTH

SHEET = "ranking"


def show(store: LabelStore, labeler: Labeler, assignment: Assignment, can_reopen: bool) -> None:
    """Draw the task. What the sheet sends names its task, so that it can only ever land on that one."""

    def on_event() -> None:
        receive(store, labeler, st.session_state[SHEET].event)

    data = sheet_data(store, assignment, can_reopen, st.session_state.get("answer"))
    show_ranking(data, on_event, SHEET)


def sheet_data(
    store: LabelStore, assignment: Assignment, can_reopen: bool, answer: dict[str, Any] | None
) -> dict[str, Any]:
    """What the sheet shows; every text in it is to be taken for text.

    Completions go by their position on screen: their numbers in the store would say in which order they were added,
    so which model wrote which, and which tasks are gold.
    """
    settings = assignment.settings
    whose = f"{store.name}\n{store.project}\n{assignment.labeler.id}"
    return {
        "task": f"{assignment.id}-{assignment.revision}",
        "storage": hashlib.sha256(whose.encode()).hexdigest()[:16],
        "prompt": [{"role": turn["role"], **_text(turn["content"])} for turn in _turns(assignment.prompt)],
        "completions": [{"id": str(i), **_text(c.text)} for i, c in enumerate(assignment.completions)],
        "guidelines": {"version": assignment.guideline_version, **_text(assignment.guidelines)}
        if assignment.guidelines
        else None,
        "settings": {
            "allow_partial": settings.allow_partial,
            "strength": settings.strength,
            "quality": settings.quality,
            "flags": list(settings.flags),
            "comment_length": COMMENT_LENGTH,
            "better_answer": settings.better_answer,
            "better_length": BETTER_LENGTH,
            "skip_reasons": list(settings.skip_reasons),
        },
        "reopened": assignment.reopened,
        "can_reopen": can_reopen,
        "before": _before(assignment.before, _shown(assignment)) if assignment.reopened else None,
        "renew_seconds": settings.lease_seconds / 3,
        "answer": answer,
    }


def receive(store: LabelStore, labeler: Labeler, raw: Any) -> None:
    """Do what the sheet asks for; the next run of the page tells it how that went.

    Nothing is done, and the sheet keeps its draft, once this tab's session has ended: the next run says that.
    """
    if raw is None:
        return
    submit_id = str(raw.get("submit_id", ""))[:100] if isinstance(raw, dict) else ""
    # `at` makes every answer another one: the sheet hears of nothing that is equal to what it had.
    count = st.session_state.get("answer", {}).get("at", 0) + 1
    answer: dict[str, Any] = {"submit_id": submit_id, "ok": True, "message": "", "at": count}
    try:
        if not is_still(store, labeler):
            return
        answer["message"] = _act(store, labeler, parse_event(raw))
    except RLHFError as error:
        message = told(error)
        answer |= {"ok": False, "message": f"{message[:1].upper()}{message[1:]}."}
    st.session_state["answer"] = answer


def show_last_words() -> None:
    """What the sheet would say of the last event, where there is no task and so no sheet any more; once."""
    answer = st.session_state.get("answer", {})
    if answer.get("message"):
        show_text(answer["message"])
        st.session_state["answer"] = answer | {"message": ""}


def _act(store: LabelStore, labeler: Labeler, event: Event) -> str:
    """Returns what the labeler should know, nothing where all is as expected."""
    if isinstance(event, Reopen):
        return "" if store.reopen(labeler) else NOTICES["nothing"]
    found = store.assignment(labeler, event.assignment_id)
    assignment = replace(found, revision=event.revision)
    if isinstance(event, Submit | Skip):
        if event.guidelines > found.guideline_version:
            raise StoreError(UNREADABLE)
        assignment = replace(assignment, guideline_version=event.guidelines)  # the one on screen, not the newest
    if isinstance(event, Submit):
        return _submit(store, assignment, event)
    if isinstance(event, Skip):
        if event.reason not in found.settings.skip_reasons:
            raise StoreError("reason: this project does not offer that one (any more); choose another")
        store.skip(assignment, event.reason, submit_id=event.submit_id, active_seconds=event.active_seconds)
    elif isinstance(event, Leave):
        leave(store, assignment)
    elif not store.renew(assignment) and found.revision == 1:  # not because it was judged, in another tab
        return NOTICES["lost"]
    return ""


def _submit(store: LabelStore, assignment: Assignment, event: Submit) -> str:
    said = event.said(_shown(assignment))
    if assignment.settings.strength and len(assignment.completions) == 2 and event.strength is None:
        raise StoreError("strength: say how much better one of the two is")
    outcome = store.submit(assignment, **said)
    if outcome is Outcome.REPEATED and _differs(store, assignment, said):
        return NOTICES["earlier"]
    return NOTICES["surplus"] if outcome is Outcome.SURPLUS else ""


def _shown(assignment: Assignment) -> list[int]:
    return [completion.id for completion in assignment.completions]


def _differs(store: LabelStore, assignment: Assignment, sent: Mapping[str, Any]) -> bool:
    """Whether what was kept at the first try is not what was sent now: the server was away, and more was changed."""
    kept = next((p.said for p in store.history(assignment.labeler, 5) if p.assignment_id == assignment.id), None)
    return kept != Said(sent["ranks"], sent["strength"], sent["notes"], sent["comment"], sent["better"])


def _text(text: str) -> dict[str, Any]:
    return {"text": visible(text), "tree": formatted(text)}


def _turns(prompt: PromptLike) -> list[dict[str, str]]:
    return [{"role": "", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def _before(said: Said, shown: list[int]) -> dict[str, Any]:
    places = {completion: str(i) for i, completion in enumerate(shown)}
    return {
        "ranks": {places[c]: rank for c, rank in said.ranks.items() if c in places},
        "strength": said.strength,
        "notes": {
            places[c]: {"quality": n.quality, "flags": list(n.flags), "comment": n.comment}
            for c, n in said.notes.items()
            if c in places
        },
        "comment": said.comment,
        "better": said.better,
    }
