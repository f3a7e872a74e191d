"""A codec for asrdeploy that codes weights on entropy-coded logarithmic levels."""
