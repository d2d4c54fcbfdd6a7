"""Speech: how right, how fast, how much memory. Options: --quick, --only NAME.

Needs Debian's pocketsphinx-testdata (people who speak English), flite, espeak-ng and ffmpeg; as
root with apt it installs them. The model is the one that `earmark models install base` installs.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import _human  # noqa: E402
import numpy as np  # noqa: E402
from _calls import Call, calls, long_call, write_wav  # noqa: E402
from _served import Watched, watch  # noqa: E402
from _sounds import Sound, on_the_telephone, with_crosstalk, with_noise  # noqa: E402
from _words import Score, score  # noqa: E402

from earmark.speech import Options, Transcriber, open_engine  # noqa: E402
from earmark.speech.crosstalk import silence_leaks  # noqa: E402
from speaking import installed_models  # noqa: E402
from wordless import wordless  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PROGRAMS = {"flite": "flite", "espeak-ng": "espeak-ng", "ffmpeg": "ffmpeg"}
GOALS = {"human English": 0.06, "generated English": 0.15, "generated Spanish": 0.15}
MOST_OVERHEAD = 0.05
MOST_BYTES = 700_000_000


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    runs: int = 5
    call_seconds: int = 600
    long_seconds: int = 7200
    wordless_seconds: int = 60


QUICK = Scale(runs=2, call_seconds=120, long_seconds=600, wordless_seconds=15)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything: no figures")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    asked = parser.parse_args()
    scale = QUICK if asked.quick else Scale()
    if asked.quick:
        print("QUICK: scaled down; these are no figures to quote.", flush=True)
    install_programs()
    models = installed_models()
    missed: list[str] = []
    for name in [asked.only] if asked.only else PARTS:
        print(f"\n{name}\n", flush=True)
        missed += PARTS[name](models, scale)
    print("\nGoals missed:", "; ".join(missed) or "none")
    return int(bool(missed))


def install_programs() -> None:
    """As root with apt, installs what is missing and says so; otherwise says how, and ends."""
    missing = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
    missing += [] if _human.FOLDER.is_dir() else ["pocketsphinx-testdata"]
    if not missing:
        return
    install = ["apt-get", "install", "-y", *missing]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        sys.exit("This benchmark needs more. Install it: sudo " + " ".join(install))
    print("This benchmark needs more; installing it:", *install, flush=True)
    for command in (["apt-get", "update"], install):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


# How right


def accuracy(models: Path, _scale: Scale) -> list[str]:
    engine, missed = open_engine("local", Options(models)), []
    print("| speech | line | words | wrong | WER | 95 % interval |\n|---|---|---|---|---|---|")
    for call in [*_human.calls(), *calls()]:
        for line, change in LINES.items():
            if line == "crosstalk" and len(call.channels) == 1:
                continue
            found = heard(engine, call, change(call.channels))
            low, high = found.interval
            print(
                f"| {call.name} | {line} | {found.words} | {found.wrong} "
                f"| {found.rate:.3f} | {low:.3f} to {high:.3f} |",
                flush=True,
            )
            if line == "clean" and found.rate > GOALS[call.name]:
                missed.append(f"WER of {call.name}, clean: {found.rate:.3f}")
    return missed


def heard(engine: Transcriber, call: Call, channels: Sequence[Sound]) -> Score:
    """What the engine makes of a call, its channels cleared of each other as the pipeline does."""
    together = np.stack(channels)
    texts = []
    for number in range(len(channels)):
        segments = engine.transcribe(silence_leaks(together, number), call.language)
        texts.append(" ".join(segment.text for segment in segments))
    return score(call.said, texts)


LINES: dict[str, Callable[[Sequence[Sound]], Sequence[Sound]]] = {
    "clean": list,
    "8 kHz mu-law": on_the_telephone,
    "noise, 15 dB": with_noise,
    "crosstalk": with_crosstalk,
}


def invented(models: Path, scale: Scale) -> list[str]:
    engine, missed = open_engine("local", Options(models)), []
    print(
        "| sound, nobody speaks | seconds | words, English | words, Spanish |\n|---|---|---|---|"
    )
    for name, sound in wordless(scale.wordless_seconds):
        counts = [
            sum(len(one.text.split()) for one in engine.transcribe(sound, language))
            for language in ("en", "es")
        ]
        print(f"| {name} | {scale.wordless_seconds} | {counts[0]} | {counts[1]} |", flush=True)
        missed += [f"words in {name}"] if any(counts) else []
    return missed


# How fast


def speed(models: Path, scale: Scale) -> list[str]:
    """A process for each run, on one processor and on all, in turns."""
    cores = sorted(os.sched_getaffinity(0))
    counts = sorted({1, min(2, len(cores))})
    seconds: dict[int, list[float]] = {count: [] for count in counts}
    with recording(scale.call_seconds) as path:
        for _ in range(scale.runs):
            for count in counts:
                seconds[count].append(_transcribe_apart(path, models, cores[:count]))
    print("| processors | times real time, median | least | most |\n|---|---|---|---|")
    for count, taken in seconds.items():
        rates = [scale.call_seconds / one for one in taken]
        print(
            f"| {count} | {statistics.median(rates):.1f} | {min(rates):.1f} | {max(rates):.1f} |"
        )
    return []


def overhead(models: Path, scale: Scale) -> list[str]:
    """Processor time of the whole pipeline against the engine alone on the same sound."""
    ratios, whole, bare = [], [], []
    with recording(scale.call_seconds) as path, tempfile.TemporaryDirectory() as folder:
        for number in range(scale.runs):
            bare.append(_bare_apart(path, models))
            place = Path(folder) / str(number)
            place.mkdir()
            whole.append(watch(path, place, models=models, threads=1).cpu_seconds)
            ratios.append(whole[-1] / bare[-1] - 1)
    middle = statistics.median(ratios)
    print(
        f"Processor seconds, median: pipeline {statistics.median(whole):.1f}, faster-whisper "
        f"alone {statistics.median(bare):.1f}; overhead {middle:.1%} (each run: "
        f"{', '.join(f'{one:.1%}' for one in ratios)})"
    )
    return [f"overhead {middle:.1%}"] if middle > MOST_OVERHEAD else []


def memory(models: Path, scale: Scale) -> list[str]:
    """One long call through server and worker."""
    with recording(scale.long_seconds) as path, tempfile.TemporaryDirectory() as folder:
        seen = watch(path, Path(folder), models=models, tell=lambda share: print(f"{share:.0%}"))
    print(report(seen, scale.long_seconds))
    most = max(seen.worker_bytes, seen.together_bytes)
    return [f"{most / 1e6:.0f} MB of memory"] if most > MOST_BYTES else []


def report(seen: Watched, seconds: int) -> str:
    worker, child, together = (
        round(size / 1e6) for size in (seen.worker_bytes, seen.child_bytes, seen.together_bytes)
    )
    return (
        f"{seconds / 3600:.1f} hours of two channels in {seen.seconds / 60:.0f} minutes, "
        f"{seen.cpu_seconds:.0f} processor seconds; most memory: worker {worker} MB, the child "
        f"that decodes {child} MB, both at one moment {together} MB; progress was told "
        f"{len(seen.progress)} times"
    )


class recording:  # noqa: N801 - a context manager
    """A file with a long call."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self._folder = tempfile.TemporaryDirectory()

    def __enter__(self) -> Path:
        path = Path(self._folder.name) / "call.wav"
        write_wav(long_call(self._seconds), path)
        return path

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


def _transcribe_apart(path: Path, models: Path, cores: Sequence[int]) -> float:
    """Seconds of one run of the engine on these processors, without its start."""
    return float(_apart("guarded", path, models, cores).split()[0])


def _bare_apart(path: Path, models: Path) -> float:
    """Processor seconds of faster-whisper alone, with its start as a worker has it once."""
    return float(_apart("bare", path, models, sorted(os.sched_getaffinity(0))).split()[1])


def _apart(how: str, path: Path, models: Path, cores: Sequence[int]) -> str:
    threads = len(cores) if how == "guarded" else 1
    command = [sys.executable, str(Path(__file__).with_name("_alone.py")), how, str(path)]
    done = subprocess.run(
        [*command, str(models), str(threads)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    return done.stdout


PARTS: dict[str, Callable[[Path, Scale], list[str]]] = {
    "accuracy": accuracy,
    "invented": invented,
    "speed": speed,
    "overhead": overhead,
    "memory": memory,
}

if __name__ == "__main__":
    sys.exit(main())
