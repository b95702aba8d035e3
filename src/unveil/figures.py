"""Every plot, drawn once: arrays in the data's own units come in, a matplotlib Figure goes out.

Only matplotlib's objects are used, never pyplot: no window opens, and no setting of the caller's
is changed or obeyed.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from math import ceil, isqrt, prod
from pathlib import Path
from typing import Any, final

import numpy as np
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from unveil.data.schema import Column, Schema
from unveil.data.write import replacing, require_suffix
from unveil.diagnostics.uniformity import ecdf_band
from unveil.errors import InputError

FIGURE_SUFFIXES = (".png", ".svg", ".pdf")

# Colours that stay apart for every kind of eye: two of Okabe and Ito's, and greys.
INK, AXIS, FAINT = "#222222", "#8c8c8c", "#d4d4d4"
MODEL, SECOND = "#0072b2", "#d55e00"
CONTINUOUS = colormaps["viridis"]

Look = tuple[Any, str]  # a colour and a marker
# Paul Tol's muted colours in an order that keeps neighbours far apart, and ink.
_HUES = (
    *("#332288", "#ddcc77", "#cc6677", "#117733", "#88ccee"),
    *("#882255", "#44aa99", "#999933", "#aa4499", "#222222"),
)
LOOKS: list[Look] = [*((hue, "o") for hue in _HUES), *((hue, "^") for hue in _HUES[:2])]

PAPER = (255, 255, 255)
UNKNOWN = (214, 200, 170)  # a cell without a value: sand, which no grey level can be taken for
GAP = 3  # pixels between two pictures
SMALLEST_PICTURE = 56  # pixels along the longer side

MOST_PICTURES = 64
PAIRS_PER_BAND, MOST_BANDS = 12, 3
MOST_PANELS, PANELS_PER_ROW = 12, 4
BINS = (12, 40)  # at least and at most
MOST_POINTS = 10_000
MOST_CLASSES = len(LOOKS)
LONGEST_NAME = 22
FAR = 4  # spreads of three quarters of a curve


_ANY = Column("z", "real")  # how a latent is measured

_styled = style.context(
    [
        "default",
        {
            "axes.edgecolor": AXIS,
            "axes.formatter.limits": (-4, 5),
            "axes.labelcolor": INK,
            "axes.labelsize": 9,
            "axes.linewidth": 0.8,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlelocation": "left",
            "axes.titlesize": 10,
            "figure.constrained_layout.use": True,
            "figure.dpi": 100,
            "font.family": "DejaVu Sans",  # it comes with matplotlib
            "font.size": 9,
            "legend.fontsize": 9,
            "legend.frameon": False,
            "legend.handlelength": 1.4,
            "lines.linewidth": 1.8,
            "savefig.dpi": 150,
            "text.color": INK,
            "text.parse_math": False,  # a column may be called "$US"
            "xtick.color": AXIS,
            "xtick.labelcolor": INK,
            "xtick.labelsize": 8,
            "ytick.color": AXIS,
            "ytick.labelcolor": INK,
            "ytick.labelsize": 8,
        },
    ]
)


# ---- pictures ----------------------------------------------------------------------------------


def picture_grid(pictures: np.ndarray, *, columns: int, low: float, high: float) -> np.ndarray:
    """A mosaic of pictures, row by row, large enough to be looked at.

    Takes (picture, h, w) or (picture, h, w, channel) and returns uint8 (H, W, 3). `low` becomes
    black and `high` white; three channels are red, green and blue, any other number is averaged.
    Each cell becomes a square of pixels, and a missing one (NaN) is sand-coloured.

    Raises InputError when the array does not hold pictures.

    >>> picture_grid(np.zeros((5, 8, 8)), columns=3, low=0.0, high=16.0).shape
    (115, 174, 3)
    """
    if pictures.ndim not in (3, 4) or pictures.size == 0:
        raise InputError(
            f"expected pictures (picture, height, width) with or without a last axis of channels, "
            f"but an array of shape {pictures.shape} came; reshape it, or draw it as a table"
        )
    colours = _coloured(pictures, low, high)
    factor = ceil(SMALLEST_PICTURE / max(colours.shape[1:3]))
    tiles = colours.repeat(factor, axis=1).repeat(factor, axis=2)
    count, height, width, _ = tiles.shape
    columns = min(columns, count)
    down, right = height + GAP, width + GAP
    mosaic = np.full(
        (ceil(count / columns) * down - GAP, columns * right - GAP, 3), PAPER, np.uint8
    )
    for place, tile in enumerate(tiles):
        top, left = place // columns * down, place % columns * right
        mosaic[top : top + height, left : left + width] = tile
    return mosaic


def save_picture(path: Path, mosaic: np.ndarray) -> None:
    """Write a mosaic, uint8 (H, W, 3), as a PNG, pixel for pixel.

    Raises InputError for a path that cannot be written to.

    >>> path = getfixture("tmp_path") / "black.png"
    >>> save_picture(path, np.zeros((2, 3, 3), np.uint8))
    >>> path.read_bytes()[1:4]
    b'PNG'
    """
    from PIL import Image

    require_suffix(path, (".png",))
    with replacing(path) as file:
        Image.fromarray(mosaic).save(file, format="PNG")


@_styled
def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the suffix names: `.png`, `.svg` or `.pdf`.

    Raises InputError for a path that cannot be written to.

    >>> save(latent_map(np.eye(3), None), getfixture("tmp_path") / "latents.png")
    """
    require_suffix(path, FIGURE_SUFFIXES)
    with replacing(path) as file, warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes, which says it well enough.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format=path.suffix.lower().removeprefix("."))


