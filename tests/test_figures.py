"""Figures show the numbers they are given, whatever these are, and leave matplotlib alone."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from unveil.data.schema import Column, Schema
from unveil.diagnostics.uniformity import uniformities
from unveil.errors import InputError
from unveil.figures import (
    GAP,
    LOOKS,
    UNKNOWN,
    calibration,
    latent_map,
    picture_grid,
    reconstructions,
    samples,
    save,
    save_picture,
    training_curves,
)

GREY = Column("cell", "grid", 8.0, 8.0, step=1.0, low=0.0, high=16.0)
RANDOM = np.random.default_rng(0)


def images(*event_shape: int) -> Schema:
    return Schema(event_shape, (GREY,), gaps=False)


def table(*columns: Column) -> Schema:
    return Schema((len(columns),), columns, gaps=False)


def reals(count: int) -> Schema:
    return table(*(Column(f"column {place}", "real") for place in range(count)))


def drawn(figure: Figure, folder: Path) -> np.ndarray:
    """The figure as it comes out of a file, uint8 (H, W, channel)."""
    save(figure, folder / "figure.png")
    return np.asarray(Image.open(folder / "figure.png"))


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


def line(epoch: int, elbo: float) -> dict[str, float]:
    rate = 2.0 + epoch / 100
    return {
        "step": 10 * epoch,
        "epoch": epoch,
        "seconds": 1.0,
        "fraction": epoch / 100,
        "learning_rate": 1e-3,
        "training": elbo + 1,
        "objective": elbo,
        "elbo": elbo,
        "rate": rate,
        "distortion": -elbo - rate,
        "active_units": 3,
    }


# Pictures


def test_a_mosaic_holds_the_pictures_row_by_row() -> None:
    pictures = np.arange(5.0)[:, None, None] * np.ones((5, 56, 28))
    mosaic = picture_grid(pictures, columns=3, low=0.0, high=4.0)
    assert mosaic.shape == (2 * 56 + GAP, 3 * 28 + 2 * GAP, 3)
    assert mosaic.dtype == np.uint8
    middles = mosaic[28 :: 56 + GAP, 14 :: 28 + GAP, 0]
    assert middles.tolist() == [[0, 64, 128], [191, 255, 255]]  # the last place is left white
    assert (mosaic[56 : 56 + GAP] == 255).all()


@pytest.mark.parametrize(
    ("shape", "seen"), [((8, 8), (56, 56)), ((1, 784), (1, 784)), ((3, 5, 1), (36, 60))]
)
def test_small_pictures_are_enlarged(shape: tuple[int, ...], seen: tuple[int, int]) -> None:
    assert picture_grid(np.ones((1, *shape)), columns=4, low=0.0, high=1.0).shape[:2] == seen


def test_enlarging_keeps_cells_sharp() -> None:
    mosaic = picture_grid(np.array([[[0.0, 1.0], [1.0, 0.0]]]), columns=1, low=0.0, high=1.0)
    assert np.unique(mosaic).tolist() == [0, 255]
    np.testing.assert_array_equal(mosaic[::28, ::28, 0], [[0, 255], [255, 0]])


def test_three_channels_are_colours_and_others_are_averaged() -> None:
    colour = np.array([0.0, 0.2, 1.0]) * np.ones((1, 56, 56, 3))
    assert picture_grid(colour, columns=1, low=0.0, high=1.0)[0, 0].tolist() == [0, 51, 255]
    pair = np.array([0.0, 1.0]) * np.ones((1, 56, 56, 2))
    assert picture_grid(pair, columns=1, low=0.0, high=1.0)[0, 0].tolist() == [128] * 3


def test_missing_cells_are_tinted_and_no_grey_is_their_tint() -> None:
    picture = np.array([[[0.0, np.nan], [1.0, 0.5]]])
    mosaic = picture_grid(picture, columns=1, low=0.0, high=1.0)
    assert mosaic[0, -1].tolist() == list(UNKNOWN)
    assert (mosaic == UNKNOWN).all(axis=-1).mean() == 0.25
    assert len(set(UNKNOWN)) == 3


def test_values_beyond_black_and_white_and_a_single_value() -> None:
    beyond = picture_grid(np.array([[[-9.0, 99.0]]]), columns=1, low=0.0, high=1.0)
    assert beyond[0, [0, -1], 0].tolist() == [0, 255]
    assert (picture_grid(np.ones((1, 2, 2)), columns=1, low=1.0, high=1.0) == 0).all()


def test_bytes_are_pictures_too() -> None:
    levels = np.array([[[0, 255]]], np.uint8)
    assert picture_grid(levels, columns=1, low=0.0, high=255.0)[0, [0, -1], 0].tolist() == [0, 255]


@pytest.mark.parametrize("shape", [(4, 4), (0, 8, 8), (2, 2, 2, 2, 2)])
def test_what_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"expected pictures .* shape \(.*\) came; reshape it, or"):
        picture_grid(np.zeros(shape), columns=1, low=0.0, high=1.0)


def test_a_saved_picture_is_the_mosaic(tmp_path: Path) -> None:
    mosaic = RANDOM.integers(0, 256, (5, 7, 3), np.uint8)
    save_picture(tmp_path / "mosaic.png", mosaic)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mosaic.png")), mosaic)


# Every figure is drawn, whatever comes


@pytest.mark.parametrize("rows", [1, 5, 100])
@pytest.mark.parametrize("shape", [(8, 8), (64,), (6, 4, 3), (3, 9, 1), (8, 8, 2)])
def test_images_of_every_shape(tmp_path: Path, rows: int, shape: tuple[int, ...]) -> None:
    x = RANDOM.integers(0, 17, (rows, *shape)).astype(float)
    x[0].flat[3] = np.nan
    for figure in (samples(images(*shape), x, x, x), reconstructions(images(*shape), x, x)):
        assert drawn(figure, tmp_path).std() > 10


@pytest.mark.parametrize("rows", [1, 30])
@pytest.mark.parametrize("columns", [1, 5, 200])
def test_tables_of_every_width(tmp_path: Path, rows: int, columns: int) -> None:
    x = RANDOM.normal(size=(rows, columns))
    for figure in (samples(reals(columns), x, x, x), reconstructions(reals(columns), x, x)):
        assert len(figure.axes) == min(columns, 12)
        assert ("the first 12 of 200 columns that vary" in texts(figure)) == (columns == 200)
        drawn(figure, tmp_path)


def test_an_array_that_is_no_picture_is_shown_cell_by_cell(tmp_path: Path) -> None:
    schema, x = images(50), RANDOM.integers(0, 17, (20, 50)).astype(float)
    figure = samples(schema, x, x, x)
    assert "cell 11" in texts(figure)
    drawn(figure, tmp_path)
    drawn(reconstructions(images(2, 2, 2, 2), x[:, :16].reshape(20, 2, 2, 2, 2), x), tmp_path)


def test_columns_that_are_constant_missing_or_strangely_named(tmp_path: Path) -> None:
    schema = table(
        Column("fixed", "constant", shift=3.0),
        Column("never seen", "real"),
        Column("$one$ 年龄", "real"),
        Column("huge", "real"),
        Column("a name much too long to stand above a panel 7", "real"),
    )
    x = np.column_stack(
        [np.full(9, 3.0), np.full(9, np.nan), np.ones(9), np.geomspace(1, 1e300, 9)]
    )
    x = np.column_stack([x, np.arange(9)])
    for figure in (samples(schema, x, x, x), reconstructions(schema, x, x)):
        assert len(figure.axes) == 4
        assert "fixed" not in texts(figure)
        assert "no data" in texts(figure)
        assert "…" in texts(figure) and "panel 7" in texts(figure)
        drawn(figure, tmp_path)


# What the figures say


def heights(figure: Figure) -> list[np.ndarray]:
    """The bars of the data and of the draws in the first panel."""
    return [patch.get_data().values for patch in figure.axes[0].patches]


def test_histograms_count_shares_of_the_observed_rows_in_bins_amid_the_grid() -> None:
    schema = table(Column("children", "grid", shift=2.0, unit=1.0, step=1.0))
    data = np.array([0, 0, 1, 3, np.nan])[:, None]
    draws = np.array([1.0, 1.0])[:, None]
    figure = samples(schema, data, draws, draws)
    seen, made_up = heights(figure)
    edges = figure.axes[0].patches[0].get_data().edges
    assert edges.tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5]
    assert seen.tolist() == [0.5, 0.25, 0, 0.25]
    assert made_up.tolist() == [0, 1, 0, 0]


def test_bins_of_a_fine_grid_hold_whole_steps() -> None:
    schema = table(Column("money", "grid", shift=500.0, unit=1.0, step=0.5))
    data = RANDOM.integers(0, 2001, (400, 1)) / 2
    edges = samples(schema, data, data, data).axes[0].patches[0].get_data().edges
    widths = np.diff(edges) / 0.5
    np.testing.assert_allclose(widths, np.rint(widths[0]))
    np.testing.assert_allclose(np.abs(edges / 0.5 % 1), 0.5)


def test_a_rare_event_has_its_bin() -> None:
    schema = table(Column("event", "binary", step=1.0, low=0.0, high=1.0))
    data = (np.arange(1000) == 5).astype(float)[:, None]
    assert heights(samples(schema, data, data, data))[0].tolist() == [0.999, 0.001]


def test_an_outlier_does_not_squash_a_histogram() -> None:
    data = np.append(RANDOM.normal(size=999), 1e9)[:, None]
    figure = samples(reals(1), data, data, data)
    assert figure.axes[0].get_xlim()[1] < 20


def test_images_share_black_and_white_with_their_schema() -> None:
    x = np.full((1, 8, 8), 8.0)
    figure = samples(images(8, 8), x, x, x + 8)
    means, draws = (axes.images[0].get_array() for axes in figure.axes)
    assert means is not None and np.unique(means).tolist() == [128]
    assert draws is not None and np.unique(draws).tolist() == [255]


def test_pairs_stand_above_one_another() -> None:
    x = np.zeros((2, 8, 8))
    mosaic = reconstructions(images(8, 8), x, x + 16).axes[0].images[0].get_array()
    assert mosaic is not None
    assert mosaic[28, 28].tolist() == [0, 0, 0]
    assert mosaic[-28, 28].tolist() == [255, 255, 255]


def test_only_pairs_of_observed_cells_are_points() -> None:
    x = np.array([[1.0], [np.nan], [3.0]])
    (axes,) = reconstructions(reals(1), x, x * 2).axes
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), [[1, 2], [3, 6]])
    assert axes.get_xlim() == axes.get_ylim()


# Latents


@pytest.mark.parametrize("latents", [1, 2, 5])
@pytest.mark.parametrize(
    "label",
    [
        None,
        np.arange(40) % 3,
        np.arange(40) % 2 == 0,
        np.linspace(0, 1, 40),
        np.where(np.arange(40) < 9, np.nan, np.arange(40)),
        np.full(40, np.nan),
        np.array(["", "a", "b", "$c$"])[np.arange(40) % 4],
        np.array([f"kind {kind}" for kind in np.arange(40) % 30]),
    ],
)
def test_latents_of_every_number_and_label(
    tmp_path: Path, latents: int, label: np.ndarray | None
) -> None:
    drawn(latent_map(RANDOM.normal(size=(40, latents)), label), tmp_path)


@pytest.mark.parametrize(
    "means", [np.ones((1, 1)), np.ones((1, 2)), np.ones((1, 6)), np.ones((9, 6))]
)
def test_latents_that_do_not_vary(tmp_path: Path, means: np.ndarray) -> None:
    figure = latent_map(means, None)
    assert "%" not in texts(figure)
    drawn(figure, tmp_path)


def test_the_map_shows_the_two_widest_directions() -> None:
    turn = np.linalg.qr(RANDOM.normal(size=(4, 4)))[0]
    noise = RANDOM.normal(size=(50, 4))
    scores = np.linalg.qr(noise - noise.mean(axis=0))[0] * np.sqrt([0.5, 0.3, 0.15, 0.05])
    axes = latent_map(scores @ turn.T + 7, None).axes[0]
    assert axes.get_xlabel() == "principal direction 1 (50 % of variance)"
    assert axes.get_ylabel() == "principal direction 2 (30 % of variance)"
    points = np.asarray(axes.collections[0].get_offsets())
    np.testing.assert_allclose(np.abs(points), np.abs(scores[:, :2]), atol=1e-9)


def test_two_latents_are_the_axes_themselves() -> None:
    means = RANDOM.normal(size=(50, 2))
    axes = latent_map(means, None).axes[0]
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), means)
    assert axes.get_ylabel().startswith("posterior mean of z1 (")


def test_one_latent_counts_every_row() -> None:
    means, label = RANDOM.uniform(size=(12_000, 1)), np.arange(12_000) % 2
    axes = latent_map(means, label).axes[0]
    assert sum(bar.get_height() for bar in axes.patches) == 12_000


def test_classes_have_a_legend_and_numbers_a_colour_bar() -> None:
    means = RANDOM.normal(size=(60, 3))
    few = latent_map(means, np.array(["b", "", "a"])[np.arange(60) % 3])
    assert [text.get_text() for text in few.legends[0].get_texts()] == ["a", "b", "missing"]
    many = latent_map(means, np.arange(60) % 30)
    assert len(many.axes) == 2 and not many.legends
    crowd = latent_map(means, np.array([f"kind {kind}" for kind in np.arange(60) % 30]))
    named = [text.get_text() for text in crowd.legends[0].get_texts()]
    assert len(named) == 12 and named[-1] == "… all others"


def test_twelve_classes_look_different() -> None:
    assert len(set(LOOKS)) == 12


# Training


def test_the_start_of_training_does_not_squash_the_rest() -> None:
    history = [line(epoch, -100 - 1e6 * np.exp(-epoch)) for epoch in range(1, 101)]
    low, high = training_curves(history).axes[0].get_ylim()
    assert -150 < low < -100 and -99 < high < -90


def test_a_steady_course_is_shown_whole() -> None:
    history = [line(epoch, -200.0 + epoch) for epoch in range(1, 101)]
    low, high = training_curves(history).axes[0].get_ylim()
    assert low < -199 and high > -99


@pytest.mark.parametrize("lines", [0, 1, 2, 30])
@pytest.mark.parametrize(
    "keys",
    [
        tuple(line(1, -1.0)),
        ("step", "epoch", "seconds", "fraction", "learning_rate", "training"),
    ],
)
def test_histories_of_every_length(tmp_path: Path, lines: int, keys: tuple[str, ...]) -> None:
    whole = [line(epoch, -50 - 10 / epoch) for epoch in range(1, lines + 1)]
    figure = training_curves([{key: entry[key] for key in keys} for entry in whole])
    assert ("no rows held out" in texts(figure)) == (lines == 0 or "elbo" not in keys)
    drawn(figure, tmp_path)


def test_nulls_of_a_history_are_gaps(tmp_path: Path) -> None:
    history = [line(1, -3.0), {**line(2, -2.0), "elbo": None, "rate": None}, line(3, -1.0)]
    figure = training_curves(history)
    assert figure.axes[0].lines[1].get_xdata().tolist() == [1, 3]  # pyright: ignore
    drawn(figure, tmp_path)


# Calibration


def documents(values: dict[str, torch.Tensor]) -> dict[str, dict[str, Any]]:
    """Tests as an evaluation's JSON holds them."""
    tests = uniformities(values)
    return json.loads(json.dumps({name: test.document() for name, test in tests.items()}))


