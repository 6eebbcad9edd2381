"""Finding labelers whose rankings say nothing: chance, the order shown, ties throughout, or the wrong way round.

Each person has a reliability a: of pairs of completions that two people order, neither by a tie, the share ordered
alike minus the share ordered against has the expected value a_i · a_j. This is the one-parameter annotator of Dawid
and Skene (1979), for pairs as in Crowd-BT (Chen et al. 2013) but fitted by moments, without a scale of completions:
1 is perfect, 0 chance, below 0 the wrong way round. A known answer is one more person, of reliability 1.

Robust while spammers are fewer than half: suspects are taken out of what the others are compared with, until that
changes nothing (at most ROUNDS times). Everybody is measured against the rest, whose reliabilities are estimated
without them. Tests are over tasks, not pairs; they divide by their own root sum of squares, which of few tasks can
never come out extreme, so too little data is no reason. In each kind of test, false alarms over many labelers are held
by Benjamini and Hochberg's procedure (1995) at a false discovery rate of RATE. Who is merely noisy still agrees with
the others more than chance would, and is then no suspect.

Known answers outweigh the crowd. Of FEWEST gold tasks or more, who is above chance (at SIGNAL) is no suspect by
agreement, however few think alike; who is not, and clearly below 60 % of pairs right (two SPREADs below the 70 % of
NOISY), is one, however many do. Of suspects who agree among themselves it is said so: they may judge by another
quality, and are not at chance.

What it cannot see without gold tasks: a majority that agrees on what to say, and a crowd of which nobody agrees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom, norm

from rlhf.preferences.intake import ANONYMOUS
from rlhf.preferences.statistics.estimate import Floats
from rlhf.preferences.statistics.meetings import GOLD, RATE, Meetings, added, below, discoveries, fit, meet, score
from rlhf.preferences.statistics.table import Bools, Ints, RankTable, orders, rank_table
from rlhf.preferences.types import Judged

FEWEST = 8  # rankings of somebody, below which nothing is said of them
ROUNDS = 8
SIGNAL = 0.02  # a suspect does not differ from chance, upwards, at this level: who is merely noisy soon does
BELOW = 0.5  # reliability of somebody fast who may be suspected without further proof, as a share of what is typical
AGREED = 3.0  # standard deviations above chance, below which a crowd as a whole does not agree at all
NOISY = 0.4  # reliability on gold (70 % of pairs right) of a merely noisy person, below which nobody counts as typical
FAR = 0.05  # level at which somebody is far below what is typical on gold, whatever the crowd
FOLLOWS = 1 / 3  # a suspect follows the screen by more than this, where 0 is chance and 1 always
TIES = 0.5  # a suspect ties everything in more than this share of rankings
FASTER = 3.0  # times as many characters a second as people here
UNREADABLE = 40.0  # characters a second: 400 words a minute, where reading ends (Rayner et al. 2016)


@dataclass(frozen=True)
class Suspicion:
    """Somebody whose rankings should be looked at, and why, in words with numbers; `n` rankings of theirs were seen."""

    labeler: str
    reasons: tuple[str, ...]
    n: int


@dataclass(frozen=True)
class _Against:
    """How everybody compares with those who are no suspects; by person."""

    reliability: Floats  # [N], NaN where they met nobody
    low: Floats  # [N], p-value of "as reliable as people here"
    high: Floats  # [N], p-value of "no better than chance"
    alike: Floats  # [N], pairs ordered as others did ...
    pairs: Floats  # [N], ... of so many
    typical: float  # reliability
    usual: float  # share of pairs ordered alike


@dataclass(frozen=True)
class _Gold:
    """How everybody does on gold tasks; by person."""

    known: Meetings  # with the known answers
    asked: Bools  # [N], those who ranked FEWEST gold tasks
    cleared: Bools  # [N], those of them who are above chance: of two completions, whose Wilson interval is above 1/2
    tasks: Ints  # [N]
    net: Floats  # [N], pairs ordered as known minus pairs ordered against
    pairs: Floats  # [N]


def suspects(judged: Sequence[Judged]) -> list[Suspicion]:
    """Who should be looked at, most reasons first. Skips do not count; gold tasks are compared with their answers.

    Whoever is imported as anonymous is nobody in particular, and never a suspect.
    """
    ranked = [j for j in judged if any(rank is not None for rank in j.ranks.values())]
    table = rank_table([*ranked, *_answers(ranked)])
    counts = np.bincount(table.person, minlength=len(table.people))
    known = np.array([name in (GOLD, ANONYMOUS) for name in table.people], dtype=np.bool_)
    candidates = (counts >= FEWEST) & ~known
    if not candidates.any():
        return []
    meetings = meet(table)
    gold = _on_gold(table, meetings, candidates)
    alone = _following(table, candidates)
    reasons = alone
    for _ in range(ROUNDS):
        out = np.zeros(len(table.people), dtype=np.bool_)
        out[list(reasons)] = True
        found: dict[int, list[str]] = {i: list(said) for i, said in alone.items()}
        against = _compare(table, meetings, candidates, out)
        _add(found, _unreliable(meetings, against, candidates, gold.cleared))
        _add(found, _ties(table, candidates, out))
        _add(found, _wrong_on_gold(gold, out))
        _add(found, _hurried(table, against, candidates, out, set(found), gold.cleared))
        settled, reasons = found.keys() == reasons.keys(), found
        if settled:
            break
    listed = [Suspicion(table.people[i], tuple(said), int(counts[i])) for i, said in reasons.items()]
    return sorted(listed, key=lambda s: (-len(s.reasons), -s.n, s.labeler))


def _members(found: Bools) -> list[int]:
    return [int(i) for i in np.flatnonzero(found)]


def _add(found: dict[int, list[str]], more: Mapping[int, str]) -> None:
    for person, reason in more.items():
        found.setdefault(person, []).append(reason)


def _answers(judged: Sequence[Judged]) -> list[Judged]:
    """The known answers, as one more person's rankings."""
    answers = {j.task_id: j for j in judged if j.gold}
    return [Judged(task, j.batch, GOLD, dict(j.gold or {})) for task, j in answers.items()]


