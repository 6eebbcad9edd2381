"""The page that labelers spend their day on: one prompt, its answers, an order, next."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import streamlit as st

from labeling_app.actions import NOTICES, leave
from labeling_app.components.ranking import show_ranking
from labeling_app.events import Alive, Event, Leave, Reopen, Skip, Submit, parse_event
from labeling_app.untrusted import formatted, visible
from rlhf.data.records import PromptLike
from rlhf.errors import RLHFError
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
    """What the sheet shows; every text in it is to be taken for text."""
    settings = assignment.settings
    whose = f"{store.name}\n{store.project}\n{assignment.labeler.id}"
    return {
        "task": f"{assignment.id}-{assignment.revision}",
        "storage": hashlib.sha256(whose.encode()).hexdigest()[:16],
        "prompt": [{"role": turn["role"], **_text(turn["content"])} for turn in _turns(assignment.prompt)],
        "completions": [{"id": c.id, **_text(c.text)} for c in assignment.completions],
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
        "before": _before(assignment.before) if assignment.reopened else None,
        "renew_seconds": settings.lease_seconds / 3,
        "answer": answer,
    }


def receive(store: LabelStore, labeler: Labeler, raw: Any) -> None:
    """Do what the sheet asks for; the next run of the page tells it how that went."""
    if raw is None:
        return
    submit_id = str(raw.get("submit_id", ""))[:100] if isinstance(raw, dict) else ""
    # `at` makes every answer another one: the sheet hears of nothing that is equal to what it had.
    count = st.session_state.get("answer", {}).get("at", 0) + 1
    answer: dict[str, Any] = {"submit_id": submit_id, "ok": True, "message": "", "at": count}
    try:
        answer["message"] = _act(store, labeler, parse_event(raw))
    except RLHFError as error:
        answer |= {"ok": False, "message": f"{str(error)[:1].upper()}{str(error)[1:]}."}
    st.session_state["answer"] = answer


def _act(store: LabelStore, labeler: Labeler, event: Event) -> str:
    """Returns what the labeler should know, nothing where all is as expected."""
    if isinstance(event, Reopen):
        return "" if store.reopen(labeler) else NOTICES["nothing"]
    assignment = replace(store.assignment(labeler, event.assignment_id), revision=event.revision)
    if isinstance(event, Submit):
        outcome = store.submit(assignment, **event.said())
        if outcome is Outcome.REPEATED and _differs(store, labeler, event):
            return NOTICES["earlier"]
        return NOTICES["surplus"] if outcome is Outcome.SURPLUS else ""
    if isinstance(event, Skip):
        store.skip(assignment, event.reason, submit_id=event.submit_id, active_seconds=event.active_seconds)
    elif isinstance(event, Leave):
        leave(store, assignment)
    elif isinstance(event, Alive):
        store.renew(assignment)
    return ""


def _differs(store: LabelStore, labeler: Labeler, event: Submit) -> bool:
    """Whether what was kept at the first try is not what was sent now: the server was away, and more was changed."""
    kept = next((p.said for p in store.history(labeler, 5) if p.assignment_id == event.assignment_id), None)
    sent = event.said()
    return kept != Said(sent["ranks"], sent["strength"], sent["notes"], sent["comment"], sent["better"])


def _text(text: str) -> dict[str, Any]:
    return {"text": visible(text), "tree": formatted(text)}


def _turns(prompt: PromptLike) -> list[dict[str, str]]:
    return [{"role": "", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def _before(said: Said) -> dict[str, Any]:
    return {
        "ranks": {str(c): rank for c, rank in said.ranks.items()},
        "strength": said.strength,
        "notes": {
            str(c): {"quality": n.quality, "flags": list(n.flags), "comment": n.comment} for c, n in said.notes.items()
        },
        "comment": said.comment,
        "better": said.better,
    }
