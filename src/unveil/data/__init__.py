"""Files and frames on one side, arrays in model units on the other."""
