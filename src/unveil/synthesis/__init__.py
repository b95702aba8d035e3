"""Drawn rows beside real ones: how alike they are, what they are good for, what they give away."""
