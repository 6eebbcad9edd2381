"""Rankings as arrays: a row for each, a column for each completion of its task, so that statistics need no loops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy import sparse

from rlhf.preferences.statistics.estimate import Floats
from rlhf.preferences.types import Judged

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Parts = TypeVar("Parts", Floats, sparse.csr_array)
MOST_MEETINGS = 5_000  # of two people on one task, about; all meet where up to 100 ranked it


@dataclass(frozen=True)
class RankTable:
    """The J rankings among some judgments (skips are left out), those of a task one after the other.

    Columns are the completions of a row's task in the order of their ids; K is the most that any task has.
    """

    judged: list[Judged]  # [J], the rows
    people: list[str]
    task_ids: list[int]
    columns: list[list[int]]  # completion ids, for each of `task_ids`
    person: Ints  # [J], index into `people`
    task: Ints  # [J], index into `task_ids`; never falls
    ranks: Floats  # [J, K], NaN: not ranked, or no such completion
    size: Ints  # [J], how many completions the task has

    def same_task(self) -> tuple[Ints, Ints]:
        """Rows of every two rankings of one task by two people, [P] and [P]; the person who comes first is first.

        Of a task that more than 100 people ranked, a sample: people stand in a circle, drawn once for all tasks, and
        each meets as many next to them as make about 5,000 meetings. So any two meet on many tasks or on none.
        """
        firsts: list[Ints] = []
        seconds: list[Ints] = []
        starts = np.flatnonzero(np.diff(self.task, prepend=-1))
        counts = np.diff(starts, append=len(self.task))
        place = np.random.default_rng(0).permutation(len(self.people))[self.person]
        for count in np.unique(counts):
            rows = starts[counts == count][:, None] + np.arange(count)
            near = _near(int(count))
            if near is None:
                a, b = np.triu_indices(count, 1)
            else:
                rows = np.take_along_axis(rows, np.argsort(place[rows], axis=1, kind="stable"), axis=1)
                a = np.repeat(np.arange(count), near)
                b = (a + np.tile(np.arange(1, near + 1), count)) % count
            firsts.append(rows[:, a].ravel())
            seconds.append(rows[:, b].ravel())
        empty = np.empty(0, dtype=np.int64)
        first, second = np.concatenate([empty, *firsts]), np.concatenate([empty, *seconds])
        swap = self.person[first] > self.person[second]
        first, second = np.where(swap, second, first), np.where(swap, first, second)
        others = self.person[first] != self.person[second]  # an anonymous person may have ranked a task twice
        order = np.argsort(self.task[first[others]], kind="stable")
        return first[others][order], second[others][order]

    def sampled(self) -> Floats:
        """Of each task, [T]: how many meetings each one of `same_task` stands for; 1 where there are all."""
        counts = np.bincount(self.task, minlength=len(self.task_ids))
        near = [_near(int(count)) for count in counts]
        return np.array([1.0 if k is None else (m - 1) / (2 * k) for m, k in zip(counts, near, strict=True)])


def _near(people: int) -> int | None:
    """How many people on one side each meets where so many ranked a task; None: all meet."""
    return None if people * (people - 1) // 2 <= MOST_MEETINGS else max(1, MOST_MEETINGS // people)


def rank_table(judged: Sequence[Judged] | RankTable) -> RankTable:
    """The table of the rankings among these judgments; a table, which several statistics can share, is the same."""
    if isinstance(judged, RankTable):
        return judged
    rows = sorted((j for j in judged if j.ranks), key=lambda j: j.task_id)
    people = sorted({j.labeler for j in rows})
    task_ids = sorted({j.task_id for j in rows})
    number = {name: i for i, name in enumerate(people)}
    place = {task: i for i, task in enumerate(task_ids)}
    columns: dict[int, set[int]] = {}
    for j in rows:
        columns.setdefault(j.task_id, set()).update(j.ranks)
    order = {task: sorted(ids) for task, ids in columns.items()}
    width = max(map(len, order.values()), default=0)
    nan = float("nan")
    cells = []
    for j in rows:
        row = [nan if (rank := j.ranks.get(c)) is None else float(rank) for c in order[j.task_id]]
        cells.append(row + [nan] * (width - len(row)))
    return RankTable(
        rows,
        people,
        task_ids,
        [order[task] for task in task_ids],
        np.array([number[j.labeler] for j in rows], dtype=np.int64),
        np.array([place[j.task_id] for j in rows], dtype=np.int64),
        np.array(cells, dtype=np.float64).reshape(len(rows), width),
        np.array([len(order[j.task_id]) for j in rows], dtype=np.int64),
    )


def mid_ranks(ranks: Floats) -> tuple[Floats, Ints]:
    """Mid ranks [N, K] of rows of ranks (1, 2, 2, 4 gives 1, 2.5, 2.5, 4), and how large each one's tie is [N, K].

    NaN stays NaN and counts for nothing; its tie is 0.
    """
    above = (ranks[:, None, :] < ranks[:, :, None]).sum(axis=2)
    equal = (ranks[:, None, :] == ranks[:, :, None]).sum(axis=2)
    return np.where(np.isnan(ranks), np.nan, above + (equal + 1) / 2), equal


def orders(ranks: Floats) -> Floats:
    """For rows of ranks [N, K], each pair of columns [N, K (K - 1) / 2]: 1 the first is better, -1 the second, 0 a tie.

    NaN where either is not ranked.
    """
    a, b = np.triu_indices(ranks.shape[1], 1)
    return np.sign(ranks[:, b] - ranks[:, a])


def summed(groups: Ints, units: Ints, parts: Parts) -> Iterator[tuple[int, Parts]]:
    """For each group, the parts [N, C] added up by unit, [units of the group, C]."""
    if not len(groups):
        return
    span: int = int(units.max()) + 1
    keys: Ints
    keys, row = np.unique(groups * span + units, return_inverse=True)
    adding = sparse.csr_array((np.ones(len(row)), (row, np.arange(len(row)))), shape=(len(keys), len(row)))
    sums: Parts = adding @ parts
    bounds = [*np.flatnonzero(np.diff(keys // span, prepend=-1)).tolist(), len(keys)]
    for start, end in pairwise(bounds):
        yield int(keys[start] // span), sums[start:end]
