"""Levels of latents that are feature maps: where each number lies, and what it can reach."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Normal

import unveil
from oracles import NOW, normal, shake, with_gaps
from unveil.build import Architecture, build
from unveil.data.schema import REAL, Column, Schema
from unveil.families import positive, split_parameters
from unveil.networks.conv import ConvBlock, ConvLevel
from unveil.priors.topdown import TopDownPrior
from unveil.registry.networks import networks

TOP, MAPS = 3, 2
SMALL = f"conv:maps={MAPS},channels=5/6,width=7"
SIDES = {"covariates": 0, "width": 4}


def model(
    shape: tuple[int, ...], levels: int, *, covariates: int = 0, network: str = SMALL
) -> unveil.VAE:
    """A fresh one, float64."""
    architecture = Architecture(
        latents=networks(network).levels(shape, TOP, levels),
        covariates=covariates,
        network=network,
        likelihood="auto",
        prior="standard",
        posterior="diagonal",
    )
    return build(Schema(shape, (Column("x", REAL),), gaps=True), architecture, seed=0).double()


def shaken(*arguments: Any, **settings: Any) -> unveil.VAE:
    """One whose weights are far from where they start."""
    vae = model(*arguments, **settings)
    shake(vae, seed=1, sd=0.2)
    return vae


def without_blocks(shape: tuple[int, ...], levels: int) -> unveil.VAE:
    """One of half the image's resolution, whose blocks add nothing to how far a pixel reaches."""
    vae = shaken(shape, levels, network=f"conv:maps={MAPS},channels=4,width=5")
    with torch.no_grad():
        for block in (part for part in vae.modules() if isinstance(part, ConvBlock)):
            block.second.weight.zero_()
    return vae


def moved(before: Tensor, after: Tensor, shape: tuple[int, ...]) -> list[Tensor]:
    """Which cells of shape a parameter's groups moved, for one row."""
    return [part[0] for part in split_parameters(before != after, shape)]


def around(pixel: tuple[int, int], reach: int, resolution: tuple[int, int]) -> Tensor:
    """The pixels within so many of one, (h, w)."""
    rows, columns = (torch.arange(side) for side in resolution)
    near = (rows - pixel[0]).abs()[:, None], (columns - pixel[1]).abs()[None]
    return (near[0] <= reach) & (near[1] <= reach)


# ---- shapes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 3])
@pytest.mark.parametrize("covariates", [0, 2])
@pytest.mark.parametrize(
    ("shape", "pixels"),
    [((8, 8), 4), ((20, 16), 20), ((28, 28), 49), ((9, 7, 3), 6), ((1, 2), 1)],
    ids=str,
)
def test_images_of_any_size_have_levels_of_maps(
    shape: tuple[int, ...], pixels: int, covariates: int, levels: int
) -> None:
    vae = model(shape, levels, covariates=covariates)
    given = torch.zeros(4, covariates).double() if covariates else None
    latents = TOP + (levels - 1) * pixels * MAPS
    q = vae.posterior(with_gaps(normal(2, 4, *shape), seed=3), given)
    z = q.push(normal(4, 5, 4, latents))
    assert vae.num_latents == latents
    assert q.log_prob(z).shape == vae.prior(given).log_prob(z).shape == (5, 4)
    assert vae.likelihood(z, given).log_prob(normal(5, 4, *shape)).shape == (5, 4)


def test_maps_stand_at_the_smallest_of_the_usual_resolutions() -> None:
    assert networks("conv:maps=2").levels((28, 28), 10, 3) == (10, 7 * 7 * 2, 7 * 7 * 2)


# ---- layout ------------------------------------------------------------------------------------


