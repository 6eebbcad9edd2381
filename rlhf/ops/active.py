"""Which comparisons teach a linear ranking head most: what labels leave open, and what one more would settle.

Completion i has features x_i and score theta . x_i; P(i beats j) = sigmoid(theta . (x_i - x_j)) (Bradley & Terry 1952).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PRECISIONS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # of the prior, tried by `fit_head`
MOST_STEPS = 50  # Newton's method takes about six


@dataclass(frozen=True)
class Head:
    """A ranking head with what the labels leave open of it: theta ~ Normal(mean, covariance).

    Attributes:
        mean: `(D,)`.
        covariance: `(D, D)`.
        precision: of the prior that was chosen.
    """

    mean: Tensor
    covariance: Tensor
    precision: float


def standardized(features: Tensor, dims: int) -> Tensor:
    """`(N, H)` to `(N, min(dims, H, N))`, float64: every column with mean 0 and variance 1, turned onto the principal
    axes of most variance, and divided by one number, so that the mean of |x|^2 is 1."""
    x = features.double()
    x = x - x.mean(dim=0)
    x = x / x.std(dim=0, correction=0).clamp(min=1e-6)
    axes: Tensor = torch.linalg.eigh(x.T @ x).eigenvectors  # ascending
    x = x @ axes.flip(1)[:, : min(dims, *x.shape)]
    scaled: Tensor = x / x.square().sum(dim=1).mean().sqrt().clamp(min=1e-6)
    return scaled


def pair_differences(features: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Better minus worse of every untied pair `(P, D)`, how much each counts and which ranking it is of `(P,)`.

    Args:
        features: `(T, K, D)`.
        ranks: `(T, K)` int64; 1 = best, equal = tie, 0 = not ranked or padding; ties and unranked are left out.

    A ranking of k completions has k (k - 1) / 2 pairs, but only k - 1 of them are free: each counts 2 / k.
    """
    known = ranks > 0
    better = (ranks.unsqueeze(2) < ranks.unsqueeze(1)) & known.unsqueeze(2) & known.unsqueeze(1)
    task, i, j = better.nonzero(as_tuple=True)
    return features[task, i] - features[task, j], 2.0 / known.sum(dim=1).to(features.dtype)[task], task


def fit_head(differences: Tensor, weights: Tensor) -> Head:
    """The head that maximises  sum_p w_p log sigmoid(theta . d_p) - a/2 |theta|^2  and its Laplace approximation.

    The covariance is the inverse of  H = sum_p w_p s_p (1 - s_p) d_p d_p' + a I,  s_p = sigmoid(theta . d_p). Among
    `PRECISIONS`, a is the one of the largest evidence (MacKay 1992, eq. 4.3 with the terms that a is in):
    objective + D/2 log a - 1/2 log det H.

    Args:
        differences: `(P, D)`, better minus worse.
        weights: `(P,)`, how much each pair counts.
    """
    start = differences.new_zeros(differences.shape[1])
    best: tuple[float, Head] | None = None
    for precision in sorted(PRECISIONS, reverse=True):  # the stiffest first: the next starts where it ended
        start, hessian = newton(differences, weights, precision, start)
        factor = torch.linalg.cholesky(hessian)
        objective = (weights * F.logsigmoid(differences @ start)).sum() - precision / 2 * start.square().sum()
        log_det = 2 * factor.diagonal().log().sum()
        evidence = float(objective - log_det / 2) + len(start) / 2 * torch.tensor(precision).log().item()
        if best is None or evidence > best[0]:
            best = evidence, Head(start, torch.cholesky_inverse(factor), precision)
    assert best is not None
    return best[1]


def newton(differences: Tensor, weights: Tensor, precision: float, theta: Tensor) -> tuple[Tensor, Tensor]:
    """The optimum of `fit_head`'s objective and H there, by Newton's method from `theta`.

    A step is halved until the loss falls. `differences` `(P, D)`, `weights` `(P,)`, `theta` `(D,)`.
    """
    d = differences
    eye = precision * torch.eye(d.shape[1], dtype=d.dtype, device=d.device)

    def loss(at: Tensor) -> Tensor:
        return precision / 2 * at.square().sum() - (weights * F.logsigmoid(d @ at)).sum()

    def hessian(at: Tensor) -> Tensor:
        s = torch.sigmoid(d @ at)
        return (d * (weights * s * (1 - s)).unsqueeze(1)).T @ d + eye

    now = loss(theta)
    for _ in range(MOST_STEPS):
        gradient = precision * theta - d.T @ (weights * torch.sigmoid(-(d @ theta)))
        step = torch.cholesky_solve(gradient.unsqueeze(1), torch.linalg.cholesky(hessian(theta))).squeeze(1)
        if float(gradient @ step) < 1e-12 * (1 + abs(float(now))):  # what a full step would win
            break
        while float(loss(theta - step)) > float(now) and float(step.abs().max()) > 1e-12:
            step = step / 2
        theta = theta - step
        now = loss(theta)
    return theta, hessian(theta)


def bootstrapped(
    differences: Tensor, weights: Tensor, ranking: Tensor, head: Head, count: int, generator: torch.Generator
) -> Tensor:
    """The means `(D, count)` of heads of the same prior, each fitted to rankings drawn anew, Poisson(1) times each.

    Args:
        differences: `(P, D)`.
        weights: `(P,)`.
        ranking: `(P,)`, which ranking each pair is of: its pairs come and go together.
        head: fitted to all of them.
    """
    heads = []
    for _ in range(count):
        times = torch.poisson(torch.ones(int(ranking.max()) + 1), generator=generator).to(weights)
        heads.append(newton(differences, weights * times[ranking], head.precision, head.mean)[0])
    return torch.stack(heads, dim=1)


