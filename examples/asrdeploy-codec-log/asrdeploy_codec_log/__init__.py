"""A codec for asrdeploy: weights on logarithmic levels, entropy-coded."""
