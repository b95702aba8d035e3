"""Names at the edges: each string that a person may type, resolved once."""
