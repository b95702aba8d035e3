"""The command line: ``unveil VERB ...``. Nothing heavy is imported before a verb needs it."""

from unveil.cli.main import main

__all__ = ["main"]