# ---- agreement with others -------------------------------------------------------------------------------------------


def _compare(table: RankTable, meetings: Meetings, candidates: Bools, out: Bools) -> _Against:
    """Everybody against those who are not `out`, each of them weighed by a reliability estimated without the one."""
    n = len(table.people)
    used = meetings.those(~out[meetings.other])
    fixed = np.array([1.0 if name == GOLD else np.nan for name in table.people])
    reliability, weights = fit(used, n, fixed, out)
    weighed = weights * used.net
    size = weights**2 * used.pairs
    rows = len(table.judged)
    x, d = (added(used.row, part, rows) for part in (weighed, size))
    ordinary = candidates & ~out & np.isfinite(reliability)
    beyond_chance = score(x, table.person, n)
    right_way = ordinary & (beyond_chance > -AGREED / 2)  # who is the wrong way round hides no agreement of the rest
    theirs = x[right_way[table.person]]
    agreed = theirs.sum() > AGREED * np.sqrt((theirs**2).sum())
    typical = max(float(np.median(reliability[ordinary])), 0.0) if agreed else 0.0  # else there is nothing to be below
    low = norm.cdf(below(x, d, table.person, typical, n)) if typical > 0 else np.ones(n)
    high = norm.sf(beyond_chance)
    people = used.those(np.isnan(fixed[used.other]))
    alike = added(people.person, (people.pairs + people.net) / 2, n)
    pairs = added(people.person, people.pairs, n)
    seen = ordinary & (pairs > 0)
    usual = float(np.median(alike[seen] / pairs[seen])) if seen.any() else 0.0
    return _Against(reliability, low, high, alike, pairs, typical, usual)


def _unreliable(meetings: Meetings, against: _Against, candidates: Bools, cleared: Bools) -> dict[int, str]:
    """Those far below the others, whose rankings show no sign of agreeing with them beyond chance."""
    found = discoveries(against.low, candidates) & (against.high >= SIGNAL) & ~cleared
    reasons = {i: f"{_words(against, i)}: {_numbers(against, i)}" for i in _members(found)}
    alike = _among_themselves(meetings, found & (against.reliability > -BELOW * against.typical))
    return reasons | {i: f"{said}: {_numbers(against, i)}" for i, said in alike.items()}