def test_a_curve_leaves_its_band_where_draws_are_too_narrow_and_not_where_they_are_right(
    tmp_path: Path,
) -> None:
    right = (torch.arange(400, dtype=torch.float64) + 0.5) / 400
    narrow = 0.5 + 0.5 * (2 * right - 1).sign() * (2 * right - 1).abs() ** 0.5
    figure = calibration(documents({"right": right, "too narrow": narrow}))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["right", "too narrow"]
    outside = []
    for axes in figure.axes:
        at, curve = axes.lines[0].get_data()
        edges = axes.collections[0].get_paths()[0].vertices
        low, high = (np.array([pick(edges[np.isclose(edges[:, 0], x), 1]) for x in at])
                     for pick in (np.min, np.max))  # fmt: skip
        outside.append(bool(((curve < low) | (curve > high)).any()))
    assert outside == [False, True]
    at, curve = figure.axes[1].lines[0].get_data()
    shares = [float((narrow <= x).double().mean()) - x for x in at]
    np.testing.assert_allclose(curve, shares, atol=1e-12)
    assert figure.axes[0].lines[0].get_color() != figure.axes[1].lines[0].get_color()
    assert drawn(figure, tmp_path).std() > 0


def test_of_many_tests_the_least_likely_by_chance_are_drawn() -> None:
    even = (torch.arange(100, dtype=torch.float64) + 0.5) / 100
    tests = documents({**{f"u{i}": even for i in range(30)}, "odd": even**3})
    titles = [axes.get_title(loc="left") for axes in calibration(tests).axes]
    assert len(titles) == 12
    assert "odd" in titles


