"""The published API as a document of facts, and a client that a generator makes out of it.

`contract/published.json` has the paths, parameters and schemas of the OpenAPI that the product
with this contract publishes, without any of its sentences and addresses.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
PUBLISHED = TESTS / "contract" / "published.json"
GENERATOR = TESTS / "contract" / "generator.lock"
REFERENCE = TESTS.parent.parent / "shared" / "reference" / "acxapi-openapi.json"
"""Not part of the project: compared where somebody has laid it there."""

PACKAGE = "published_client"

_WORDS = frozenset({"description", "summary", "example", "examples", "title"})


class GeneratorError(Exception):
    """The generator could not be installed or did not do its work."""


def facts(document: dict[str, Any]) -> dict[str, Any]:
    """An OpenAPI document without its sentences, examples and addresses."""
    schemas = document["components"]["schemas"]
    flow = {"tokenUrl": "/connect/token", "scopes": {"acxapi": ""}}
    return {
        "openapi": document["openapi"],
        "info": {"title": "Published", "version": document["info"]["version"]},
        "paths": {path: _bare(item) for path, item in document["paths"].items()},
        "components": {
            "schemas": {name: _bare(schema) for name, schema in schemas.items()},
            "securitySchemes": {
                "OAuth2": {"type": "oauth2", "flows": {"clientCredentials": flow}}
            },
        },
        "security": document["security"],
    }


def _bare(value: Any, *, names: bool = False) -> Any:
    """Without the keys that hold sentences; `names`: its keys are names, none is such a key."""
    if isinstance(value, list):
        return [_bare(item) for item in value]
    if not isinstance(value, dict):
        return value
    bare = {
        key: _bare(item, names=key == "properties")
        for key, item in value.items()
        if names or key not in _WORDS
    }
    if not names and "responses" in bare:  # each must have a description, if an empty one
        bare["responses"] = {
            status: {"description": "", **answer} for status, answer in bare["responses"].items()
        }
    return bare


def make_client(folder: Path) -> list[Path]:
    """Makes the package `PACKAGE` in the folder.

    Returns:
        what to look for packages in, beside what there is: the folder, and the generator's.

    Raises:
        GeneratorError: with what the generator, or pip, said.
    """
    libraries = _installed()
    quiet = folder / "generator.json"
    quiet.write_text(json.dumps({"post_hooks": []}))
    made = ("--path", str(PUBLISHED), "--output-path", str(folder / PACKAGE), "--meta", "none")
    _run("openapi_python_client", "generate", *made, "--config", str(quiet), path=libraries)
    return [folder, libraries]


def _installed() -> Path:
    """The generator's packages, fetched once for each lock; kept in `.cache`."""
    key = hashlib.sha256(GENERATOR.read_bytes() + sys.version.encode()).hexdigest()[:16]
    place = TESTS.parent / ".cache" / f"generator-{key}"
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:  # processes of one run install it once
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "done").exists():
            install = ("install", "--quiet", "--no-deps", "--require-hashes", "--upgrade")
            target = ("--target", str(place / "lib"), "-r", str(GENERATOR))
            _run("pip", "--disable-pip-version-check", *install, *target)
            (place / "done").touch()
    return place / "lib"


def _run(module: str, *arguments: str, path: Path | None = None) -> None:
    environment = {**os.environ, "PYTHONPATH": str(path)} if path else dict(os.environ)
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        env=environment,
    )
    if done.returncode:
        raise GeneratorError(f"{module}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