def _among_themselves(meetings: Meetings, group: Bools) -> dict[int, str]:
    """Where a group agrees among itself beyond chance, those who make it so: what they rank by is not nothing."""
    n = len(group)
    within = meetings.those(group[meetings.person] & group[meetings.other])
    _, weights = fit(within, n, np.full(n, np.nan), ~group)
    x = added(within.row, weights * within.net, int(within.row.max(initial=0)) + 1)
    person = np.zeros(len(x), dtype=np.int64)
    person[within.row] = within.person
    together = x.sum() / max(np.sqrt(2 * (x**2).sum()), 1e-9)  # each meeting is seen from both sides
    if norm.sf(together) >= SIGNAL:
        return {}
    alike = group & (norm.sf(score(x, person, n)) < RATE)
    within = within.those(alike[within.person] & alike[within.other])
    same, pairs = (added(within.person, part, n) for part in ((within.pairs + within.net) / 2, within.pairs))
    alike &= pairs > 0
    return {
        i: f"{alike.sum()} suspects rank alike among themselves (this one in {_percent(same[i] / pairs[i])} of "
        f"{pairs[i]:,.0f} comparisons of a pair), but differently from the others, so look whether the instructions "
        "allow both"
        for i in _members(alike)
    }


def _words(against: _Against, i: int) -> str:
    if against.high[i] > 1 - SIGNAL:
        return "orders pairs the other way round than the others, perhaps taking 1 for the worst"
    return "agrees with the others no better than chance"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _numbers(against: _Against, i: int) -> str:
    if not against.pairs[i]:
        return "known answers alone were there to compare"
    share = f"{_percent(against.alike[i] / against.pairs[i])} of {against.pairs[i]:,.0f} comparisons of a pair alike"
    return f"{share}, where people here have {_percent(against.usual)}"


def _on_gold(table: RankTable, meetings: Meetings, candidates: Bools) -> _Gold:
    n = len(table.people)
    gold = np.array([name == GOLD for name in table.people], dtype=np.bool_)
    known = meetings.those(gold[meetings.other])
    tasks = np.bincount(known.person, minlength=n)
    net, pairs = (added(known.person, part, n) for part in (known.net, known.pairs))
    asked = candidates & (tasks >= FEWEST)
    cleared = asked & (norm.sf(score(known.net, known.person, n)) < SIGNAL)
    return _Gold(known, asked, cleared, tasks, net, pairs)


def _wrong_on_gold(gold: _Gold, out: Bools) -> dict[int, str]:
    """Those at chance on tasks whose answer is known, far below the others and below who is merely noisy."""
    n, known, ordinary = len(out), gold.known, gold.asked & ~out
    typical = float(np.median(gold.net[ordinary] / gold.pairs[ordinary])) if ordinary.any() else 0.0
    low = norm.cdf(below(known.net, known.pairs, known.person, max(typical, NOISY), n))
    found = discoveries(low, gold.asked) & (low < FAR) & ~gold.cleared
    usual = f"people here have {_percent((1 + typical) / 2)} right and " if ordinary.any() else ""
    most = 2 * found.sum() > gold.asked.sum() > 1
    doubt = "; most here do no better, so look at the known answers too" if most else ""
    return {
        i: f"orders {(gold.pairs[i] + gold.net[i]) / 2:.0f} of {gold.pairs[i]:.0f} pairs of {gold.tasks[i]} gold tasks "
        f"as known, where {usual}chance gives {_percent(0.5)}{doubt}"
        for i in _members(found)
    }


# ---- what needs no others --------------------------------------------------------------------------------------------


