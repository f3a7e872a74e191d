"""Codecs: what turns weights into a bitstream, and a bitstream into weights."""
