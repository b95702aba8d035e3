"""Statements about log p(x): every one a bound, with its guarantee."""
