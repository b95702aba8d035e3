"""A result belongs to its row: whatever stands beside it, in whatever order, on how many threads.

And evaluation noise belongs to the row too: independent between distinct rows, shared by equal
ones, and longer for more draws without changing the first.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unveil
from oracles import (
    CAUGHT,
    SURELY_WRONG,
    nonlinear_vae,
    normal,
    seeded,
    shake,
    with_gaps,
)
from unveil import tiles
from unveil.build import Architecture, build
from unveil.check.models import LogNormalWeights
from unveil.data.encode import digests
from unveil.data.schema import BINARY, Column, Schema
from unveil.evidence.importance import importance
from unveil.families import Family
from unveil.networks.conv import ConvDecoder, ConvEncoder
from unveil.networks.mlp import Decoder
from unveil.networks.mouth import CosSin, FillsGaps, MarksGaps, OneHot
from unveil.networks.sets import SetEncoder
from unveil.noise import RowStreams, generator
from unveil.tiles import RowsAlike
from unveil.units import posterior_moments

ROWS = 300  # one whole tile and a padded one
FIGURES = ("log_evidence", "distortion", "rate", "ess", "rate_per_unit", "means")


@pytest.fixture(params=[1, 2, 3], ids=lambda n: f"{n} threads")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def grey(rows: int) -> Tensor:
    return torch.randint(0, 17, (rows, 4, 5), generator=seeded(60)).float()


def mixed(rows: int) -> Tensor:
    x = normal(61, rows, 5).float()
    x[:, [1, 3]] = (x[:, [1, 3]] > 0).float()
    return with_gaps(x, seed=62)


def two_kinds() -> Family:
    return unveil.Columns([((0, 2, 4), unveil.Gaussian(3)), ((1, 3), unveil.Bernoulli(2))])


def shaken(encoder: nn.Module, decoder: nn.Module, family: Family) -> unveil.VAE:
    vae = unveil.VAE(
        prior=unveil.StandardNormal(3),
        likelihood=unveil.Conditional(decoder, family),
        posterior=unveil.Conditional(encoder, unveil.DiagonalGaussian(3)),
    )
    shake(vae, seed=6, sd=0.1)
    return vae


def convolutional() -> unveil.VAE:
    family = unveil.Bernoulli((9, 7))
    sizes = {"channels": (13, 7), "width": 11, "covariates": 0}
    return shaken(
        ConvEncoder((9, 7), outputs=6, gaps=MarksGaps(), **sizes),
        ConvDecoder((9, 7), num_latents=3, outputs=family.num_parameters, **sizes),
        family,
    )


def coloured() -> unveil.VAE:
    family = unveil.Gaussian((5, 6, 3), unveil.CellScale())
    sizes = {"channels": (5,), "depth": 2, "width": 7, "covariates": 0}
    return shaken(
        ConvEncoder((5, 6, 3), outputs=6, gaps=FillsGaps(), **sizes),
        ConvDecoder((5, 6, 3), num_latents=3, outputs=family.num_parameters, **sizes),
        family,
    ).double()


def of_maps() -> unveil.VAE:
    """Three levels: a vector of five latents, and two maps of 3 × 2 pixels and three channels."""
    architecture = Architecture(
        latents=(5, 18, 18),
        network="conv:maps=3,channels=13/7,width=11",
        likelihood="auto",
        prior="standard",
        posterior="diagonal",
    )
    vae = build(Schema((9, 7), (Column("pixel", BINARY, step=1.0),), gaps=True), architecture, 0)
    shake(vae, seed=6, sd=0.1)
    return vae


def of_sets() -> unveil.VAE:
    family = unveil.Gaussian(33)
    sizes = {"covariates": 0, "width": 13, "depth": 1}
    ways = [((4, 1), OneHot([2, 3])), ((7,), CosSin())]
    return shaken(
        SetEncoder((33,), outputs=6, embedding=5, parts=ways, **sizes),
        Decoder(3, outputs=33, **sizes),
        family,
    )


# Odd widths on purpose: a kernel that rounds by a row's place in memory shows itself there.
CASES: dict[str, tuple[Callable[[], unveil.VAE], Callable[[int], Tensor]]] = {
    "width 7": (
        lambda: nonlinear_vae(unveil.Gaussian(3), latents=1, width=7, depth=2),
        lambda n: with_gaps(normal(63, n, 3).float(), seed=64),
    ),
    "width 13, thirteen cells": (
        lambda: nonlinear_vae(unveil.Gaussian(13, unveil.CellScale()), latents=5, width=13),
        lambda n: with_gaps(normal(65, n, 13).float(), seed=66),
    ),
    "width 50, images": (
        lambda: nonlinear_vae(
            unveil.DiscretizedLogistic((4, 5), step=1.0, low=0.0, high=16.0),
            latents=3,
            width=50,
            gaps=False,
        ),
        grey,
    ),
    "width 64, binary images": (
        lambda: nonlinear_vae(unveil.Bernoulli((4, 5)), latents=2, width=64, depth=2, gaps=False),
        lambda n: (grey(n) > 8).float(),
    ),
    "width 13, columns of two kinds": (
        lambda: nonlinear_vae(two_kinds(), latents=3, width=13),
        mixed,
    ),
    "width 7, float64": (
        lambda: nonlinear_vae(unveil.Gaussian(5), latents=2, width=7).double(),
        lambda n: normal(67, n, 5),
    ),
    "convolutions of 13 and 7 channels": (
        convolutional,
        lambda n: with_gaps((normal(73, n, 9, 7) > 0).float(), seed=74),
    ),
    "convolutions in colour, float64": (coloured, lambda n: normal(75, n, 5, 6, 3)),
    "maps of latents": (
        of_maps,
        lambda n: with_gaps((normal(73, n, 9, 7) > 0).float(), seed=74),
    ),
    "sets of cells": (of_sets, lambda n: with_gaps(normal(76, n, 33).float(), seed=77, share=0.6)),
}
every_case = pytest.mark.parametrize(("make", "rows"), CASES.values(), ids=CASES)

# Which rows are asked for, and in what order: positions among ROWS.
SELECTIONS = {
    "permuted": torch.randperm(ROWS, generator=seeded(68)),
    "reversed": torch.arange(ROWS).flip(0),
    "a part": torch.arange(37, 180),
    "five": torch.tensor([299, 3, 256, 255, 7]),
    "one": torch.tensor([131]),
    "each twice": torch.arange(ROWS).repeat_interleave(2),
}


def changed(before: Tensor, after: Tensor) -> int:
    """How many rows differ in any bit."""
    return int((before != after).flatten(1 if before.dim() > 1 else 0).sum())


# ---- results -----------------------------------------------------------------------------------


@every_case
def test_importance_is_bitwise_the_row_s_own(threads, make, rows) -> None:
    vae, x = make(), rows(ROWS)
    whole = importance(vae, x, num_samples=9)
    figures = [figure for figure in FIGURES if getattr(whole, figure) is not None]
    differing = {
        f"{figure}, {name}": changed(getattr(whole, figure)[index], getattr(part, figure))
        for name, index in SELECTIONS.items()
        for part in [importance(vae, x[index], num_samples=9)]
        for figure in figures
    }
    assert {name: count for name, count in differing.items() if count} == {}


@every_case
def test_posterior_moments_are_bitwise_the_row_s_own(threads, make, rows) -> None:
    vae, x = make(), rows(ROWS)
    mean, sd = posterior_moments(vae, x)
    for index in SELECTIONS.values():
        part_mean, part_sd = posterior_moments(vae, x[index])
        assert torch.equal(mean[index], part_mean)
        assert torch.equal(sd[index], part_sd)


def test_importance_in_many_chunks_is_bitwise_the_row_s_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tiles, "FLOATS_PER_CHUNK", 4 * 256 * 20)
    make, rows = CASES["width 50, images"]
    vae, x = make(), rows(ROWS)
    whole = importance(vae, x, num_samples=9).log_evidence
    part = importance(vae, x[40:90], num_samples=9).log_evidence
    assert torch.equal(whole[40:90], part)


def test_cutting_the_draws_into_chunks_changes_rounding_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make, rows = CASES["width 50, images"]
    vae, x = make(), rows(20)
    at_once = importance(vae, x, num_samples=9).log_evidence
    monkeypatch.setattr(tiles, "FLOATS_PER_CHUNK", 2 * 256 * 20)
    torch.testing.assert_close(importance(vae, x, num_samples=9).log_evidence, at_once)


def pairs(x: Tensor) -> Tensor:
    return x.unflatten(1, (17, 23))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "function",
    [
        pytest.param(F.silu, id="silu"),
        pytest.param(F.gelu, id="gelu"),
        pytest.param(F.softplus, id="softplus"),
        pytest.param(lambda x: F.silu(x.T).T, id="silu of columns"),
        pytest.param(lambda x: F.softplus(x[:, ::2]), id="softplus of every other"),
        pytest.param(lambda x: torch.bmm(pairs(x).mT, pairs(x)), id="bmm"),
        pytest.param(lambda x: torch.baddbmm(x[:, :1, None], pairs(x).mT, pairs(x)), id="baddbmm"),
    ],
)
def test_an_operation_treats_rows_alike(threads, function, dtype) -> None:
    """391 numbers a row are shared by three threads in parts that are no whole vectors."""
    x, order = normal(78, 256, 391).to(dtype), torch.randperm(256, generator=seeded(79))
    with RowsAlike():
        whole, permuted = function(x), function(x[order])
    assert torch.equal(whole[order], permuted)
    torch.testing.assert_close(whole, function(x))


def test_equal_rows_have_equal_results() -> None:
    make, rows = CASES["width 13, columns of two kinds"]
    x = rows(10)[[4] * 20]
    result = importance(make(), x, num_samples=5).log_evidence
    assert torch.equal(result, result[:1].expand(20))


# ---- noise -------------------------------------------------------------------------------------

Noise = Callable[[Tensor, int], Tensor]  # (rows, number of draws) → (sample, row, 1)


def own_noise(x: Tensor, num_samples: int) -> Tensor:
    """The library's: a stream for each row."""
    return RowStreams(0, "importance", digests(x.numpy())).normal(num_samples, 1)


