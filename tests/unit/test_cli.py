"""The command line: complete help at once, and one sentence for what is wrong."""

from __future__ import annotations

import getpass
import json
import os
import re
import resource
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click
import pytest
import sqlalchemy as sa
import typer

from books import DAY, NOON, Books
from commands import runner
from earmark import audit, cli
from earmark.app import retry as retrying
from earmark.app import serve as serving
from earmark.app import worker_process
from earmark.app.listen import Listen
from earmark.app.parts import Parts
from earmark.cli import _common, clients
from earmark.config import Settings
from earmark.database import Database, tables
from earmark.errors import UnavailableError
from earmark.interactions import Retried
from earmark.model import Status, StepStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from commands import Ended

SECRET_KEY = "a-key-for-tests-alone-0123456789-0123456789"


@pytest.fixture
def earmark(monkeypatch, capsys, tmp_path) -> Callable[..., Ended]:
    """Runs a command in this process, over a data folder of its own."""
    return runner(monkeypatch, capsys, data=tmp_path / "data")


def commands(command: Any = None, *path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with the words that call it."""
    command = command or typer.main.get_command(cli.app)
    yield path, command
    for name, one in getattr(command, "commands", {}).items():
        yield from commands(one, *path, name)


PATHS = [path for path, _ in commands()]


# Help


def test_the_commands_are_those_that_are_promised():
    assert {" ".join(path) for path in PATHS} == {
        "",
        "serve",
        "worker",
        "audit",
        "audit head",
        "audit list",
        "audit verify",
        "backup",
        "backup-key",
        "purge",
        "restore",
        "scrub",
        "sweep",
        "database",
        "database upgrade",
        "client",
        "client create",
        "client disable",
        "client enable",
        "client list",
        "client rotate",
        "doctor",
        "keys",
        "keys list",
        "keys revoke",
        "keys rotate",
        "models",
        "models install",
        "models list",
        "models path",
        "organization",
        "organization list",
        "organization quota",
        "organization set",
        "organization usage",
        "receipt",
        "receipt verify",
        "retry",
    }


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_help_tells_of_the_command_and_of_each_option(earmark, path):
    ended = earmark(*path, "--help")
    assert ended.status == 0
    (command,) = [command for words, command in commands() if words == path]
    assert command.help.splitlines()[0] in " ".join(ended.out.split())
    for parameter in command.params:
        if parameter.name != "help":
            assert parameter.help, (path, parameter.name)
            assert parameter.opts[0] in ended.out
    for name, one in getattr(command, "commands", {}).items():
        assert name in ended.out
        assert one.help


@pytest.mark.parametrize("path", [(), ("serve",), ("client", "create")], ids=" ".join)
def test_help_takes_less_than_a_second_of_the_processor(path):
    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = used()
    environment = {name: os.environ[name] for name in os.environ if "COV" not in name}
    subprocess.run(
        [sys.executable, "-m", "earmark", *path, "--help"],
        check=True,
        stdout=subprocess.DEVNULL,
        env=environment,
    )
    assert used() - before < 1


def test_no_command_is_no_success(earmark):
    for words in ((), ("client",), ("nonsense",), ("serve", "--port", "0")):
        ended = earmark(*words)
        assert ended.status == 2
        assert "Usage" in ended.out + ended.err


# Clients


def test_a_client_is_made_and_its_secret_shown_once(earmark):
    ended = earmark("client", "create", "--org", "First", "--create-org", "--name", "recorder")
    assert ended.status == 0
    facts = dict(re.findall(r"^(\w+)\s+(\S+)$", ended.out, re.MULTILINE))
    assert set(facts) == {"organization", "client_id", "client_secret"}
    assert facts["organization"] == "First"
    assert "not shown again" in ended.err
    listed = earmark("client", "list")
    assert facts["client_id"] in listed.out
    assert "recorder" in listed.out
    assert "ingest,manage,read" in listed.out
    assert facts["client_secret"] not in listed.out


def test_json_is_for_programs(earmark):
    ended = earmark("client", "create", "--org", "F", "--create-org", "--json", "--grant", "read")
    made = json.loads(ended.out)
    assert ended.err == ""
    (listed,) = json.loads(earmark("client", "list", "--json").out)
    assert listed.pop("created_at").endswith("+00:00")
    assert listed == {
        "organization": "F",
        "client_id": made["client_id"],
        "name": "client",
        "grants": ["read"],
        "disabled": False,
        "rotating": False,
        "external_id": None,
    }


def made_client(earmark, *options: str) -> dict[str, str]:
    words = ("client", "create", "--org", "First", "--create-org", "--json", *options)
    return json.loads(earmark(*words).out)


def test_a_secret_is_rotated_and_the_old_one_ended(earmark):
    made = made_client(earmark)
    rotated = json.loads(earmark("client", "rotate", made["client_id"], "--json").out)
    assert rotated["client_id"] == made["client_id"]
    assert rotated["client_secret"] != made["client_secret"]
    assert "old secret counts too" in earmark("client", "list").out
    again = earmark("client", "rotate", made["client_id"])
    assert (again.status, again.out) == (1, "")
    assert "client: A rotation is under way" in again.err
    ended = earmark("client", "rotate", made["client_id"], "--finish")
    assert ended == (0, "The old secret has ended.\n", "")
    kept = earmark("client", "rotate", made["client_id"], "--keep", "3600")
    assert "not shown again" in kept.err
    assert re.search(r"old secret until 20\d\d-.* UTC", earmark("client", "list").out)
    both = earmark("client", "rotate", made["client_id"], "--finish", "--keep", "1")
    assert both.status == 1


def test_a_client_is_disabled_and_enabled(earmark):
    made = made_client(earmark)
    assert earmark("client", "disable", made["client_id"]).status == 0
    assert "disabled" in earmark("client", "list").out
    assert earmark("client", "enable", made["client_id"]).status == 0
    assert "disabled" not in earmark("client", "list").out
    ended = earmark("client", "disable", "nobody")
    assert (ended.status, ended.err) == (1, 'earmark: client: There is no client "nobody".\n')


def test_an_external_id_names_one_client(earmark):
    made_client(earmark, "--external-id", "recorder@idp")
    (listed,) = json.loads(earmark("client", "list", "--json").out)
    assert listed["external_id"] == "recorder@idp"
    words = ("client", "create", "--org", "First", "--external-id")
    for taken, sentence in {"recorder@idp": "has it already", " ": "Use 1 to 200"}.items():
        ended = earmark(*words, taken)
        assert ended.status == 1
        assert "--external-id: " in ended.err
        assert sentence in ended.err


def test_signing_keys_are_rotated_listed_and_revoked(earmark):
    made_client(earmark)
    first, state = earmark("keys", "list").out.split()[:2]
    assert state == "active"
    ended = earmark("keys", "rotate")
    second = ended.out.split()[0]
    assert re.fullmatch(rf"{second} signs from 20\d\d-.* UTC\.\n", ended.out)
    assert "verifies until" in earmark("keys", "list").out
    rows = json.loads(earmark("keys", "list", "--json").out)
    assert [(row["key_id"], row["state"]) for row in rows] == [
        (second, "next"),
        (first, "active"),
    ]
    assert rows[0]["verifies_until"] is None
    assert "waits already" in earmark("keys", "rotate", "--publish", "2").err
    assert earmark("keys", "revoke", first).status == 0
    (left,) = json.loads(earmark("keys", "list", "--json").out)
    assert left["key_id"] not in {first, second}


def test_the_audit_trail_is_listed_sealed_and_verified(earmark, tmp_path):
    made = made_client(earmark)
    earmark("keys", "rotate")
    lines = earmark("audit", "list").out.splitlines()
    assert [line.split("  ")[3] for line in lines] == [
        "organization.create",
        "client.create",
        "key.rotate",
    ]
    assert lines[1].split("  ")[1:5] == ["First", "operator", "client.create", made["client_id"]]
    assert "command of " in lines[1]
    first = earmark("audit", "list", "--org", "First", "--json").out.splitlines()
    rows = [json.loads(line) for line in first]
    assert [row["action"] for row in rows] == ["organization.create", "client.create"]
    assert rows[1]["detail"] == {"grants": ["ingest", "manage", "read"]}
    since = ("--since", rows[1]["at"])
    assert len(earmark("audit", "list", *since).out.splitlines()) == 2
    assert len(earmark("audit", "list", "--until", rows[1]["at"]).out.splitlines()) == 1
    assert len(earmark("audit", "list", "--subject", made["client_id"]).out.splitlines()) == 1
    nothing = earmark("audit", "head")
    assert (nothing.status, nothing.out) == (1, "")
    assert "a worker seals" in nothing.err
    waiting = earmark("audit", "verify")
    assert waiting.status == 0
    assert waiting.out.startswith("note  3 rows are not sealed yet, the oldest of 20")
    with closing(Parts(Settings(data=tmp_path / "data"))) as parts:
        parts.audit.seal()
    head = earmark("audit", "head").out.strip()
    assert earmark("audit", "verify", "--head", head) == (
        0,
        "ok    3 rows are as they were sealed.\n",
        "",
    )
    other = f"2:{'0' * 64}"
    assert earmark("audit", "verify", "--head", other) == (
        1,
        "fail  Seal 2 is not the one that the kept head tells of.\n",
        "",
    )


def test_rows_that_nobody_seals_are_a_finding(earmark, monkeypatch):
    made_client(earmark)
    monkeypatch.setattr(audit, "LATE_SECONDS", 0)
    ended = earmark("audit", "verify")
    assert ended.status == 1
    assert ended.out.startswith("fail  2 rows are not sealed yet")
    assert "start a worker" in ended.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("list", "--since", "yesterday"), "--since: Write a time like"),
        (("list", "--org", "Nobody"), "--org: There is no organization"),
        (("verify", "--head", "x"), "--head: Give what `earmark audit head` printed"),
    ],
)
def test_a_wrong_question_about_the_trail_is_told(earmark, words, sentence):
    ended = earmark("audit", *words)
    assert (ended.status, ended.out) == (1, "")
    assert sentence in ended.err


def test_a_user_without_a_name_is_told_by_number(monkeypatch):
    monkeypatch.setattr(getpass, "getuser", lambda: {}["nobody"])
    assert _common.user() == f"uid {os.getuid()}"


def test_there_is_no_client_at_first(earmark):
    ended = earmark("client", "list")
    assert (ended.status, ended.out) == (0, "")
    assert "earmark client create" in ended.err
    assert json.loads(earmark("client", "list", "--json").out) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--org", "Nobody"), '--org: There is no organization "Nobody"'),
        (
            ("--org", "N", "--create-org", "--grant", "all"),
            "--grant: Give any of ingest, read, manage",
        ),
        (("--org", "N", "--create-org", "--grant", ","), "--grant: Give one or more"),
        (("--org", "", "--create-org"), "--org: Use 1 to 200"),
    ],
)
def test_a_client_that_cannot_be_made_is_told_in_one_sentence(earmark, words, sentence):
    ended = earmark("client", "create", *words)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("earmark: ")
    assert sentence in ended.err
    assert len(ended.err.splitlines()) == 1


# The others


def test_doctor_fails_only_if_something_does(earmark, monkeypatch):
    first = earmark("doctor")
    assert first.status == 0
    assert "warn  data: " in first.out
    assert "      -> Start `earmark serve` once" in first.out
    earmark("database", "upgrade")
    earmark("client", "list")
    assert earmark("doctor").status in {0, 1}
    monkeypatch.setenv("EARMARK_LOG_LEVEL", "loud")
    broken = earmark("doctor")
    assert broken.status == 1
    assert broken.out.startswith("fail  settings: EARMARK_LOG_LEVEL")


def test_upgrading_makes_our_tables_and_the_engines(postgres_server, earmark, monkeypatch):
    name = postgres_server.create()
    monkeypatch.setenv("EARMARK_DATABASE_URL", postgres_server.owner_url(name))
    monkeypatch.setenv("EARMARK_SECRET_KEY", SECRET_KEY)
    try:
        refused = earmark("client", "list")
        assert refused.status == 1
        assert "earmark database upgrade" in refused.err
        for _ in range(2):
            ended = earmark("database", "upgrade")
            assert ended == (0, "The database is of this version.\n", "")
        assert earmark("client", "list").status == 0
    finally:
        postgres_server.drop(name)


@pytest.mark.parametrize("cause", [None, KeyError("x")])
def test_an_outage_without_a_drivers_word_is_told_too(earmark, monkeypatch, cause):
    def away(*_: Any) -> None:
        raise UnavailableError("the storage cannot serve") from cause

    monkeypatch.setattr(worker_process, "work", away)
    ended = earmark("worker")
    assert ended.status == 1
    assert ended.err.startswith("earmark: the storage cannot serve; check EARMARK_DATABASE_URL")


def test_an_outage_of_the_database_has_the_drivers_word_but_no_password(earmark, monkeypatch):
    monkeypatch.setenv("EARMARK_DATABASE_URL", "postgresql://u:p4ss@127.0.0.1:1/x")
    monkeypatch.setenv("EARMARK_SECRET_KEY", SECRET_KEY)
    ended = earmark("client", "list")
    assert ended.status == 1
    assert "refused" in ended.err
    assert "p4ss" not in ended.err
    assert len(ended.err.splitlines()) == 1


def test_serve_hands_over_what_was_said(earmark, monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(serving, "serve", lambda *words: said.append(words))
    assert earmark("serve").status == 0
    words = ("--host", "::1", "--port", "1", "--web-processes", "3", "--no-worker")
    assert earmark("serve", *words, "--insecure-http", "--data", str(tmp_path)).status == 0
    (_, usual), (settings, listen) = said
    assert usual == Listen("127.0.0.1", 8723)
    assert settings.data == tmp_path
    assert listen == Listen("::1", 1, web_processes=3, worker=False, insecure_http=True)


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "earmark", "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Usage: ")
    assert click.unstyle(done.stdout) == done.stdout


def test_which_channel_is_the_agents_is_set_for_each_organization(earmark):
    earmark("client", "create", "--org", "First", "--create-org")
    assert earmark("organization", "list").out == "First  agent channel 0\n"
    assert earmark("organization", "set", "--org", "First", "--agent-channel", "1").status == 0
    assert earmark("organization", "list").out == "First  agent channel 1\n"
    ended = earmark("organization", "set", "--org", "Other", "--agent-channel", "1")
    assert ended.status == 1
    assert 'There is no organization "Other"' in ended.err


def test_what_an_organization_may_use_is_set_shown_and_audited(earmark, monkeypatch):
    monkeypatch.setenv("EARMARK_QUOTA_UPLOADS_AT_ONCE", "8")
    earmark("client", "create", "--org", "First", "--create-org")
    quota = ("organization", "quota", "--org", "First")
    assert [line.split() for line in earmark(*quota).out.splitlines()] == [
        ["stored_bytes", "no", "limit", "(default)"],
        ["uploads_at_once", "8", "(default)"],
        ["uploads_per_minute", "no", "limit", "(default)"],
    ]
    ended = earmark(*quota, "--stored", "1.5KiB", "--uploads-at-once", "0")
    assert [line.split() for line in ended.out.splitlines()][:2] == [
        ["stored_bytes", "1,536"],
        ["uploads_at_once", "no", "limit"],
    ]
    back = earmark(*quota, "--uploads-at-once", "default", "--uploads-per-minute", "60")
    assert [line.split() for line in back.out.splitlines()] == [
        ["stored_bytes", "1,536"],
        ["uploads_at_once", "8", "(default)"],
        ["uploads_per_minute", "60"],
    ]
    rows = [json.loads(line) for line in earmark("audit", "list", "--json").out.splitlines()]
    assert [row["detail"] for row in rows if row["action"] == "organization.set"] == [
        {"quota_stored_bytes": 1536, "quota_uploads_at_once": 0},
        {"quota_uploads_at_once": None, "quota_uploads_per_minute": 60},
    ]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--stored", "much"), "--stored: Use a whole number, for bytes also with KiB"),
        (("--stored", "-1"), "--stored: Use a whole number up to 1,152,921,504,606,846,976;"),
        (("--uploads-at-once", "1KiB"), "--uploads-at-once: Use a whole number"),
        (("--uploads-at-once", "1.5"), "--uploads-at-once: Use a whole number"),
        (("--uploads-per-minute", "1000001"), "--uploads-per-minute: Use a whole number up to 1,"),
    ],
)
def test_a_quota_that_is_none_is_refused_with_its_mend(earmark, words, told):
    earmark("client", "create", "--org", "First", "--create-org")
    ended = earmark("organization", "quota", "--org", "First", *words)
    assert ended.status == 1
    assert told in ended.err
    assert "1,536" not in earmark("organization", "quota", "--org", "First").out


def test_what_organizations_use_is_told(earmark):
    for name in ("First", "Second"):
        earmark("client", "create", "--org", name, "--create-org")
    earmark("organization", "quota", "--org", "Second", "--stored", "1KiB")
    assert earmark("organization", "usage").out.splitlines() == [
        "First  0 bytes of no limit, 0 uploads on their way of no limit, no limit a minute",
        "Second  0 bytes of 1,024, 0 uploads on their way of no limit, no limit a minute",
    ]
    (row,) = json.loads(earmark("organization", "usage", "--org", "Second", "--json").out)
    assert row == {
        "organization": "Second",
        "stored_bytes": 0,
        "uploads": 0,
        "uploads_bytes": 0,
        "quota": {"stored_bytes": 1024, "uploads_at_once": 0, "uploads_per_minute": 0},
    }
    ended = earmark("organization", "usage", "--org", "Third")
    assert (ended.status, ended.out) == (1, "")


def test_models_are_listed_installed_or_not(earmark, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    folder = tmp_path / "earmark" / "models"
    assert earmark("models", "path").out == f"{folder}\n"
    assert earmark("models", "list").out.startswith("base  not installed  Whisper base")
    (folder / "mine").mkdir(parents=True)
    (folder / "mine" / "model.bin").touch()
    assert "mine  installed  of your own\n" in earmark("models", "list").out


def test_a_model_that_there_is_not_is_told_with_those_that_there_are(earmark):
    ended = earmark("models", "install", "huge")
    assert (ended.status, ended.err) == (
        1,
        "earmark: There is no model 'huge'; there are: base.\n",
    )


# Retrying


@pytest.fixture
def recordings(earmark, tmp_path) -> Iterator[Books]:
    """An organization with interactions that failed, were skipped, are well."""
    assert earmark("client", "create", "--org", "First", "--create-org").status == 0
    database = Database(f"sqlite:///{tmp_path}/data/earmark.sqlite3")
    with database.read(None) as scope:
        (row,) = scope.rows(sa.select(tables.organization.c.id))
    books = Books(database, row.id)
    for name, status, step, code in (
        ("old", Status.FAILED, StepStatus.FAILED, "worker_lost"),
        ("bad", Status.FAILED, StepStatus.FAILED, "unreadable"),
        ("mute", Status.READY, StepStatus.SKIPPED, "speech_off"),
        ("well", Status.READY, StepStatus.DONE, ""),
    ):
        at = NOON if name == "old" else NOON + 10 * DAY
        books.step(books.receive(name, at, status=status), "transcribe", step, code=code)
    yield books
    database.close()


def put_back(books: Books) -> set[str]:
    return {row.file_name for row in books.all(tables.interaction) if row.round == 2}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), {"old", "bad", "mute"}),
        (("--failed",), {"old", "bad"}),
        (("--skipped",), {"mute"}),
        (("--failed", "--skipped"), {"old", "bad", "mute"}),
        (("--code", "unreadable"), {"bad"}),
        (("--since", "2022-03-20"), {"bad", "mute"}),
        (("--since", "2022-03-20T00:00:00-05:00", "--failed"), {"bad"}),
        (("--dry-run",), set()),
    ],
)
def test_retry_puts_back_what_is_asked_for(earmark, recordings, monkeypatch, options, expected):
    monkeypatch.setattr(retrying, "PAGE", 2)
    ended = earmark("retry", "--org", "First", *options)
    assert ended.status == 0
    assert put_back(recordings) == expected
    count = len(expected) or "3 would be"
    assert ended.out == f"{count}{'' if not expected else ' are'} processed once more.\n"
    assert ended.err == ("2 so far\n" if len(expected) != 1 and count not in {1, 2} else "")
    actors = {row.actor for row in recordings.all(tables.audit) if "retry" in row.action}
    assert actors == ({"operator"} if expected else set())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--org", "None"), '--org: There is no organization "None"'),
        (("--org", "First", "--since", "noon"), "--since: Send a date like"),
    ],
)
def test_a_retry_of_nobody_or_of_no_date_is_told(earmark, recordings, options, sentence):
    ended = earmark("retry", *options)
    assert ended.status == 1
    assert sentence in ended.err


def test_what_a_retry_leaves_alone_is_counted(earmark, recordings, monkeypatch):
    left = Retried(1, {"processing": 2})
    monkeypatch.setattr(retrying, "retry", lambda *_, **__: left)
    ended = earmark("retry", "--org", "First")
    assert ended.out == "1 are processed once more.\n2 left as they are: processing.\n"


def test_a_fault_of_ours_is_told_by_its_place_and_quotes_nothing(earmark, monkeypatch):
    def stumble(*_: object, **__: object) -> None:
        int("Ana")

    monkeypatch.setattr(clients, "opened", stumble)
    ended = earmark("client", "list")
    assert ended.status == 1
    assert ended.err.startswith("earmark: this is a fault of Earmark; please report it.\n")
    assert "in stumble\n" in ended.err
    assert ended.err.endswith("ValueError\n")
    assert "literal" not in ended.err
