"""The features that a model is shown: those of faster-whisper itself, in less memory."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from faster_whisper.feature_extractor import FeatureExtractor

from earmark.speech.features import PIECE_FRAMES, Features

if TYPE_CHECKING:
    from numpy.typing import NDArray

HOP = 160
PIECE = PIECE_FRAMES * HOP


def noise(samples: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(0, 0.1, samples).astype(np.float32)


@pytest.mark.parametrize("mels", [80, 128])
@pytest.mark.parametrize(
    "samples", [0, 1, HOP - 1, HOP, 7 * 16_000 + 13, PIECE - HOP, PIECE, PIECE + 1, 3 * PIECE]
)
def test_they_are_those_of_the_library(samples: int, mels: int) -> None:
    sound = noise(samples)
    expected = FeatureExtractor(feature_size=mels)(sound)
    found = Features(feature_size=mels)(sound)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_chunk_length_and_a_padding_count_as_they_do_there() -> None:
    expected, found = FeatureExtractor(), Features()
    for extractor in (expected, found):
        extractor(noise(HOP), chunk_length=10)
    assert (found.n_samples, found.nb_max_frames) == (expected.n_samples, expected.nb_max_frames)
    sound = noise(5 * HOP)
    np.testing.assert_allclose(found(sound, padding=800), expected(sound, padding=800), atol=1e-5)


def test_they_take_a_fraction_of_the_memory() -> None:
    sound = noise(8 * PIECE)

    def most(extractor: Any) -> int:
        tracemalloc.start()
        extractor(sound)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return peak

    assert most(Features()) < most(FeatureExtractor()) / 3