def _coloured(pictures: np.ndarray, low: float, high: float) -> np.ndarray:
    """The cells as colours, uint8 (picture, h, w, 3)."""
    cells = pictures if pictures.ndim == 4 else pictures[..., None]
    if cells.shape[-1] != 3:
        cells = cells.mean(axis=-1, keepdims=True)
    missing = np.isnan(cells).any(axis=-1)
    shares = (np.nan_to_num(cells, nan=low) - low) / ((high - low) or 1.0)
    levels = np.rint(255 * np.clip(shares, 0, 1)).astype(np.uint8)
    colours = np.broadcast_to(levels, (*levels.shape[:3], 3)).copy()
    colours[missing] = UNKNOWN
    return colours


def _pictures(schema: Schema, values: np.ndarray, most: int) -> np.ndarray:
    """The first rows as pictures."""
    return values[:most].reshape(-1, *(schema.picture_shape or ()))


def black_and_white(schema: Schema, data: np.ndarray) -> tuple[float, float]:
    """The values drawn as black and as white, the same for all pictures of the data.

    They are the ends of a bounded scale; elsewhere those of the data (row, *event), without the
    farthest of its cells, in the data's own units.

    >>> black_and_white(Schema((8, 8), (Column("cell", "grid", step=1.0, low=0.0, high=16.0),),
    ...                        gaps=False), np.zeros((1, 8, 8)))
    (0.0, 16.0)
    """
    column = schema.columns[0]
    return (column.low, column.high) if column.is_bounded else _ends([_observed(data)])


def _show(axes: Axes, mosaic: np.ndarray) -> None:
    axes.imshow(mosaic)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


# ---- samples and reconstructions ---------------------------------------------------------------


def samples(schema: Schema, data: np.ndarray, means: np.ndarray, draws: np.ndarray) -> Figure:
    """What a model makes up, beside the data: two mosaics of images, or a histogram a column.

    All three are (row, *event) in the data's own units: rows of the data, E[x|z] and x ~ p(x|z)
    for z from the prior. A table shows the data and the draws in the same bins, at most twelve
    columns of it.

    >>> schema = Schema((2,), (Column("a", "real"), Column("b", "real")), gaps=False)
    >>> len(samples(schema, np.eye(2), np.eye(2), np.eye(2)).axes)
    2
    """
    return (
        _sampled_pictures(schema, data, means, draws)
        if schema.is_image
        else _histograms(schema, data, draws)
    )


@_styled
def _sampled_pictures(
    schema: Schema, data: np.ndarray, means: np.ndarray, draws: np.ndarray
) -> Figure:
    low, high = black_and_white(schema, data)
    titled = {"expected picture E[x|z]": means, "draws x ~ p(x|z)": draws}
    mosaics = {}
    for title, values in titled.items():
        pictures = _pictures(schema, values, MOST_PICTURES)
        columns = isqrt(len(pictures) - 1) + 1  # as many as rows, or one more
        mosaics[title] = picture_grid(pictures, columns=columns, low=low, high=high)
    height, width, _ = mosaics["draws x ~ p(x|z)"].shape
    figure = _figure(9.0, 0.4 + 4.4 * min(height / width, 2.0))
    for axes, (title, mosaic) in zip(_panels(figure, 1, 2), mosaics.items(), strict=True):
        _show(axes, mosaic)
        axes.set_title(title)
    return figure


