"""Starts Earmark, uploads a recording as a recorder would, and shows what became of it.

Run by `./run demo`; only the standard library, so that it reads as an example of a client.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECORDING = ROOT / "samples" / "support-call.wav"
DATA, LOG = ROOT / ".cache" / "demo", ROOT / ".cache" / "demo.log"
EARMARK = str(Path(sys.executable).with_name("earmark"))
FIRST_PORT, PORTS = 8723, 50
START_SECONDS, PROCESS_SECONDS, STOP_SECONDS = 60, 120, 20

# Settings of another installation in this shell are not the demo's.
ENVIRONMENT = {name: os.environ[name] for name in os.environ if not name.startswith("EARMARK_")}
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))

NODE = {"name": "Appointment desk", "code": "DESK-1"}
AGENT = {"firstName": "Ana", "lastName": "Example", "agentEmail": "ana@example.org"}
AGENT_CODE = "A-7"


class DemoError(Exception):
    """What went wrong, in a sentence."""


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    if "--no-speech" not in arguments and not has_model():
        install_model()
        began = time.monotonic()
    port = free_port()
    LOG.parent.mkdir(exist_ok=True)
    serve = [EARMARK, "serve", "--port", str(port), "--data", str(DATA)]
    with LOG.open("wb") as log:
        server = subprocess.Popen(
            serve, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True
        )
    try:
        show(f"http://127.0.0.1:{port}", server, began)
        if "--once" in arguments:
            return 0
        print("\nServing until Ctrl-C.", flush=True)
        print(f"The server ended with {server.wait()}; its log is {LOG}")
    except DemoError as error:
        ending = "\n".join(LOG.read_text().splitlines()[-15:])
        print(f"\nThe demo failed: {error}\nThe log {LOG} ends:\n{ending}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nStopping.", flush=True)
        return 0
    finally:
        stop(server)
    return 1


def show(base: str, server: subprocess.Popen[bytes], began: float) -> None:
    last = began

    def tell(done: str) -> None:
        nonlocal last
        print(f"{time.monotonic() - last:6.2f} s  {done}", flush=True)
        last = time.monotonic()

    # A database that an earlier demo made is there before the server is.
    early = begin_client() if DATA.exists() else None
    wait_until_ready(base, server, {"alive", "absent"})
    tell(f"Earmark serves on {base}")
    client = (early and created(early)) or created(begin_client())
    if client is None:
        raise DemoError("no client was created")
    tell(f"API client {client['client_id']} created in organization {client['organization']}")
    wait_until_ready(base, server, {"alive"})
    tell("a worker is there")
    grant = {name: client[name] for name in ("client_id", "client_secret")}
    form = urllib.parse.urlencode({"grant_type": "client_credentials", **grant})
    token = ask(f"{base}/connect/token", body=form.encode())["access_token"]
    tell("access token issued")
    with contextlib.suppress(DemoError):  # an earlier demo may have made both
        ask(f"{base}/Hierarchy", token, as_json(NODE))
        ask(f"{base}/Agent", token, as_json({**AGENT, "agentCode": AGENT_CODE}))
    nodes = [node for node in ask(f"{base}/Hierarchy/All", token) if node["code"] == NODE["code"]]
    tell("hierarchy node and agent are there")
    body, kind = as_form(metadata(nodes[0]["id"]))
    answer = ask(f"{base}/Media/Upload", token, body, kind)
    tell(f"{RECORDING.name} uploaded; the answer: {json.dumps(answer)}")
    print(f"{time.monotonic() - began:6.2f} s  READY: from the start to the recording being kept")
    address = f"{base}/v1/interactions/{answer['id']}"
    record = wait_until_processed(address, token)
    tell(f"processing ended: {record['status']}")
    report(record)
    if record["transcript"]:
        print("\nThe transcript:")
        print(read(f"{address}/transcript.txt", token).decode(), end="")
    print(f"\nOpen {base}/docs for the API, {base}/health/ready for its health.")
    print(f'Try:\n  curl -sS -H "Authorization: Bearer {token}" {address}')


def has_model() -> bool:
    """Whether a speech model is there; `models install` checks one, which takes seconds."""
    folder = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return (Path(folder) / "earmark" / "models" / "base" / "model.bin").is_file()


def install_model() -> None:
    """The speech model, once for this user; without it there is no transcript, and that is all."""
    print("Looking for the speech model; it is fetched once (148 MB).", flush=True)
    if subprocess.run(
        [EARMARK, "models", "install", "base"], env=ENVIRONMENT, check=False
    ).returncode:
        print("There is no speech model, so there will be no transcript.", flush=True)


def begin_client() -> subprocess.Popen[str]:
    """Begins to create an API client; the command ends by itself."""
    command = [EARMARK, "client", "create", "--org", "Demo", "--create-org", "--json"]
    command += ["--data", str(DATA)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)


def created(command: subprocess.Popen[str]) -> dict[str, str] | None:
    """The client's id and secret; None if there is none, and the command has said why."""
    told, _ = command.communicate()
    return None if command.returncode else json.loads(told)


