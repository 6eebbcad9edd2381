"""Arenas: tasks whose completions come from different contestants, one from each; and who wins, in words.

Labelers vote on the ranking page and never see who wrote what.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from rlhf.data.records import Prompt
from rlhf.preferences.statistics.bias import position_bias
from rlhf.preferences.statistics.estimate import FEWEST_UNITS, Estimate, counted
from rlhf.preferences.statistics.strengths import Leaderboard, Standing
from rlhf.preferences.types import Judged, NewTask

LEGEND = (
    "Place: those that the votes leave open. Won: the share of its comparisons that it won, ties half. Strength: "
    "the chance to beat another contestant, on average over them, by a Bradley-Terry fit. At equal length: the same "
    "between texts of one length, and the place then. Length: characters, on average. In brackets: 95 % intervals."
)


@dataclass(frozen=True)
class Pairing:
    """The tasks, and why the other prompts have none.

    Attributes:
        same: prompts on which two contestants wrote the same: a tie that nobody needs to be asked about.
        blank: by contestant, the prompts (of the others) that it answered with nothing that a page could show.
    """

    tasks: list[NewTask]
    same: int
    blank: dict[str, int]

    def words(self) -> str:
        """What was left out, for the person who made the arena; empty if nothing was."""
        parts = [f"on {self.same} two contestants wrote the same"] if self.same else []
        parts += [f"on {n} {name!r} wrote nothing that could be shown" for name, n in self.blank.items()]
        return "; ".join(parts) + ": left out" if parts else ""


def showable(text: str) -> bool:
    """Whether people can see anything of a model's text, and a database can keep it: some models write NUL."""
    return bool(text.strip()) and "\0" not in text


def paired(prompts: Sequence[Prompt], written: Mapping[str, Sequence[str]]) -> Pairing:
    """A task for every prompt to which all contestants wrote something, and each something else.

    `written[name][i]` is what a contestant wrote to `prompts[i]`. Texts that differ in the white space around them
    alone are the same to whoever reads them.
    """
    names = tuple(written)
    tasks, same, blank = [], 0, Counter[str]()
    for prompt, texts in zip(prompts, zip(*written.values(), strict=True), strict=True):
        empty = [name for name, text in zip(names, texts, strict=True) if not showable(text)]
        if empty:
            blank.update(empty)
        elif len({text.strip() for text in texts}) < len(texts):
            same += 1
        else:
            tasks.append(NewTask(prompt.prompt, texts, names, prompt.group))
    return Pairing(tasks, same, dict(blank))


def votes(judged: Sequence[Judged], dropped: Container[int] = ()) -> list[Judged]:
    """The judgments that count: rankings of ordinary tasks, none surplus, none by people who are excluded.

    `dropped`: tasks that a reviewer took out. A reviewer's own ranking is no vote: reviewers may know who wrote what.
    """
    return [
        j
        for j in judged
        if j.ranks and j.gold is None and not j.surplus and not j.excluded and j.task_id not in dropped
    ]


def rows(board: Leaderboard) -> list[dict[str, str | int]]:
    """The leaderboard as a table, best first; contestants that never met, through others either, have groups."""
    several = len({s.group for s in board.standings}) > 1
    return [_row(s, several) for s in board.standings]


def words(board: Leaderboard, counting: Sequence[Judged]) -> list[str]:
    """What a leaderboard says beside its table, and what it cannot say; `counting` are the votes that it is of."""
    lines = [
        f"{counted(board.comparisons, 'comparison')} from {counted(board.judgments, 'ranking')} "
        f"of {counted(board.tasks, 'task')}."
    ]
    if board.tasks < FEWEST_UNITS:
        lines.append(f"Intervals and places need {FEWEST_UNITS} tasks.")
    if board.limited:
        lines.append(
            "Somebody won, or lost, every comparison with the rest, so no finite strength fits; a tie for every pair "
            "that met was added."
        )
    if len({s.group for s in board.standings}) > 1:
        lines.append("Contestants of different groups never met, not through others either: nothing compares them.")
    if board.length.value is None:
        lines.append(f"At equal length: not known, for {board.length.why}.")
    else:
        lines.append(
            f"Length: of two texts by equals, {board.length_unit:.0f} characters apart, the longer one wins "
            f"{percent(board.length)}; without a liking for length it would be 50 %."
        )
    bias = position_bias(counting).overall
    if bias.first.value is not None:
        lines.append(
            f"Screen: what stood first on it was ranked first in {percent(bias.first)} of {bias.first.over}; by "
            f"chance {100 * bias.positions[0].expected:.0f} % would be. Everybody's order is drawn anew."
        )
    return lines


def percent(estimate: Estimate) -> str:
    """A share with its interval, as `64 % [55, 72]`."""
    if estimate.value is None:
        return "not known"
    if estimate.low is None or estimate.high is None:
        return f"{100 * estimate.value:.0f} %"
    return f"{100 * estimate.value:.0f} % [{100 * estimate.low:.0f}, {100 * estimate.high:.0f}]"


def _row(s: Standing, several: bool) -> dict[str, str | int]:
    group: dict[str, str | int] = {"Group": s.group + 1} if several else {}
    return group | {
        "Place": _places(s.places),
        "Who": s.name,
        "Won": percent(s.win_rate),
        "Strength": percent(s.strength),
        "At equal length": percent(s.equal_length),
        "Place then": "not known" if s.equal_length_places is None else _places(s.equal_length_places),
        "Pairs": s.win_rate.n,
        "Length": round(s.mean_length),
    }


def _places(places: tuple[int, int]) -> str:
    return str(places[0]) if places[0] == places[1] else f"{places[0]}–{places[1]}"