@_styled
def _histograms(schema: Schema, data: np.ndarray, draws: np.ndarray) -> Figure:
    columns, figure, panels = _panel_a_column(schema, height=1.75)
    for axes, (place, column) in zip(panels, columns, strict=True):
        groups = [_observed(values.reshape(len(values), -1)[:, place]) for values in (data, draws)]
        edges = _edges(column, groups)
        seen, drawn = (np.histogram(g, edges)[0] / max(1, len(g)) for g in groups)
        axes.stairs(seen, edges, fill=True, color=FAINT, label="data")
        axes.stairs(drawn, edges, color=MODEL, linewidth=1.5, label="draws x ~ p(x|z)")
        axes.set_title(_short(column.name))
        axes.set(yticks=[], xlim=(edges[0], edges[-1]))
        axes.spines["left"].set_visible(False)
        _tick(axes, column, edges)
        if not len(groups[0]):
            _say(axes, "no data")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2)
    return figure


def reconstructions(schema: Schema, data: np.ndarray, reconstructed: np.ndarray) -> Figure:
    """Rows and what is left of them after encoding and decoding.

    Both are (row, *event) in the data's own units. Images stand in pairs, the original above; a
    table shows observed against reconstructed cells, at most twelve columns of it.

    >>> schema = Schema((2,), (Column("a", "real"), Column("b", "real")), gaps=False)
    >>> len(reconstructions(schema, np.eye(2), np.eye(2)).axes)
    2
    """
    return (
        _picture_pairs(schema, data, reconstructed)
        if schema.is_image
        else _scatters(schema, data, reconstructed)
    )


@_styled
def _picture_pairs(schema: Schema, data: np.ndarray, reconstructed: np.ndarray) -> Figure:
    low, high = black_and_white(schema, data)
    most = PAIRS_PER_BAND * MOST_BANDS
    above, below = (_pictures(schema, values, most) for values in (data, reconstructed))
    per_band = min(len(above), PAIRS_PER_BAND)
    mosaics = [
        _pair_mosaic(above[start : start + per_band], below[start : start + per_band], low, high)
        for start in range(0, len(above), per_band)
    ]
    height, width, _ = mosaics[0].shape
    across = max(2.2, 0.72 * per_band)
    figure = _figure(across + 1.1, len(mosaics) * (across * min(height / width, 4.0) + 0.15) + 0.1)
    for axes, mosaic in zip(_panels(figure, len(mosaics), 1), mosaics, strict=True):
        _show(axes, mosaic)
        axes.set_yticks([height / 4, 3 * height / 4], ["original", "reconstruction"])
        axes.set_xlim(-0.5, width - 0.5)  # a last band with fewer pairs is drawn to scale
        axes.set_anchor("W")
        axes.tick_params(length=0)
    return figure


def _pair_mosaic(above: np.ndarray, below: np.ndarray, low: float, high: float) -> np.ndarray:
    both = np.concatenate([above, below])
    return picture_grid(both, columns=len(above), low=low, high=high)


@_styled
def _scatters(schema: Schema, data: np.ndarray, reconstructed: np.ndarray) -> Figure:
    columns, figure, panels = _panel_a_column(schema, height=2.3)
    thinned = _thinned(len(data))
    for axes, (place, column) in zip(panels, columns, strict=True):
        observed, again = (
            values.reshape(len(values), -1)[thinned, place] for values in (data, reconstructed)
        )
        both = np.isfinite(observed) & np.isfinite(again)
        low, high = _padded(*_ends([_observed(observed), _observed(again)]))
        axes.plot([low, high], [low, high], color=AXIS, linewidth=0.8, zorder=1)
        axes.scatter(observed[both], again[both], color=MODEL, **_dots(int(both.sum()), 14.0))
        axes.set(xlim=(low, high), ylim=(low, high), box_aspect=1)
        if not both.any():
            _say(axes, "no data")
        axes.set_title(_short(column.name))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    figure.supxlabel("observed", fontsize=9)
    figure.supylabel("reconstructed", fontsize=9)
    return figure


