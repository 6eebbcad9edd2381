"""The lead's dashboard as Streamlit runs it: a small campaign's numbers as worked out by hand, and who sees them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from app_harness import Page, opener, served_store, well
from streamlit.testing.v1 import AppTest

from labeling_app.views.dashboard import page as dashboard_view
from labeling_app.views.dashboard.numbers import by_time, lasting, words
from rlhf.data.records import Ranking
from rlhf.preferences import LabelStore, NewTask, Said
from rlhf.preferences.statistics import bias
from rlhf.preferences.statistics.estimate import SAME, Estimate
from rlhf.preferences.types import Judged

BEACON = "![x](http://127.0.0.1:9/beacon.png)"
Charts = dict[str, list[dict[str, Any]]]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LabelStore]:
    with served_store(tmp_path, monkeypatch) as store:
        yield store


@pytest.fixture
def dashboard(store: LabelStore, monkeypatch: pytest.MonkeyPatch) -> Page:
    return opener(store, monkeypatch, "dashboard", "reviewer")


def metrics(test: AppTest) -> dict[str, str]:
    return {m.label: m.value for m in test.metric}


def captions(test: AppTest) -> list[str]:
    return [str(c.value) for c in test.caption]


def markdown(test: AppTest) -> str:
    kinds: list[Any] = [test.markdown, test.caption, test.title, test.subheader, test.info, test.error]
    labels = [w.label for kind in (test.metric, test.button, test.expander, test.toggle) for w in kind]
    return "\n".join([*(str(e.value) for kind in kinds for e in kind), *labels])


def find(kind: Any, label: str) -> Any:
    (widget,) = [w for w in kind if w.label == label]
    return widget


@pytest.fixture
def charts(monkeypatch: pytest.MonkeyPatch) -> Charts:
    """What every chart of the page draws, by key: Streamlit's own test keeps no keys of charts."""
    found: Charts = {}
    real = dashboard_view.show_chart

    def keep(chart: Any, *, key: str) -> None:
        found[key] = [row for rows in chart.to_dict()["datasets"].values() for row in rows]
        real(chart, key=key)

    monkeypatch.setattr(dashboard_view, "show_chart", keep)
    return found


def rank(store: LabelStore, name: str, *orders: str | None, seconds: float = 10.0) -> None:
    """Rank the tasks that come, the best text first; `a=b` is a tie, and None skips."""
    labeler = store.labeler(name)
    for i, order in enumerate(orders):
        task = store.claim(labeler)
        assert task is not None
        if order is None:
            store.skip(task, "Too hard", submit_id=f"{name}-{i}-skip")
            continue
        ids = {c.text: c.id for c in task.completions}
        ranks: dict[int, int | None] = {}
        for group in order.split():
            place = 1 + len(ranks)
            ranks |= {ids[text]: place for text in group.split("=")}
        store.submit(task, Said(ranks).ranks, submit_id=f"{name}-{i}-rank", active_seconds=seconds)


@pytest.fixture
def campaign(store: LabelStore) -> LabelStore:
    """Two tasks for two people each and one that nobody has come to.

    Ann and bob: task 1 abb against acb, 2 of 3 pairs alike; task 2 with a tie of bob's, 2 of 2, one tied. Cat skips.
    """
    store.configure({"skip_reasons": ["Too hard"]})
    store.add_tasks([NewTask(f"p{i}", ("a", "bbb", "cc")) for i in range(3)], batch="one", overlap=2)
    rank(store, "ann", "a bbb cc", "a bbb cc", seconds=10)
    rank(store, "bob", "a cc bbb", "a=bbb cc", seconds=30)
    rank(store, "cat", None)
    return store


# --- who sees it -----------------------------------------------------------------------------------------------------


def test_a_labeler_sees_nothing_of_it(campaign: LabelStore, dashboard: Page) -> None:
    test = dashboard("labeler")
    assert "There is nothing here." in markdown(test)
    assert not test.metric and not test.get("vega_lite_chart") and not test.subheader and not test.selectbox
    assert all(name not in markdown(test) + "".join(t.value for t in test.text) for name in ("ann", "bob", "cat"))


