"""Augmentation of training speech: effects of rooms, microphones and telephones.

All filters of an utterance (equaliser, telephone band, room) are applied in one multiplication in the frequency domain, so augmentation
takes a tenth of the time of a training step.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft

SAMPLE_RATE = 16_000
Waveform = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Augmentation:
    """Probabilities and ranges of augmentations. Values are drawn uniformly from their range."""

    speed: tuple[float, float] = (0.82, 1.2)  # resampling, which changes tempo, pitch and formants together
    formants: float = 0.5
    formant_shift: tuple[float, float] = (0.86, 1.16)  # only the spectral envelope: another vocal tract at the same pitch
    equaliser_db: float = 10.0
    equaliser: float = 0.7
    low_pass: float = 0.35  # simulates a recording at 8 kHz
    telephone: float = 0.25
    room: float = 0.35
    noise: float = 0.65
    noise_db: tuple[float, float] = (5.0, 40.0)
    level_db: tuple[float, float] = (-22.0, 3.0)
    silence: tuple[float, float] = (0.0, 0.35)  # seconds before and after

    def __call__(self, waveform: Waveform, rng: np.random.Generator) -> Waveform:
        """Return an augmented copy of a waveform ``[samples]``. Speed and silence change its length."""
        waveform = change_speed(waveform, rng.uniform(*self.speed))
        if rng.random() < self.formants:
            waveform = shift_formants(waveform, rng.uniform(*self.formant_shift))
        before, after = (rng.uniform(*self.silence, 2) * SAMPLE_RATE).astype(int)
        waveform = np.pad(waveform, (before, after))
        size = fft.next_fast_len(len(waveform) + SAMPLE_RATE // 2, real=True)
        waveform = fft.irfft(fft.rfft(waveform, size) * self.response(size, rng), size)[: len(waveform)]
        peak = np.abs(waveform).max(initial=1e-9)
        if rng.random() < self.noise:
            waveform = waveform + noise(len(waveform), peak, rng.uniform(*self.noise_db), rng)
        return (waveform * (10 ** (rng.uniform(*self.level_db) / 20) / peak)).astype(np.float32)

    def response(self, size: int, rng: np.random.Generator) -> npt.NDArray[Any]:
        """Draw a frequency response ``[size // 2 + 1]`` of microphone, telephone band and room."""
        frequencies = np.linspace(1.0, SAMPLE_RATE / 2, size // 2 + 1, dtype=np.float32)
        response: npt.NDArray[Any] = np.ones_like(frequencies)
        if rng.random() < self.equaliser:
            knots = np.array([1, 120, 300, 700, 1500, 3000, 5000, 8000])
            gains = rng.uniform(-self.equaliser_db, self.equaliser_db, len(knots))
            response = (10 ** (np.interp(frequencies, knots, gains) / 20)).astype(np.float32)
        if rng.random() < self.telephone:
            response = response * band(frequencies, rng.uniform(150, 350), rng.uniform(3000, 3700))
        elif rng.random() < self.low_pass:
            response = response * band(frequencies, 0.0, rng.uniform(3300, 4100))
        if rng.random() < self.room:
            response = response * fft.rfft(room(rng), size)
        return response


def change_speed(waveform: Waveform, factor: float) -> Waveform:
    """Resample by linear interpolation. A factor above 1 makes speech faster and higher, with a shorter vocal tract."""
    positions = np.arange(0, len(waveform) - 1, factor, dtype=np.float64)
    return np.interp(positions, np.arange(len(waveform)), waveform).astype(np.float32)


def shift_formants(waveform: Waveform, factor: float, frame: int = 512, lifter: int = 30) -> Waveform:
    """Stretch the spectral envelope of a waveform along frequency, keeping pitch and timing.

    The envelope of a frame is given by the first ``lifter`` coefficients of its cepstrum (Oppenheim and Schafer, 1968). Each frame is
    filtered by the ratio of the stretched to the original envelope, and frames are overlap-added with a hop of a quarter of a frame.

    Args:
        waveform: Waveform ``[samples]``.
        factor: Factor on the frequencies of the formants.
        frame: Frame length in samples.
        lifter: Number of cepstral coefficients.
    """
    hop, window = frame // 4, np.hanning(frame + 1)[:-1].astype(np.float32)
    padded = np.pad(waveform, (frame, frame + hop - len(waveform) % hop))
    spectra = fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, frame)[::hop] * window)
    cepstra = fft.irfft(np.log(np.abs(spectra) + 1e-4))
    cepstra[:, lifter : frame - lifter + 1] = 0
    envelopes = fft.rfft(cepstra).real
    positions = np.minimum(np.arange(envelopes.shape[1]) / factor, envelopes.shape[1] - 1.001)
    below = positions.astype(int)
    share = (positions - below).astype(np.float32)
    stretched = envelopes[:, below] * (1 - share) + envelopes[:, below + 1] * share
    frames = fft.irfft(spectra * np.exp(np.clip(stretched - envelopes, -4, 4))) * (window / 1.5)
    shifted = np.zeros((len(frames) + 3, hop), np.float32)
    for quarter in range(4):
        shifted[quarter : quarter + len(frames)] += frames[:, quarter * hop : (quarter + 1) * hop]
    return shifted.ravel()[frame : frame + len(waveform)]


def band(frequencies: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[Any]:
    """Return a band pass from ``low`` to ``high`` Hz with slopes of about 24 dB per octave below and 72 dB above."""
    rise = 1 / (1 + (low / frequencies) ** 4) if low else 1.0
    return rise / (1 + (frequencies / high) ** 12)


def room(rng: np.random.Generator) -> Waveform:
    """Draw a room's impulse response: direct sound and an exponential tail with a reverberation time (60 dB) of 0.1 to 0.5 s."""
    reverberation = rng.uniform(0.1, 0.5)
    times = np.arange(int(min(reverberation, 0.45) * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(times), dtype=np.float32) * np.exp(-6.9 * times / reverberation)
    tail[: int(rng.uniform(0.001, 0.02) * SAMPLE_RATE)] = 0
    tail *= 10 ** (-rng.uniform(0, 15) / 20) / np.sqrt((tail**2).sum() + 1e-9)
    tail[0] = 1
    return tail.astype(np.float32)


def noise(samples: int, peak: float, decibels: float, rng: np.random.Generator) -> Waveform:
    """Draw noise between white and brown.

    Args:
        samples: Number of samples.
        peak: Peak of the speech.
        decibels: Signal-to-noise ratio.
        rng: Random generator.
    """
    size = fft.next_fast_len(samples, real=True)
    spectrum = fft.rfft(rng.standard_normal(size, dtype=np.float32))
    colour = rng.uniform(0, 1)
    spectrum *= np.maximum(np.arange(len(spectrum), dtype=np.float32), 0.003 * size) ** -colour
    drawn = fft.irfft(spectrum, size)[:samples]
    # The root mean square of speech is about a fifth of its peak.
    scale = 0.2 * peak * 10 ** (-decibels / 20) / (np.sqrt((drawn**2).mean()) + 1e-9)
    return (drawn * scale).astype(np.float32)
