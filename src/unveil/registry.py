"""Names at the edges: each string that a person may type, resolved once."""

from ast import literal_eval
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, final

from unveil.data.schema import BINARIZED, BINARY, CONSTANT, GRID, REAL, Schema
from unveil.errors import InputError
from unveil.likelihoods.scale import CellScale, ColumnScale, FixedScale, Scale
from unveil.objectives.base import Objective
from unveil.objectives.elbo import ELBO, SampledELBO
from unveil.objectives.importance import IWAE

T = TypeVar("T")


@final
@dataclass(frozen=True)
class Spec:
    """A name with options, as typed: ``iwae:num_samples=50``.

    >>> Spec.parse("elbo:beta=4,warmup_steps=100")
    Spec(name='elbo', options={'beta': 4, 'warmup_steps': 100})
    >>> str(Spec.parse("elbo:beta=4"))
    'elbo:beta=4'
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """Raises InputError when the text is not ``name`` or ``name:key=value,...``."""
        name, _, rest = text.partition(":")
        options = {}
        for part in filter(None, rest.split(",")):
            key, equals, value = part.partition("=")
            if not equals or not key.isidentifier():
                raise InputError(
                    f"expected options such as name:key=value, but {text!r} came; write for "
                    "instance iwae:num_samples=50"
                )
            options[key] = _value(value)
        return cls(name, options)

    def __str__(self) -> str:
        options = ",".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}:{options}" if options else self.name


def _value(text: str) -> Any:
    """A number where it reads as one, else the word itself."""
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _resolve(what: str, registry: Mapping[str, T], name: str) -> T:
    if name not in registry:
        raise InputError(
            f"expected {what} to be one of {', '.join(registry)}, but {name!r} came; choose one "
            "of these"
        )
    return registry[name]


OBJECTIVES: Mapping[str, Callable[..., Objective]] = {
    "elbo": ELBO,
    "sampled_elbo": SampledELBO,
    "iwae": IWAE,
}


def objective(text: str) -> Objective:
    """The objective that a name such as ``iwae:num_samples=50`` stands for.

    >>> objective("iwae:num_samples=50")
    IWAE(num_samples=50)

    Raises InputError for an unknown name or option, or a value that it cannot have.
    """
    spec = Spec.parse(text)
    return _make("objective", _resolve("the objective", OBJECTIVES, spec.name), spec)


SCALES: Mapping[str, Callable[[tuple[int, ...]], Scale]] = {
    "column": ColumnScale,
    "cell": lambda event_shape: CellScale(),
    "fixed": lambda event_shape: FixedScale(),
}


def scale(name: str, event_shape: tuple[int, ...]) -> Scale:
    """Where the spread of a likelihood comes from: per column, per cell, or fixed at 1."""
    return _resolve("the likelihood's scale", SCALES, name)(event_shape)


def _as_inferred(schema: Schema) -> Schema:
    return schema


def _only(name: str, kinds: set[str], instead: str) -> Callable[[Schema], Schema]:
    """A likelihood that suits certain kinds of column only, and what suits the others."""

    def reading(schema: Schema) -> Schema:
        for column in schema.columns:
            if column.kind not in {*kinds, CONSTANT}:
                raise InputError(
                    f"expected columns of kind {' or '.join(sorted(kinds))} for the {name} "
                    f"likelihood, but column {column.name!r} holds {column.expected}; {instead}"
                )
        return schema

    return reading


# A likelihood's name says how the columns are to be read; their kinds then choose the families.
LIKELIHOODS: Mapping[str, Callable[[Schema], Schema]] = {
    "auto": _as_inferred,
    "bernoulli": lambda schema: _only("bernoulli", {BINARY, BINARIZED}, "choose --likelihood auto")(
        schema.binarized()
    ),
    "gaussian": _only(
        "gaussian",
        {REAL},
        "a density there has no limit; choose --likelihood auto, which gives probabilities",
    ),
    "discretized_logistic": _only(
        "discretized_logistic", {GRID, BINARY}, "choose --likelihood auto"
    ),
}


def read_as(text: str, schema: Schema) -> tuple[Schema, str]:
    """The schema as a likelihood such as ``auto`` or ``gaussian:scale=cell`` reads it, and the
    name of its scale.

    Raises InputError for an unknown likelihood or option, or one that does not fit the columns.
    """
    spec = Spec.parse(text)
    reading = _resolve("the likelihood", LIKELIHOODS, spec.name)
    unknown = set(spec.options) - {"scale"}
    if unknown:
        raise InputError(
            f"expected no option of a likelihood but scale, got {', '.join(sorted(unknown))}; "
            "write for instance gaussian:scale=cell"
        )
    name = str(spec.options.get("scale", "column"))
    _resolve("the likelihood's scale", SCALES, name)
    schema = reading(schema)
    if "scale" in spec.options and not any(c.kind in (REAL, GRID) for c in schema.columns):
        raise InputError(
            "expected a scale for columns with a spread, but these are all 0 or 1; leave scale out"
        )
    return schema, name


def _make(what: str, constructor: Callable[..., T], spec: Spec) -> T:
    try:
        return constructor(**spec.options)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"expected options that {what} {spec.name!r} understands, but {error}"
        ) from error
