"""Codecs: encode weights to a bitstream, and decode a bitstream to weights."""

from toolchain.compression import ectcq, external, plain, uniform  # noqa: F401  # importing them registers their codecs
from toolchain.compression.codec import CODECS as CODECS
from toolchain.compression.codec import codec_plugins as codec_plugins
from toolchain.compression.codec import defaults as defaults
from toolchain.compression.codec import make_codec as make_codec
