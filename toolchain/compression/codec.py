"""The protocol of codecs, and their registry."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from torch import Tensor

from device_runner.names import nearest


class Codec(Protocol):
    """Compresses the weights of a model."""

    def encode(self, state: dict[str, Tensor]) -> bytes:
        """Return the bitstream of a state dict; its length is what is transmitted."""
        ...

    def decode(self, bitstream: bytes) -> dict[str, Tensor]:
        """Return the reconstructed state dict in fp32.

        Raises:
            AsrDeployError: the bitstream is cut or is not one of this codec.
        """
        ...


CODECS: dict[str, Callable[..., Codec]] = {}
Maker = TypeVar("Maker", bound=Callable[..., Codec])


def codec(name: str) -> Callable[[Maker], Maker]:
    """Register what makes a codec from its parameters, under a name."""

    def register(make: Maker) -> Maker:
        CODECS[name] = make
        return make

    return register


def make_codec(name: str, **parameters: int) -> Codec:
    """Make a codec by name.

    Raises:
        AsrDeployError: unknown name.
    """
    if name not in CODECS:
        raise nearest(name, CODECS, "codec")
    return CODECS[name](**parameters)
