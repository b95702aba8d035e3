"""Standard errors, warnings and units of an evaluation."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import unveil
from unveil.evaluation import Subject, evaluate
from unveil.evidence.bound import Bound
from unveil.evidence.importance import importance
from unveil.evidence.row_bounds import draw_error, row_error
from unveil.tiles import row_digests
from unveil.units import collapse_warning


def vae(cells: int = 3) -> unveil.VAE:
    decoder, encoder = nn.Linear(2, cells), nn.Linear(cells, 4)
    for number, p in enumerate([*decoder.parameters(), *encoder.parameters()]):
        values = torch.randn(p.shape, generator=torch.Generator().manual_seed(number))
        p.data = 0.5 * values
    return unveil.VAE(
        prior=unveil.StandardNormal(2),
        likelihood=unveil.Conditional(decoder, unveil.Bernoulli(cells)),
        posterior=unveil.Conditional(encoder, unveil.DiagonalGaussian(2)),
    )


def bits(rows: int, cells: int = 3) -> torch.Tensor:
    return (torch.rand(rows, cells, generator=torch.Generator().manual_seed(9)) < 0.5).float()


def test_equal_rows_share_draws_and_their_errors_add() -> None:
    """Four equal rows are no better known than one; four distinct ones are, by a half."""
    variance = torch.full((4,), 0.04, dtype=torch.float64)
    assert draw_error(variance, row_digests(torch.zeros(4, 2))) == pytest.approx(0.2)
    assert draw_error(variance, row_digests(torch.arange(4.0)[:, None])) == pytest.approx(0.1)


def test_the_error_of_the_draws_is_the_spread_over_seeds() -> None:
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    runs = [importance(vae(), x, num_samples=100, seed=seed) for seed in range(200)]
    spread = torch.stack([run.log_evidence.mean() for run in runs]).std()
    keys = row_digests(x)
    claimed = torch.tensor([draw_error(run.log_evidence_variance, keys) for run in runs]).mean()
    assert float(claimed / spread) == pytest.approx(1.0, abs=0.2)
    # The mutant: as if all rows shared one draw.
    assert float(claimed * math.sqrt(len(x)) / spread) > 2


def test_the_error_of_the_rows_is_that_of_a_mean() -> None:
    assert row_error(torch.tensor([1.0, 3.0, 5.0, 7.0]).double()) == pytest.approx(
        math.sqrt(20 / 3) / 2
    )
    assert row_error(torch.ones(1, dtype=torch.float64)) is None


def test_a_single_draw_cannot_tell_its_own_error() -> None:
    bound = evaluate(Subject(model=vae(), x=bits(20)), num_samples=1).lower
    assert bound.mc_se is None
    assert "draws" not in str(bound)


def test_few_effective_draws_are_warned_of() -> None:
    model = vae(40)
    model.p_x_given_z.network.weight.data *= 20  # pyright: ignore
    warnings = evaluate(Subject(model=model, x=bits(60, 40)), num_samples=100).lower.warnings
    assert any("effective draws of 100: there the bound is loose" in w for w in warnings)
    assert evaluate(Subject(model=vae(), x=bits(60)), num_samples=100).lower.warnings == ()


def test_missing_cells_do_not_flatter_bits_per_dimension() -> None:
    x = bits(30)
    half = torch.cat([x, torch.full((30, 3), math.nan)], dim=1)
    blind = nn.Linear(6, 4)
    nn.init.zeros_(blind.weight)
    model = vae(6)
    model.q_z_given_x.network = _ForgetsGaps(blind)
    result = evaluate(Subject(model=model, x=half, counts_cells=True), num_samples=10)
    assert result.lower.value is not None and result.bits_per_dim is not None
    assert result.bits_per_dim == pytest.approx(-result.lower.value / 3 / math.log(2))


class _ForgetsGaps(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x.nan_to_num(nan=0.0))


def test_a_gain_is_told_row_by_row_and_so_is_its_error() -> None:
    """What makes a row hard for both models is no error of how they differ."""
    subject = Subject(model=vae(), x=bits(60))
    rows = importance(vae(), bits(60), num_samples=50).log_evidence
    alone = rows - 2 + 0.01 * torch.randn(60, generator=torch.Generator().manual_seed(1)).double()
    impossible = torch.full_like(rows, -math.inf)
    judged = replace(subject, baselines={"independent": alone, "ppca": impossible})
    result = evaluate(judged, num_samples=50)
    gain = result.gains["independent"]
    assert gain is not None and gain["method"] == "IWAE"
    assert gain["value"] == pytest.approx(float((rows - alone).mean()))
    assert gain["se"] == pytest.approx(row_error(rows - alone))
    # The mutant: as if the two were of different rows.
    assert math.hypot(row_error(rows) or 0.0, row_error(alone) or 0.0) > 20 * gain["se"]
    assert result.gains["ppca"] is None
    assert result.errors["elbo"] == pytest.approx(
        row_error(importance(vae(), bits(60), num_samples=50).elbo.double())
    )


def test_an_evaluation_comes_back_from_its_document() -> None:
    result = evaluate(Subject(model=vae(), x=bits(60)), num_samples=5)
    assert type(result).from_document(result.document()) == result


def test_an_unknown_bound_says_why() -> None:
    upper = Bound(value=None, side="upper", reason="nothing bounds it")
    assert str(upper) == "log p(x) ≤ unknown: nothing bounds it"


def test_latents_are_not_judged_by_few_rows() -> None:
    assert collapse_warning([False], rows=10) is None
    assert "all 1 latents have collapsed" in str(collapse_warning([False], rows=100))
    assert collapse_warning([True], rows=100) is None
    assert "latents 0, 2 of 3 carry nothing" in str(
        collapse_warning([False, True, False], rows=100)
    )
