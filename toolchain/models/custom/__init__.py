"""Custom models: Hugging Face folders, checkpoints described in TOML, and Python factories."""
