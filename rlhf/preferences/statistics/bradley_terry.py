"""Bradley-Terry strengths by penalised maximum likelihood, of many resamples at once.

P(i beats j) = sigmoid(s_i - s_j + g c), with log-strengths s, and g the weight of a contrast c between the two texts
(their lengths), where one is given (Bradley & Terry 1952; as a logistic regression with a covariate: Dubois et al.
2024, "Length-Controlled AlpacaEval"; Li et al. 2024, Chatbot Arena's style control). A tie is half a win for each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import expit

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
CONTRAST_PRECISION = 0.04  # g has a normal prior of standard deviation 5: only what is near-separated feels it
MOST_STEPS, LONGEST_STEP, CLOSE = 100, 2.0, 1e-9


@dataclass(frozen=True)
class Cells:
    """Comparisons of one kind, counted together: `first` and `second` met `games` times, and `first` won `wins`.

    Attributes:
        first, second: `(C,)` numbers of contestants, 0 to players - 1.
        contrast: `(C,)`, of the first one's text over the second one's; None where there is no covariate.
        games, wins: `(R, C)` for R resamples; a tie is half a win.
        groups: `(players,)`, which contestants are connected by comparisons, in any resample.
    """

    first: Ints
    second: Ints
    contrast: Floats | None
    games: Floats
    wins: Floats
    groups: Ints


def bradley_terry(cells: Cells) -> Floats:
    """Log-strengths `(R, players)`, of mean 0 in every group, and behind them g where the cells have a contrast.

    Every contestant must be connected with its group in every resample (see `limit`), or its strength has no optimum.
    """
    players = len(cells.groups)
    x = _design(cells, players)
    size = x.shape[1]
    products = (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)
    penalty = np.zeros((size, size))
    if cells.contrast is not None:
        penalty[-1, -1] = CONTRAST_PRECISION
    # The likelihood does not know a group's mean: steps along it are pinned to 0, where it began.
    pinned = np.zeros((size, size))
    pinned[:players, :players] = cells.groups[:, None] == cells.groups[None, :]
    theta = np.zeros((len(cells.games), size))
    for _ in range(MOST_STEPS):
        p = expit(theta @ x.T)
        gradient = (cells.wins - cells.games * p) @ x - theta @ penalty
        hessian = ((cells.games * p * (1 - p)) @ products).reshape(-1, size, size) + penalty + pinned
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        longest = np.abs(step).max(axis=1, keepdims=True, initial=0.0)
        theta += step * (LONGEST_STEP / np.maximum(longest, LONGEST_STEP))
        if longest.max(initial=0.0) < CLOSE:
            break
    return theta


def limit(cells: Cells, spare: Ints) -> tuple[Cells, npt.NDArray[np.bool_]]:
    """The cells with one tie more between all that met, in the resamples where no finite strengths fit; and which.

    Strengths are finite if and only if, in each group, nobody can be split off who won or lost every comparison with
    the rest (Ford 1957). `spare` names a cell without contrast for every pair that met.
    """
    players = len(cells.groups)
    beats = np.zeros((len(cells.games), players * players), dtype=np.float32)
    for won, pair in (
        (cells.wins, cells.first * players + cells.second),
        (cells.games - cells.wins, cells.second * players + cells.first),
    ):
        into = np.zeros((len(pair), players * players), dtype=np.float32)
        into[np.arange(len(pair)), pair] = 1.0
        beats += (won > 1e-9).astype(np.float32) @ into
    reach = (beats.reshape(-1, players, players) + np.eye(players, dtype=np.float32)) > 0
    for _ in range(math.ceil(math.log2(max(players, 2)))):
        reach = (reach.astype(np.float32) @ reach.astype(np.float32)) > 0
    together = cells.groups[:, None] == cells.groups[None, :]
    limited = (~reach & together).any(axis=(1, 2))
    games, wins = cells.games.copy(), cells.wins.copy()
    games[np.ix_(limited, spare)] += 1.0
    wins[np.ix_(limited, spare)] += 0.5
    return replace(cells, games=games, wins=wins), limited


def chances(strengths: Floats, groups: Ints) -> Floats:
    """`(R, players)`: the chance to beat each other contestant of the own group, on average; 1/2 for one alone."""
    together = (groups[:, None] == groups[None, :]) & ~np.eye(len(groups), dtype=bool)
    beats = expit(strengths[:, :, None] - strengths[:, None, :]) * together
    others = together.sum(axis=1)
    mean: Floats = np.where(others > 0, beats.sum(axis=2) / np.maximum(others, 1), 0.5)
    return mean


def can_tell_apart(cells: Cells, least: float) -> bool:
    """Whether at least this share of the contrast's variation is not who wrote the text; one resample is looked at.

    Where one contestant's texts are always the longer ones, nothing says which of the two people liked.
    """
    assert cells.contrast is not None
    weight = np.sqrt(cells.games[0])
    contrast = cells.contrast * weight
    total = float(contrast @ contrast)
    if total == 0.0:
        return False
    who = _design(replace(cells, contrast=None), len(cells.groups)) * weight[:, None]
    rest = contrast - who @ np.linalg.lstsq(who, contrast, rcond=None)[0]
    return float(rest @ rest) >= least * total


def _design(cells: Cells, players: int) -> Floats:
    x = np.zeros((len(cells.first), players))
    rows = np.arange(len(cells.first))
    x[rows, cells.first] = 1.0
    x[rows, cells.second] = -1.0
    return x if cells.contrast is None else np.column_stack([x, cells.contrast])
