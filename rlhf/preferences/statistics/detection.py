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

What it cannot see: people who agree on what to say, and a crowd of which nobody agrees with anybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binom, norm

from rlhf.preferences.intake import ANONYMOUS
from rlhf.preferences.statistics.estimate import Floats
from rlhf.preferences.statistics.table import Bools, Ints, RankTable, orders, rank_table
from rlhf.preferences.types import Judged

RATE = 0.1
FEWEST = 8  # rankings of somebody, below which nothing is said of them
ROUNDS = 8
SPREAD = 0.25  # standard deviation of ordinary people's reliability, as a share of what is typical here
SIGNAL = 0.02  # a suspect does not differ from chance, upwards, at this level: who is merely noisy soon does
BELOW = 0.5  # reliability of somebody fast who may be suspected without further proof, as a share of what is typical
AGREED = 3.0  # standard deviations above chance, below which a crowd as a whole does not agree at all
FOLLOWS = 1 / 3  # a suspect follows the screen by more than this, where 0 is chance and 1 always
TIES = 0.5  # a suspect ties everything in more than this share of rankings
FASTER = 3.0  # times as many characters a second as people here
UNREADABLE = 40.0  # characters a second: 400 words a minute, where reading ends (Rayner et al. 2016)
_GOLD = "\x00"  # nobody can be called so
_STEPS = 60  # of the fit, each half way


@dataclass(frozen=True)
class Suspicion:
    """Somebody whose rankings should be looked at, and why, in words with numbers; `n` rankings of theirs were seen."""

    labeler: str
    reasons: tuple[str, ...]
    n: int


@dataclass(frozen=True)
class _Meetings:
    """Every two rankings of one task, twice, each as seen by one of them, [M]; the known answer only as the other."""

    row: Ints  # of the table
    person: Ints
    other: Ints
    net: Floats  # pairs ordered alike minus pairs ordered against
    pairs: Floats  # ordered by both

    def those(self, keep: Bools) -> _Meetings:
        return _Meetings(self.row[keep], self.person[keep], self.other[keep], self.net[keep], self.pairs[keep])


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


def suspects(judged: Sequence[Judged]) -> list[Suspicion]:
    """Who should be looked at, most reasons first. Skips do not count; gold tasks are compared with their answers.

    Whoever is imported as anonymous is nobody in particular, and never a suspect.
    """
    ranked = [j for j in judged if any(rank is not None for rank in j.ranks.values())]
    table = rank_table([*ranked, *_answers(ranked)])
    counts = np.bincount(table.person, minlength=len(table.people))
    known = np.array([name in (_GOLD, ANONYMOUS) for name in table.people], dtype=np.bool_)
    candidates = (counts >= FEWEST) & ~known
    if not candidates.any():
        return []
    meetings = _meetings(table)
    alone = _following(table, candidates)
    reasons = alone
    for _ in range(ROUNDS):
        out = np.zeros(len(table.people), dtype=np.bool_)
        out[list(reasons)] = True
        found: dict[int, list[str]] = {i: list(said) for i, said in alone.items()}
        against = _compare(table, meetings, candidates, out)
        for said in (_unreliable(against, candidates), _ties(table, candidates, out)):
            _add(found, said)
        _add(found, _wrong_on_gold(table, meetings, candidates, out))
        _add(found, _hurried(table, against, candidates, out, set(found)))
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
    return [Judged(task, j.batch, _GOLD, dict(j.gold or {})) for task, j in answers.items()]


def _meetings(table: RankTable) -> _Meetings:
    order = orders(table.ranks)
    first, second = table.same_task()
    product = order[first] * order[second]
    net, pairs = np.nansum(product, axis=1), np.nansum(np.abs(product), axis=1)
    row, other = np.concatenate([first, second]), table.person[np.concatenate([second, first])]
    both = _Meetings(row, table.person[row], other, np.tile(net, 2), np.tile(pairs, 2))
    gold = np.array([name == _GOLD for name in table.people], dtype=np.bool_)
    return both.those((both.pairs > 0) & ~gold[both.person])


# ---- agreement with others -------------------------------------------------------------------------------------------


