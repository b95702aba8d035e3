"""How usual rows are: scores, p-values beside rows kept apart, and the odd cells."""
