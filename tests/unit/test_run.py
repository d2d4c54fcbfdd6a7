"""The script `run`, and the lock files from which it sets up."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "run"
LOCKS = ("requirements.lock", "requirements-dev.lock")


@pytest.fixture
def script() -> ModuleType:
    loader = SourceFileLoader("earmark_run", str(SCRIPT))
    specification = importlib.util.spec_from_loader(loader.name, loader)
    assert specification is not None
    module = importlib.util.module_from_spec(specification)
    loader.exec_module(module)
    return module


@pytest.fixture
def calls(monkeypatch, script):
    """What would have been started instead of doing so."""
    made = []

    def record(command, **_options):
        made.append([str(word) for word in command])
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(script, "subprocess", SimpleNamespace(run=record, DEVNULL=None))
    return made


@pytest.fixture
def project(tmp_path, monkeypatch, script):
    """A folder with locks, a pyproject.toml and an empty .venv, which is the present folder."""
    (tmp_path / ".venv").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n[tool.y]\n')
    for lock in LOCKS:
        (tmp_path / lock).write_text(f"{lock}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script, "VENV", tmp_path / ".venv")
    return tmp_path


def locked(name: str) -> dict[str, str]:
    """Each package of a lock with its version."""
    text = (ROOT / name).read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", text, re.MULTILINE))


def declared(requirements: list[str]) -> set[str]:
    names = (re.match(r"[\w.-]+", requirement) for requirement in requirements)
    return {re.sub(r"[-_.]+", "-", name[0]).lower() for name in names if name}


def test_it_is_small_enough_to_be_read_before_it_is_run():
    assert len(SCRIPT.read_text().splitlines()) <= 150


def test_it_imports_the_standard_library_only():
    tree = ast.parse(SCRIPT.read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or node.names[0].name]
    }
    assert imported <= sys.stdlib_module_names


def test_an_older_python_can_read_it_as_far_as_the_sentence_that_says_so():
    source = SCRIPT.read_text()
    ast.parse(source, feature_version=(3, 7))
    pretend = "import sys; sys.version_info = (3, 9, 2); sys.version = '3.9.2 (old)'; "
    done = subprocess.run(
        [sys.executable, "-c", f"{pretend}exec({source!r})"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "Earmark needs Python 3.11 or later; this is 3.9.2.\n"


@pytest.mark.parametrize(
    ("arguments", "status"), [([], 2), (["nonsense"], 2), (["-h"], 0), (["--help"], 0)]
)
def test_without_a_command_it_says_which_there_are(arguments, status):
    command = [sys.executable, SCRIPT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status
    for name in ("demo", "test", "check", "bench", "audit"):
        assert f"./run {name}" in done.stdout


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_hashes_and_no_address(name):
    text = (ROOT / name).read_text()
    assert "://" not in text
    assert "index-url" not in text
    assert "find-links" not in text
    entries = re.split(r"\n(?=\S)", text)
    packages = [entry for entry in entries if not entry.startswith("#")]
    assert packages
    assert all("--hash=sha256:" in entry for entry in packages)


def test_the_locks_hold_every_declared_dependency():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = pyproject["dependency-groups"]
    runtime = declared(pyproject["project"]["dependencies"] + groups["build"])
    assert runtime <= locked("requirements.lock").keys()
    development = declared(groups["test"] + groups["lint"])
    assert runtime | development <= locked("requirements-dev.lock").keys()


def test_the_tests_run_with_the_versions_that_users_get():
    assert locked("requirements.lock").items() <= locked("requirements-dev.lock").items()


def test_set_up_installs_hashed_packages_and_then_nothing_that_is_not_locked(
    script, project, calls
):
    script.set_up("requirements.lock")
    venv, packages, earmark, check = calls
    assert venv[1:4] == ["-m", "venv", "--clear"]
    assert packages[-3:] == ["--require-hashes", "-r", "requirements.lock"]
    assert {"--no-deps", "--no-build-isolation"} < set(earmark)
    assert check[-1] == "check"


def test_set_up_does_nothing_the_second_time(script, project, calls):
    script.set_up("requirements.lock")
    calls.clear()
    script.set_up("requirements.lock")
    assert calls == []


def test_set_up_for_users_is_done_when_that_for_developers_is(script, project, calls):
    script.set_up("requirements-dev.lock")
    calls.clear()
    script.set_up("requirements.lock")
    assert calls == []


def test_set_up_for_developers_keeps_what_was_set_up_for_users(script, project, calls):
    script.set_up("requirements.lock")
    calls.clear()
    script.set_up("requirements-dev.lock")
    assert not any("venv" in call for call in calls)
    assert "requirements-dev.lock" in calls[0]


@pytest.mark.parametrize(
    ("file", "content"),
    [("requirements.lock", "other"), ("pyproject.toml", '[project]\nname = "z"\n')],
)
def test_set_up_starts_anew_when_what_it_came_from_changed(script, project, calls, file, content):
    script.set_up("requirements.lock")
    calls.clear()
    (project / file).write_text(content)
    script.set_up("requirements.lock")
    assert "--clear" in calls[0]


def test_set_up_is_not_repeated_for_a_change_of_tool_settings(script, project, calls):
    script.set_up("requirements.lock")
    calls.clear()
    (project / "pyproject.toml").write_text('[project]\nname = "x"\n[tool.z]\n')
    script.set_up("requirements.lock")
    assert calls == []


def test_a_failed_set_up_is_tried_again(script, project, calls, monkeypatch):
    monkeypatch.setattr(script, "run", lambda *_: 1)
    for _ in range(2):
        with pytest.raises(SystemExit, match="pip install failed"):
            script.set_up("requirements.lock")
    assert len(calls) == 2


def test_a_python_without_venv_is_told_the_package_to_install(script, project, monkeypatch):
    monkeypatch.setattr(script.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SystemExit, match="sudo apt-get install -y python3-venv"):
        script.set_up("requirements.lock")
    assert not list((project / ".venv").iterdir())


@pytest.fixture
def bare_system(script, monkeypatch):
    """A machine with apt-get and none of the programs that the tests need."""
    monkeypatch.delenv("EARMARK_TEST_DATABASE_URL", raising=False)

    def which(name, **_options):
        return "/usr/bin/apt-get" if name == "apt-get" else None

    monkeypatch.setattr(script.shutil, "which", which)


def test_a_user_is_told_the_line_that_installs_the_missing_programs(
    script, calls, bare_system, monkeypatch
):
    monkeypatch.setattr(script.os, "geteuid", lambda: 1000)
    packages = " ".join(sorted(set(script.SYSTEM_PACKAGES.values())))
    with pytest.raises(SystemExit, match=f"sudo apt-get install -y {packages}$"):
        script.install_system_packages()
    assert calls == []


def test_root_gets_the_missing_programs_installed_and_is_told(
    script, calls, bare_system, monkeypatch, capsys
):
    monkeypatch.setattr(script.os, "geteuid", lambda: 0)
    script.install_system_packages()
    packages = sorted(set(script.SYSTEM_PACKAGES.values()))
    assert calls == [["apt-get", "update"], ["apt-get", "install", "-y", *packages]]
    assert " ".join(packages) in capsys.readouterr().out


def test_a_given_server_makes_the_postgresql_package_needless(
    script, calls, bare_system, monkeypatch
):
    monkeypatch.setattr(script.os, "geteuid", lambda: 0)
    monkeypatch.setenv("EARMARK_TEST_DATABASE_URL", "postgresql://x@127.0.0.1/postgres")
    script.install_system_packages()
    assert "postgresql" not in calls[1]


def test_nothing_is_installed_where_nothing_is_missing(script, calls, monkeypatch):
    monkeypatch.setattr(script.shutil, "which", lambda name, **_: f"/usr/bin/{name}")
    script.install_system_packages()
    assert calls == []


def test_check_runs_all_its_tools_though_one_fails(script, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(script, "set_up", lambda _: None)
    monkeypatch.setattr(script, "run", lambda *command: ran.append(command) or 1)
    assert script.check([]) == len(script.CHECKS) == len(ran)
    assert "FAILED: mypy" in capsys.readouterr().out


@pytest.fixture
def ran(script, project, monkeypatch):
    """The programs that `test` runs, each of which succeeds."""
    programs = []
    monkeypatch.setattr(script, "install_system_packages", lambda: None)
    monkeypatch.setattr(script, "set_up", lambda _: None)

    def run(*command):
        programs.append(command)
        return 0

    monkeypatch.setattr(script, "run", run)
    return programs


def test_test_with_arguments_is_pytest_with_them(script, ran):
    assert script.test(["tests/unit", "-k", "x"]) == 0
    assert [command[0] for command in ran] == ["pytest"]
    assert ran[0][-3:] == ("tests/unit", "-k", "x")


@pytest.mark.parametrize("arguments", [[], ["--thorough"]])
def test_test_alone_is_everything(script, ran, arguments):
    assert script.test(arguments) == 0
    assert ran[: len(script.CHECKS)] == [tuple(each.split()) for each in script.CHECKS]
    measured = next(command for command in ran if "pytest" in command)
    assert measured[-len(arguments) :] == tuple(arguments) or not arguments
    assert any("--fail-under=100" in command for command in ran)


def test_one_failure_anywhere_fails_the_whole(script, ran, monkeypatch):
    monkeypatch.setattr(script, "run", lambda *command: int("combine" in command))
    assert script.test([]) == 1


def test_the_last_line_counts_the_tests(script, tmp_path):
    report = tmp_path / "tests.xml"
    suite = '<testsuite errors="1" failures="2" skipped="3" tests="10"/>'
    report.write_text(f"<testsuites>{suite}</testsuites>")
    assert script.summary(report) == "4 passed, 3 failed, 3 skipped"


def test_tests_that_never_ran_are_not_counted_as_passed(script, tmp_path):
    assert script.summary(tmp_path / "none.xml") == "The tests did not run."


def test_bench_without_a_name_says_which_there_are(script, project, capsys):
    (project / "bench").mkdir()
    (project / "bench" / "upload.py").touch()
    (project / "bench" / "_shared.py").touch()
    assert script.bench([]) == 0
    assert capsys.readouterr().out == "Benchmarks: upload\n"
    assert script.bench(["nonsense"]) == 1


def test_bench_runs_the_named_ones(script, project, ran):
    (project / "bench").mkdir()
    (project / "bench" / "upload.py").touch()
    assert script.bench(["upload"]) == 0
    assert ran == [("python", "bench/upload.py")]


def test_audit_looks_at_what_is_locked(script, ran):
    assert script.main(["audit", "licences"]) == 0
    assert ran == [("python", "tools/audit.py", "licences")]


def test_bench_hands_options_on(script, project, ran):
    (project / "bench").mkdir()
    (project / "bench" / "upload.py").touch()
    assert script.bench(["upload", "--quick"]) == 0
    assert ran == [("python", "bench/upload.py", "--quick")]