def _panel_a_column(
    schema: Schema, height: float
) -> tuple[list[tuple[int, Column]], Figure, list[Axes]]:
    """The columns to draw with their places in a flat row, and a panel for each.

    Constant columns have nothing to show, and of many columns only the first are drawn.
    """
    varying = _varying(schema)
    columns = varying[:MOST_PANELS]
    across = min(len(columns), PANELS_PER_ROW)
    down = ceil(len(columns) / across)
    figure = _figure(max(4.0, 2.3 * across), height * down + 0.6)
    panels = _panels(figure, down, across)
    for axes in panels[len(columns) :]:
        axes.remove()
    if len(varying) > len(columns):
        note = f"the first {len(columns)} of {len(varying)} columns that vary"
        figure.legend(handles=[], title=note, loc="outside upper right", title_fontsize=9)
    return columns, figure, panels[: len(columns)]


def _varying(schema: Schema) -> list[tuple[int, Column]]:
    """Columns that vary; the cells of an array that is no picture are columns too."""
    if schema.shared:
        cells = range(prod(schema.event_shape))
        return [(cell, replace(schema.columns[0], name=f"cell {cell}")) for cell in cells]
    return [(place, schema.columns[place]) for place in schema.modelled]


def _edges(column: Column, groups: Sequence[np.ndarray]) -> np.ndarray:
    """Edges of the bins that groups of values share, each of a grid's values amid its bin."""
    low, high = _ends(groups)
    smallest = min((len(group) for group in groups if len(group)), default=1)
    bins = int(np.clip(1.5 * smallest**0.5, *BINS))
    if column.step == 0:
        return np.linspace(*((low, high) if low < high else _padded(low, high)), bins + 1)
    origin = column.shift if np.isinf(column.low) else column.low
    first, last = (round((end - origin) / column.step) for end in (low, high))
    per_bin = ceil((last - first + 1) / bins)
    edges = first - 0.5 + per_bin * np.arange(ceil((last - first + 1) / per_bin) + 1)
    return origin + column.step * edges


def _tick(axes: Axes, column: Column, edges: np.ndarray) -> None:
    """Ticks on a grid's own values where they are few, and a handful elsewhere."""
    values = (edges[1:] + edges[:-1]) / 2
    if column.step > 0 and len(values) <= 5 and np.isclose(edges[1] - edges[0], column.step):
        axes.set_xticks(values, [f"{value:g}" for value in values])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


# ---- latents -----------------------------------------------------------------------------------


@_styled
def latent_map(means: np.ndarray, label: np.ndarray | None) -> Figure:
    """Where the rows lie: posterior means (row, latent), seen along their two widest directions.

    With two latents these are the axes themselves, with one there is a histogram. `label` (row,)
    colours the rows: classes if it is text or takes at most twelve values, else a continuous
    scale.

    >>> latent_map(np.eye(3), np.array(["a", "b", "a"])).axes[0].get_xlabel()
    'principal direction 1 (50 % of variance)'
    """
    figure = _figure(6.4, 5.0)
    (axes,) = _panels(figure, 1, 1)
    points, names = _projected(means)
    if len(names) == 1:
        colouring = _colouring(label)
        colouring.histogram(axes, points[:, 0])
        axes.set(xlabel=names[0], ylabel="rows")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        thinned = _thinned(len(means))
        colouring = _colouring(None if label is None else label[thinned])
        colouring.scatter(axes, *points[thinned].T)
        axes.set(xlabel=names[0], ylabel=names[1])
        axes.set_aspect("equal", adjustable="datalim")
    colouring.explain(figure, axes)
    return figure