def _compare(table: RankTable, meetings: _Meetings, candidates: Bools, out: Bools) -> _Against:
    """Everybody against those who are not `out`, each of them weighed by a reliability estimated without the one."""
    n = len(table.people)
    used = meetings.those(~out[meetings.other])
    fixed = np.array([1.0 if name == _GOLD else np.nan for name in table.people])
    reliability, weights = _fit(used, n, fixed, out)
    weighed = weights * used.net
    size = weights**2 * used.pairs
    rows = len(table.judged)
    x, d = (_sum(used.row, part, rows) for part in (weighed, size))
    ordinary = candidates & ~out & np.isfinite(reliability)
    beyond_chance = _score(x, table.person, n)
    right_way = ordinary & (beyond_chance > -AGREED / 2)  # who is the wrong way round hides no agreement of the rest
    theirs = x[right_way[table.person]]
    agreed = theirs.sum() > AGREED * np.sqrt((theirs**2).sum())
    typical = max(float(np.median(reliability[ordinary])), 0.0) if agreed else 0.0  # else there is nothing to be below
    low = norm.cdf(_below(x, d, table.person, typical, n)) if typical > 0 else np.ones(n)
    high = norm.sf(beyond_chance)
    people = used.those(np.isnan(fixed[used.other]))
    alike = _sum(people.person, (people.pairs + people.net) / 2, n)
    pairs = _sum(people.person, people.pairs, n)
    seen = ordinary & (pairs > 0)
    usual = float(np.median(alike[seen] / pairs[seen])) if seen.any() else 0.0
    return _Against(reliability, low, high, alike, pairs, typical, usual)


def _fit(used: _Meetings, n: int, fixed: Floats, out: Bools) -> tuple[Floats, Floats]:
    """Reliabilities [N], by least squares one person at a time; and the other's in each meeting, without the one, [M].

    They are held near the crowd's by the weight of four pairs, so that a person of little data weighs as the crowd.
    """
    two, place = np.unique(used.person * n + used.other, return_inverse=True)
    one, other = two // n, two % n
    net, pairs = (_sum(place, part, len(two)) for part in (used.net, used.pairs))
    back = np.searchsorted(two, other * n + one)  # where the other's view of the one is, if it is here
    back = np.where((back < len(two)) & (two[np.minimum(back, len(two) - 1)] == other * n + one), back, -1)
    weight = np.where(np.isnan(fixed), 0.5, fixed)
    held = 4.0
    for _ in range(_STEPS):
        over = _sum(one, weight[other] * net, n)
        under = _sum(one, weight[other] ** 2 * pairs, n)
        inside = np.isnan(fixed) & ~out
        crowd = min(max(float(over[inside].sum() / max(under[inside].sum(), 1e-9)), 0.0), 1.0)
        step = np.clip((over + held * crowd) / (under + held), 0.0, 1.0)
        weight = np.where(np.isnan(fixed), (weight + step) / 2, fixed)
    with np.errstate(invalid="ignore"):
        reliability = np.where(under > 0, over / np.maximum(under, 1e-9), np.nan)
    mine = np.where(back >= 0, weight[one], 0.0)
    others = (over[other] - mine * net + held * crowd) / (np.maximum(under[other] - mine**2 * pairs, 0) + held)
    without = np.where(np.isnan(fixed[other]), np.clip(others, 0.0, 1.0), 1.0)
    return reliability, without[place]


def _sum(person: Ints, values: Floats | Bools, n: int) -> Floats:
    """Each person's sum, [N]."""
    return np.bincount(person, values, minlength=n).astype(np.float64)


def _score(residuals: Floats, person: Ints, n: int) -> Floats:
    """Each person's sum of residuals over the root of their sum of squares [N]: about standard normal under the null.

    It is at most the root of their number, however extreme they are.
    """
    total = _sum(person, residuals, n)
    size = np.sqrt(_sum(person, residuals**2, n))
    return np.divide(total, size, out=np.zeros(n), where=size > 0)


