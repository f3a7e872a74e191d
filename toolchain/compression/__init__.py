"""Codecs: what turns weights into a bitstream, and a bitstream into weights."""

from toolchain.compression import scalar as scalar  # registers its codecs