def broadcast_noise(x: Tensor, num_samples: int) -> Tensor:
    """The mutant: one stream for all rows."""
    return own_noise(x[:1], num_samples).expand(-1, len(x), -1)


def excess_variance(noise: Noise, *, rows: int = 100, draws: int = 400) -> float:
    """Var(mean over n rows)·n − Var(one row), in standard errors: 0 for independent rows.

    Rows that share their noise make the mean over rows as variable as one row: n − 1 too much.
    """
    x = torch.arange(rows, dtype=torch.float64)[:, None]
    eps = noise(x, draws)[..., 0]
    return float((eps.mean(1).var() * rows - 1) / math.sqrt(2 / (draws - 1)))


def test_the_noise_of_distinct_rows_is_independent() -> None:
    assert abs(excess_variance(own_noise)) < SURELY_WRONG


def test_noise_broadcast_over_rows_is_noticed() -> None:
    assert excess_variance(broadcast_noise) > CAUGHT


def test_importance_gives_distinct_rows_independent_noise() -> None:
    """Log-normal weights have the same law in every row, so errors of the mean must average out."""
    x = torch.arange(4000, dtype=torch.float64)[:, None]
    one_draw = importance(LogNormalWeights(1.0), x, num_samples=1).log_evidence
    correlation = torch.corrcoef(torch.stack([one_draw[:-1], one_draw[1:]]))[0, 1]
    assert abs(correlation) * math.sqrt(4000) < SURELY_WRONG
    assert len(one_draw.unique()) == 4000