def _following(table: RankTable, candidates: Bools) -> dict[int, list[str]]:
    """Those who rank as the screen has it, or upside down, or always have the first or the last card best.

    The store shuffles for each person, so nothing but the screen itself can make rankings follow it.
    """
    rows = [i for i, j in enumerate(table.judged) if len(j.shown) >= 2]
    if not rows:
        return {}
    n, width = len(table.people), table.ranks.shape[1]
    as_shown = np.full((len(rows), width), np.nan)
    for place, i in enumerate(rows):
        found = [table.judged[i].ranks.get(c) for c in table.judged[i].shown[:width]]
        as_shown[place, : len(found)] = [np.nan if rank is None else float(rank) for rank in found]
    order = orders(as_shown)
    net, pairs = np.nansum(order, axis=1), np.nansum(np.abs(order), axis=1)
    person, size = table.person[rows], table.size[rows]
    best = np.nanmin(as_shown, axis=1)
    alone = (as_shown == best[:, None]).sum(axis=1) == 1
    last = as_shown[np.arange(len(rows)), [len(table.judged[i].shown) - 1 for i in rows]]
    tops = {"first": alone & (as_shown[:, 0] == best), "last": alone & (last == best)}
    chance = 1 / size
    follows = {"": (net, pairs), "reversed": (-net, pairs)}
    follows.update({end: (top - chance, 1 - chance) for end, top in tops.items()})
    scores = {kind: score(x - FOLLOWS * d, person, n) for kind, (x, d) in follows.items()}
    p = np.minimum(1.0, len(scores) * norm.sf(np.max(list(scores.values()), axis=0)))
    counts = np.bincount(person, minlength=n)
    reasons: dict[int, list[str]] = {}
    for i in _members(discoveries(p, candidates & (counts >= FEWEST))):
        strongest = max(score[i] for score in scores.values())
        kind = next(kind for kind in scores if scores[kind][i] >= 0.9 * strongest)  # whole orders stand first
        mine = person == i
        if kind in tops:
            said = f"ranks the {kind} card best in {tops[kind][mine].sum()} of {counts[i]} tasks"
            reasons[i] = [f"{said}, where chance gives {chance[mine].sum():.0f}"]
        else:
            x, d = follows[kind]
            word = "reversed order" if kind else "order"
            share = (d[mine].sum() + x[mine].sum()) / (2 * d[mine].sum())
            reasons[i] = [
                f"follows the {word} shown in {_percent(share)} of {d[mine].sum():.0f} pairs of {counts[i]} tasks"
            ]
    return reasons


def _ties(table: RankTable, candidates: Bools, out: Bools) -> dict[int, str]:
    """Those who tie everything most of the time, where the others do not."""
    n = len(table.people)
    tied = np.nanmax(table.ranks, axis=1) == np.nanmin(table.ranks, axis=1)
    count, of = added(table.person, tied, n), np.bincount(table.person, minlength=n)
    ordinary = candidates & ~out
    usual = float(np.median(count[ordinary] / of[ordinary])) if ordinary.any() else 0.0
    level = max(TIES, 2 * usual)
    p = norm.sf(score(tied - level, table.person, n)) if level < 1 else np.ones(n)
    return {
        i: f"ties everything in {count[i]:.0f} of {of[i]:.0f} rankings, where people here do in {_percent(usual)}"
        for i in _members(discoveries(p, candidates))
    }


# ---- speed -----------------------------------------------------------------------------------------------------------


def _hurried(
    table: RankTable, against: _Against, candidates: Bools, out: Bools, others: set[int], cleared: Bools
) -> dict[int, str]:
    """Those faster than anybody reads whose rankings, too, look like chance; of the others' suspects all who are fast.

    Speed alone is no reason: some texts need no reading to the end.
    """
    n = len(table.people)
    rows = [i for i, j in enumerate(table.judged) if j.seconds and j.lengths]
    person = table.person[rows]
    speed = np.array([sum(table.judged[i].lengths.values()) / (table.judged[i].seconds or 1.0) for i in rows])
    medians = np.full(n, np.nan)
    for i in _members(candidates):
        medians[i] = np.median(speed[person == i]) if (person == i).any() else np.nan
    ordinary = candidates & ~out & np.isfinite(medians)
    if not ordinary.any():
        return {}
    usual = float(np.median(medians[ordinary]))
    limit = max(FASTER * usual, UNREADABLE)
    fast, of = added(person, speed > limit, n), np.bincount(person, minlength=n)
    hurried = candidates & (of >= FEWEST) & discoveries(binom.sf(fast - 1, of, 0.5), candidates & (of >= FEWEST))
    chance = ~cleared & (against.high >= RATE) & (against.typical > 0) & (against.reliability < BELOW * against.typical)
    reasons = {}
    for i in _members(hurried):
        said = f"{medians[i]:.0f} characters a second in the median of {of[i]:.0f} rankings"
        said = f"{said}, where people here have {usual:.0f}"
        if i in others:
            reasons[i] = said
        elif chance[i]:
            reasons[i] = f"{said}; and {_words(against, i)}: {_numbers(against, i)}"
    return reasons