def plain_convolution(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Of (row, h, w, c) in plain sums over pixels and channels."""
    _, height, width, _ = x.shape
    reach = weight.shape[-1] // 2
    out = bias.expand(*x.shape[:3], len(bias)).clone()
    for i in range(height):
        for j in range(width):
            for m in range(max(0, i - reach), min(height, i + reach + 1)):
                for n in range(max(0, j - reach), min(width, j + reach + 1)):
                    tap = weight[:, :, m - i + reach, n - j + reach]
                    out[:, i, j] = out[:, i, j] + x[:, m, n] @ tap.T
    return out


def plain_level(level: ConvLevel, value: Tensor, given: Tensor) -> Tensor:
    """A level of 3 × 2 pixels with a vector of two and maps of one and three channels."""
    rows = len(value)
    vector, first, second = value[:, :2], value[:, 2:8], value[:, 8:]
    met = level.unfold(F.silu(level.enter(torch.cat([vector, given], 1)))).reshape(rows, 3, 2, -1)
    for layer, numbers in zip(level.maps, (first, second), strict=True):
        met = met + plain_convolution(numbers.reshape(rows, 3, 2, -1), layer.weight, layer.bias)
    for block in level.body:
        assert isinstance(block, ConvBlock)
        inner = plain_convolution(F.silu(met), block.first.weight, block.first.bias)
        met = met + plain_convolution(F.silu(inner), block.second.weight, block.second.bias)
    said = plain_convolution(F.silu(met), level.leave.weight, level.leave.bias)
    locations, raw_spreads = said[..., :2], said[..., 2:]  # of two channels each
    return torch.cat([locations.flatten(1), raw_spreads.flatten(1)], 1)


def test_a_level_is_the_plain_one() -> None:
    level = ConvLevel(
        (3, 2, 2), inputs=26, covariates=2, outputs=24, maps=(1, 3), features=5, width=7
    ).double()
    shake(level, seed=6)
    value, given = normal(7, 4, 26), normal(8, 4, 2)
    plain = plain_level(level, value, given)
    torch.testing.assert_close(level(value, given), plain)
    torch.testing.assert_close(level(torch.cat([value, given], 1)), plain)  # as a prior calls it
    torch.testing.assert_close(level(value.expand(3, 4, 26), given), plain.expand(3, 4, 24))


@pytest.mark.parametrize("channel", range(MAPS))
@pytest.mark.parametrize("pixel", [(2, 3), (0, 5)], ids=str)
def test_a_pixel_of_a_map_moves_its_neighbourhood_of_the_image(pixel, channel: int) -> None:
    """3 × 3 pixels of features, and each of those 3 × 3 of their neighbours' cells."""
    shape, half = (10, 12, 2), (5, 6)
    vae = without_blocks(shape, 3)
    z = normal(10, 1, vae.num_latents)
    for which in (0, 1):
        bright = z.clone()
        bright[0, TOP:].view(2, *half, MAPS)[(which, *pixel, channel)] += 1.0
        near = around(pixel, 2, half).repeat_interleave(2, 0).repeat_interleave(2, 1)
        before, after = (vae.p_x_given_z.network(latents) for latents in (z, bright))
        (cells,) = moved(before, after, shape)
        assert torch.equal(cells, near[..., None].expand(shape))


@pytest.mark.parametrize("which", [0, 1], ids=["first map", "second map"])
def test_a_pixel_of_a_map_moves_its_neighbourhood_of_the_level_below(which: int) -> None:
    resolution, pixel = (5, 6), (1, 4)
    inputs = TOP + 2 * 30 * MAPS
    level = ConvLevel(
        (*resolution, 1), inputs=inputs, outputs=60, maps=(MAPS, MAPS), depth=0, **SIDES
    ).double()
    shake(level, seed=11)
    z = normal(12, 1, inputs)
    bright = z.clone()
    bright[0, TOP:].view(2, *resolution, MAPS)[(which, *pixel, 1)] += 1.0
    for cells in moved(level(z), level(bright), (*resolution, 1)):
        assert torch.equal(cells[..., 0], around(pixel, 2, resolution))


def test_a_top_latent_moves_every_cell_of_the_maps_below() -> None:
    prior = shaken((9, 7), 2).p_z
    assert isinstance(prior, TopDownPrior)
    before, after = (prior.below[0](z) for z in (torch.zeros(1, TOP).double(), normal(13, 1, TOP)))
    assert (before.mean != after.mean).all()
    assert (before.stddev != after.stddev).all()


def test_locations_and_spreads_of_a_cell_come_from_its_own_pixel() -> None:
    """By hand: a cell's location is act(m) of its own channel, its raw spread of the other's."""
    prior = shaken((12, 12), 3, network=f"conv:maps={MAPS},channels=2,width=7").p_z
    assert isinstance(prior, TopDownPrior)
    level = prior.below[1].network.network
    assert isinstance(level, ConvLevel)
    with torch.no_grad():
        for p in level.parameters():
            p.zero_()
        for channel in range(MAPS):
            level.maps[0].weight[channel, channel, 1, 1] = 1.0
            level.leave.weight[channel, channel, 1, 1] = 1.0
            level.leave.weight[MAPS + channel, 1 - channel, 1, 1] = 1.0
    z = normal(14, 4, TOP + 72)
    cells, p = F.silu(z[:, TOP:]), prior.below[1](z)
    torch.testing.assert_close(p.mean, cells)
    swapped = cells.view(4, 36, MAPS).flip(-1).flatten(1)
    torch.testing.assert_close(p.stddev, positive(swapped))


# ---- the model ---------------------------------------------------------------------------------


def test_a_joint_prior_is_the_product_of_its_levels() -> None:
    vae, given = shaken((9, 7, 3), 3, covariates=2), normal(15, 4, 2)
    assert isinstance(vae.p_z, TopDownPrior)
    z = normal(16, 5, 4, TOP + 24)
    expected = Normal(0.0, 1.0).log_prob(z[..., :TOP]).sum(-1)
    for conditional, first, last in zip(vae.p_z.below, (3, 15), (15, 27), strict=True):
        told = torch.cat([z[..., :first], given.expand(5, 4, 2)], -1)
        loc, raw = conditional.network.network(told).chunk(2, -1)
        log_prob = Normal(loc, positive(raw)).log_prob(z[..., first:last])
        assert (log_prob.sum(-1).abs() > 1).all()
        expected = expected + log_prob.sum(-1)
    torch.testing.assert_close(vae.prior(given).log_prob(z), expected)


def test_pushed_noise_is_weighed_by_the_change_of_variables() -> None:
    """log q(push(ε)) = log N(ε; 0, I) − log |∂z/∂ε|, a row at a time."""
    vae, noise = shaken((5, 4), 3), normal(17, 1, 1, TOP + 8)
    q = vae.posterior(normal(18, 1, 5, 4))
    z = q.push(noise)
    jacobian = torch.autograd.functional.jacobian(lambda ε: q.push(ε)[0, 0], noise)[:, 0, 0]
    expected = Normal(0.0, 1.0).log_prob(noise).sum() - torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(q.log_prob(z.clone())[0, 0], expected)
    assert jacobian[TOP:, :TOP].abs().min() > 0  # what fell above moves the maps


def test_an_untrained_model_is_near_a_standard_normal_on_every_level() -> None:
    vae = model((28, 28), 3, network="conv:maps=2").float()
    x, z = normal(19, 20, 28, 28).float(), normal(20, 1, 20, TOP + 196).float()
    for levels in (vae.posterior(x).conditionals(z), vae.prior().conditionals(z)):
        for level in levels[1:]:
            assert 0 < level.mean.std() < 0.2
            assert (level.stddev - 1).abs().max() < 0.5


def test_every_weight_has_a_gradient() -> None:
    vae, x = shaken((9, 7, 3), 3, covariates=2), with_gaps(normal(21, 6, 9, 7, 3), seed=22)
    noise = normal(23, 1, 6, vae.num_latents)
    unveil.ELBO()(vae, x, noise, NOW, normal(24, 6, 2)).sum().backward()
    unmoved = [name for name, p in vae.named_parameters() if p.grad is None or not p.grad.any()]
    assert unmoved == []


def test_covariates_reach_the_maps_of_the_prior_and_of_the_posterior() -> None:
    vae, x = shaken((9, 7), 2, covariates=2), normal(25, 1, 9, 7)
    z = normal(26, 1, 1, vae.num_latents)
    given = normal(27, 2, 1, 2)
    for told in (lambda c: vae.prior(c), lambda c: vae.posterior(x, c)):
        first, second = (told(c).conditionals(z)[1].mean for c in given)
        assert (first != second).all()


def test_a_pixel_of_x_moves_the_maps_near_it() -> None:
    """The one cell in the middle of what feeds pixel (4, 3) reaches it alone, and from there, by
    three convolutions, those within three."""
    vae = without_blocks((20, 22), 3)
    x, z = normal(28, 1, 20, 22), normal(29, 1, 1, vae.num_latents)
    bright = x.clone()
    bright[0, 8, 6] += 1.0
    before, after = (vae.posterior(rows).conditionals(z)[2].mean for rows in (x, bright))
    changed = (before != after)[0, 0].view(10, 11, MAPS)
    assert torch.equal(changed, around((4, 3), 3, (10, 11))[..., None].expand(changed.shape))


def test_a_model_learns_to_put_its_detail_into_maps() -> None:
    """Sixteen blocks, each bright or dark by itself, are too much for three latents at the top."""
    blocks = normal(30, 200, 4, 4).sign().repeat_interleave(2, 1).repeat_interleave(2, 2)
    x = blocks + 0.3 * normal(31, 200, 8, 8)
    recipe = unveil.Recipe(batch_size=50, learning_rate=0.01, learning_rate_warmup=5)

    def bound(levels: int, network: str) -> float:
        vae = model((8, 8), levels, network=network)
        unveil.train(
            vae, x, objective=unveil.ELBO(warmup_steps=0), recipe=recipe, epochs=30, seed=0
        )
        noise = normal(32, 1, 200, vae.num_latents)
        return unveil.ELBO()(vae, x, noise, NOW).mean().item()

    without, with_maps = bound(1, "conv:channels=8"), bound(2, "conv:maps=1,channels=8")
    assert with_maps > without + 5