def test_no_test_makes_no_picture() -> None:
    with pytest.raises(InputError, match="expected at least one test to draw, but none came"):
        calibration({})


# Files, and the rest of matplotlib


@pytest.mark.parametrize(
    ("suffix", "start"),
    [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF"), (".PNG", b"\x89")],
)
def test_a_figure_is_saved_as_its_suffix_says(tmp_path: Path, suffix: str, start: bytes) -> None:
    path = tmp_path / f"figure{suffix}"
    save(latent_map(np.eye(3), None), path)
    assert path.read_bytes().startswith(start)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "saving",
    [
        lambda path: save(latent_map(np.eye(3), None), path),
        lambda path: save_picture(path, np.zeros((1, 1, 3), np.uint8)),
    ],
)
def test_paths_that_are_refused(tmp_path: Path, saving: Callable[[Path], None]) -> None:
    with pytest.raises(InputError, match=r"that ends in one of \.png.*, but .*figure.gif came"):
        saving(tmp_path / "figure.gif")
    with pytest.raises(InputError, match=r"a folder to write figure\.png into, but there is none"):
        saving(tmp_path / "nowhere" / "figure.png")
    assert list(tmp_path.iterdir()) == []


def test_settings_are_neither_changed_nor_obeyed(tmp_path: Path) -> None:
    x = RANDOM.normal(size=(30, 3))
    plain = drawn(latent_map(x, x[:, 0]), tmp_path)
    with matplotlib.rc_context({"font.size": 30.0, "axes.facecolor": "red"}):
        before = dict(matplotlib.rcParams)
        np.testing.assert_array_equal(drawn(latent_map(x, x[:, 0]), tmp_path), plain)
        assert dict(matplotlib.rcParams) == before


def test_pyplot_stays_asleep() -> None:
    check = "import sys, unveil.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
