"""The one error that a person at the keyboard can put right."""


class InputError(ValueError):
    """The input or the usage is wrong; one sentence: what was expected, what came, the way out."""
