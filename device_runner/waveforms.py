"""Remarks about waveforms: samples that cannot be speech, and samples that are likely a mistake."""

import numpy as np
import numpy.typing as npt

from device_runner.errors import AsrDeployError

# Integers of 32 bits that were stored as floats reach this; nothing that was recorded exceeds it.
LARGEST_SAMPLE = 2.0**32

# Full scale is 1. Mixing and decoding may exceed it a few times, and integers stored as floats a hundred times.
FULL_SCALES = 16.0

# A deviation of 8 steps of 16 bits from the mean (-72 dB of full scale): less than the noise of an open microphone.
NEARLY_SILENT = 8 / 32768

# The share of samples at the peak, and the lowest peak for which it means anything: in a quiet 8-bit recording many samples are.
CLIPPED_SHARE, CLIPPED_PEAK = 0.2, 0.25


def check_samples(samples: npt.NDArray[np.float32], source: str = "The waveform") -> None:
    """Refuse a waveform that no model can transcribe.

    Args:
        samples: Mono samples ``[samples]``.
        source: Where the samples come from, for messages.

    Raises:
        AsrDeployError: There are no samples, or some are NaN, infinite, or absurdly large.
    """
    if samples.size == 0:
        raise AsrDeployError(f"{source} contains no samples; leave it out or record it again.")
    peak = _peak(samples)
    if not np.isfinite(peak):
        raise AsrDeployError(f"{source} contains samples that are not finite numbers (NaN or infinity); convert or record it again.")
    if peak > LARGEST_SAMPLE:
        raise AsrDeployError(
            f"{source} contains samples as large as {peak:.2g}, while full scale is 1; it is damaged, so convert or record it again."
        )


def remark(samples: npt.NDArray[np.float32]) -> str | None:
    """Return what is peculiar about a waveform that can be transcribed but hardly contains intelligible speech.

    Args:
        samples: Mono samples ``[samples]``, finite, in -1 to 1.

    Returns:
        The rest of a sentence, to be put behind the name of the recording, with a full stop: "is silent: all samples are 0.";
        None if nothing is peculiar.
    """
    if samples.size == 0:
        return None
    low, high, peak = float(samples.min()), float(samples.max()), _peak(samples)
    if low == high:
        return "is silent: all samples are 0." if low == 0 else f"contains no sound: all samples are {low:g}."
    if high - low <= 2 * NEARLY_SILENT:
        decibels = 20 * np.log10((high - low) / 2)
        return f"is nearly silent: its samples deviate by at most {decibels:.0f} dB of full scale. Check the microphone or the channel."
    if peak > FULL_SCALES:
        bits = 16 if peak <= 1 << 15 else 24 if peak <= 1 << 23 else 32
        return (
            f"has samples as large as {peak:.6g}, while full scale is 1. They are probably {bits}-bit integers stored as floats: "
            f"divide them by {1 << bits - 1}."
        )
    limit = np.float32(0.99 * peak)  # two comparisons, because the magnitudes of an hour would be another waveform in memory
    share = (np.count_nonzero(samples >= limit) + np.count_nonzero(samples <= -limit)) / samples.size
    if peak >= CLIPPED_PEAK and share >= CLIPPED_SHARE:
        return f"is clipped: {share:.0%} of its samples are at the limit. Record it again at a lower level."
    return None


def _peak(samples: npt.NDArray[np.float32]) -> float:
    """Return the largest magnitude; NaN if any sample is NaN."""
    return float(max(abs(samples.min()), abs(samples.max())))
