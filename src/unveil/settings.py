"""What a fit was asked for and what it chose: the record that a resumed run obeys."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from typing import Any, final

import torch

from unveil.build import Architecture
from unveil.errors import InputError
from unveil.request import Request
from unveil.step import Recipe


@final
@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that decides a fit's result, beside the code and the machine; plain JSON as a document.

    ``fingerprint`` is a digest of the rows and of how they are read; ``rows`` how many there are.
    ``request`` is what was asked for, with the objective, the length of the run and the share held
    out settled.
    """

    source: str
    rows: int
    fingerprint: str
    seed: int
    request: Request
    architecture: Architecture
    recipe: Recipe

    @property
    def objective(self) -> str:
        """What was climbed, by name and options."""
        assert self.request.objective is not None  # settled before anything is recorded
        return self.request.objective

    def document(self) -> dict[str, Any]:
        """The settings as plain JSON."""
        precision = str(self.recipe.precision).removeprefix("torch.")
        plain = asdict(self)
        return plain | {"recipe": plain["recipe"] | {"precision": precision}}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Settings":
        """The settings that ``document`` wrote."""
        recipe = dict(document["recipe"])
        return cls(
            **{
                **document,
                "request": Request(**_with_tuples(document["request"])),
                "architecture": Architecture(**_with_tuples(document["architecture"])),
                "recipe": Recipe(**recipe | {"precision": getattr(torch, recipe["precision"])}),
            }
        )

    def require_same(self, recorded: "Settings") -> None:
        """Raises InputError, naming what differs, unless a recorded run was asked for the same.

        The recipe is left out: precision and compilation were chosen by the machine that began.
        """
        differing = [
            *_differing(self, recorded, ("rows", "fingerprint", "seed")),
            *_differing(self.request, recorded.request),
            *_differing(self.architecture, recorded.architecture),
        ]
        for name, ours, theirs in differing:
            raise InputError(
                f"expected to resume a run with the settings that it began with, but its "
                f"{name} was {theirs} and {ours} came; give the same again, or start afresh "
                "with --overwrite"
            )


def made_here() -> dict[str, Any]:
    """The versions and the number of threads that a model is fitted by; both may move a digit.

    >>> list(made_here())
    ['unveil', 'torch', 'threads']
    """
    return {
        "unveil": version("unveil"),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _differing(ours: Any, theirs: Any, names: tuple[str, ...] | None = None) -> list[Any]:
    """(name, our value, their value) of each field that is not the same in both records."""
    names = names or tuple(field.name for field in fields(ours))
    pairs = [(name, getattr(ours, name), getattr(theirs, name)) for name in names]
    return [(name, a, b) for name, a, b in pairs if a != b]


def _with_tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows lists only; our records hold tuples."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in record.items()}
