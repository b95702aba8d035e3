"""Entry point: parse, run one verb, and turn what went wrong into an exit code and a sentence."""

import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version

from cyclopts import App, CycloptsError

from unveil.cli import verbs
from unveil.errors import InputError

DONE, FAILED, WRONG_INPUT, INTERRUPTED = 0, 1, 2, 130


def make_app() -> App:
    """The command line as an object: one command per question."""
    app = App(
        name="unveil",
        version=partial(version, "unveil"),
        help="Unveil the hidden structure behind data, and know how far to trust it.",
        # So that run() may say where a stopped run can be gone on with.
        suppress_keyboard_interrupt=False,
    )
    for verb in verbs.ALL:
        app.command(verb)
    return app


def run(tokens: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 2 wrong input, 130 interrupted."""
    try:
        code = make_app()(
            tokens, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except (InputError, CycloptsError) as error:
        return _say(error, WRONG_INPUT)
    except KeyboardInterrupt as stop:
        return _say(str(stop) or "interrupted", INTERRUPTED)
    except (ArithmeticError, OSError) as error:
        return _say(error, FAILED)
    return code if isinstance(code, int) else DONE


def _say(what: object, code: int) -> int:
    sentence = " ".join(str(what).split())
    print(f"unveil: {sentence}", file=sys.stderr)
    return code


def main() -> None:
    """The ``unveil`` script."""
    sys.exit(run())