def metadata(node_id: str) -> dict[str, Any]:
    """Every metadata key there is."""
    now = datetime.now().astimezone()
    return {
        "FileName": f"demo/{now:%Y-%m-%dT%H-%M-%S}.wav",
        "UploadType": "Audio",
        "CallDirection": "Inbound",
        "Name": "Chris Example",
        "Phone": "+1 555 0100",
        "Email": "chris@example.org",
        "AgentFirstName": AGENT["firstName"],
        "AgentLastName": AGENT["lastName"],
        "AgentCode": AGENT_CODE,
        "InteractionDate": now.isoformat(),
        "ExtendedMetadata": [{"queue": "general"}],
        "ExtendedMetadataValues": {"queue": "appointments", "survey": 5},
        "HierarchyId": node_id,
        "HierarchyCode": NODE["code"],
        "ApplyHierarchyToAgent": True,
        "LocaleId": 1033,
        "ClientCallId": f"call-{uuid.uuid4()}",
    }


def as_json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


def as_form(fields: dict[str, Any]) -> tuple[bytes, str]:
    """The upload as multipart/form-data, and its Content-Type."""
    boundary = uuid.uuid4().hex
    head = f"--{boundary}\r\nContent-Disposition: form-data; name="
    first = f'{head}"metadata"\r\n\r\n{json.dumps(fields)}\r\n'
    second = f'{head}"file"; filename="{RECORDING.name}"\r\n\r\n'
    body = (first + second).encode() + RECORDING.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
    return body, f"multipart/form-data; boundary={boundary}"


def ask(address: str, token: str = "", body: bytes | None = None, kind: str = "") -> Any:
    """The answer's JSON; a POST if there is a body."""
    return json.loads(read(address, token, body, kind))


def read(address: str, token: str = "", body: bytes | None = None, kind: str = "") -> bytes:
    """The answer's body; a POST if there is a body."""
    request = urllib.request.Request(address, body)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    if kind or (body or b"").startswith(b"{"):
        request.add_header("Content-Type", kind or "application/json")
    try:
        with DIRECT.open(request, timeout=30) as answer:
            answered: bytes = answer.read()
            return answered
    except urllib.error.HTTPError as error:
        reason = error.read().decode(errors="replace")
        raise DemoError(f"{address} answered {error.code}: {reason}") from error
    except OSError as error:
        raise DemoError(f"{address} cannot be reached: {error}") from error


def wait_until_ready(base: str, server: subprocess.Popen[bytes], worker: set[str]) -> None:
    """Returns once the server can take uploads and its worker is in one of these states."""
    give_up, state = time.monotonic() + START_SECONDS, "no answer"
    while time.monotonic() < give_up and server.poll() is None:
        with contextlib.suppress(DemoError):
            health = ask(f"{base}/health/ready")
            if health["worker"] in worker:
                return
            state = str(health)
        time.sleep(0.05)
    raise DemoError(f"the server is not ready: {state}")


def wait_until_processed(address: str, token: str) -> dict[str, Any]:
    give_up, told = time.monotonic() + PROCESS_SECONDS, ""
    while time.monotonic() < give_up:
        record: dict[str, Any] = ask(address, token)
        if record["status"] != "processing":
            return record
        if (state := progress_of(record)) != told:
            print(f"{'':>8}  {state}", flush=True)
            told = state
        time.sleep(0.1)
    raise DemoError(f"{address} still says processing after {PROCESS_SECONDS} s")


def progress_of(record: dict[str, Any]) -> str:
    """Each step and how it is, or how far."""
    shares = ((step, step.get("progress")) for step in record["steps"])
    return ", ".join(
        f"{step['name']}: {step['status']}" + (f" {share:.0%}" if share else "")
        for step, share in shares
    )


def report(record: dict[str, Any]) -> None:
    audio, steps = record.pop("audio"), record.pop("steps")
    print("\nThe record:", json.dumps(record, indent=2, ensure_ascii=False))
    print("\nThe audio:", json.dumps(audio, indent=2))
    print("\nThe steps:")
    for step in steps:
        started, finished = step["started_at"], step["finished_at"]
        took = f"{seconds_between(started, finished):6.2f} s" if started and finished else " " * 8
        cause = f": {step['error']['message']}" if step["error"] else ""
        print(f"{took}  {step['name']}: {step['status']}{cause}")
    if record["status"] != "ready":
        raise DemoError(f"the recording was not processed: {steps}")


def seconds_between(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def free_port() -> int:
    for port in range(FIRST_PORT, FIRST_PORT + PORTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
        print(f"Port {port} is busy; trying the next one.", flush=True)
    sys.exit(f"No port from {FIRST_PORT} on is free.")


def stop(server: subprocess.Popen[bytes]) -> None:
    """Asks the server to end; if it does not, ends its whole process group, which is its own."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.terminate()
        server.wait(STOP_SECONDS)
        return
    os.killpg(server.pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
