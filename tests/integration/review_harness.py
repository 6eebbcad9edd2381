"""What the tests of the review page share: a store, tabs on it, a small campaign, and ways to look at a page."""

from __future__ import annotations

from typing import Any

import pytest
from app_harness import Page, tab, well
from streamlit.testing.v1 import AppTest

from labeling_app.views import sign_in
from rlhf.preferences import Labeler, LabelStore, NewTask


def opener(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> Page:
    """What opens the review page in a new tab for somebody of this role: `rex`, `ada` or `ann`."""
    keys: dict[str, str] = {}

    def open_page(role: str = "reviewer", part: str = "") -> AppTest:
        name = {"reviewer": "rex", "admin": "ada", "labeler": "ann"}[role]
        if name not in keys:
            keys[name] = store.sign_in_by_token(store.invite(name, role))
        monkeypatch.setattr(sign_in, "session_key", lambda: keys[name])
        test = tab("review")
        if part:
            test.session_state["review-part"] = part
        return well(test.run())

    return open_page


def markdown(test: AppTest) -> str:
    """All on the page that Streamlit reads as Markdown; labels too."""
    kinds: list[Any] = [test.markdown, test.caption, test.title, test.subheader, test.info, test.error, test.warning]
    widgets: list[Any] = [
        test.radio,
        test.button,
        test.expander,
        test.selectbox,
        test.text_area,
        test.toggle,
        test.text_input,
    ]
    labels = [w.label for kind in widgets for w in kind]
    return "\n".join([*(str(e.value) for kind in kinds for e in kind), *labels])


def labels(test: AppTest) -> list[str]:
    return [str(b.label) for b in test.button]


def find(kind: Any, label: str) -> Any:
    (widget,) = [w for w in kind if w.label == label]
    return widget


def press(test: AppTest, key: str) -> AppTest:
    button = test.button(key)
    assert not button.disabled, f"{key} is off"
    return well(button.click().run())


def table(test: AppTest, at: int = 0) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = test.dataframe[at].value.to_dict("records")
    return rows


def task(test: AppTest) -> str:
    return str(test.subheader[0].value)


def rank(store: LabelStore, name: str, best: str, **more: Any) -> int:
    """This labeler ranks their next task, `best` first, the rest by the alphabet; returns the task's number."""
    assignment = store.claim(store.labeler(name))
    assert assignment is not None
    order = sorted(assignment.completions, key=lambda c: (c.text != best, c.text))
    store.submit(
        assignment,
        {c.id: i + 1 for i, c in enumerate(order)},
        submit_id=f"{name}-{assignment.id}-{assignment.revision}",
        notes={c.id: note for c in order if (note := more.get(c.text)) is not None},
        comment=more.get("comment", ""),
        active_seconds=more.get("seconds"),
    )
    return assignment.task_id


def campaign(store: LabelStore) -> None:
    """Task 1: ann and bob agree. Task 2: they differ on one of three pairs. Task 3: each reverses the other."""
    store.add_tasks(
        [NewTask(p, ("a", "b", "c"), ("sft", "ppo", "human")) for p in ("one", "two", "three")], batch="one", overlap=2
    )
    for best in "aaa":
        rank(store, "ann", best)
    for best in "ab":
        rank(store, "bob", best)
    assignment = store.claim(store.labeler("bob"))
    assert assignment is not None
    by_text = {c.text: c.id for c in assignment.completions}
    store.submit(assignment, {by_text["a"]: 3, by_text["b"]: 2, by_text["c"]: 1}, submit_id="bob-last")


def of_task(store: LabelStore, number: int) -> dict[str, int]:
    """The completions of a task, by text."""
    (view,) = store.task_views([number])
    return {c.text: c.id for c in view.completions}


def place(test: AppTest, store: LabelStore, number: int, **places: int) -> AppTest:
    """Give the answers with these texts these places."""
    ids = of_task(store, number)
    for text, value in places.items():
        test.radio(f"review-place-{number}-{ids[text]}").set_value(value)
        well(test.run())
    return test


def exported(store: LabelStore) -> dict[tuple[str, str], tuple[int | None, ...]]:
    return {(str(r.prompt), r.labeler): r.ranks for r in store.rankings()}


def part(test: AppTest, name: str) -> AppTest:
    """Choose a part of the page."""
    (control,) = [b for b in test.button_group if b.key == "review-part"]
    return well(control.set_value(name).run())


def of_person(test: AppTest, name: str) -> AppTest:
    find(test.selectbox, "Do something about").set_value(name)
    return well(test.run())


def person_id(store: LabelStore, name: str) -> int:
    return next(p.id for p in store.people() if p.name == name)


def reviewer(store: LabelStore) -> Labeler:
    store.invite("roy", "reviewer")
    return store.labeler("roy")


def admin(store: LabelStore) -> Labeler:
    store.invite("eve", "admin")
    return store.labeler("eve")
