"""What every verb takes, and what every verb does with its answer."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, final

from cyclopts import Parameter
from rich.console import Console


@final
@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Common:
    """Options of every verb."""

    named_seed: Annotated[
        int | None, Parameter(name="--seed", help="Seed of all randomness; 0 unless named.")
    ] = None
    device: Annotated[str, Parameter(help="auto, cpu or cuda.")] = "auto"
    quiet: Annotated[bool, Parameter(negative=(), help="Print nothing but errors.")] = False
    json: Annotated[Path | None, Parameter(help="Write what was printed as JSON here.")] = None

    @property
    def seed(self) -> int:
        """The seed that was named, or 0."""
        return self.named_seed or 0

    @property
    def screen(self) -> Console:
        """Where tables go; it shows nothing when quiet."""
        return Console(highlight=False, quiet=self.quiet)

    def say(self, sentence: str) -> None:
        """Print a sentence, unless asked to be quiet."""
        if not self.quiet:
            print(sentence, flush=True)

    def warn(self, sentence: str) -> None:
        """Print a warning where errors go, unless asked to be quiet."""
        if not self.quiet:
            print(f"warning: {sentence}", file=sys.stderr, flush=True)

    def finish(self, document: dict[str, Any]) -> None:
        """Write the answer as JSON where it was asked for."""
        from unveil.storage import write_document

        if self.json is not None:
            write_document(self.json, {"format_version": 1, **document})

    def require_writable(self, *written: Path | None, read: Sequence[str | Path] = ()) -> None:
        """Raises InputError before the work when the JSON could not be written after it, or when it
        or another file ``written`` would take the place of what is ``read``."""
        from unveil.data.write import require_apart, require_suffix

        if self.json is not None:
            require_suffix(self.json, (".json",))
        for path in filter(None, (self.json, *written)):
            require_apart(path, *read)
