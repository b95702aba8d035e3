"""q(z|x): approximate posteriors, each a pushforward of parameter-free noise."""