def test_a_new_project_has_words_and_no_numbers(store: LabelStore, dashboard: Page) -> None:
    test = dashboard()
    assert test.info[0].value.startswith("Nobody has ranked anything here yet.")
    assert "queue tasks first" in markdown(test)
    assert metrics(test) == {
        "Rankings made": "0 of 0", "Tasks finished": "0 of 0", "In the last 24 hours": "0", "Time left": "–",
    }  # fmt: skip
    assert not test.get("vega_lite_chart") and not test.subheader


def test_one_labeler_is_told_what_is_missing(store: LabelStore, dashboard: Page) -> None:
    store.add_tasks([NewTask("p", ("a", "bbb", "cc"))], batch="one", overlap=2)
    rank(store, "ann", "a bbb cc")
    test = dashboard()
    assert metrics(test)["Pairs ordered alike"] == metrics(test)["Krippendorff's alpha"] == "–"
    assert captions(test).count("None yet: needs a task that two people ranked.") == 2
    assert markdown(test).count("None yet: needs a task that two people ranked.") == 3  # the chosen one's chart too
    assert metrics(test)["Time left"] == "60 minutes"  # one place, and one ranking in the first hour


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_the_numbers_of_a_small_campaign(campaign: LabelStore, dashboard: Page) -> None:
    """Pairs: 4 of 5. W: 3/4 and 13/14 (see test_statistics_agreement.py). Longer is preferred in 3 of 11 untied pairs.

    Alpha: places 1, 1.5, 2, 3 (thirds, less a half) come 3, 2, 3, 4 times; their middles are 1.5, 4, 6.5, 10. Observed
    2 x (2 x 3.5^2 + 2 x 2.5^2) = 74, expected 2 x (12 x 565.5 - 72^2) = 3204: 1 - 11 x 74 / 3204.
    """
    test = dashboard("admin")
    assert metrics(test) == {
        "Rankings made": "4 of 6",
        "Tasks finished": "2 of 3",
        "In the last 24 hours": "4",
        "Time left": "30 minutes",  # 2 places at 4 an hour
        "Pairs ordered alike": "80.0 %",
        "Krippendorff's alpha": "0.75",
        "Kendall's W": "0.84",
        "Median": "20 s",
        "The longer answer is preferred": "27.3 %",
    }
    said = captions(test)
    assert "Over 5 pairs of 2 tasks: too few tasks for an interval." in said
    assert "Over 2 tasks: too few tasks for an interval." in said
    assert any("over 4 rankings and 1 skip" in text for text in said)
    assert "1 more pair tied by one of the two people and 0 pairs by both" in markdown(test)
    assert "No gold task has been ranked." in markdown(test) and "Nothing was flagged." in markdown(test)
    assert "Nobody stands out." in markdown(test)


def test_charts_hold_the_same_numbers(campaign: LabelStore, dashboard: Page, charts: Charts) -> None:
    test = dashboard()
    drawn = ("time", "agreement", "pairs", "times", "positions", "first", "length", "skips")
    assert set(charts) == {f"dashboard-{name}" for name in drawn} and len(test.get("vega_lite_chart")) == len(drawn)
    assert dots(charts["dashboard-agreement"]) == [
        ("ann", "80 %", "5 pairs of 2 tasks"),
        ("bob", "80 %", "5 pairs of 2 tasks"),
    ]
    cells = {(row["one"], row["other"], row["said"]) for row in charts["dashboard-pairs"]}
    assert cells == {("ann", "bob", "80 %"), ("bob", "ann", "80 %")}
    assert [(row["what"], row["number"]) for row in charts["dashboard-skips"]] == [("Too hard", 1)]
    assert sum(row["number"] for row in charts["dashboard-time"]) == 4
    assert {row["who"]: row["value"] for row in charts["dashboard-times"]} == {"ann": 10.0, "bob": 30.0}
    assert not {"image", "url"} & {name for rows in charts.values() for row in rows for name in row}