def _projected(means: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Points (row, 1 or 2) and what their axes are, with the share of the variance along each."""
    centred = means.astype(np.float64) - means.mean(axis=0, dtype=np.float64)
    total = np.square(centred).sum()
    if means.shape[1] <= 2:
        points, kind, first = means.astype(np.float64), "posterior mean of z", 0
    else:
        directions = np.linalg.svd(centred, full_matrices=False)[2][:2]
        directions = np.pad(directions, ((0, 2 - len(directions)), (0, 0)))  # of a single row
        # The sign of a direction is free: its largest entry is made positive.
        largest = np.abs(directions).argmax(axis=1, keepdims=True)
        directions = directions * np.where(np.take_along_axis(directions, largest, 1) < 0, -1, 1)
        points, kind, first = centred @ directions.T, "principal direction ", 1
    spread = np.square(points - points.mean(axis=0)).sum(axis=0)
    tell = total > 0 and len(spread) > 1
    shares = [f" ({100 * s / total:.0f} % of variance)" if tell else "" for s in spread]
    return points, [f"{kind}{i + first}{share}" for i, share in enumerate(shares)]


class _Colouring(ABC):
    """A way to colour rows by what is known about them."""

    @abstractmethod
    def scatter(self, axes: Axes, x: np.ndarray, y: np.ndarray) -> None: ...

    @abstractmethod
    def histogram(self, axes: Axes, x: np.ndarray) -> None: ...

    @abstractmethod
    def explain(self, figure: Figure, axes: Axes) -> None:
        """Say what the colours mean."""


@final
class _Plain(_Colouring):
    """Nothing is known."""

    def scatter(self, axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
        axes.scatter(x, y, color=MODEL, **_dots(len(x)))

    def histogram(self, axes: Axes, x: np.ndarray) -> None:
        axes.hist(x, _edges(_ANY, [x]).tolist(), color=MODEL)

    def explain(self, figure: Figure, axes: Axes) -> None:
        pass


@final
@dataclass(frozen=True)
class _Classes(_Colouring):
    """Each row belongs to one of a few classes."""

    names: Sequence[str]
    looks: Sequence[Look]  # of each class
    codes: np.ndarray  # (row,) position of the row's class

    def scatter(self, axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
        colours = np.array([to_rgb(colour) for colour, _ in self.looks])[self.codes]
        markers = np.array([marker for _, marker in self.looks])[self.codes]
        # All classes in the order of the rows, so that none is painted over the others.
        for marker in np.unique(markers):
            these = markers == marker
            axes.scatter(x[these], y[these], c=colours[these], marker=marker, **_dots(len(x)))

    def histogram(self, axes: Axes, x: np.ndarray) -> None:
        groups = [x[self.codes == code] for code in range(len(self.names))]
        colours = [colour for colour, _ in self.looks]
        axes.hist(groups, _edges(_ANY, [x]).tolist(), stacked=True, color=colours)

    def explain(self, figure: Figure, axes: Axes) -> None:
        handles = [
            Line2D([], [], linestyle="", marker=marker, color=colour, label=_short(name))
            for name, (colour, marker) in zip(self.names, self.looks, strict=True)
        ]
        figure.legend(handles=handles, loc="outside right upper", handletextpad=0.2)


@final
@dataclass(frozen=True)
class _Scale(_Colouring):
    """Each row has a number."""

    values: np.ndarray  # (row,), NaN where it is missing

    @property
    def shades(self) -> ScalarMappable:
        return ScalarMappable(Normalize(*_ends([_observed(self.values)])), CONTINUOUS)

    def scatter(self, axes: Axes, x: np.ndarray, y: np.ndarray) -> None:
        known = np.isfinite(self.values)
        axes.scatter(x[~known], y[~known], color=FAINT, **_dots(len(x)))
        colours = self.shades.to_rgba(self.values[known])
        axes.scatter(x[known], y[known], c=colours, **_dots(len(x)))

    def histogram(self, axes: Axes, x: np.ndarray) -> None:
        """Each bar in the colour of the mean number of its rows."""
        edges = _edges(_ANY, [x])
        counts = np.histogram(x, edges)[0]
        known = np.isfinite(self.values)
        known_counts = np.histogram(x[known], edges)[0]
        sums = np.histogram(x[known], edges, weights=self.values[known])[0]
        colours = self.shades.to_rgba(sums / np.maximum(known_counts, 1))
        colours[known_counts == 0] = to_rgba(FAINT)
        axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=list(colours))

    def explain(self, figure: Figure, axes: Axes) -> None:
        bar = figure.colorbar(self.shades, ax=axes, shrink=0.6, aspect=25)
        bar.outline.set_visible(False)  # pyright: ignore


def _colouring(label: np.ndarray | None) -> _Colouring:
    if label is None:
        return _Plain()
    is_text = label.dtype.kind not in "biuf"
    missing = label == "" if is_text else np.isnan(label)
    kinds, counts = np.unique(label[~missing], return_counts=True)
    if len(kinds) <= MOST_CLASSES:
        return _classes(label, missing)
    if not is_text:
        return _Scale(label.astype(np.float64))
    common = kinds[np.argsort(-counts, kind="stable")[: MOST_CLASSES - 1]]
    return _classes(np.where(np.isin(label, common) | missing, label, "… all others"), missing)


def _classes(label: np.ndarray, missing: np.ndarray) -> _Classes:
    kinds, codes = np.unique(label[~missing], return_inverse=True)
    names = [f"{kind:g}" if label.dtype.kind == "f" else str(kind) for kind in kinds]
    positions = np.full(len(label), len(names))
    positions[~missing] = codes
    if not missing.any():
        return _Classes(names, LOOKS[: len(names)], positions)
    return _Classes([*names, "missing"], [*LOOKS[: len(names)], (FAINT, "o")], positions)


# ---- training ----------------------------------------------------------------------------------


_CURVES = {
    "bound": "bound, nats per row",
    "rate": "rate, nats per row",
    "distortion": "distortion, nats per row",
    "active": "active units",
    "speed": "learning rate",
}


@_styled
def training_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """How training went: the bound, its two terms, the active units and the learning rate.

    `history` has one mapping an evaluation, as `train` returns them; what was evaluated on held-out
    rows may be absent. The axes follow the course of training and leave its first, far-off values
    outside.

    >>> figure = training_curves([{"epoch": 1, "training": -9.0, "learning_rate": 1e-3}])
    >>> [axes.get_title(loc="left") for axes in figure.axes[:3]]
    ['bound, nats per row', 'rate, nats per row', 'active units']
    """
    figure = _figure(9.6, 3.6)
    layout: Any = [["bound", "rate", "active"], ["bound", "distortion", "speed"]]
    panels = figure.subplot_mosaic(layout, width_ratios=[1.7, 1, 1], sharex=True)
    entry = partial(_series, history)
    epochs, bounds = entry("epoch"), [entry("training"), entry("elbo")]
    _curve(panels["bound"], epochs, bounds[0], color=AXIS, label="training objective")
    _curve(panels["bound"], epochs, bounds[1], color=MODEL, label="held-out ELBO")
    _curve(panels["rate"], epochs, entry("rate"), color=MODEL)
    _curve(panels["distortion"], epochs, entry("distortion"), color=MODEL)
    _curve(panels["active"], epochs, entry("active_units"), color=SECOND, drawstyle="steps-post")
    _curve(panels["speed"], epochs, entry("learning_rate"), color=AXIS, linewidth=1.0)
    _focus(panels["bound"], bounds)
    _focus(panels["rate"], [entry("rate")])
    _focus(panels["distortion"], [entry("distortion")])
    for key in ("rate", "active", "speed"):  # these cannot be negative
        panels[key].set_ylim(bottom=0)
    panels["active"].yaxis.set_major_locator(MaxNLocator(4, integer=True))
    for key in ("rate", "distortion", "active"):
        if not panels[key].lines:
            panels[key].set_yticks([])
            _say(panels[key], "no rows held out")
    for key, title in _CURVES.items():
        panels[key].set_title(title)
    for key in ("bound", "distortion", "speed"):
        panels[key].set_xlabel("epoch")
    panels["bound"].legend(handles=panels["bound"].lines, loc="lower right")
    panels["speed"].yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    return figure


def _series(history: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """One entry of every line, float64 (line,), NaN where it is absent."""
    return np.array([line.get(key) for line in history], np.float64)


def _curve(axes: Axes, epochs: np.ndarray, values: np.ndarray, **look: Any) -> None:
    there = np.isfinite(values)
    if there.any():
        marker = "o" if there.sum() == 1 else ""  # a single point makes no line
        axes.plot(epochs[there], values[there], marker=marker, markersize=4, **look)


def _focus(axes: Axes, curves: Sequence[np.ndarray]) -> None:
    """Limit the y axis to where the curves spend their time."""
    settled = [_settled(_observed(curve)) for curve in curves if np.isfinite(curve).any()]
    if settled:
        lows, highs = zip(*settled, strict=True)
        axes.set_ylim(*_padded(min(lows), max(highs)))


def _settled(values: np.ndarray) -> tuple[float, float]:
    """The ends of the values without a far-off quarter of them.

    Far is FAR times the spread of the other three quarters: a bound that rises from minus a
    million is shown from where it begins to level off.
    """
    low, high = float(values.min()), float(values.max())
    lower = float(np.quantile(values, 0.25, method="higher"))
    upper = float(np.quantile(values, 0.75, method="lower"))
    return max(low, lower - FAR * (high - lower)), min(high, upper + FAR * (upper - low))


# ---- whether draws stand where truths do -------------------------------------------------------


@_styled
def calibration(tests: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Where truths stood among draws: F_n(u) − u of each quantity, and what chance makes of it.

    `tests` are those of `calibrate` or `leave_one_out` by name, as an evaluation's JSON holds them;
    of many, those least likely by chance are shown. The band holds the whole curve of a right model
    in 95 of 100 cases; a curve above it at the left and below it at the right is that of draws that
    spread too little.
    Raises InputError for no tests.

    >>> import torch
    >>> from unveil.diagnostics.uniformity import uniformities
    >>> test = uniformities({"z": torch.linspace(0.01, 0.99, 50).double()})["z"]
    >>> figure = calibration({"z": test.document()})
    >>> figure.axes[0].get_title(loc="left")
    'z'
    """
    if not tests:
        raise InputError("expected at least one test to draw, but none came; calibrate first")
    order = sorted(tests, key=lambda name: tests[name]["adjusted"])[:MOST_PANELS]
    shown = [name for name in tests if name in order]
    across = min(PANELS_PER_ROW, len(shown))
    down = ceil(len(shown) / across)
    figure = _figure(2.6 * across, 2.2 * down)
    panels = _panels(figure, down, across)
    for axes in panels[len(shown) :]:
        axes.remove()
    band = cache(ecdf_band)
    for axes, name in zip(panels, shown, strict=False):
        test = tests[name]
        points = len(test["ecdf"]) + 1
        low, high = band(test["rows"], num_points=points).numpy()
        at, below = np.arange(1, points) / points, np.array(test["ecdf"])
        axes.fill_between(at, low - at, high - at, color=FAINT, linewidth=0)
        axes.plot(at, below - at, color=SECOND if test["rejected"] else MODEL, linewidth=1.2)
        axes.set_title(_short(name))
        axes.set_xlim(0, 1)
    told = "u, the share of draws below the truth (grey: where right ones stay, 95 times in 100)"
    figure.supxlabel(told, fontsize=9)
    figure.supylabel("F(u) − u", fontsize=9)
    return figure


# ---- what the figures share --------------------------------------------------------------------


def _figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that draws itself without a window."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _panels(figure: Figure, down: int, across: int) -> list[Axes]:
    return list(figure.subplots(down, across, squeeze=False).flat)


def _say(axes: Axes, words: str) -> None:
    """Words in the corner of a panel where something is not there."""
    axes.text(0.98, 0.9, words, color=AXIS, ha="right", transform=axes.transAxes)


def _observed(values: np.ndarray) -> np.ndarray:
    """The cells that hold a value, (cell,)."""
    return values[np.isfinite(values)]


def _ends(groups: Sequence[np.ndarray]) -> tuple[float, float]:
    """From where to where groups of observed values reach, a few outliers of each left aside."""
    ends = [_bulk(group) for group in groups if len(group)]
    if not ends:
        return 0.0, 1.0
    lows, highs = zip(*ends, strict=True)
    return min(lows), max(highs)


def _bulk(values: np.ndarray) -> tuple[float, float]:
    """The ends of the values, or of the middle 95 % and as much again on each side."""
    low, high = np.quantile(values, [0.025, 0.975])
    reach = high - low or np.inf
    return float(max(values.min(), low - reach)), float(min(values.max(), high + reach))


def _padded(low: float, high: float) -> tuple[float, float]:
    """A little more on each side, and enough around a single value to show it."""
    margin = 0.04 * (high - low) or 0.05 * abs(low) or 1.0
    return low - margin, high + margin


def _thinned(rows: int) -> np.ndarray:
    """Positions of at most MOST_POINTS rows, evenly spread."""
    return np.unique(np.linspace(0, rows - 1, min(rows, MOST_POINTS)).round().astype(np.int64))


def _dots(count: int, largest: float = 26.0) -> dict[str, Any]:
    """The look of so many points: the more, the smaller and the fainter; areas in points²."""
    count = max(1, count)
    size = np.clip(7.5 * largest * count**-0.4, 0.15 * largest, largest)
    alpha = np.clip(6.0 * count**-0.28, 0.3, 0.9)
    return {"s": float(size), "alpha": float(alpha), "linewidths": 0, "rasterized": True}


def _short(name: str) -> str:
    """A name of at most LONGEST_NAME letters: its beginning and its end, which may be a number."""
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[:half]}…{name[1 - half :]}"
