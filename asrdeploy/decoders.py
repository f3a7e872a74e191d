"""Stable imports for codec plug-ins, on the receiver's side; see docs/custom-codecs.md. Needs numpy, not torch."""

from device_runner.bitstream.decoders import Parts as Parts
from device_runner.bitstream.decoders import State as State
from device_runner.bitstream.decoders import Weights as Weights
from device_runner.bitstream.decoders import entropy_decoded as entropy_decoded
from device_runner.bitstream.decoders import unpack as unpack
from device_runner.bitstream.format import Record as Record
