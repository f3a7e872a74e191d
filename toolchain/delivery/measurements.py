"""What a delivery found: receptions by bitstream and rate, and where a smaller bitstream stops paying."""

from statistics import median
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from toolchain.delivery.reception import Reception


class Delivered(BaseModel):
    """A bitstream and its receptions, one for each rate, the slowest first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str
    receptions: tuple[Reception, ...]
    after: float = Field(description="seconds to load and to infer first: the median over all bitstreams, whose model is the same")

    def seconds_at(self, rates: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the time to the first transcript [s] at rates [bit/s] that were not measured.

        Transfer and decoding overlap: whichever lasts longer counts, then what is left to decode after the last byte (the least that was
        seen), loading and the first inference.
        """
        tail = min(each.seconds.decode for each in self.receptions)
        busy = median(each.decode_busy for each in self.receptions)
        return np.maximum(8 * self.receptions[0].size_bytes / rates + tail, busy) + self.after


class Delivery(BaseModel):
    """Bitstreams of one model, the smallest first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    bitstreams: tuple[Delivered, ...]
    machine: dict[str, Any]


def break_even(smaller: Delivered, larger: Delivered) -> float | None:
    """Return the rate [bit/s] above which a larger bitstream gives its first transcript earlier; None up to 10 Gbit/s."""
    rates = np.geomspace(1e4, 1e10, 2401)
    later = np.flatnonzero(smaller.seconds_at(rates) > larger.seconds_at(rates))
    return float(rates[later[0]]) if later.size else None
