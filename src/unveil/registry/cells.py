"""What the cells of each kind may be: from a likelihood's name to a reading of the columns, and
from columns to one family."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import final

import torch
from torch import Tensor

from unveil.data.read import Rows, listed
from unveil.data.reread import reread
from unveil.data.schema import (
    AMOUNT,
    ANGLE,
    BINARIZED,
    BINARY,
    CATEGORY,
    CONSTANT,
    COUNT,
    GRID,
    ORDINAL,
    POSITIVE,
    PROPORTION,
    REAL,
    Column,
    Schema,
)
from unveil.errors import InputError
from unveil.families import Family
from unveil.likelihoods.amounts import SpikedLogNormal
from unveil.likelihoods.angles import VonMises
from unveil.likelihoods.binary import Bernoulli
from unveil.likelihoods.classes import Categorical, Ordinal
from unveil.likelihoods.columns import Columns
from unveil.likelihoods.counts import NegativeBinomial, Poisson
from unveil.likelihoods.grid import DiscretizedLogistic, DiscretizedLogisticMixture
from unveil.likelihoods.inflated import ZeroInflated
from unveil.likelihoods.positive import LogNormal
from unveil.likelihoods.proportions import ContinuousBernoulli
from unveil.likelihoods.real import Gaussian, StudentT
from unveil.likelihoods.scale import CellScale, ColumnScale, FixedScale, Scale
from unveil.networks.mouth import (
    CosSin,
    FillsGaps,
    Gaps,
    Log,
    Log1p,
    MarksGaps,
    OneHot,
    Parts,
    Way,
)
from unveil.registry.spec import Spec, make, resolve, typed

Shape = tuple[int, ...]

SCALES: Mapping[str, Callable[[Shape], Scale]] = {
    "column": ColumnScale,
    "cell": lambda event_shape: CellScale(),
    "fixed": lambda event_shape: FixedScale(),
}


def spread(name: str, event_shape: Shape) -> Scale:
    """Where a spread comes from: per column, per cell, or fixed at 1."""
    return resolve("the likelihood's scale", SCALES, name)(event_shape)


# ---- one family for columns of one kind --------------------------------------------------------


def _in_units(values: Sequence[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float64)


def _units(columns: Sequence[Column]) -> Tensor:
    return _in_units([column.unit for column in columns])


def limits(columns: Sequence[Column]) -> dict[str, Tensor]:
    """The smallest and largest value of each column in model units, or an infinity."""
    low = [(column.low - column.shift) / column.unit for column in columns]
    high = [(column.high - column.shift) / column.unit for column in columns]
    return {"low": _in_units(low).float(), "high": _in_units(high).float()}


def _grid(columns: Sequence[Column]) -> dict[str, Tensor]:
    """Step and ends in model units."""
    return {"step": _in_units([column.spacing for column in columns]).float(), **limits(columns)}


def bernoulli(columns: Sequence[Column], shape: Shape) -> Family:
    return Bernoulli(shape)


def gaussian(columns: Sequence[Column], shape: Shape, scale: str = "column") -> Family:
    return Gaussian(shape, spread(scale, shape), unit=_units(columns))


def student_t(columns: Sequence[Column], shape: Shape, scale: str = "column") -> Family:
    return StudentT(shape, spread(scale, shape), unit=_units(columns))


def log_normal(columns: Sequence[Column], shape: Shape, scale: str = "column") -> Family:
    return LogNormal(shape, spread(scale, shape), unit=_units(columns))


def spiked_log_normal(columns: Sequence[Column], shape: Shape, scale: str = "column") -> Family:
    step = _in_units([column.spacing for column in columns])
    return SpikedLogNormal(shape, spread(scale, shape), step=step, unit=_units(columns))


def von_mises(columns: Sequence[Column], shape: Shape) -> Family:
    return VonMises(shape, unit=_units(columns))


def continuous_bernoulli(columns: Sequence[Column], shape: Shape) -> Family:
    return ContinuousBernoulli(shape, unit=_units(columns))


def discretized_logistic(columns: Sequence[Column], shape: Shape, scale: str = "column") -> Family:
    return DiscretizedLogistic(shape, spread(scale, shape), **_grid(columns))


def discretized_logistic_mixture(
    columns: Sequence[Column], shape: Shape, components: int = 5
) -> Family:
    return DiscretizedLogisticMixture(shape, num_components=components, **_grid(columns))


def poisson(columns: Sequence[Column], shape: Shape) -> Family:
    return Poisson(shape)


def negative_binomial(columns: Sequence[Column], shape: Shape, scale: str = "column") -> Family:
    return NegativeBinomial(shape, spread(scale, shape))


def zero_inflated_poisson(columns: Sequence[Column], shape: Shape) -> Family:
    return ZeroInflated(Poisson(shape))


def zero_inflated_negative_binomial(
    columns: Sequence[Column], shape: Shape, scale: str = "column"
) -> Family:
    return ZeroInflated(NegativeBinomial(shape, spread(scale, shape)))


def categorical(columns: Sequence[Column], shape: Shape) -> Family:
    return Categorical(shape, num_classes=len(columns[0].levels))


def ordinal(columns: Sequence[Column], shape: Shape) -> Family:
    return Ordinal(shape, num_classes=len(columns[0].levels))


# ---- names -------------------------------------------------------------------------------------


@final
@dataclass(frozen=True)
class Named:
    """A family as a person names it: the kind of column that it is for, and how it is made.

    ``reads`` makes columns of other kinds into that kind, where the rows allow it, with the options
    called ``reading``; a kind that is only ever inferred is left ``as_inferred``. ``instead`` is
    the way out where they do not.
    """

    kind: str
    make: Callable[..., Family]
    reads: Callable[..., Schema]
    reading: tuple[str, ...] = ()
    instead: str = "choose --likelihood auto, which suits each column"


def as_inferred(schema: Schema, rows: Rows) -> Schema:
    """The schema as it is."""
    return schema


def binarized(schema: Schema, rows: Rows) -> Schema:
    """Grey levels as probabilities of a 1."""
    return schema.binarized()


NO_DENSITY = "a density there has no limit; choose --likelihood auto, which gives probabilities"
FAMILIES: Mapping[str, Named] = {
    "bernoulli": Named(BINARY, bernoulli, binarized),
    "gaussian": Named(REAL, gaussian, as_inferred, instead=NO_DENSITY),
    "student_t": Named(REAL, student_t, as_inferred, instead=NO_DENSITY),
    "discretized_logistic": Named(GRID, discretized_logistic, as_inferred),
    "discretized_logistic_mixture": Named(GRID, discretized_logistic_mixture, as_inferred),
    "poisson": Named(COUNT, poisson, partial(reread, kind=COUNT)),
    "negative_binomial": Named(COUNT, negative_binomial, partial(reread, kind=COUNT)),
    "zero_inflated_poisson": Named(COUNT, zero_inflated_poisson, partial(reread, kind=COUNT)),
    "zero_inflated_negative_binomial": Named(
        COUNT, zero_inflated_negative_binomial, partial(reread, kind=COUNT)
    ),
    "log_normal": Named(POSITIVE, log_normal, partial(reread, kind=POSITIVE)),
    "spiked_log_normal": Named(AMOUNT, spiked_log_normal, partial(reread, kind=AMOUNT)),
    "von_mises": Named(
        ANGLE, von_mises, partial(reread, kind=ANGLE, period=360.0), reading=("period",)
    ),
    "continuous_bernoulli": Named(
        PROPORTION, continuous_bernoulli, partial(reread, kind=PROPORTION), reading=("low", "high")
    ),
    "categorical": Named(CATEGORY, categorical, partial(reread, kind=CATEGORY)),
    "ordinal": Named(ORDINAL, ordinal, partial(reread, kind=ORDINAL)),
}
# What each kind of column is given where nothing else was asked for (bench/defaults.py).
USUAL: Mapping[str, str] = {
    REAL: "gaussian",
    GRID: "discretized_logistic",
    BINARY: "bernoulli",
    BINARIZED: "bernoulli",
    COUNT: "negative_binomial",
    POSITIVE: "log_normal",
    AMOUNT: "spiked_log_normal",
    ANGLE: "von_mises",
    PROPORTION: "continuous_bernoulli",
    CATEGORY: "categorical",
    ORDINAL: "ordinal",
}
# Columns with two values are at home among grids, and where grey levels are read as probabilities.
ALSO_AT_HOME: Mapping[str, set[str]] = {BINARY: {BINARIZED}, GRID: {BINARY}}
AUTO = "auto"
# The one option that auto hands on, to every family that has it.
SPREAD = "scale"


def read_as(text: str, schema: Schema, rows: Rows) -> Schema:
    """The schema as a likelihood such as ``auto`` or ``poisson`` reads it.

    Raises InputError for an unknown name, or columns that it does not suit.
    """
    spec = Spec.parse(text)
    if spec.name == AUTO:
        return schema
    named = resolve("the likelihood", FAMILIES, spec.name, also=(AUTO,))
    reading = {
        key: typed(f"{spec.name}:{key}", value, float)
        for key, value in spec.options.items()
        if key in named.reading
    }
    schema = named.reads(schema, rows, **reading)
    fitting = {named.kind} | ALSO_AT_HOME.get(named.kind, set())
    for column in schema.columns:
        if column.kind not in {*fitting, CONSTANT}:
            raise InputError(
                f"expected columns of kind {' or '.join(sorted(fitting))} for the {spec.name} "
                f"likelihood, but column {column.name!r} holds {column.expected}; "
                f"{named.instead}"
            )
    return schema


def _specs(text: str) -> dict[str, Spec]:
    """The family of each kind of column, by name and options, as a likelihood's name has it."""
    spec = Spec.parse(text)
    if spec.name != AUTO:
        named = FAMILIES[spec.name]
        making = {key: value for key, value in spec.options.items() if key not in named.reading}
        return {kind: Spec(usual) for kind, usual in USUAL.items()} | {
            named.kind: Spec(spec.name, making)
        }
    by_kind = {key: value for key, value in spec.options.items() if key != SPREAD}
    for kind, name in by_kind.items():
        if kind not in USUAL or resolve("the likelihood", FAMILIES, name).kind != kind:
            fits = [n for n, named in FAMILIES.items() if named.kind == kind] or list(USUAL)
            raise InputError(
                f"expected auto to be told a kind of column and a likelihood for it, but "
                f"{kind}={name} came; choose among {', '.join(fits)}"
            )
    shared = {key: value for key, value in spec.options.items() if key == SPREAD}
    return {
        kind: Spec(name, shared if _has_spread(name) else {})
        for kind, name in {**USUAL, **by_kind}.items()
    }


