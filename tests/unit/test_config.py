"""Settings: read from the environment, checked at once, wrong ones told in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from earmark.config import Settings, load
from earmark.errors import SettingsError

MEBIBYTE = 1024 * 1024


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    """No setting of whoever runs the tests."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"EARMARK_{name.upper()}", raising=False)


def test_everything_has_a_default_that_serves_on_one_machine(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    settings = load()
    assert settings.on_sqlite
    assert settings.database_address == f"sqlite:///{tmp_path}/earmark-data/earmark.sqlite3"
    assert settings.storage_address == f"file://{tmp_path}/earmark-data/storage"
    assert settings.max_upload_bytes == 2560 * MEBIBYTE


def test_a_data_folder_is_written_into_urls_so_that_it_is_read_out_again():
    settings = load(data=Path("/a b/50%/what?/#1"))
    assert settings.database_address == "sqlite:////a%20b/50%25/what%3F/%231/earmark.sqlite3"
    assert settings.storage_address == "file:///a%20b/50%25/what%3F/%231/storage"


def test_the_environment_is_read_and_the_command_line_wins(monkeypatch):
    monkeypatch.setenv("EARMARK_DATA", "/from/environment")
    assert load(data=None).data == Path("/from/environment")
    assert load(data=Path("/said")).data == Path("/said")


def test_other_databases_and_stores_may_be_named(monkeypatch):
    monkeypatch.setenv("EARMARK_DATABASE_URL", "postgresql://u@h/d")
    monkeypatch.setenv("EARMARK_STORAGE_URL", "file:/srv")
    settings = load()
    assert not settings.on_sqlite
    assert (settings.database_address, settings.storage_address) == (
        "postgresql://u@h/d",
        "file:/srv",
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1048576", MEBIBYTE),
        ("2 MiB", 2 * MEBIBYTE),
        ("2.5GiB", 2560 * MEBIBYTE),
        ("1024 kib", MEBIBYTE),
        (" 7 B ", 7),
    ],
)
def test_sizes_are_bytes_or_have_a_unit(monkeypatch, text, size):
    monkeypatch.setenv("EARMARK_MAX_UPLOAD_BYTES", text)
    assert load().max_upload_bytes == size


def test_proxies_are_addresses_or_networks_between_commas(monkeypatch):
    monkeypatch.setenv("EARMARK_TRUSTED_PROXIES", "10.0.0.0/8, ::1,, 192.0.2.7 ")
    assert load().trusted_proxies == ("10.0.0.0/8", "::1", "192.0.2.7")
    assert Settings(trusted_proxies=("10.0.0.1",)).trusted_proxies == ("10.0.0.1",)


def test_the_public_address_has_no_slash_at_its_end(monkeypatch):
    monkeypatch.setenv("EARMARK_PUBLIC_URL", "https://calls.example.org/base/")
    assert load().public_url == "https://calls.example.org/base"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", None),
        ("9464", ("127.0.0.1", 9464)),
        ("10.0.0.5:9464", ("10.0.0.5", 9464)),
        ("metrics.internal:65535", ("metrics.internal", 65535)),
        ("[::1]:1", ("::1", 1)),
    ],
    ids=["off", "port", "address", "name", "ipv6"],
)
def test_metrics_are_at_a_port_of_this_machine_or_where_it_says(monkeypatch, text, address):
    monkeypatch.setenv("EARMARK_METRICS_LISTEN", text)
    assert load().metrics_address == address


@pytest.mark.parametrize("text", ["0", "65536", "on", ":9464", "::1:9464", "a b:1", "/x:1", "1\n"])
def test_another_place_for_metrics_is_none(monkeypatch, text):
    monkeypatch.setenv("EARMARK_METRICS_LISTEN", text)
    with pytest.raises(SettingsError, match="EARMARK_METRICS_LISTEN: use a port like 9464"):
        load()


SECRET = "short-secret"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATA", "calls-\udcff"),
        ("MAX_UPLOAD_BYTES", "lots"),
        ("MAX_UPLOAD_BYTES", "GiB"),
        ("MAX_UPLOAD_BYTES", "5 kb"),
        ("MAX_UPLOAD_BYTES", "inf"),
        ("MAX_UPLOAD_BYTES", "nan"),
        ("MAX_UPLOAD_BYTES", "0"),
        ("DISK_RESERVE", "-1"),
        ("UPLOAD_BUFFER_BYTES", "1"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("TRUSTED_PROXIES", "proxy.example.org"),
        ("PUBLIC_URL", "calls.example.org"),
        ("PUBLIC_URL", "ftp://calls.example.org"),
        ("PUBLIC_URL", "https://calls.example.org/?a=b"),
        ("PUBLIC_URL", "https://calls.example.org/#there"),
        ("SECRET_KEY", SECRET),
        ("LOG_LEVEL", "loud"),
        ("UPLOAD_IDLE_SECONDS", "nan"),
        ("WORKER_CONCURRENCY", "many"),
    ],
)
def test_a_wrong_setting_is_named_in_one_sentence_without_a_secret(monkeypatch, name, value):
    monkeypatch.setenv(f"EARMARK_{name}", value)
    with pytest.raises(SettingsError) as caught:
        load()
    sentence = str(caught.value)
    assert sentence.startswith(f"EARMARK_{name}: ")
    assert sentence.endswith("docs/settings.md describes it.")
    assert "\n" not in sentence
    assert SECRET not in sentence


def test_settings_do_not_change():
    with pytest.raises(ValueError, match="frozen"):
        load().data = Path("other")


def test_hosts_for_downloads_are_names(monkeypatch):
    monkeypatch.setenv(
        "EARMARK_FETCH_HOSTS", " s3.amazonaws.com, *.Blob.core.windows.net,10.1.2.3"
    )
    assert load().fetch_hosts == ("s3.amazonaws.com", "Blob.core.windows.net", "10.1.2.3")
    for wrong in ("https://s3.amazonaws.com", "a b", "a/b", "*", "a.*.b", ".a", "a..b"):
        monkeypatch.setenv("EARMARK_FETCH_HOSTS", wrong)
        with pytest.raises(SettingsError, match=r"EARMARK_FETCH_HOSTS: .* is no host name"):
            load()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("FETCH_ALLOW_NETWORKS", "10.0.0.0/33"),
        ("FETCH_REDIRECTS", "4"),
        ("FETCH_SECONDS", "0"),
        ("FETCH_MIN_RATE", "fast"),
        ("FETCH_AT_ONCE", "-1"),
    ],
)
def test_limits_of_downloads_are_checked(monkeypatch, name, wrong):
    monkeypatch.setenv(f"EARMARK_{name}", wrong)
    with pytest.raises(SettingsError, match=f"EARMARK_{name}"):
        load()
