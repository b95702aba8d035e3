"""Networks: what enters them and how, where their outputs go, and what must not matter."""

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import unveil
from oracles import normal, seeded, shake, with_gaps
from unveil.families import split_parameters
from unveil.networks.conv import (
    ConvBlock,
    ConvDecoder,
    ConvEncoder,
    ConvLevel,
    Doubled,
    convolution,
)
from unveil.networks.mlp import Decoder, Encoder
from unveil.networks.mouth import (
    CosSin,
    Entrance,
    FillsGaps,
    Gaps,
    Log,
    Log1p,
    MarksGaps,
    Mouth,
    OneHot,
    Parts,
)
from unveil.networks.sets import SetEncoder
from unveil.step import Recipe, begin, fused_update, plain_update

SHAPES = [(8, 8), (20, 16), (28, 20), (28, 28), (32, 32, 3), (5, 7), (3, 1, 2), (1, 1)]
LATENTS, COVARIATES, OUTPUTS = 3, 2, 6
SIZES = {"covariates": COVARIATES, "width": 12, "depth": 1}

every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def mixed_parts() -> Parts:
    """Of six columns: two classes, a count, an angle and a positive number; column 3 is left."""
    return [((4, 0), OneHot([2, 3])), ((1,), Log1p()), ((5,), CosSin()), ((2,), Log())]


def mixed_rows(number: int) -> Tensor:
    """Rows of these columns, float64."""
    code = torch.randint(0, 3, (number,), generator=seeded(0)).double()
    count = torch.randint(0, 9, (number,), generator=seeded(1)).double()
    real, angle, positive = normal(2, 3, number)
    columns = [code, count, positive.exp(), real, (code > 1).double(), 4 * angle]
    return torch.stack(columns, -1)


def encoders() -> dict[str, tuple[nn.Module, Tensor]]:
    """Every encoder, with rows for it that have gaps; the weights far from where they start."""
    image, table = normal(3, 9, 6, 5, 2), mixed_rows(9)
    made = {
        "mlp": (
            Encoder((6,), outputs=OUTPUTS, gaps=MarksGaps(), parts=mixed_parts(), **SIZES),
            table,
        ),
        "conv": (ConvEncoder((6, 5, 2), outputs=OUTPUTS, gaps=MarksGaps(), **SIZES), image),
        "conv with a map": (
            ConvEncoder((6, 5, 2), outputs=OUTPUTS, maps=(1,), gaps=MarksGaps(), **SIZES),
            image,
        ),
        "sets": (SetEncoder((6,), outputs=OUTPUTS, parts=mixed_parts(), **SIZES), table),
    }
    for encoder, _ in made.values():
        shake(encoder.double(), seed=4)
    return {name: (encoder, with_gaps(x, seed=5)) for name, (encoder, x) in made.items()}


every_encoder = pytest.mark.parametrize("name", encoders())


# ---- the mouth ---------------------------------------------------------------------------------


def enters(row: Sequence[float | None]) -> list[float]:
    """The numbers that a mouth with these parts should make of one row, cell by cell; None is a
    gap."""
    code, count, positive, real, bit, angle = row
    return [
        0.0 if real is None else real,
        *(float(bit == c) for c in range(2)),
        *(float(code == c) for c in range(3)),
        0.0 if count is None else math.log1p(count),
        0.0 if angle is None else math.cos(angle),
        0.0 if angle is None else math.sin(angle),
        0.0 if positive is None else math.log(positive),
        *(float(cell is not None) for cell in row),
    ]


def test_each_kind_of_column_enters_in_its_own_way() -> None:
    x = with_gaps(mixed_rows(40), seed=6, share=0.3)
    mouth = Mouth(6, gaps=MarksGaps(), parts=mixed_parts()).double()
    numbers = mouth(x, ~torch.isnan(x))
    expected = [enters([None if math.isnan(v) else v for v in row]) for row in x.tolist()]
    assert numbers.shape == (40, mouth.width)
    torch.testing.assert_close(numbers, torch.tensor(expected, dtype=torch.float64))


def test_cells_of_one_kind_enter_as_they_are() -> None:
    x = normal(7, 4, 5)
    assert torch.equal(Mouth(5, gaps=FillsGaps())(x, ~torch.isnan(x)), x)


def test_a_channel_of_an_image_enters_in_its_own_way() -> None:
    x = normal(8, 2, 4, 3, 2).exp()
    numbers = Mouth(2, gaps=FillsGaps(), parts=[((0,), Log())])(x, ~torch.isnan(x))
    torch.testing.assert_close(numbers, torch.stack([x[..., 1], x[..., 0].log()], -1))


