"""Looks at what Earmark depends on at run time: known vulnerabilities and licences.

./run audit                 both; exit status 1 if either finds something, or could not look
./run audit licences        the licences alone, which needs no network

Vulnerabilities are those that PyPI knows of the versions in requirements.lock; pip-audit asks for
them. What PyPI does not answer for was not looked at, and that is no good news: it fails.
Licences are those that installed packages say of themselves.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"

ALLOWED = frozenset(
    {
        *("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "ISC"),
        *("MIT", "MIT-0", "PSF-2.0", "Zlib"),
    }
)
"""SPDX names of licences that ask of who uses a package in an Apache-2.0 work for no more than its
notice."""

EXCEPTIONS = {
    "certifi": "MPL-2.0",
    "pathspec": "MPL-2.0",
    "psycopg": "LGPL-3.0-only",
    "psycopg-binary": "LGPL-3.0-only",
    "pyrage": "",
    "tqdm": "MPL-2.0 AND MIT",
}
"""Packages under another licence, as it was when docs/decisions.md weighed it."""

NOTES = {
    "av": "its wheel bundles FFmpeg with x264 and x265: take the wheel as GPL",
    "pyrage": "its metadata says nothing; the licence file in its wheel is MIT",
}
"""Packages that hold more than their licence says; docs/decisions.md has a word on each."""

SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""What older packages call their licence → its SPDX name."""

_PINNED = re.compile(r"^([a-z0-9-]+==\S+( ;[^\\\n]*)?)", re.MULTILINE)
_CLASSIFIER = re.compile(r"License :: (?:OSI Approved :: )?(.+)")


@dataclass(frozen=True, slots=True)
class Licence:
    """What a package says of itself.

    Attributes:
        name: an SPDX expression, or words of its own; empty if it says nothing.
        fault: why it cannot be used without a word; empty if it can.
    """

    package: str
    name: str
    fault: str = ""


def pinned(lock: str) -> Iterator[Requirement]:
    """The packages of a lock file."""
    for match in _PINNED.finditer(lock):
        yield Requirement(match[1].strip())


def licences(lock: str) -> list[Licence]:
    """Of every package of a lock that is for this machine; each exception must be needed."""
    locked = list(pinned(lock))
    here = [one for one in locked if one.marker is None or one.marker.evaluate()]
    stale = EXCEPTIONS.keys() - {one.name for one in locked}
    judged = [licence(one.name) for one in here]
    gone = "is an exception, but no dependency any more"
    return [*judged, *(Licence(name, EXCEPTIONS[name], gone) for name in sorted(stale))]


def licence(package: str) -> Licence:
    """Of one installed package, judged."""
    try:
        name = declared(distribution(package))
    except PackageNotFoundError:
        return Licence(package, "", "is not installed, so its licence was not looked at")
    if package in EXCEPTIONS:
        same = name == EXCEPTIONS[package]
        return Licence(package, name, "" if same else f"was {EXCEPTIONS[package]} when weighed")
    return Licence(package, name, "" if allowed(name) else "is under no licence that is allowed")


def declared(package: Distribution) -> str:
    """The licence that a package declares, as an SPDX expression where that can be told."""
    said = package.metadata
    short = (said.get("License") or "").strip()
    if expression := said.get("License-Expression"):
        return str(expression)
    if short and "\n" not in short:
        return SPDX.get(short, short)
    found = map(_CLASSIFIER.fullmatch, said.get_all("Classifier") or ())
    return " OR ".join(SPDX.get(match[1], match[1]) for match in found if match)


def allowed(expression: str) -> bool:
    """Whether an SPDX expression leaves a choice of allowed licences alone.

    Brackets are not read: an expression with any is for a person.
    """
    return any(
        all(name.strip() in ALLOWED for name in choice.split(" AND "))
        for choice in expression.split(" OR ")
    )


def tell_licences() -> int:
    """Prints each licence; how many are at fault."""
    found = licences(LOCK.read_text())
    for one in found:
        print(f"{'FAIL' if one.fault else 'ok':4}  {one.package:20} {one.name or 'says nothing'}")
        if one.package in NOTES:
            print(f"      {'':20} {NOTES[one.package]}")
        if one.fault:
            print(f"      {'':20} {one.package} {one.fault}; see docs/decisions.md, licences")
    judged = {one.package for one in found}
    elsewhere = sorted({one.name for one in pinned(LOCK.read_text())} - judged)
    if elsewhere:
        print("note  for other machines, and not looked at here:", *elsewhere)
    return sum(bool(one.fault) for one in found)


def tell_vulnerabilities() -> int:
    """Prints every known vulnerability; how many there are, packages not looked at included."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(LOCK), "--require-hashes"]
    command += ["--disable-pip", "--progress-spinner", "off", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(done.stderr)
        packages = []
    return judge(packages, done.returncode)


def judge(packages: list[dict[str, object]], status: int) -> int:
    """Prints what pip-audit found; how many faults that makes."""
    lines = list(_faults(packages))
    looked = [one for one in packages if "skip_reason" not in one]
    if not looked:
        lines = ["PyPI's list of vulnerabilities could not be asked. NOTHING WAS LOOKED AT."]
    elif status and not lines:
        lines = [f"pip-audit ended with status {status} and named nothing."]
    print(*(f"FAIL  {line}" for line in lines), sep="\n")
    print(f"{len(looked)} packages were looked at for known vulnerabilities.")
    return len(lines)


def _faults(packages: list[dict[str, object]]) -> Iterator[str]:
    for one in packages:
        if "skip_reason" in one:
            yield f"{one['name']} WAS NOT LOOKED AT: {one['skip_reason']}"
        for known in one.get("vulns", []):  # type: ignore[attr-defined]
            mend = ", ".join(known["fix_versions"]) or "no version"
            yield f"{one['name']} {one['version']}: {known['id']}; mended in {mend}"


def main(words: list[str]) -> int:
    """Does what the words ask for."""
    if words not in ([], ["licences"]):
        print(__doc__)
        return 2
    faults = tell_licences()
    if not words:
        faults += tell_vulnerabilities()
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