def chosen(text: str) -> dict[str, str]:
    """The likelihood of each kind of column, as a likelihood's name has it.

    >>> chosen("auto:real=student_t")["real"]
    'student_t'
    """
    return {kind: spec.name for kind, spec in _specs(text).items()}


def _has_spread(name: str) -> bool:
    return SPREAD in signature(FAMILIES[name].make).parameters


# ---- from a schema -----------------------------------------------------------------------------


def family(schema: Schema, text: str) -> Family:
    """One family per kind of column, joined where a table has several kinds.

    >>> schema = Schema((2,), (Column("a", REAL), Column("b", BINARY, step=1.0)), gaps=False)
    >>> family(schema, "auto:real=student_t").event_shape
    (2,)
    """
    specs = _specs(text)
    kinds = {schema.columns[i].kind for i in schema.modelled}
    absent = [kind for kind in Spec.parse(text).options if kind in USUAL and kind not in kinds]
    if absent:
        raise InputError(
            f"expected auto to be told of kinds that the columns have "
            f"({' and '.join(sorted(kinds))}), but {listed(absent)} came; leave it out"
        )
    if SPREAD in Spec.parse(text).options and not any(specs[kind].options for kind in kinds):
        raise InputError(
            f"expected a scale for columns with a spread, but these are all "
            f"{' or '.join(sorted(kinds))}; leave scale out"
        )

    def of(columns: Sequence[Column], shape: Shape) -> Family:
        spec = specs[columns[0].kind]
        return make("the likelihood", FAMILIES[spec.name].make, spec, columns, shape)

    if schema.shared:
        return of(schema.columns, schema.event_shape)
    parts = [(index, of(columns, (len(columns),))) for index, columns in grouped(schema)]
    return parts[0][1] if len(parts) == 1 else Columns(parts)