def committee(heads: Tensor, features: Tensor, present: Tensor) -> Tensor:
    """What `heads` `(D, B)` do not agree on, a task's mean over its pairs `(T,)`, in nats.

    H(mean of p) - mean of H(p), p the heads' probabilities that one completion is the better: large where each head is
    sure and they differ, small where all say 1/2 (BALD, Houlsby 2011, with bootstrapped heads for the posterior).
    """
    gaps, there = _pairs(features, present)
    logits = gaps @ heads
    mean = torch.sigmoid(logits).mean(dim=2).clamp(1e-12, 1 - 1e-12)
    return _mean(_entropy(torch.logit(mean)) - _entropy(logits).mean(dim=2), there)


def closeness(mean: Tensor, features: Tensor, present: Tensor) -> Tensor:
    """How close the scores of a task's pairs lie: the mean entropy of who is better `(T,)`, in nats; ln 2 for equals.

    `mean` `(D,)` is a head. Uncertainty sampling (Lewis & Gale 1994); it also likes pairs that nobody can tell apart.
    """
    gaps, there = _pairs(features, present)
    return _mean(_entropy(gaps @ mean), there)


def disagreement(head: Head, features: Tensor, present: Tensor) -> Tensor:
    """How often two heads drawn from what the labels allow order a pair differently, a task's mean: `(T,)`, 0 to 1/2.

    A drawn head's gap of pair (i, j) is Normal(m, v): it is positive with q = Phi(m / sqrt v), so two differ with
    2 q (1 - q): query by committee (Freund 1997) with a committee without end.

    Args:
        features: `(T, K, D)`.
        present: `(T, K)`, which of them are completions and not padding.
    """
    d, there = _pairs(features, present)
    deviation = ((d @ head.covariance) * d).sum(dim=2).clamp(min=1e-12).sqrt()
    q = torch.special.ndtr((d @ head.mean) / deviation)
    return _mean(2 * q * (1 - q), there)


def information(head: Head, features: Tensor, present: Tensor) -> Tensor:
    """A root A `(T, K, D)` of each task's Fisher information about the head: A'A is what its ranking would add to H.

    A'A = 2/k sum_ij p_ij (1 - p_ij) (x_i - x_j)(x_i - x_j)' over the pairs of the k completions that are `present`
    `(T, K)`: X'LX with a weighted graph's Laplacian L. Pairs whose scores lie close count most.
    """
    scores = features @ head.mean
    p = torch.sigmoid(scores.unsqueeze(2) - scores.unsqueeze(1))
    both = present.unsqueeze(2) & present.unsqueeze(1)
    count = present.sum(dim=1).clamp(min=1).to(features.dtype)
    edges = torch.where(both, p * (1 - p), 0.0) * (2 / count)[:, None, None]
    laplacian = torch.diag_embed(edges.sum(dim=2)) - edges
    values, vectors = torch.linalg.eigh(laplacian)
    root: Tensor = values.clamp(min=0).sqrt().unsqueeze(2) * (vectors.transpose(1, 2) @ features)
    return root


def most_telling(roots: Tensor, covariance: Tensor, count: int) -> list[int]:
    """The tasks in the order in which their labels make the head surest about *all* of them; the first `count`.

    With covariance S and the tasks' mean information M, what is not known of the head costs tr(M S) / 2 nats of log
    loss a task (the Fisher information ratio: Zhang & Oles 2000; Hoi 2006; for neural features Ash 2021). A label of
    task t makes S into  S - S A_t' (I + A_t S A_t')^-1 A_t S,  whatever the answer is: so the next task is chosen,
    greedily, before the last one is answered, and tasks that would teach the same do not follow one another.

    Args:
        roots: `(T, K, D)`, from `information`.
        covariance: `(D, D)` of the head.
    """
    total = torch.einsum("tkd,tke->de", roots, roots) / len(roots)
    eye = torch.eye(roots.shape[1], dtype=roots.dtype, device=roots.device)
    spread = roots @ covariance  # A S, and A S M: neither is made anew for every choice
    reach = spread @ total
    there = torch.ones(len(roots), dtype=torch.bool, device=roots.device)
    order: list[int] = []
    for _ in range(min(count, len(roots))):
        noise = spread @ roots.transpose(1, 2) + eye
        won = torch.linalg.solve(noise, reach @ spread.transpose(1, 2)).diagonal(dim1=1, dim2=2).sum(dim=1)
        best = int(torch.where(there, won, -torch.inf).argmax())
        order.append(best)
        there[best] = False
        shared = roots @ torch.linalg.solve(noise[best], spread[best]).T  # A S A_t' (I + A_t S A_t')^-1
        spread, reach = spread - shared @ spread[best], reach - shared @ reach[best]
    return order


def _pairs(features: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Differences `(T, P, D)` of every two completions of a task, and whether both are there `(T, P)`."""
    i, j = torch.triu_indices(features.shape[1], features.shape[1], offset=1, device=features.device)
    return features[:, i] - features[:, j], present[:, i] & present[:, j]


def _mean(values: Tensor, there: Tensor) -> Tensor:
    """A task's mean `(T,)` of `values` `(T, P)` over the pairs that are there."""
    return torch.where(there, values, 0.0).sum(dim=1) / there.sum(dim=1).clamp(min=1)


def _entropy(logits: Tensor) -> Tensor:
    """Of a yes or no with these logits, in nats."""
    return F.softplus(logits) - logits * torch.sigmoid(logits)