def dots(rows: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Labeler, value and what it is over; intervals are drawn from rows of their own, which say the same."""
    return sorted({(row["who"], row["said"], row["over"]) for row in rows if "who" in row})


def test_another_measure_is_drawn_when_asked_for(campaign: LabelStore, dashboard: Page, charts: Charts) -> None:
    (picker,) = [b for b in dashboard().get("button_group") if b.key == "dashboard-measure"]
    well(picker.set_value("Kendall's W").run())
    assert dots(charts["dashboard-agreement"]) == [("ann", "0.84", "2 tasks"), ("bob", "0.84", "2 tasks")]


def test_tasks_that_all_agree_are_no_certainty_and_the_page_says_so(store: LabelStore, dashboard: Page) -> None:
    """Ten tasks, all ranked alike by two people: Wilson's interval of 10 of 10 is 72 % to 100 %."""
    rows = [Ranking(f"q{i}", ("a", "bbb"), (2, 1), name) for i in range(10) for name in ("ann", "bob")]
    store.import_rankings(rows, batch="one")
    said = captions(dashboard())
    assert said.count("72 % to 100 % (95 % interval), over 10 pairs of 10 tasks.") == 1
    assert "Over 10 tasks: every task says the same, and that tells no interval." in said
    assert "Over 20 pairs of ranks in 10 tasks: every task says the same, and that tells no interval." in said
    assert "72 % to 100 % (95 % interval), over 20 pairs of 10 tasks." in said  # length


def test_a_source_called_unknown_is_not_the_unknown_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[dict[str, Any]]] = {}
    monkeypatch.setattr(dashboard_view, "show_table", lambda rows, *, key, height=None: seen.update({key: list(rows)}))
    monkeypatch.setattr(dashboard_view, "show_chart", lambda chart, *, key: None)
    sources, given = {1: "", 2: "unknown", 3: "m"}, {1: ("bad",)}
    dashboard_view._flags(bias.flags([Judged(1, "b", "p", {1: 1, 2: 2, 3: 3}, sources=sources, flags=given)]))
    rows = [(row["Source"], row["Value"]) for row in seen["dashboard-flags-sources"]]
    assert rows == [("(unknown)", 1.0), ("m", 0.0), ("unknown", 0.0)]


def test_a_batch_is_seen_by_itself(campaign: LabelStore, dashboard: Page) -> None:
    campaign.add_tasks([NewTask("other", ("a", "b"))], batch="two", overlap=1)
    test = dashboard()
    assert metrics(test)["Rankings made"] == "4 of 7"
    test = well(find(test.selectbox, "Batch").set_value("two").run())
    assert metrics(test)["Rankings made"] == "0 of 1"
    assert test.info[0].value.startswith("Nobody has ranked anything here yet.")
    assert "queue tasks first" not in markdown(test)


def test_excluded_people_are_left_out_until_asked_for(campaign: LabelStore, dashboard: Page) -> None:
    """Places stay filled: whose rankings are left out of exports has ranked all the same."""
    campaign.exclude("bob", "guesses")
    test = dashboard()
    assert metrics(test)["Pairs ordered alike"] == "–" and metrics(test)["Rankings made"] == "4 of 6"
    assert "bob" in [t.value for t in test.text]
    test = well(find(test.toggle, "Leave out excluded labelers").set_value(False).run())
    assert metrics(test)["Pairs ordered alike"] == "80.0 %"


def test_gold_is_measured_and_is_in_no_other_number(store: LabelStore, dashboard: Page, charts: Charts) -> None:
    """Ann ranks `yes` over `no`, which is right; then the other way round, which is wrong."""
    store.configure({"gold_share": 0.5})
    store.add_tasks([NewTask(f"p{i}", ("a", "bbb", "cc")) for i in range(12)], batch="one", overlap=1)
    store.add_gold([Ranking(f"g{i}", ("yes", "no"), (1, 2)) for i in range(3)])
    ann, golds = store.labeler("ann"), 0
    while (task := store.claim(ann)) is not None:
        ids = {c.text: c.id for c in task.completions}
        ranks: dict[int, int | None] = {i: place for place, i in enumerate(ids.values(), start=1)}
        if "yes" in ids:
            golds += 1
            ranks = {ids["yes"]: 1 + (golds == 3), ids["no"]: 1 + (golds < 3)}
        store.submit(task, ranks, submit_id=f"ann-{task.id}-rank", active_seconds=5)
    assert golds == 3
    test = dashboard()
    assert metrics(test)["On gold tasks"] == "66.7 %"
    assert "over 3 pairs of 3 gold tasks." in markdown(test)
    assert metrics(test)["Rankings made"] == "12 of 12" and "over 12 rankings and 0 skips" in markdown(test)
    assert dots(charts["dashboard-gold"]) == [("ann", "67 %", "3 pairs of 3 gold tasks")]