def grouped(schema: Schema) -> list[tuple[list[int], list[Column]]]:
    """A table's modelled columns by kind and number of classes: places, and columns."""
    columns = [schema.columns[i] for i in schema.modelled]
    groups: dict[tuple[str, int], list[int]] = {}
    for place, column in enumerate(columns):
        groups.setdefault((column.kind, len(column.levels)), []).append(place)
    return [(places, [columns[i] for i in places]) for places in groups.values()]


def gaps(schema: Schema) -> Gaps:
    """What an encoder is told of gaps: nothing where the training rows had none."""
    return MarksGaps() if schema.gaps else FillsGaps()


def parts(schema: Schema, num_columns: int) -> Parts:
    """How cells enter an encoder: (columns, way) for those that do not enter as they are.

    Cells that share one column of the schema enter alike: ``num_columns`` are all cells of a row,
    or the channels of an image.
    """
    if schema.shared:
        alike = list(range(num_columns))
        return [(alike, way) for way in _ways([schema.columns[0]] * num_columns)]
    return [(places, way) for places, columns in grouped(schema) for way in _ways(columns)]


def _ways(columns: Sequence[Column]) -> list[Way]:
    """How columns of one kind enter; none where they enter as they are."""
    kind = columns[0].kind
    return [WAYS[kind](columns)] if kind in WAYS else []


WAYS: Mapping[str, Callable[[Sequence[Column]], Way]] = {
    COUNT: lambda columns: Log1p(),
    POSITIVE: lambda columns: Log(),
    AMOUNT: lambda columns: Log1p(),
    ANGLE: lambda columns: CosSin(),
    CATEGORY: lambda columns: OneHot([len(column.levels) for column in columns]),
}
