"""For leads: how far a campaign is, how well people agree, and who or what to look at."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from labeling_app.components.charts import show_chart
from labeling_app.components.tables import show_table
from labeling_app.components.texts import show_text
from labeling_app.session import share
from labeling_app.untrusted import visible
from labeling_app.views.dashboard import charts
from labeling_app.views.dashboard.numbers import Choice, Numbers, lasting, numbers, over, words
from rlhf.preferences import Labeler, LabelStore
from rlhf.preferences.statistics import bias, pace
from rlhf.preferences.statistics.estimate import Estimate, counted

MEASURES = ("Pairs ordered alike", "Krippendorff's alpha", "Kendall's W")
KEYS = {"Pairs ordered alike": "pairs", "Krippendorff's alpha": "alpha", "Kendall's W": "w"}
MEANING = {
    "Pairs ordered alike": "Of the pairs of answers that two people both ranked and neither tied, the share that they "
    "order alike. Chance gives 50 %. It is the ceiling for a reward model that learns from these rankings.",
    "Krippendorff's alpha": "Agreement beyond chance on the place of each answer (ordinal): 1 is perfect, 0 is chance, "
    "below 0 is against each other.",
    "Kendall's W": "How far the rankings of a task go together, 1 if all are alike; the mean over tasks. Chance alone "
    "gives 1 over the number of people, which is 0.5 for two, as in the charts below.",
}
CHANCE = {"pairs": 0.5, "alpha": 0.0, "w": 0.5}
ENDS = {"pairs": (0.0, 1.0), "alpha": (-1.0, 1.0), "w": (0.0, 1.0)}
MOST_SUSPECTS = 12
TITLES = {name: name for name in (*MEASURES, "On gold tasks", "The longer answer is preferred")}
NO_SHARES = MEASURES[1:]


def show(store: LabelStore, labeler: Labeler) -> None:
    """The whole page, for reviewers and admins."""
    st.title("Dashboard", anchor=False)
    with st.container(horizontal=True, vertical_alignment="bottom", key="dashboard-filters"):
        batches = [None, *store.batches(by=labeler)]
        batch = st.selectbox("Batch", batches, format_func=_batch, key="dashboard-batch", width=260)
        without = st.toggle("Leave out excluded labelers", value=True, key="dashboard-without")
        st.button("Refresh", icon=":material/refresh:", key="dashboard-refresh")
    found = numbers(store, labeler, Choice(batch, without))
    now = time.time()
    _say_what_is_seen(found, without, now)
    _progress(found, now)
    if not found.judgments:
        st.info("Nobody has ranked anything here yet. Agreement, pace and bias are shown as soon as people do.")
        if not found.places.tasks:
            st.write("There is nothing to rank either: queue tasks first, then send people their invites.")
        return
    _suspects(found)
    _agreement(found)
    left, right = st.columns(2, gap="large")
    with left:
        _gold(found.gold)
    with right:
        _times(found.times)
    _position(found.position)
    _length(found.length)
    left, right = st.columns(2, gap="large")
    with left:
        _flags(found.flags)
    with right:
        _skips(found.skips)


def _batch(batch: str | None) -> str:
    return "All batches" if batch is None else visible(batch)


def _say_what_is_seen(found: Numbers, without: bool, now: float) -> None:
    st.caption(
        f"As of {datetime.fromtimestamp(now, UTC):%H:%M} UTC, over {counted(found.rankings, 'ranking')} and "
        f"{counted(found.judgments - found.rankings, 'skip')}, each in its latest revision."
    )
    if found.surplus:
        st.caption(f"Left out: {counted(found.surplus, 'judgment')} that came after the task was full.")
    if found.excluded:
        st.caption("Excluded from exports, and left out here:" if without else "Excluded from exports, but seen here:")
        show_text(", ".join(found.excluded))


# --- progress ----------------------------------------------------------------------------------------------------


def _progress(found: Numbers, now: float) -> None:
    places, made = found.places, found.made
    going = pace.pace(made, places.wanted - places.done, now=now)
    columns = st.columns(4)
    with columns[0], _card():
        st.metric("Rankings made", f"{places.done:d} of {places.wanted:d}")
        st.progress(share(places.done, places.wanted - places.done))
        st.caption("Every task as often as people are wanted for it.")
    with columns[1], _card():
        st.metric("Tasks finished", f"{places.finished:d} of {places.tasks:d}")
        st.caption("Ranked by as many people as wanted.")
    with columns[2], _card():
        st.metric("In the last 24 hours", f"{going.last_day:d}")
        st.caption(f"{counted(going.last_hour, 'ranking')} in the last hour.")
    with columns[3], _card():
        _forecast(going)
    if made:
        show_chart(charts.over_time(made), key="dashboard-time")


def _forecast(going: pace.Pace) -> None:
    if going.hours is None or going.per_hour is None:
        st.metric("Time left", "–")
        st.caption(words(Estimate(None, None, None, 0, "", going.why)))
    else:
        st.metric("Time left", lasting(going.hours))
        st.caption(f"If it goes on as in the last 24 hours, nights included: {going.per_hour:.1f} rankings an hour.")


# --- people ------------------------------------------------------------------------------------------------------


def _suspects(found: Numbers) -> None:
    st.subheader("Look at these people", anchor=False)
    if not found.suspects:
        st.write("Nobody stands out.")
        return
    st.caption("Their rankings stand out by more than chance explains. Look at them before you act.")
    for i, suspect in enumerate(found.suspects[:MOST_SUSPECTS]):
        with st.container(border=True, gap="xxsmall", key=f"dashboard-suspect-{i}"):
            show_text(suspect.labeler)
            for reason in suspect.reasons:
                show_text(f"• {reason}")
            st.caption(f"Over {counted(suspect.n, 'ranking')}.")
    if len(found.suspects) > MOST_SUSPECTS:
        st.caption(f"{counted(len(found.suspects) - MOST_SUSPECTS, 'labeler')} more.")


def _agreement(found: Numbers) -> None:
    st.subheader("Agreement", anchor=False)
    for column, name in zip(st.columns(3), MEASURES, strict=True):
        with column:
            _number(name, found.agreed[KEYS[name]].overall, in_row=True)
    ties = found.ties
    st.caption(
        f"{counted(ties.one, 'more pair')} tied by one of the two people and {counted(ties.both, 'pair')} by both "
        "are no part of the share of pairs ordered alike."
    )
    chosen = st.segmented_control("By labeler", MEASURES, default=MEASURES[0], required=True, key="dashboard-measure")
    name = chosen or MEASURES[0]
    key = KEYS[name]
    agreed, in_percent = found.agreed[key], key == "pairs"
    st.caption(MEANING[name])
    grid = charts.heat(agreed, title=name.lower(), chance=CHANCE[key], share=in_percent)
    if grid is None:
        st.write(words(agreed.overall, share=in_percent))
        return
    left, right = st.columns(2, gap="large")
    with left:
        st.caption("Each labeler against everybody else on the same tasks. Dashed: chance.")
        dots = charts.dots(agreed.by_labeler, title=name, chance=CHANCE[key], share=in_percent, ends=ENDS[key])
        show_chart(dots, key="dashboard-agreement")
        _say_how_many(len(agreed.by_labeler), charts.MOST_ROWS)
    with right:
        st.caption("Any two labelers, over the tasks that both ranked; empty where there are none.")
        show_chart(grid, key="dashboard-pairs")
        _say_how_many(len(agreed.by_labeler), charts.MOST_CELLS_A_SIDE)
    with st.expander("Agreement in numbers"):
        _estimates(agreed.by_labeler.items(), "dashboard-agreement-numbers")
        two = [
            {"Labeler": a, "And": b, "Value": e.value, "From": e.low, "To": e.high, "Over": over(e)}
            for (a, b), e in agreed.by_pair.items()
        ]
        show_table(two, key="dashboard-pairs-numbers", height=300)


def _gold(gold: pace.Accuracy) -> None:
    st.subheader("Gold tasks", anchor=False)
    if gold.overall.value is None:
        st.write("No gold task has been ranked. They are tasks whose answer you know, to see how people do.")
        return
    st.caption(
        "Of the pairs that the known answer orders, the share that people order alike; of all batches. Dashed: chance."
    )
    _number("On gold tasks", gold.overall)
    show_chart(charts.dots(gold.by_labeler, title="pairs right", chance=0.5), key="dashboard-gold")
    with st.expander("Gold tasks in numbers"):
        _estimates(gold.by_labeler.items(), "dashboard-gold-numbers")


def _times(times: pace.TimesOf) -> None:
    st.subheader("Time per ranking", anchor=False)
    if times.overall is None:
        st.write("No times: these rankings were imported.")
        return
    st.caption("Active time, breaks left out. Orange and dashed: below a third of the crowd's median.")
    with _card(in_row=False):
        st.metric("Median", f"{times.overall.median:.0f} s")
        st.caption(
            f"The middle half of {counted(times.overall.n, 'ranking')} took {times.overall.low:.0f} to "
            f"{times.overall.high:.0f} s."
        )
    show_chart(charts.durations(times), key="dashboard-times")
    _say_how_many(len(times.by_labeler), charts.MOST_ROWS)


# --- bias --------------------------------------------------------------------------------------------------------


def _position(found: bias.PositionBiases) -> None:
    st.subheader("Does the place on the screen matter?", anchor=False)
    if found.overall.first.value is None:
        st.write("Nothing to see yet: this needs rankings made here with one best answer.")
        return
    p = found.overall.p
    st.caption(
        "Everybody sees the answers in an order of their own, so each place should win equally often (orange). "
        "Rankings with a tied best one are left out."
    )
    left, right = st.columns(2, gap="large")
    with left:
        show_chart(charts.positions(found.overall), key="dashboard-positions")
        if p is None:
            st.caption(words(Estimate(None, None, None, 0, "", found.overall.why)))
        elif p < 0.001:
            st.caption("Chance alone would hardly ever be as uneven: p is below 0.001 (chi-square).")
        else:
            st.caption(f"Chance alone is as uneven in {100 * p:.1f} % of campaigns (chi-square).")
    with right:
        st.caption("How often the first card wins, by labeler. Dashed: chance.")
        first = {name: of.first for name, of in found.by_labeler.items()}
        chance = found.overall.positions[0].expected
        show_chart(charts.dots(first, title="first card wins", chance=chance, highest=True), key="dashboard-first")
        _say_how_many(len(first), charts.MOST_ROWS)


def _length(found: bias.LengthBias) -> None:
    st.subheader("Does length matter?", anchor=False)
    if found.overall.value is None:
        st.write("Nothing to see yet: this needs ranked answers of different length.")
        return
    left, right = st.columns(2, gap="large")
    with left:
        _number("The longer answer is preferred", found.overall)
        st.caption("Longer ones may well be better. Who differs much from the others may go by length alone.")
    with right:
        dots = charts.dots(found.by_labeler, title="longer one preferred", chance=0.5, highest=True)
        show_chart(dots, key="dashboard-length")
        _say_how_many(len(found.by_labeler), charts.MOST_ROWS)


# --- flags and skips -----------------------------------------------------------------------------------------------


def _flags(found: bias.Flags) -> None:
    st.subheader("Flags", anchor=False)
    if not found.by_name:
        st.write("Nothing was flagged.")
        return
    show_chart(charts.counts(found.by_name, title="answers flagged", nothing=""), key="dashboard-flags")
    with st.expander("Flags in numbers"):
        st.caption("The share of answers in somebody's rankings that carry any flag, by labeler and by who wrote them.")
        _estimates(found.by_labeler.items(), "dashboard-flags-labelers")
        by_source = ((name or "(unknown)", e) for name, e in found.by_source.items())  # one may be called "unknown"
        _estimates(by_source, "dashboard-flags-sources", "Source")


def _skips(found: bias.Skips) -> None:
    st.subheader("Skips", anchor=False)
    if not found.by_reason:
        st.write("Nothing was skipped.")
        return
    show_chart(charts.counts(found.by_reason, title="tasks skipped", nothing="no reason"), key="dashboard-skips")
    with st.expander("Skips in numbers"):
        st.caption("The share of each labeler's tasks that they skipped.")
        _estimates(found.by_labeler.items(), "dashboard-skips-labelers")


# --- pieces --------------------------------------------------------------------------------------------------------


def _card(in_row: bool = True) -> DeltaGenerator:
    """A frame, as high as its neighbours if it stands in a row of them."""
    return st.container(border=True, gap="xxsmall", height="stretch" if in_row else "content")


def _number(title: str, estimate: Estimate, in_row: bool = False) -> None:
    in_percent = title not in NO_SHARES
    with _card(in_row):
        if estimate.value is None:
            st.metric(TITLES[title], "–")
        elif in_percent:
            st.metric(TITLES[title], f"{100 * estimate.value:.1f} %")
        else:
            st.metric(TITLES[title], f"{estimate.value:.2f}")
        st.caption(words(estimate, share=in_percent))


def _estimates(by_name: Iterable[tuple[str, Estimate]], key: str, who: str = "Labeler") -> None:
    rows = [{who: name, "Value": e.value, "From": e.low, "To": e.high, "Over": over(e)} for name, e in by_name]
    show_table(rows, key=key, height=300 if len(rows) > 8 else None)


def _say_how_many(there: int, most: int) -> None:
    if there > most:
        st.caption(f"The first {most:d} of {counted(there, 'labeler')}.")
