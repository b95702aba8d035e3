"""p(z): what latent variables look like before any data."""
