"""Training of the bundled model DIGITS_ASR_TINY from synthesised speech and recorded digits."""
