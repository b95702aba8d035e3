"""Under pytest every annotation of unveil is held to, shapes included, and examples are repeatable.

This file stands at the root so that it is read before unveil is imported, by the tests and by the
examples in src alike.
"""

from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("unveil", "beartype.beartype")

# A failure must come back when the test is run again: no random examples, no clock, no memory.
settings.register_profile("unveil", derandomize=True, deadline=None, database=None)
settings.load_profile("unveil")