def test_a_new_judgment_is_seen_and_nothing_is_computed_twice(
    campaign: LabelStore, dashboard: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    real = LabelStore.judged
    monkeypatch.setattr(LabelStore, "judged", lambda self, *a, **k: asked.append(a) or real(self, *a, **k))
    test = dashboard()
    assert metrics(test)["Rankings made"] == "4 of 6" and len(asked) == 1
    well(find(test.button, "Refresh").click().run())
    assert len(asked) == 1
    rank(campaign, "dan", "a bbb cc")
    test = well(find(test.button, "Refresh").click().run())
    assert metrics(test)["Rankings made"] == "5 of 6" and len(asked) == 2


def test_names_reasons_flags_and_batches_are_data_and_never_markdown(store: LabelStore, dashboard: Page) -> None:
    store.configure({"skip_reasons": [BEACON], "flags": [BEACON]})
    store.add_tasks([NewTask("p", ("a", "b"), (BEACON, BEACON))], batch=BEACON, overlap=2)
    for name in (f"{BEACON} 1", f"{BEACON} 2"):
        task = store.claim(store.labeler(name))
        assert task is not None
        store.submit(task, {c.id: i + 1 for i, c in enumerate(task.completions)}, submit_id=f"submit-{name}")
    store.exclude(f"{BEACON} 1", BEACON)
    test = dashboard()
    assert metrics(test) and "beacon" not in markdown(test)
    assert find(test.selectbox, "Batch").options == ["All batches", BEACON]


# --- words -----------------------------------------------------------------------------------------------------------


def test_an_estimate_in_words() -> None:
    assert words(Estimate(0.731, 0.68, 0.779, 212, "212 pairs of 40 tasks")) == (
        "68 % to 78 % (95 % interval), over 212 pairs of 40 tasks."
    )
    assert words(Estimate(-0.1, -0.25, 0.004, 3, "3 tasks"), share=False) == (
        "-0.25 to 0.00 (95 % interval), over 3 tasks."
    )
    assert words(Estimate(1.0, None, None, 9, "9 tasks", SAME)) == (
        "Over 9 tasks: every task says the same, and that tells no interval."
    )
    assert words(Estimate(None, None, None, 0, "0 pairs", "needs two people")) == "None yet: needs two people."


@pytest.mark.parametrize(
    ("hours", "said"),
    [(0.001, "1 minute"), (0.6, "36 minutes"), (1.9, "114 minutes"), (15.2, "15 hours"), (75, "3 days")],
)
def test_a_forecast_is_coarse(hours: float, said: str) -> None:
    assert lasting(hours) == said


def test_rankings_are_counted_by_the_hour_at_first_and_by_the_day_later() -> None:
    """From 1 January 2001, UTC. Twelve hours or days are drawn at least."""
    start = 978307200.0
    hours = by_time((start, start + 3599, start + 7200))
    assert hours.unit == "hour" and hours.rows == [
        {"when": "2001-01-01T00:00:00Z", "number": 2},
        {"when": "2001-01-01T02:00:00Z", "number": 1},
    ]
    assert (hours.start, hours.end) == ("2000-12-31T15:00:00Z", "2001-01-01T03:00:00Z")
    days = by_time(tuple(start + 86400 * day for day in range(14)))
    assert days.unit == "day" and len(days.rows) == 14 and days.rows[1] == {"when": "2001-01-02T00:00:00Z", "number": 1}
    assert (days.start, days.end) == ("2001-01-01T00:00:00Z", "2001-01-15T00:00:00Z")
