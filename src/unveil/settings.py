"""What a fit was asked for and what it chose: the record that a resumed run obeys."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, final

import torch

from unveil.build import Architecture
from unveil.errors import InputError
from unveil.step import Recipe


@final
@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that decides a fit's result, beside the code and the machine; plain JSON as a document.

    ``fingerprint`` is a digest of the rows and of how they are read; ``rows`` how many there are.
    """

    source: str
    rows: int
    fingerprint: str
    label: tuple[str, ...]
    drop: tuple[str, ...]
    likelihood: str
    objective: str
    seed: int
    epochs: int | None
    max_minutes: float | None
    validation: float
    architecture: Architecture
    recipe: Recipe

    def document(self) -> dict[str, Any]:
        """The settings as plain JSON."""
        precision = str(self.recipe.precision).removeprefix("torch.")
        plain = asdict(self)
        return plain | {
            "label": list(self.label),
            "drop": list(self.drop),
            "recipe": plain["recipe"] | {"precision": precision},
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Settings":
        """The settings that ``document`` wrote."""
        recipe = dict(document["recipe"])
        return cls(
            **{
                **document,
                "label": tuple(document["label"]),
                "drop": tuple(document["drop"]),
                "architecture": Architecture(**document["architecture"]),
                "recipe": Recipe(**recipe | {"precision": getattr(torch, recipe["precision"])}),
            }
        )

    def require_same(self, recorded: "Settings") -> None:
        """Raises InputError, naming what differs, unless a recorded run was asked for the same.

        The recipe is left out: precision and compilation were chosen by the machine that began.
        """
        for name in (
            field.name for field in fields(self) if field.name not in ("recipe", "source")
        ):
            ours, theirs = getattr(self, name), getattr(recorded, name)
            if ours != theirs:
                raise InputError(
                    f"expected to resume a run with the settings that it began with, but its "
                    f"{name} was {theirs} and {ours} came; give the same again, or start afresh "
                    "with --overwrite"
                )
