"""One run over a recording in a process of its own; prints seconds and processor seconds.

Arguments: "guarded" (Earmark's engine) or "bare" (faster-whisper alone); the recording, the
folder of models, threads.
"""

from __future__ import annotations

import sys
import time
import wave
from pathlib import Path

import numpy as np
from faster_whisper import WhisperModel

from earmark.speech import Options, open_engine
from earmark.speech.local import PRECISION, SETTINGS


def main(how: str, recording: str, models: str, threads: str) -> None:
    channels = _channels(Path(recording))
    run = _guarded if how == "guarded" else _bare
    print(*run(channels, Path(models), int(threads)))


def _bare(channels: list[np.ndarray], models: Path, threads: int) -> tuple[float, float]:
    began, before = time.monotonic(), time.process_time()
    model = WhisperModel(
        str(models / "base"), device="cpu", compute_type=PRECISION, cpu_threads=threads
    )
    for channel in channels:
        found, _ = model.transcribe(channel, language="en", vad_filter=True, **SETTINGS)
        assert list(found)
    return time.monotonic() - began, time.process_time() - before


def _guarded(channels: list[np.ndarray], models: Path, threads: int) -> tuple[float, float]:
    engine = open_engine("local", Options(models, threads=threads))
    engine.transcribe(channels[0][: 5 * 16_000], "en")  # loads the model
    began, before = time.monotonic(), time.process_time()
    for channel in channels:
        assert engine.transcribe(channel, "en")
    return time.monotonic() - began, time.process_time() - before


def _channels(path: Path) -> list[np.ndarray]:
    with wave.open(str(path)) as file:
        count, raw = file.getnchannels(), file.readframes(file.getnframes())
    samples = np.frombuffer(raw, "<i2").reshape(-1, count).astype(np.float32) / 32768
    return [np.ascontiguousarray(samples[:, number]) for number in range(count)]


if __name__ == "__main__":
    main(*sys.argv[1:])