def test_a_missing_cell_leaves_every_gradient_finite() -> None:
    x = with_gaps(mixed_rows(20), seed=9, share=0.5).requires_grad_()
    numbers = Mouth(6, gaps=FillsGaps(), parts=mixed_parts()).double()(x, ~torch.isnan(x))
    (gradient,) = torch.autograd.grad(numbers.sum(), [x])
    assert torch.isfinite(gradient).all()
    assert gradient[torch.isnan(x)].eq(0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Entrance(3, parts=[((0, 1), Log()), ((1,), Log1p())]), "each once at most"),
        (lambda: Entrance(3, parts=[((3,), Log())]), "columns among 0 … 2"),
        (lambda: Entrance(3, parts=[((0,), OneHot([2, 2]))]), "expected 2 columns"),
        (lambda: OneHot([3, 0]), "at least one class"),
        (lambda: OneHot([]), "at least one class"),
    ],
)
def test_a_wrong_mouth_is_refused_in_a_sentence(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# ---- every encoder -----------------------------------------------------------------------------


@every_encoder
def test_a_row_with_nothing_observed_gives_raw_zeros(name: str) -> None:
    encoder, x = encoders()[name]
    x[4] = torch.nan
    raw = encoder(x, normal(10, 9, COVARIATES))
    assert raw.shape == (9, OUTPUTS)
    assert (raw == 0).all(1).tolist() == [row == 4 for row in range(9)]


@every_encoder
def test_every_weight_of_an_encoder_has_a_gradient(name: str) -> None:
    encoder, x = encoders()[name]
    encoder(x, normal(10, 9, COVARIATES)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in encoder.parameters())


@every_encoder
def test_every_observed_cell_and_covariate_moves_an_encoder(name: str) -> None:
    encoder, x = encoders()[name]
    x, given = x.requires_grad_(), normal(10, 9, COVARIATES).requires_grad_()
    moved = torch.autograd.grad(encoder(x, given).square().sum(), [x, given])
    smooth = torch.ones_like(x, dtype=torch.bool)
    if x.dim() == 2:
        smooth[:, [0, 4]] = False  # classes
    assert moved[0][~torch.isnan(x) & smooth].abs().min() > 0
    assert moved[0][torch.isnan(x)].eq(0).all()
    assert moved[1].abs().min() > 0


@pytest.mark.parametrize("cell", [0, 4])
@pytest.mark.parametrize("name", ["mlp", "sets"])
def test_another_class_is_another_input(name: str, cell: int) -> None:
    encoder, _ = encoders()[name]
    x = mixed_rows(9)
    other = x.clone()
    other[:, cell] = 1 - x[:, cell].clamp(max=1)
    given = normal(10, 9, COVARIATES)
    assert (encoder(x, given) != encoder(other, given)).any(1).all()


# ---- images ------------------------------------------------------------------------------------


@every_shape
@pytest.mark.parametrize("channels", [(8,), (8, 4), (4, 4, 8)], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_images_of_any_size_pass(shape, channels, groups) -> None:
    cells, sizes = math.prod(shape), {**SIZES, "channels": channels}
    encoder = ConvEncoder(shape, outputs=OUTPUTS, gaps=FillsGaps(), **sizes)
    decoder = ConvDecoder(shape, num_latents=LATENTS, outputs=groups * cells, **sizes)
    given = torch.zeros(2, COVARIATES)
    assert encoder(torch.zeros(2, *shape), given).shape == (2, OUTPUTS)
    assert decoder(torch.zeros(2, LATENTS), given).shape == (2, groups * cells)
    assert decoder(torch.zeros(4, 1, 2, LATENTS), given).shape == (4, 1, 2, groups * cells)


def plain_decoder(decoder: ConvDecoder, z: Tensor) -> Tensor:
    """A decoder of one resolution in plain sums: no memory format, no shuffling of pixels."""
    h = F.silu(decoder.enter(z)) @ decoder.unfold.weight.T + decoder.unfold.bias
    h = h.reshape(len(z), *decoder.smallest).permute(0, 3, 1, 2).contiguous()
    for block in decoder.body.modules():
        if isinstance(block, ConvBlock):
            h = h + block.second(F.silu(block.first(F.silu(h))))
    spread = F.conv2d(F.silu(h), decoder.leave.spread.weight, padding=1)
    groups, c = decoder.groups
    height, width = decoder.leave.resolution
    raw = torch.zeros(len(z), groups, height, width, c, dtype=z.dtype)
    for g in range(groups):
        for channel in range(c):
            for i in range(height):
                for j in range(width):
                    which = 4 * (g * c + channel) + 2 * (i % 2) + j % 2
                    raw[:, g, i, j, channel] = spread[:, which, i // 2, j // 2]
    return raw.flatten(1) + decoder.bias


@pytest.mark.parametrize("shape", [(5, 4, 3), (4, 7)], ids=str)
def test_a_decoder_in_channels_last_memory_is_the_plain_one(shape) -> None:
    decoder = ConvDecoder(
        shape, num_latents=2, covariates=0, outputs=2 * math.prod(shape), channels=(5,), width=7
    ).double()
    shake(decoder, seed=11)
    z = normal(12, 6, 2)
    torch.testing.assert_close(decoder(z), plain_decoder(decoder, z))
    torch.testing.assert_close(
        decoder(z.expand(3, 6, 2)), plain_decoder(decoder, z).expand(3, 6, -1)
    )


def test_an_encoder_in_channels_last_memory_is_the_plain_one() -> None:
    encoder = ConvEncoder(
        (7, 5, 3), covariates=0, outputs=4, channels=(6, 5), width=8, gaps=FillsGaps()
    ).double()
    shake(encoder, seed=13)
    x = normal(14, 3, 7, 5, 3)
    h = encoder.body(x.permute(0, 3, 1, 2).contiguous())
    pixels = torch.stack([F.silu(h)[:, :, i, j] for i in range(2) for j in range(2)], 1)
    raw = encoder.leave(F.silu(encoder.gather(pixels.flatten(1))))
    torch.testing.assert_close(encoder(x), raw)


def test_convolutions_keep_to_channels_last_memory() -> None:
    formats = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        formats.append(output.is_contiguous(memory_format=torch.channels_last))

    maps, numbers = (3, 2), 5 * 35
    encoder = ConvEncoder((28, 20), outputs=OUTPUTS + numbers, maps=maps, gaps=FillsGaps(), **SIZES)
    decoder = ConvDecoder((28, 20), num_latents=LATENTS + numbers, maps=maps, outputs=560, **SIZES)
    level = ConvLevel((7, 5, 2), inputs=LATENTS + numbers, maps=maps, outputs=140, **SIZES)
    for module in [*encoder.modules(), *decoder.modules(), *level.modules()]:
        if isinstance(module, nn.Conv2d | Doubled):
            module.register_forward_hook(look)
    given = torch.zeros(2, COVARIATES)
    encoder(torch.zeros(2, 28, 20), given)
    decoder(torch.zeros(2, LATENTS + numbers), given), level(torch.zeros(2, 178), given)
    assert len(formats) == 14 + 3 * len(maps) + 3
    assert all(formats)


@pytest.mark.parametrize("shape", [(7, 6), (5, 4, 3)], ids=str)
def test_a_bright_pixel_appears_where_it_should(shape) -> None:
    """The features of one pixel of half the size light 2 × 2 pixels of one channel and no other."""
    family = unveil.Bernoulli(shape)
    decoder = ConvDecoder(
        shape, num_latents=1, covariates=0, outputs=family.num_parameters, channels=(1,), width=1
    )
    h, w, c = (*shape, 1)[:3]
    half_w, i, j, channel = -(-w // 2), 1, 0, c - 1
    with torch.no_grad():
        for p in decoder.parameters():
            p.zero_()
        decoder.enter.weight.fill_(1.0)
        decoder.unfold.weight[i * half_w + j] = 10.0
        decoder.leave.spread.weight[4 * channel : 4 * channel + 4, 0, 1, 1] = 10.0
        bright = family(decoder(torch.ones(1, 1))).mean[0].reshape(h, w, c) > 0.9
    expected = torch.zeros(h, w, c, dtype=torch.bool)
    expected[2 * i : 2 * i + 2, 2 * j : 2 * j + 2, channel] = True
    assert torch.equal(bright, expected)


@pytest.mark.parametrize("shape", [(9, 10), (10, 7, 2)], ids=str)
def test_a_cell_is_fed_from_its_own_neighbourhood(shape) -> None:
    """A pixel of half the size moves the cells near it, in all channels and parameters alike."""
    decoder = ConvDecoder(
        shape,
        num_latents=1,
        covariates=0,
        outputs=2 * math.prod(shape),
        channels=(4,),
        depth=0,
    ).double()
    shake(decoder, seed=15)
    half_w, i, j = -(-shape[1] // 2), 1, 2
    before = decoder(normal(16, 1, 1))
    with torch.no_grad():
        decoder.unfold.bias[4 * (i * half_w + j)] += 1.0
    near = torch.zeros(shape, dtype=torch.bool)
    near[2 * i - 2 : 2 * i + 4, 2 * j - 2 : 2 * j + 4] = True
    for moved in split_parameters(decoder(normal(16, 1, 1)) != before, shape):
        assert torch.equal(moved[0], near)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: conv_encoder((784,)), "images of shape"),
        (lambda: conv_encoder((2, 8, 8, 3)), "images of shape"),
        (lambda: conv_encoder((8, 0)), "images of shape"),
        (lambda: conv_encoder((8, 8), channels=()), "one or more resolutions"),
        (lambda: conv_decoder((8, 8), channels=(8, 0)), "one or more resolutions"),
        (lambda: conv_decoder((8,)), "images of shape"),
        (lambda: conv_decoder((8, 8), outputs=65), "multiple of 64"),
        (lambda: conv_decoder((8, 8), outputs=0), "multiple of 64"),
        (lambda: conv_decoder((8, 8), maps=(1,)), "more numbers than the 4 of the maps, got 3"),
        (lambda: conv_encoder((8, 8), maps=(2,)), "more numbers than the 8 of the maps, got 6"),
    ],
)
def test_what_is_no_image_is_refused_in_a_sentence(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def conv_encoder(shape: tuple[int, ...], *, gaps: Gaps | None = None, **settings) -> ConvEncoder:
    return ConvEncoder(shape, outputs=OUTPUTS, gaps=gaps or FillsGaps(), **(SIZES | settings))


def conv_decoder(shape: tuple[int, ...], *, outputs: int = 64, **settings) -> ConvDecoder:
    return ConvDecoder(shape, num_latents=LATENTS, outputs=outputs, **(SIZES | settings))


# ---- sets --------------------------------------------------------------------------------------


def set_encoder(columns: int) -> SetEncoder:
    encoder = SetEncoder((columns,), outputs=OUTPUTS, **SIZES).double()
    shake(encoder, seed=17)
    return encoder


@pytest.mark.parametrize("columns", [5, 64, 150])
def test_a_set_is_summed_cell_by_cell(columns: int) -> None:
    encoder, given = set_encoder(columns), normal(18, 4, COVARIATES)
    x = with_gaps(normal(19, 4, columns), seed=20, share=0.5)
    slopes, offsets = encoder.says(encoder.embeddings).chunk(2, -1)
    for row, c, raw in zip(x, given, encoder(x, given), strict=True):
        seen = [j for j in range(columns) if not math.isnan(row[j])]
        said = [F.silu(row[j] * slopes[j] + offsets[j]) for j in seen]
        pooled = torch.stack(said).sum(0) / len(seen)
        count = torch.tensor([math.log(len(seen))], dtype=torch.float64)
        torch.testing.assert_close(encoder.body(torch.cat([pooled, count, c])), raw)


def test_the_order_of_the_columns_does_not_matter_to_a_set() -> None:
    encoder, order = set_encoder(150), torch.randperm(150, generator=seeded(21))
    x, given = with_gaps(normal(22, 6, 150), seed=23), normal(24, 6, COVARIATES)
    before = encoder(x, given)
    assert (encoder(x[:, order], given) - before).abs().max() > 1e-3  # embeddings stayed behind
    with torch.no_grad():
        encoder.embeddings.copy_(encoder.embeddings[order])
    torch.testing.assert_close(encoder(x[:, order], given), before)


def test_columns_that_are_missing_everywhere_do_not_matter_to_a_set() -> None:
    """A wider table whose further columns are empty is the narrower one, whatever they hold."""
    wide, narrow = set_encoder(80), set_encoder(50)
    with torch.no_grad():
        for name, p in narrow.named_parameters():
            p.copy_(wide.get_parameter(name)[: len(p)])
    x, given = normal(25, 6, 50), normal(26, 6, COVARIATES)
    padded = torch.cat([x, torch.full((6, 30), torch.nan, dtype=x.dtype)], -1)
    torch.testing.assert_close(wide(padded, given), narrow(x, given))


def test_an_imputed_zero_is_not_a_gap_to_a_set() -> None:
    encoder, x = set_encoder(5), normal(27, 3, 5)
    given = normal(28, 3, COVARIATES)
    x[:, 2] = torch.nan
    assert (encoder(x, given) - encoder(x.nan_to_num(0.0), given)).abs().amax(1).min() > 1e-3


# ---- where they start --------------------------------------------------------------------------


def fresh(seed: int) -> dict[str, nn.Module]:
    """Every network from a generator of the seed's."""
    g = seeded(seed)
    image = {"covariates": 0, "generator": g}
    table = {**image, "width": 64, "depth": 2}
    return {
        "mlp encoder": Encoder((28, 28), outputs=OUTPUTS, gaps=MarksGaps(), **table),
        "conv encoder": ConvEncoder((28, 28), outputs=OUTPUTS, gaps=MarksGaps(), **image),
        "set encoder": SetEncoder((28, 28), outputs=OUTPUTS, **table),
        "mlp decoder": Decoder(LATENTS, outputs=2 * 784, **table),
        "conv decoder": ConvDecoder((28, 28), num_latents=LATENTS, outputs=2 * 784, **image),
        "conv level": ConvLevel((7, 7, 2), inputs=LATENTS, outputs=2 * 98, **image),
    }


def test_an_untrained_network_says_next_to_nothing() -> None:
    """Encoders are near the prior, decoders near their bias."""
    x, z = normal(29, 20, 28, 28).float(), normal(30, 20, LATENTS).float()
    for name, network in fresh(0).items():
        raw = network(x if "encoder" in name else z)
        assert 0 < raw.std() < 0.1, name


@pytest.mark.parametrize("name", ["mlp decoder", "conv decoder"])
def test_a_decoder_starts_where_it_is_told(name: str) -> None:
    decoder = fresh(0)[name]
    raw = 3 * normal(31, 2 * 784).float()
    decoder.start(raw)
    assert (decoder(normal(32, 20, LATENTS).float()) - raw).abs().max() < 0.5


def test_a_started_decoder_of_images_has_the_mean_of_each_cell() -> None:
    family = unveil.Gaussian((4, 6, 3), unveil.CellScale())
    decoder = ConvDecoder(
        (4, 6, 3), num_latents=LATENTS, outputs=family.num_parameters, covariates=0
    )
    mean = 5 * normal(33, 4, 6, 3).float()
    decoder.start(family.start(mean))
    assert (family(decoder(torch.zeros(1, LATENTS))).mean[0] - mean).abs().max() < 0.5


def test_weights_are_the_seed_s_own_and_no_global_draw_is_made() -> None:
    before = torch.get_rng_state()
    once, again, other = fresh(1), fresh(1), fresh(2)
    assert torch.equal(torch.get_rng_state(), before)
    for name, network in once.items():
        state = network.state_dict()
        assert all(torch.equal(p, again[name].state_dict()[k]) for k, p in state.items())
        assert any(not torch.equal(p, other[name].state_dict()[k]) for k, p in state.items())


def test_a_convolution_s_weights_are_uniform_within_their_bound() -> None:
    weight = convolution(16, 32, 3, gain=2.0, generator=seeded(34)).weight.detach()
    bound = 2.0 / math.sqrt(16 * 9)
    assert 0.99 * bound < weight.abs().max() <= bound
    assert abs(float(weight.std()) / (bound / math.sqrt(3)) - 1) < 0.05


@pytest.mark.parametrize("name", fresh(0))
def test_a_network_runs_in_bfloat16_near_its_own_float32(name: str) -> None:
    network = fresh(3)[name]
    shake(network, seed=35, sd=0.05)
    value = normal(36, 4, *((28, 28) if "encoder" in name else (LATENTS,))).float()
    with torch.autocast("cpu", torch.bfloat16):
        lowered = network(value).float()
    exact = network(value)
    assert not torch.equal(lowered, exact)
    assert (lowered - exact).abs().max() < 0.1 * exact.abs().max()


# ---- training ----------------------------------------------------------------------------------


def test_the_fused_update_of_a_convolution_is_the_plain_one() -> None:
    network = conv_encoder((9, 7))
    shake(network, seed=37)
    x, given = normal(38, 16, 9, 7).float(), normal(39, 16, COVARIATES).float()
    names, weights = zip(*network.named_parameters(), strict=True)
    gradients = torch.autograd.grad(network(x, given).square().mean(), weights)
    rate, one, finite = torch.tensor(1e-3), torch.tensor(1.0), torch.tensor(True)
    fused, plain = (
        update(
            begin(network), dict(zip(names, gradients, strict=True)), one, finite, rate, Recipe()
        ).parameters
        for update in (fused_update, plain_update)
    )
    for name in names:
        torch.testing.assert_close(fused[name], plain[name], atol=1e-6, rtol=0)