def _below(x: Floats, d: Floats, person: Ints, typical: float, n: int) -> Floats:
    """How far each person's reliability sum(x) / sum(d) is from the crowd's, in standard deviations, [N].

    The crowd's are taken as normal about what is typical, with SPREAD times that as standard deviation.
    """
    total, size = _sum(person, x - typical * d, n), _sum(person, d, n)
    spread = np.sqrt(_sum(person, (x - typical * d) ** 2, n) + (SPREAD * typical * size) ** 2)
    return np.divide(total, spread, out=np.zeros(n), where=spread > 0)


def _discoveries(p: Floats, candidates: Bools) -> Bools:
    """Whose null is rejected, by Benjamini and Hochberg's procedure at RATE over the candidates."""
    values = np.sort(p[candidates])
    passing = np.flatnonzero(values <= RATE * np.arange(1, len(values) + 1) / max(len(values), 1))
    found: Bools = candidates & (p <= values[passing[-1]]) if len(passing) else np.zeros_like(candidates)
    return found


def _unreliable(against: _Against, candidates: Bools) -> dict[int, str]:
    """Those far below the others, whose rankings show no sign of agreeing with them beyond chance."""
    found = _discoveries(against.low, candidates) & (against.high >= SIGNAL)
    return {i: f"{_words(against, i)}: {_numbers(against, i)}" for i in _members(found)}


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


def _wrong_on_gold(table: RankTable, meetings: _Meetings, candidates: Bools, out: Bools) -> dict[int, str]:
    """Those far below the others on tasks whose answer is known."""
    n = len(table.people)
    gold = np.array([name == _GOLD for name in table.people], dtype=np.bool_)
    known = meetings.those(gold[meetings.other])
    tasks = np.bincount(known.person, minlength=n)
    net, pairs = (_sum(known.person, part, n) for part in (known.net, known.pairs))
    asked = candidates & (tasks >= FEWEST)
    ordinary = asked & ~out
    if not ordinary.any():
        return {}
    typical = float(np.median(net[ordinary] / pairs[ordinary]))
    low = norm.cdf(_below(known.net, known.pairs, known.person, typical, n))
    high = norm.sf(_score(known.net, known.person, n))
    found = _discoveries(low, asked) & (high >= SIGNAL)
    return {
        i: f"orders {(pairs[i] + net[i]) / 2:.0f} of {pairs[i]:.0f} pairs of {tasks[i]:.0f} gold tasks as known, "
        f"where people here have {_percent((1 + typical) / 2)} right"
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
    scores = {kind: _score(x - FOLLOWS * d, person, n) for kind, (x, d) in follows.items()}
    p = np.minimum(1.0, len(scores) * norm.sf(np.max(list(scores.values()), axis=0)))
    counts = np.bincount(person, minlength=n)
    reasons: dict[int, list[str]] = {}
    for i in _members(_discoveries(p, candidates & (counts >= FEWEST))):
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
    count, of = _sum(table.person, tied, n), np.bincount(table.person, minlength=n)
    ordinary = candidates & ~out
    usual = float(np.median(count[ordinary] / of[ordinary])) if ordinary.any() else 0.0
    level = max(TIES, 2 * usual)
    p = norm.sf(_score(tied - level, table.person, n)) if level < 1 else np.ones(n)
    return {
        i: f"ties everything in {count[i]:.0f} of {of[i]:.0f} rankings, where people here do in {_percent(usual)}"
        for i in _members(_discoveries(p, candidates))
    }


# ---- speed -----------------------------------------------------------------------------------------------------------


def _hurried(table: RankTable, against: _Against, candidates: Bools, out: Bools, others: set[int]) -> dict[int, str]:
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
    fast, of = _sum(person, speed > limit, n), np.bincount(person, minlength=n)
    hurried = candidates & (of >= FEWEST) & _discoveries(binom.sf(fast - 1, of, 0.5), candidates & (of >= FEWEST))
    chance = (against.high >= RATE) & (against.typical > 0) & (against.reliability < BELOW * against.typical)
    reasons = {}
    for i in _members(hurried):
        said = f"{medians[i]:.0f} characters a second in the median of {of[i]:.0f} rankings"
        said = f"{said}, where people here have {usual:.0f}"
        if i in others:
            reasons[i] = said
        elif chance[i]:
            reasons[i] = f"{said}; and {_words(against, i)}: {_numbers(against, i)}"
    return reasons
