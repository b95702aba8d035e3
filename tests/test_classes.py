"""Classes and ranks: their masses against the direct formula, their draws, means and cut points."""

import math

import pytest
import scipy.stats
import torch
from torch import Tensor

import unveil
from oracles import CAUGHT, SURELY_WRONG, chi_square_z, normal, seeded
from unveil.distributions import draw
from unveil.families import Family
from unveil.likelihoods.classes import Classes

DTYPES = (torch.float32, torch.float64)

every_kind = pytest.mark.parametrize("kind", [unveil.Categorical, unveil.Ordinal])


def shaken(family: unveil.Ordinal, *, sd: float = 2.0) -> unveil.Ordinal:
    """Cut points far from where they start, different in every column."""
    with torch.no_grad():
        family.raw_cuts.copy_(sd * normal(8, *family.raw_cuts.shape))
    return family


def masses(family: Family, raw: Tensor, num_classes: int) -> Tensor:
    """P(k) of every cell and code, (class, *batch, *event)."""
    p = family(raw)
    codes = torch.arange(num_classes).to(raw)
    event = (1,) * len(family.event_shape)
    codes = codes.view(-1, *(1,) * (raw.dim() - 1), *event)
    return p.log_prob_cells(codes.expand(-1, *raw.shape[:-1], *family.event_shape)).exp()


def test_a_class_has_its_softmax_of_the_cell_s_logits() -> None:
    raw = normal(0, 7, 6)
    family = unveil.Categorical(2, num_classes=3)
    for j in range(2):
        logits = raw[:, j::2].exp()  # class by class, cell by cell
        expected = logits / logits.sum(-1, keepdim=True)
        torch.testing.assert_close(masses(family, raw, 3)[..., j], expected.T)


def test_a_rank_has_the_logistic_mass_between_its_cut_points() -> None:
    family = shaken(unveil.Ordinal((2, 2), num_classes=5).double())
    raw = normal(1, 7, 4)
    cuts, loc = family.cuts.detach(), raw.unflatten(-1, (2, 2))
    up_to = torch.from_numpy(scipy.stats.logistic.cdf((cuts - loc[..., None]).numpy()))
    ones, zeros = torch.ones(7, 2, 2, 1), torch.zeros(7, 2, 2, 1)
    steps = torch.cat([zeros, up_to, ones], -1).diff(dim=-1)
    torch.testing.assert_close(masses(family, raw, 5).detach(), steps.movedim(-1, 0))


def test_a_rank_far_from_its_location_keeps_its_digits_in_float32() -> None:
    family, rank, loc = unveil.Ordinal(1, num_classes=4), torch.ones(1), torch.full((1,), 30.0)
    log_p = family(loc).log_prob(rank)
    in_float64 = family.double()(loc.double()).log_prob(rank.double())
    torch.testing.assert_close(log_p.double(), in_float64, rtol=1e-6, atol=0.0)
    cuts = family.cuts.detach().float()[0]
    subtracted = torch.sigmoid(loc - cuts[0]) - torch.sigmoid(loc - cuts[1])
    assert torch.isinf(subtracted.log())


@pytest.mark.parametrize("size", [-1e4, 0.0, 1e4])
def test_cut_points_stay_ordered_and_every_rank_possible(size: float) -> None:
    family = unveil.Ordinal(2, num_classes=5)
    torch.nn.init.constant_(family.raw_cuts, size)
    family.raw_cuts.data[:, 0] = 0.0  # where the first one stands is the location's business too
    assert (family.cuts.diff(dim=-1) > 0).all()
    log_p = family(torch.zeros(2)).base.log_masses
    (gradient,) = torch.autograd.grad(log_p.sum(), [family.raw_cuts])
    assert torch.isfinite(log_p).all()
    assert torch.isfinite(gradient).all()


def test_cut_points_start_evenly_spread_around_zero() -> None:
    cuts = unveil.Ordinal(1, num_classes=5).cuts.detach()[0]
    torch.testing.assert_close(cuts, torch.tensor([-1.5, -0.5, 0.5, 1.5]), rtol=0.0, atol=1e-3)


