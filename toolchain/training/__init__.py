"""Training of the bundled model DIGITS_ASR_TINY, from speech synthesisers and recorded digits to its weights."""
