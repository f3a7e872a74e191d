"""Results of a delivery: receptions by bitstream and rate, and the rate up to which a smaller bitstream is faster."""

from statistics import median
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from toolchain.delivery.reception import Reception


class Delivered(BaseModel):
    """A bitstream and its receptions, one for each rate, starting with the lowest rate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str
    receptions: tuple[Reception, ...]
    after: float = Field(description="seconds for loading and the first inference: median over all bitstreams, which have the same model")

    def seconds_at(self, rates: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Compute the time to first transcript at rates that were not measured.

        Transfer and decoding overlap, so the longer of the two counts. The decoding time after the last byte (the shortest one measured)
        belongs to the transfer; loading and the first inference are added.

        Args:
            rates: Rates in bit/s, ``[n]``.

        Returns:
            Times in seconds, ``[n]``.
        """
        tail = min(each.seconds.decode for each in self.receptions)
        busy = median(each.decode_busy for each in self.receptions)
        return np.maximum(8 * self.receptions[0].size_bytes / rates + tail, busy) + self.after


class Delivery(BaseModel):
    """Results for several bitstreams of one model, starting with the smallest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    bitstreams: tuple[Delivered, ...]
    machine: dict[str, Any]


def break_even(smaller: Delivered, larger: Delivered) -> float | None:
    """Return the rate in bit/s above which the larger bitstream has the earlier first transcript, or None up to 10 Gbit/s."""
    rates = np.geomspace(1e4, 1e10, 2401)
    later = np.flatnonzero(smaller.seconds_at(rates) > larger.seconds_at(rates))
    return float(rates[later[0]]) if later.size else None