def test_two_ranks_are_a_bernoulli() -> None:
    raw, x = normal(2, 9, 3), (normal(3, 9, 3) > 0).double()
    ranks = unveil.Ordinal(3, num_classes=2).double()(raw).log_prob(x)
    torch.testing.assert_close(ranks, unveil.Bernoulli(3)(raw).log_prob(x))


@every_kind
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_no_code_is_impossible(kind: type[Family], dtype: torch.dtype) -> None:
    family = kind(5, num_classes=3).to(dtype)
    codes = torch.tensor([-1.0, 3.0, 0.5, 1e6, math.inf], dtype=dtype)
    log_p = family(torch.zeros(family.num_parameters, dtype=dtype)).log_prob_cells(codes)
    assert torch.equal(log_p, torch.full((5,), -math.inf, dtype=dtype))


@every_kind
def test_draws_are_of_the_masses_and_not_of_the_mode(kind: type[Family]) -> None:
    family = kind(1, num_classes=4).double()
    raw = normal(4, 1, family.num_parameters)
    p, probabilities = family(raw), masses(family, raw, 4).flatten().detach()

    def score(codes: Tensor) -> float:
        return chi_square_z(torch.bincount(codes.flatten().long(), minlength=4), probabilities)

    drawn = draw(p, (20_000,), seeded(5))
    assert drawn.shape == (20_000, 1, 1)
    assert score(drawn) < SURELY_WRONG
    mode = probabilities.argmax()
    assert (
        score(torch.where(torch.rand(20_000, generator=seeded(6)) < 0.2, mode, drawn[:, 0, 0]))
        > CAUGHT / 2
    )


def test_a_class_without_mass_is_never_drawn() -> None:
    logits = torch.tensor([-1e4, 0.0, -1e4, 0.0, -1e4])
    codes = draw(Classes(logits.log_softmax(-1)), (100_000,), seeded(7))
    assert set(codes.tolist()) == {1.0, 3.0}


def test_the_mean_of_a_rank_is_expected_and_that_of_a_class_the_most_probable() -> None:
    ranks = shaken(unveil.Ordinal(3, num_classes=4).double())
    raw = normal(5, 6, 3)
    expected = (torch.arange(4).view(-1, 1, 1) * masses(ranks, raw, 4)).sum(0)
    torch.testing.assert_close(ranks(raw).mean, expected)
    classes, raw = unveil.Categorical(3, num_classes=4), normal(6, 6, 12)
    mode = classes(raw).mean
    assert torch.equal(mode, masses(classes, raw, 4).argmax(0).double())


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_ranks_start_at_their_mean(num_classes: int) -> None:
    mean = torch.linspace(0, num_classes - 1, 7)
    family = unveil.Ordinal(7, num_classes=num_classes)
    torch.testing.assert_close(family(family.start(mean)).mean.detach(), mean, rtol=0.0, atol=0.02)


@every_kind
def test_a_single_class_is_refused(kind: type[Family]) -> None:
    with pytest.raises(ValueError, match=r"expected 2 classes or more, got 1; leave a column out"):
        kind(3, num_classes=1)


@every_kind
def test_classes_stand_beside_columns_of_other_kinds(kind: type[Family]) -> None:
    codes = kind(2, num_classes=3)
    joined = unveil.Columns([((1,), unveil.Poisson(1)), ((0, 2), codes)]).double()
    raw = normal(7, 4, joined.num_parameters)
    x = torch.tensor([2.0, 7.0, 1.0]).double().expand(4, 3)
    apart = unveil.Poisson(1)(raw[:, :1]).log_prob(x[:, 1:2]) + codes(raw[:, 1:]).log_prob(
        x[:, ::2]
    )
    torch.testing.assert_close(joined(raw).log_prob(x), apart)
    assert draw(joined(raw), (5,), seeded(8))[..., ::2].unique().tolist() == [0.0, 1.0, 2.0]
