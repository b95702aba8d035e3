"""Missing cells, from the observed ones of their row."""
