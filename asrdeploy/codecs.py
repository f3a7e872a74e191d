"""Stable imports for codec plug-ins, on the sender's side; see docs/custom-codecs.md. Needs torch."""

from device_runner.bitstream.decoders import State as State
from device_runner.bitstream.decoders import Weights as Weights
from device_runner.errors import AsrDeployError as AsrDeployError
from toolchain.compression.calibration import Calibration as Calibration
from toolchain.compression.codec import Codec as Codec
from toolchain.compression.codec import Coded as Coded
from toolchain.compression.codec import decode as decode
from toolchain.compression.codec import encode as encode
from toolchain.compression.plain import entropy_coded as entropy_coded
from toolchain.compression.plain import filled as filled
from toolchain.compression.plain import half as half
from toolchain.compression.uniform import pack as pack
