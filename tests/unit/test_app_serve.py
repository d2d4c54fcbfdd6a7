"""`earmark serve`: where it may listen, and how it looks after its processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from earmark.app import lifeline, serve
from earmark.app.serve import Listen, Supervisor, check_listen
from earmark.config import Settings
from earmark.errors import SettingsError
from serving import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
IGNORE = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1], "w").close()
time.sleep(60)
"""
STUBBORN = [sys.executable, "-c", IGNORE]


# Where it may listen


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("calls.example.org", False),
        ("localhost.example.org", False),
    ],
)
def test_plain_http_is_for_this_machine_unless_it_is_meant(host, allowed):
    listen, settings = Listen(host, 1), Settings()
    if allowed:
        check_listen(settings, listen)
    else:
        with pytest.raises(SettingsError, match=f"Listening on {host} without TLS"):
            check_listen(settings, listen)
    check_listen(settings, Listen(host, 1, insecure_http=True))
    check_listen(Settings(trusted_proxies=("10.0.0.1",)), listen)


def test_half_a_pair_or_a_missing_file_is_refused(tmp_path):
    there = tmp_path / "there.pem"
    there.write_text("nonsense")
    absent = tmp_path / "absent.pem"
    for cert, key in ((there, None), (None, there)):
        with pytest.raises(SettingsError, match="Give both"):
            check_listen(Settings(), Listen("::", 1, tls_cert=cert, tls_key=key))
    with pytest.raises(SettingsError, match=r"absent\.pem is not there"):
        check_listen(Settings(), Listen("::", 1, tls_cert=there, tls_key=absent))
    with pytest.raises(SettingsError, match="cannot be used together"):
        check_listen(Settings(), Listen("::", 1, tls_cert=there, tls_key=there))


def test_the_address_is_that_of_the_socket():
    assert Listen("127.0.0.1", 8723).address == "http://127.0.0.1:8723"
    assert Listen("::1", 8723).address == "http://[::1]:8723"
    pem = Path("x.pem")
    assert Listen("h", 1, tls_cert=pem, tls_key=pem).address == "https://h:1"


def test_a_host_that_is_no_address_here_is_told():
    with pytest.raises(SettingsError, match=r"--host no\.such\.host\.invalid cannot be used"):
        serve._bind(Listen("no.such.host.invalid", 1))
    with pytest.raises(SettingsError, match=r"192\.0\.2\.1 port 8723 cannot be used"):
        serve._bind(Listen("192.0.2.1", 8723))


# How it looks after its processes


@pytest.fixture
def handlers() -> Iterator[None]:
    """Leaves the signals as they were."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def make(handlers, tmp_path) -> Iterator[Any]:
    made = []

    def supervise(*commands: Sequence[str]) -> Supervisor:
        settings = Settings(data=tmp_path, shutdown_grace_seconds=1)
        bound = socket.create_server(("127.0.0.1", 0))
        supervisor = Supervisor(settings, Listen("127.0.0.1", 1), bound)
        supervisor._children = [serve._Child(str(n), list(c)) for n, c in enumerate(commands)]
        supervisor._read_end, write_end = os.pipe()
        made.append((bound, supervisor._read_end, write_end))
        return supervisor

    yield supervise
    for bound, read_end, write_end in made:
        bound.close()
        os.close(read_end)
        os.close(write_end)


def test_its_processes_are_web_processes_and_a_worker_unless_none_is_wanted(tmp_path):
    with socket.socket() as bound:
        pem = tmp_path / "x.pem"
        listen = Listen("127.0.0.1", 1, web_processes=2, tls_cert=pem, tls_key=pem)
        children = Supervisor(Settings(), listen, bound)._children
        assert [child.name for child in children] == ["web-0", "web-1", "worker"]
        assert "--tls-cert" in children[0].command
        # A port stays taken for as long as anybody has its socket.
        held = [child.descriptors for child in children]
        assert held == [(bound.fileno(),), (bound.fileno(),), ()]
        listen = Listen("127.0.0.1", 1, worker=False)
        assert [one.name for one in Supervisor(Settings(), listen, bound)._children] == ["web-0"]


def test_a_process_that_keeps_dying_is_started_ever_more_slowly(make, monkeypatch):
    supervisor = make([sys.executable, "-c", "raise SystemExit(3)"])
    (child,) = supervisor._children
    clock = 1000.0
    monkeypatch.setattr(serve.time, "monotonic", lambda: clock)
    waits = []
    for _ in range(9):
        supervisor._keep_alive(child)
        assert child.process.wait() == 3
        supervisor._keep_alive(child)
        waits.append(child.start_after - clock)
        supervisor._keep_alive(child)
        assert child.process is None  # not before its time
        clock = child.start_after
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    supervisor._keep_alive(child)
    child.process.wait()
    clock += serve.YOUNG_SECONDS
    supervisor._keep_alive(child)
    assert child.start_after - clock == serve.FIRST_WAIT_SECONDS


def test_a_process_that_runs_is_left_alone(make):
    supervisor = make(SLEEP)
    (child,) = supervisor._children
    supervisor._keep_alive(child)
    process = child.process
    supervisor._keep_alive(child)
    assert child.process is process
    supervisor._end_all()
    assert process.returncode == -signal.SIGTERM


def test_it_stops_on_a_signal_and_frees_the_port_first(make, monkeypatch):
    supervisor = make(SLEEP, SLEEP)
    running: list[Any] = []

    def stop() -> None:
        until(lambda: all(child.process for child in supervisor._children), "started")
        running.extend(child.process for child in supervisor._children)
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()
    supervisor.run()
    stopper.join()
    assert [process.returncode for process in running] == [-signal.SIGTERM] * 2
    assert supervisor._bound.fileno() == -1


def test_who_does_not_end_in_time_is_killed(make, monkeypatch, tmp_path):
    monkeypatch.setattr(serve, "AFTER_GRACE_SECONDS", 0)
    supervisor = make([*STUBBORN, str(tmp_path / "up")])
    (child,) = supervisor._children
    supervisor._keep_alive(child)
    until((tmp_path / "up").exists, "up")
    asked = time.monotonic()
    supervisor._end_all()
    assert child.process.returncode == -signal.SIGKILL
    assert 1 <= time.monotonic() - asked < 5


# The lifeline

HELD = """
import time
from earmark.app import lifeline
lifeline.hold()
print(flush=True)
time.sleep(60)
"""


def test_a_child_ends_when_its_parents_end_of_the_pipe_is_gone(make):
    read_end, write_end = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-c", HELD],
        env={**os.environ, lifeline.VARIABLE: str(read_end)},
        pass_fds=(read_end,),
        stdout=subprocess.PIPE,
    )
    os.close(read_end)
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        assert child.poll() is None
        os.close(write_end)
        assert child.wait(20) == -signal.SIGTERM


def test_a_process_that_nobody_supervises_holds_nothing(monkeypatch):
    monkeypatch.delenv(lifeline.VARIABLE, raising=False)
    before = threading.active_count()
    lifeline.hold()
    assert threading.active_count() == before
