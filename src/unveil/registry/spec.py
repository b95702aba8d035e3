"""A name with options, as a person types it, and what it stands for."""

from ast import literal_eval
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, TypeVar, final

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

    Raises InputError for an option that it does not take, or a value that it refuses.
    """
    known = list(signature(maker).parameters)[len(arguments) :]
    unknown = set(spec.options) - set(known)
    if unknown:
        takes = f"the options {listed(known)}" if known else "no options"
        raise InputError(
            f"expected {takes} for {what} {spec.name!r}, but {listed(sorted(unknown))} came; "
            "leave it out, or correct its name"
        )
    try:
        return maker(*arguments, **spec.options)
    except (TypeError, ValueError) as error:
        raise InputError(str(error)) from error