def test_equal_rows_share_their_noise_and_distinct_rows_do_not() -> None:
    eps = own_noise(torch.tensor([[1.0], [2.0], [1.0]]), 4)
    assert torch.equal(eps[:, 0], eps[:, 2])
    assert not torch.equal(eps[:, 0], eps[:, 1])


def test_more_draws_extend_fewer() -> None:
    x = normal(69, 6, 2)
    assert torch.equal(own_noise(x, 8)[:7], own_noise(x, 7))


def test_draws_taken_in_pieces_are_the_same_draws() -> None:
    keys = digests(normal(70, 6, 2).numpy())
    streams = RowStreams(0, "importance", keys)
    pieces = torch.cat([streams.normal(size, 3) for size in (1, 4, 2)])
    assert torch.equal(pieces, RowStreams(0, "importance", keys).normal(7, 3))


@pytest.mark.parametrize("other", [(1, "importance"), (0, "held out")])
def test_another_seed_or_purpose_has_other_noise(other: tuple[int, str]) -> None:
    keys = digests(normal(71, 6, 2).numpy())
    eps = RowStreams(0, "importance", keys).normal(100, 1)
    different = RowStreams(*other, keys).normal(100, 1)
    correlation = np.corrcoef(eps.flatten(), different.flatten())[0, 1]
    assert abs(correlation) * math.sqrt(600) < SURELY_WRONG


def test_a_gap_is_part_of_what_a_row_is() -> None:
    x = torch.tensor([[0.0, 1.0], [math.nan, 1.0]])
    eps = own_noise(x, 3)
    assert not torch.equal(eps[:, 0], eps[:, 1])


def test_uniforms_lie_in_the_unit_interval_and_are_uniform() -> None:
    u = RowStreams(0, "demo", digests(normal(72, 50, 1).numpy())).uniform(400, 1).flatten()
    assert 0 <= u.min() <= u.max() < 1
    z = (u.mean() - 0.5) / math.sqrt(1 / 12 / len(u))
    assert abs(z) < SURELY_WRONG


def test_generators_of_equal_keys_are_equal_and_of_unequal_keys_are_not() -> None:
    keys = [(0, "order", 1), (0, "order", 2), (1, "order", 1), (0, "train", 1)]
    firsts = [torch.rand(4, generator=generator(*key)) for key in keys]
    assert torch.equal(firsts[0], torch.rand(4, generator=generator(*keys[0])))
    assert len({tuple(first.tolist()) for first in firsts}) == len(keys)
