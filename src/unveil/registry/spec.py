"""A name with options, as a person types it, and what it stands for."""

from ast import literal_eval
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, TypeVar, final, get_args

from unveil.data.read import listed
from unveil.errors import InputError

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


def resolve(what: str, registry: Mapping[str, T], name: str, *, also: Sequence[str] = ()) -> T:
    """What a name stands for; ``also`` are names that are resolved elsewhere.

    Raises InputError where it is unknown, naming those that are not.

    >>> resolve("the colour", {"red": 1}, "red")
    1
    """
    if name not in registry:
        raise InputError(
            f"expected {what} to be one of {', '.join([*also, *registry])}, but {name!r} came; "
            "choose one of these"
        )
    return registry[name]


def make(what: str, maker: Callable[..., T], spec: Spec, *arguments: Any) -> T:
    """``maker(*arguments, **options)``, once the options are some that it takes.

    Raises InputError for an option that it does not take, lacks or refuses.
    """
    takes = dict(list(signature(maker).parameters.items())[len(arguments) :])
    unknown = set(spec.options) - set(takes)
    if unknown:
        known = f"the options {listed(takes)}" if takes else "no options"
        raise InputError(
            f"expected {known} for {what} {spec.name!r}, but {listed(sorted(unknown))} came; "
            "leave it out, or correct its name"
        )
    lacking = [n for n, p in takes.items() if p.default is p.empty and n not in spec.options]
    if lacking:
        raise InputError(
            f"expected {what} {spec.name!r} to be told its {listed(lacking)}, but nothing came; "
            f"write for instance {spec.name}:{lacking[0]}=1"
        )
    options = {
        name: typed(f"{spec.name}:{name}", value, takes[name].annotation)
        for name, value in spec.options.items()
    }
    try:
        return maker(*arguments, **options)
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from error


def typed(name: str, value: Any, kind: Any) -> Any:
    """An option's value as its maker declares it: a whole number will do where any number will.

    Raises InputError for another kind of value.

    >>> typed("renyi:alpha", 2, float)
    2.0
    """
    kinds = set(get_args(kind)) or {kind}
    if type(value) in kinds:
        return value
    if float in kinds and type(value) is int:
        return float(value)
    if str in kinds:
        return str(value)
    wanted = "a whole number" if int in kinds else "a number"
    raise InputError(f"expected {name} to be {wanted}, but {value!r} came; correct it")
