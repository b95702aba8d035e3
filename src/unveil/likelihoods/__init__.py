"""p(x|z): what a row may look like once its latent variables are known; a family to a kind of cell.

Every family sums over observed cells only (see ``Cells``) and is measured in the data's own units:
a density per unit of the data for real columns, a true probability for counted ones.
"""
