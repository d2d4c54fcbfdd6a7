"""What a Whisper model is shown of a sound: its log-mel spectrogram, made piece by piece."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from faster_whisper.feature_extractor import FeatureExtractor
from typing_extensions import override

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from earmark.speech import Samples

PIECE_FRAMES = 3000
"""30 seconds."""

_FLOOR = 1e-10
_RANGE = 8.0
"""Decades below the loudest: what is quieter counts as silence, as in the model's training.
Source: https://github.com/openai/whisper, `log_mel_spectrogram`."""


class Features(FeatureExtractor):  # type: ignore[misc] # it has no types
    """The same as faster-whisper's own, in a sixth of the memory.

    That one holds the spectrum of all of a sound at once, some 200 MB for four minutes: more than
    the model takes.
    """

    @override
    def __call__(
        self, waveform: Samples, padding: int = 160, chunk_length: int | None = None
    ) -> NDArray[np.float32]:
        """The features: 80 or 128 rows, a column for every 10 ms.

        Args:
            waveform: at 16 kHz, -1 to 1.
            padding: samples of silence after it.
            chunk_length: seconds that the model hears at once; None leaves that as it is.
        """
        if chunk_length is not None:
            self.n_samples = chunk_length * self.sampling_rate
            self.nb_max_frames = self.n_samples // self.hop_length
        half = self.n_fft // 2
        samples = np.pad(waveform.astype(np.float32, copy=False), (0, padding))
        frames = samples.size // self.hop_length
        samples = np.pad(samples, half, mode="reflect")
        mel = np.empty((self.mel_filters.shape[0], frames), np.float32)
        for first in range(0, frames, PIECE_FRAMES):
            beyond = min(first + PIECE_FRAMES, frames)
            piece = samples[first * self.hop_length : (beyond - 1) * self.hop_length + self.n_fft]
            mel[:, first:beyond] = self.mel_filters @ self._powers(piece)
        np.log10(np.maximum(mel, _FLOOR, out=mel), out=mel)
        np.maximum(mel, mel.max() - _RANGE, out=mel)
        mel += 4.0
        mel /= 4.0
        return mel

    def _powers(self, piece: Samples) -> NDArray[np.float32]:
        window = np.hanning(self.n_fft + 1)[:-1].astype(np.float32)
        spectrum: NDArray[Any] = self.stft(
            piece, self.n_fft, self.hop_length, window=window, center=False, return_complex=True
        )
        return np.square(np.abs(spectrum.astype(np.complex64)))
