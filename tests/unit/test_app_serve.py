"""`earmark serve`: where it may listen, and which processes it has."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from earmark.app import serve, web_process, worker_process
from earmark.app.listen import Listen, bind, check_listen
from earmark.app.metering import Metering
from earmark.config import Settings
from earmark.errors import SettingsError
from serving import free_port

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
        bind(Listen("no.such.host.invalid", 1))
    with pytest.raises(SettingsError, match=r"192\.0\.2\.1 port 8723 cannot be used"):
        bind(Listen("192.0.2.1", 8723))


# Its processes


def test_its_processes_are_web_processes_and_a_worker_unless_none_is_wanted():
    def names(listen: Listen) -> list[str]:
        with socket.socket() as bound:
            return [
                child.name
                for child in serve.children(Settings(), listen, bound, Metering(Settings(), ()))
            ]

    assert names(Listen("127.0.0.1", 1)) == ["web-0", "worker"]
    assert names(Listen("127.0.0.1", 1, web_processes=2)) == ["web-0", "web-1", "worker"]
    assert names(Listen("127.0.0.1", 1, worker=False)) == ["web-0"]


def test_the_web_has_the_socket_and_the_worker_does_not(monkeypatch):
    given: list[Any] = []
    monkeypatch.setattr(web_process, "serve_web", lambda *words: given.append(words))
    monkeypatch.setattr(worker_process, "work", lambda *words: given.append(words))
    settings, listen = Settings(), Listen("127.0.0.1", 1)
    with socket.socket() as bound:
        web, worker = serve.children(settings, listen, bound, Metering(settings, ()))
        web.main()
        assert bound.fileno() != -1
        worker.main()
        assert bound.fileno() == -1
    assert given == [(settings, listen, bound), (settings,)]


# What is measured of them


class Meter:
    """Stands for metering; tells what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *words: self.asked.append(" ".join([name, *words]))


def test_each_process_counts_the_web_answers_and_the_worker_gives_the_address_back(monkeypatch):
    for module, name in ((web_process, "serve_web"), (worker_process, "work")):
        monkeypatch.setattr(module, name, lambda *_: None)
    meter: Any = Meter()
    with socket.socket() as bound:
        for child in serve.children(Settings(), Listen("h", 1, web_processes=2), bound, meter):
            child.main()
    web = [word for name in ("web-0", "web-1") for word in (f"record {name}", "answer")]
    assert meter.asked == [*web, "record worker", "close"]


def test_whoever_looks_after_the_processes_tells_metering_of_their_ends(monkeypatch, tmp_path):
    given: dict[str, Any] = {}

    class Looking:
        def __init__(self, *_: Any, **named: Any) -> None:
            given.update(named)

        def run(self) -> None:
            given["on_end"]("web-0")

    meter = Meter()
    monkeypatch.setattr(serve, "Supervisor", Looking)
    monkeypatch.setattr(serve.gc, "freeze", lambda: None)
    monkeypatch.setattr(serve, "Metering", lambda *_: meter)
    serve.serve(Settings(data=tmp_path), Listen("127.0.0.1", free_port()))
    assert meter.asked == ["end web-0", "close"]
