"""What labels leave open of a ranking head, and the order in which tasks settle it: worked by hand, or another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from rlhf.ops.active import (
    PRECISIONS,
    Head,
    bootstrapped,
    closeness,
    committee,
    disagreement,
    fit_head,
    information,
    most_telling,
    pair_differences,
    standardized,
)


def tensor(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def head(mean: list[float], variance: float = 1.0) -> Head:
    return Head(tensor(mean), variance * torch.eye(len(mean), dtype=torch.float64), 1.0)


def test_standardized_columns_have_one_scale_and_rows_a_mean_square_of_one() -> None:
    x = standardized(torch.tensor([[0.0, 100.0], [2.0, 100.0], [0.0, 900.0], [2.0, 900.0]]), 2)
    torch.testing.assert_close(x @ x.T, tensor([[1, 0, 0, -1], [0, 1, -1, 0], [0, -1, 1, 0], [-1, 0, 0, 1]]))


def test_standardized_keeps_the_directions_of_most_variance() -> None:
    x = standardized(torch.tensor([[1.0, 2.0, 0.0], [2.0, 4.0, 1.0], [3.0, 6.0, 0.0], [4.0, 8.0, 1.0]]), 1)
    assert x.shape == (4, 1) and x.dtype == torch.float64
    # Columns 1 and 2 are one direction twice: it has two thirds of the variance, and orders the rows.
    assert x[:, 0].diff().sign().abs().sum() == 3 and abs(float(x[:, 0].diff().sign().sum())) == 3
    assert float(x.square().mean()) == pytest.approx(1)


def test_a_column_that_never_changes_says_nothing() -> None:
    x = standardized(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), 2)
    torch.testing.assert_close(x @ x.T, tensor([[1, -1], [-1, 1]]))


def test_pairs_of_a_ranking_share_what_it_says() -> None:
    features = tensor([[[0.0], [1.0], [3.0]], [[0.0], [1.0], [3.0]]])
    differences, weights, ranking = pair_differences(features, torch.tensor([[2, 1, 1], [1, 2, 0]]))
    assert differences[:, 0].tolist() == [1, 3, -1]  # better minus worse; the tie and the unranked are left out
    assert weights.tolist() == pytest.approx([2 / 3, 2 / 3, 1]) and ranking.tolist() == [0, 0, 1]


def test_labels_that_contradict_each_other_leave_the_prior() -> None:
    found = fit_head(tensor([[1.0], [-1.0]]), tensor([1.0, 1.0]))
    assert found.precision == 30 and found.mean.tolist() == [0]
    assert float(found.covariance) == pytest.approx(1 / 30.5)  # 2 * 1/4 + 30


def test_the_fit_is_the_optimum_and_its_curvature() -> None:
    generator = torch.Generator().manual_seed(1)
    d = torch.randn((60, 3), generator=generator, dtype=torch.float64) + tensor([0.5, -0.3, 0])
    weights = torch.rand(60, generator=generator, dtype=torch.float64)
    found = fit_head(d, weights)
    x, w = d.numpy(), weights.numpy()

    def loss(theta: np.ndarray) -> float:
        return float(w @ np.logaddexp(0, -x @ theta) + found.precision / 2 * theta @ theta)

    best = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000})
    np.testing.assert_allclose(found.mean, best.x, atol=1e-6)
    p = 1 / (1 + np.exp(-x @ best.x))
    curvature = (x * (w * p * (1 - p))[:, None]).T @ x + found.precision * np.eye(3)
    np.testing.assert_allclose(found.covariance, np.linalg.inv(curvature), atol=1e-6)


@pytest.mark.parametrize(("right", "wrong"), [(40, 2), (20, 20), (6, 5)])
def test_the_precision_is_the_one_that_predicts_the_labels_best(right: int, wrong: int) -> None:
    """In one dimension the evidence is an integral that a grid can do."""
    theta = np.linspace(-12, 12, 200_001)
    likelihood = np.exp(-right * np.logaddexp(0, -theta) - wrong * np.logaddexp(0, theta))
    evidence = {a: np.sum(likelihood * np.exp(-a / 2 * theta**2)) * math.sqrt(a) for a in PRECISIONS}
    d = tensor([[1.0]] * right + [[-1.0]] * wrong)
    assert fit_head(d, torch.ones(len(d), dtype=torch.float64)).precision == max(evidence, key=evidence.__getitem__)


def test_separable_labels_end() -> None:
    found = fit_head(tensor([[1.0, 0.0]] * 200), torch.ones(200, dtype=torch.float64))
    assert float(found.mean[0]) > 1 and float(found.mean[1]) == 0


def test_heads_that_know_nothing_differ_on_every_second_pair() -> None:
    features = tensor([[[0.0], [1.0], [9.0]], [[0.0], [1.0], [0.0]]])
    present = torch.tensor([[True, True, True], [True, True, False]])
    assert disagreement(head([0.0]), features, present).tolist() == pytest.approx([0.5, 0.5])
    # Gap 1 with deviation 1: q = Phi(1) = 0.841345, and 2 q (1 - q) = 0.266967.
    assert disagreement(head([-1.0]), features[1:], present[1:]).tolist() == pytest.approx([0.266967], abs=1e-6)
    assert disagreement(head([5.0], 1e-8), features, present).tolist() == pytest.approx([0, 0])


def test_information_of_pairs_by_hand() -> None:
    features = tensor([[[0.0], [1.0], [3.0]], [[0.0], [1.0], [3.0]]])
    present = torch.tensor([[True, True, True], [True, True, False]])
    roots = information(head([0.0]), features, present)
    # 2/3 * 1/4 * (1 + 9 + 4), and 2/2 * 1/4 * 1
    assert roots.square().sum(dim=(1, 2)).tolist() == pytest.approx([7 / 3, 1 / 4])
    # A gap of log 3: p (1 - p) = 3/16.
    certain = information(head([math.log(3)]), features[1:], present[1:])
    assert float(certain.square().sum()) == pytest.approx(3 / 16)


def test_information_points_where_the_completions_differ() -> None:
    roots = information(head([0.0, 0.0]), tensor([[[1.0, 7.0], [3.0, 7.0]]]), torch.ones((1, 2), dtype=torch.bool))
    torch.testing.assert_close(roots[0].T @ roots[0], tensor([[1.0, 0], [0, 0]]))


def test_tasks_that_teach_the_same_do_not_follow_one_another() -> None:
    """With M = diag(0.66, 0.27), task 1 alone wins 0.327 and task 2 0.121; after task 0, task 1 wins 0.109."""
    roots = tensor([[[1.0, 0.0]], [[0.99, 0.0]], [[0.0, 0.9]]])
    assert most_telling(roots, torch.eye(2, dtype=torch.float64), 3) == [0, 2, 1]
    assert most_telling(roots, torch.eye(2, dtype=torch.float64), 1) == [0]


def test_what_is_known_is_not_asked_again() -> None:
    roots = tensor([[[2.0, 0.0]], [[0.0, 1.0]]])
    assert most_telling(roots, torch.diag(tensor([0.01, 1.0])), 2) == [1, 0]


def test_the_order_is_the_one_that_inverting_every_hessian_gives() -> None:
    generator = torch.Generator().manual_seed(3)
    roots = torch.randn((12, 3, 4), generator=generator, dtype=torch.float64)
    hessian, left, order = torch.eye(4, dtype=torch.float64) * 2, list(range(12)), []
    total = sum(r.T @ r for r in roots) / 12
    while left:
        cost = {t: float(torch.trace(total @ torch.linalg.inv(hessian + roots[t].T @ roots[t]))) for t in left}
        order.append(min(left, key=cost.__getitem__))
        hessian = hessian + roots[order[-1]].T @ roots[order[-1]]
        left.remove(order[-1])
    assert most_telling(roots, torch.eye(4, dtype=torch.float64) / 2, 12) == order


def test_a_committee_is_unsure_where_its_heads_differ_and_not_where_all_say_one_half() -> None:
    heads = tensor([[4.0, -4.0], [0.0, 0.0]])  # two heads: the first feature is good, or bad
    features = tensor([[[1.0, 0.0], [0.0, 0.0], [9.0, 9.0]], [[0.0, 1.0], [0.0, 0.0], [9.0, 9.0]]])
    present = torch.tensor([[True, True, False], [True, True, False]])  # the third is padding
    p = 1 / (1 + math.exp(-4))
    sure = -p * math.log(p) - (1 - p) * math.log(1 - p)
    assert committee(heads, features, present).tolist() == pytest.approx([math.log(2) - sure, 0.0], abs=1e-12)


def test_closeness_is_the_entropy_of_who_is_better() -> None:
    features = tensor([[[0.0], [0.0]], [[math.log(3)], [0.0]]])
    found = closeness(tensor([1.0]), features, torch.ones((2, 2), dtype=torch.bool))
    quarter = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)  # e^ln 3 / (1 + e^ln 3) = 3/4
    assert found.tolist() == pytest.approx([math.log(2), quarter])


def test_bootstrapped_heads_differ_where_rankings_contradict_each_other_and_agree_elsewhere() -> None:
    """The first feature is liked by one ranking and disliked by another; forty agree on the second."""
    d = torch.cat([tensor([[2.0, 0.0]] * 3 + [[-2.0, 0.0]] * 3), tensor([[0.0, 2.0]] * 40)])
    ranking = torch.tensor([0, 0, 0, 1, 1, 1, *range(2, 42)])
    weights = torch.ones(len(d), dtype=torch.float64)
    found = fit_head(d, weights)
    heads = bootstrapped(d, weights, ranking, found, 200, torch.Generator().manual_seed(1))
    assert heads.shape == (2, 200)
    assert (heads[0] > 0.1).any() and (heads[0] < -0.1).any() and (heads[1] > 0).all()
    # Pairs of a ranking come and go together: as often drawn twice as not at all, all three of them.
    alone = bootstrapped(d, weights, torch.arange(len(d)), found, 200, torch.Generator().manual_seed(1))
    assert float(heads[0].var()) > 1.5 * float(alone[0].var())
