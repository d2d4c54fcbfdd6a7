"""Models of speech recognition: found, fetched, checked, and never half there."""

from __future__ import annotations

import hashlib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest

from earmark import egress
from earmark.speech import SpeechMissingError, models
from earmark.speech.models import Model, ModelError, find_model, install, installed

if TYPE_CHECKING:
    from collections.abc import Callable
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
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny"]
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
    assert list((tmp_path / "models").iterdir()) == []


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
