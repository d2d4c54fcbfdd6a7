"""The reference page in a real browser against a real server: what it shows, sends and never does.

Samples are taken from the page as a reader sees them, and run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe

from browsing import chromium, said, visiting
from earmark.web.acxapi import documented, wire
from reference_page import (
    DESK,
    PHONE,
    attach,
    body,
    fill,
    go_to,
    processed,
    sign_in,
    slowed,
    try_it,
)
from serving import RECORDING, ROOT, Caller, Server, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

NASTY = """Zoë O'Brien "x" \\n $HOME `id` %41 & ;type=a <b> ñ"""

MEDIA = "Zoë (1).mp3"
EXTENDED = {"Data": [True, None, 1.5, "`"]}

SOME = r"(?!0\.0)[\d.]+ of (19|20)\.\d MiB"


RUN = {
    "curl": ("bash", "-euo", "pipefail", "sample.sh"),
    "Python": (sys.executable, "sample.py"),
    "JavaScript": ("node", "sample.mjs"),
    "C#": ("dotnet", "run", "Program.cs"),
    "Java": ("java", "Sample.java"),
    "Go": ("go", "run", "sample.go"),
}
"""How a sample of each language is run; its file is the last word."""

NEEDED = {
    "JavaScript": "Node.js 20 or later (node)",
    "C#": ".NET 10 or later (dotnet)",
    "Java": "a JDK 17 or later (java)",
    "Go": "Go (go)",
}


@pytest.fixture(scope="module")
def server(new_server: Callable[..., Server]) -> Iterator[Server]:
    """On SQLite alone: the page knows of no database."""
    with serving(new_server("sqlite"), worker=True) as served:
        yield served
        assert served.stop() == 0


@pytest.fixture(scope="module")
def client(server: Server) -> dict[str, str]:
    """The credentials of a client that may do everything."""
    made = server.create_client("Reader")
    return {"CLIENT_ID": made.client.id, "CLIENT_SECRET": made.secret}


@pytest.fixture(scope="module")
def caller(server: Server, client: dict[str, str]) -> Caller:
    return server.sign_in(client["CLIENT_ID"], client["CLIENT_SECRET"])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """The reference, with nothing entered."""
    with visiting(browser, server.base, **DESK) as visited:
        visited.goto("/docs")
        visited.wait_for_selector("#sample code")
        yield visited


# What it shows


def test_it_shows_every_key_with_its_examples_and_every_sentence_in_order(page: Page):
    for name, schema in documented.METADATA["properties"].items():
        field = page.locator(f'[data-field="{name}"]')
        shown = field.inner_text()
        assert schema["description"].split(". ")[0] in shown
        listed = field.locator(".examples code").all_inner_texts()
        assert [json.loads(one) for one in listed] == schema["examples"]
        assert ("required" in shown) == (name in documented.METADATA["required"])
        assert ("deprecated" in shown) == bool(schema.get("deprecated"))
    sentences = page.locator(".sentences q").all_inner_texts()
    assert sentences == list(wire.SENTENCES.values())
    signed = page.locator('[data-field="signedUrl"]')
    listed = [json.loads(one) for one in signed.locator("li").all_inner_texts()]
    assert listed == [
        "https://bucket.s3.amazonaws.com/path/to/file.mp3?X-Amz-Algorithm=...",
        "https://storage.azure.com/container/blob?sv=...",
    ]
    assert "in place of" in signed.inner_text()
    file = page.locator('[data-field="file"]').inner_text()
    assert "Audio: .wav, .mp3, .mp4, .ogg, .opus, .m4a. Chat: .tar, .zip." in file
    assert set(re.findall(r"\.\w{3,4}\b", file)) == wire.ALLOWED_EXTENSIONS
    assert "Required unless signedUrl is given" in file
    part = page.locator('[data-field="metadata"]').inner_text()
    assert "required" in part
    for name in ("Prefer", "Idempotency-Key", "Accept"):
        assert page.locator(f'[data-field="{name}"]').count() == 1


def test_it_says_what_each_of_several_examples_shows(page: Page):
    assert page.locator('[data-field="FileName"] li').all_inner_texts() == [
        'With subdirectories: "topfolder/subfolder/subsubfolder/filename.mp3"',
        'Without subdirectories: "filename.mp3"',
    ]
    assert page.locator('[data-field="InteractionDate"] li').all_inner_texts() == [
        'UTC datetime: "2022-03-18T21:52:26"',
        'UTC datetime with fractions of a second: "2022-03-18T21:52:26.8816090Z"',
        'UTC date only: "2022-03-19"',
        'datetime with timezone: "2022-03-18T17:56:09.8683110-04:00"',
    ]


def test_it_shows_where_to_choose_a_language_to_sign_in_and_to_try(page: Page):
    assert page.get_by_role("heading", name="Credentials").is_visible()
    assert (
        page.locator("#credentials p").first.inner_text().startswith("OAuth2 client credentials")
    )
    languages = page.get_by_label("Language").locator("option").all_inner_texts()
    assert languages == list(RUN)
    hint = "Click Try It! to send the request and see its response here."
    assert page.locator("#try .outcome").inner_text() == hint


def test_it_shows_every_operation_of_the_served_openapi(page: Page, server: Server):
    document = httpx.get(f"{server.base}/openapi.json", trust_env=False).json()
    served = {
        one["operationId"]: (f"{method.upper()} {path}", len(one.get("parameters", [])))
        for path, item in document["paths"].items()
        for method, one in item.items()
    }
    links = [one.get_attribute("href") for one in page.locator("#menu a").all()]
    assert sorted(links) == sorted(f"#{name}" for name in served)
    assert links[0] == "#uploadMedia"
    for name, (address, parameters) in served.items():
        go_to(page, name)
        assert page.locator(".address").inner_text() == address
        assert page.locator(".field").count() >= parameters


# Samples


class Samples:
    """Takes the sample that the page shows, and runs it as a reader would."""

    def __init__(self, page: Page, folder: Path, environment: dict[str, str]) -> None:
        self.page = page
        self.folder = folder
        clean = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        hasty = {"JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}
        self.environment = {**clean, **hasty, **environment}

    def run(self, language: str) -> Any:
        """The answer's body, which must be JSON, once the program ended well."""
        file = self.folder / RUN[language][-1]
        file.write_text(self.page.locator("#sample code").text_content() or "")
        done = subprocess.run(
            RUN[language],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=90,
        )
        assert done.returncode == 0, done.stderr
        printed = done.stdout if language == "curl" else done.stdout.removeprefix("200 ")
        assert language == "curl" or printed != done.stdout, done.stdout
        return json.loads(printed)


@pytest.fixture
def samples(page: Page, server: Server, client: dict[str, str], tmp_path: Path) -> Samples:
    shutil.copy(ROOT / "samples" / "llamada-citas.mp3", tmp_path / MEDIA)
    return Samples(page, tmp_path, {**client, "EARMARK": server.base})


@pytest.mark.parametrize("language", RUN)
def test_a_sample_of_each_language_does_what_it_says(
    page: Page, samples: Samples, caller: Caller, language: str
):
    if shutil.which(RUN[language][0]) is None:
        pytest.skip(f"{language} samples are NOT run: this machine lacks {NEEDED[language]}")
    page.get_by_label("Language").select_option(language)
    fill(page, {"FileName": f"{language}/{MEDIA}", "Name": NASTY, "LocaleId": "2058"})
    fill(page, {"ExtendedMetadataValues": json.dumps(EXTENDED), "Prefer": "wait=1"})
    record = caller.record(samples.run(language)["id"])
    assert record["customer"]["name"] == NASTY
    assert (record["extended"], record["locale"]) == (EXTENDED, "es-MX")
    assert caller.media(record["id"]) == (samples.folder / MEDIA).read_bytes()

    go_to(page, "get_interaction")
    assert page.get_by_label("Language").input_value() == language  # chosen once
    fill(page, {"interaction_id": record["id"]})
    assert samples.run(language)["customer"]["name"] == NASTY

    go_to(page, "createHierarchy")
    fill(page, {"body": json.dumps({"name": f"{NASTY} {language}", "code": language}, indent=2)})
    assert samples.run(language)["name"] == f"{NASTY} {language}"

    go_to(page, "create_token")
    assert samples.run(language)["scope"] == "acxapi"


ALL_SAMPLES = """async () => {
  const { load } = await import("/docs/assets/openapi.js");
  const { fieldsOf, requestOf } = await import("/docs/assets/fields.js");
  const { LANGUAGES } = await import("/docs/assets/samples.js");
  return (await load()).map((operation) => {
    const request = requestOf(operation, fieldsOf(operation));
    const written = Object.entries(LANGUAGES).map(([name, { write }]) => [name, write(request)]);
    return [request.target, Object.fromEntries(written)];
  });
}"""


def test_every_operation_has_a_well_formed_sample_in_every_language(page: Page):
    found = page.evaluate(ALL_SAMPLES)
    assert len(found) == page.locator("#menu a").count()
    for target, samples in found:
        assert set(samples) == set(RUN)
        for language, text in samples.items():
            assert target in text, language
            assert "undefined" not in text, (target, language)
        compile(samples["Python"], target, "exec")
        subprocess.run(["bash", "-n"], input=samples["curl"], text=True, check=True)


@pytest.mark.parametrize("language", ["JavaScript", "Java", "Go"])
def test_every_sample_of_every_operation_compiles_without_a_warning(
    page: Page, tmp_path: Path, language: str
):
    """Python and curl are checked above; C# is compiled where its sample is run."""
    program = {"JavaScript": "node", "Java": "javac", "Go": "go"}[language]
    if shutil.which(program) is None:
        pytest.skip(f"{language} samples are NOT compiled: this machine lacks `{program}`")
    files = []
    for number, (_, samples) in enumerate(page.evaluate(ALL_SAMPLES)):
        folder = tmp_path / f"sample{number}"
        folder.mkdir()
        files.append(folder / RUN[language][-1])
        package = f"package sample{number};\n" if language == "Java" else ""
        files[-1].write_text(package + samples[language])
    if language == "Go":
        (tmp_path / "go.mod").write_text("module samples\n\ngo 1.19\n")
    commands = {
        "JavaScript": [["node", "--check", str(file)] for file in files],
        "Java": [["javac", "-Xlint:all", "-Werror", "-d", str(tmp_path), *map(str, files)]],
        "Go": [["go", "vet", "./..."], ["gofmt", "-l", "."]],
    }
    for command in commands[language]:
        done = subprocess.run(
            command, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=100
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), command


# Try It


def test_every_operation_can_be_tried_and_answers_with_a_status_that_is_shown(
    page: Page, client: dict[str, str]
):
    sign_in(page, client)
    links = page.locator("#menu a").evaluate_all("(all) => all.map((one) => one.hash.slice(1))")
    for name in links:
        go_to(page, name)
        for field in page.locator("#request .field.path input").all():
            field.fill(str(uuid.uuid4()))
        if name == "stream_events":
            page.get_by_role("button", name="Try It!").click()
            page.get_by_role("button", name="Cancel").click()
            said(page.locator("#try .outcome"), lambda text: text.startswith("Cancelled after"))
            continue
        status = try_it(page)[:3]
        assert status in page.locator(".outcomes tbody th").all_inner_texts(), name
        assert status not in {"401", "403", "500"}, name


def test_the_curl_line_asks_for_the_same(
    page: Page, server: Server, caller: Caller, client: dict[str, str], tmp_path: Path
):
    sign_in(page, client)
    go_to(page, "list_interactions")
    fill(page, {"prefix": NASTY, "direction": "inbound"})
    assert try_it(page).startswith("200")
    environment = {**os.environ, "EARMARK": server.base, "TOKEN": caller.token, "no_proxy": "*"}
    line = page.locator("#curl").text_content() or ""
    done = subprocess.run(
        ["bash", "-c", line], env=environment, capture_output=True, check=True, text=True
    )
    assert json.loads(done.stdout) == body(page)
    go_to(page, "uploadMedia")
    attach(page, RECORDING)
    fill(page, {"FileName": NASTY, "Name": NASTY})
    assert try_it(page).startswith("400")
    shutil.copy(RECORDING, tmp_path)
    line = page.locator("#curl").text_content() or ""
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        check=True,
        text=True,
    )
    assert done.stdout == page.locator("#body").inner_text()


def test_a_recording_is_uploaded_and_its_processed_record_read(page: Page, client: dict[str, str]):
    sign_in(page, client)
    attach(page, RECORDING)
    fill(page, {"FileName": "page/call.wav", "UploadType": "Audio", "Name": "Alice"})
    fill(page, {"CallDirection": "Inbound", "ExtendedMetadataValues": '{"Data": "x"}'})
    assert re.fullmatch(r"200 OK in [\d.]+ m?s", try_it(page))
    answer = body(page)
    assert (set(answer), answer["fileName"]) == ({"id", "fileName", "fileSizeKb"}, "page/call.wav")
    headers = page.locator("#headers").inner_text()
    assert "repr-digest: sha-256=:" in headers
    line = page.locator("#curl").inner_text()
    assert '"$EARMARK/Media/Upload"' in line
    assert "-F file=@support-call.wav" in line
    page.get_by_role("button", name="Read its record").click()
    said(page.locator("#try .outcome"), lambda text: text.startswith("200"))
    record = processed(page)
    assert (record["id"], record["status"]) == (answer["id"], "ready")
    assert record["customer"]["name"] == "Alice"
    assert record["direction"] == "inbound"
    assert record["extended"] == {"Data": "x"}
    assert record["audio"]["duration_seconds"] > 1


def test_a_chat_archive_is_uploaded_and_its_processed_record_read(
    page: Page, client: dict[str, str]
):
    sign_in(page, client)
    attach(page, ROOT / "samples" / "support-chat.zip")
    fill(page, {"FileName": "page/chat.zip", "UploadType": "Chat"})
    assert try_it(page).startswith("200")
    page.get_by_role("button", name="Read its record").click()
    said(page.locator("#try .outcome"), lambda text: text.startswith("200"))
    record = processed(page)
    assert (record["upload_type"], record["status"]) == ("chat", "ready")
    assert record["chat_message_count"] > 1


def test_a_refusal_shows_its_sentence_and_leads_to_its_page(page: Page, client: dict[str, str]):
    sign_in(page, client)
    attach(page, RECORDING)
    fill(page, {"FileName": "page/call.mp3", "UploadType": "Audio"})
    assert try_it(page).startswith("400 Bad Request")
    sentence = "File extension in metadata file name and upload file must match!"
    assert page.locator("#body").inner_text() == sentence
    page.locator("#help").click()
    page.wait_for_url("**/docs/errors/file_extension_mismatch")
    assert page.locator("h1").inner_text() == "file_extension_mismatch"
    assert sentence in page.locator("pre.body").first.inner_text()


def test_every_fault_is_shown_if_problem_details_are_asked_for(page: Page, client: dict[str, str]):
    sign_in(page, client)
    attach(page, RECORDING)
    fill(page, {"FileName": "", "LocaleId": "", "Accept": "application/problem+json"})
    fill(page, {"InteractionDate": "yesterday"})
    assert try_it(page).startswith("400")
    codes = {fault["code"] for fault in body(page)["faults"]}
    assert codes == {"file_name_invalid", "metadata_value_invalid"}


def test_a_signed_url_is_sent_in_place_of_a_file(page: Page, client: dict[str, str]):
    sign_in(page, client)
    attach(page, RECORDING)
    fill(page, {"signedUrl": "http://127.0.0.1/call.mp3"})
    sample = page.locator("#sample").inner_text()
    assert "--form-string 'signedUrl=http://127.0.0.1/call.mp3'" in sample
    assert "support-call.wav" not in sample
    assert try_it(page).startswith("400")
    assert page.locator("#help").get_attribute("href") == "/docs/errors/signed_url_invalid"


def test_a_stream_is_shown_while_it_comes_and_media_can_be_saved(
    page: Page, client: dict[str, str], caller: Caller
):
    id_ = caller.upload("page/stream.wav", RECORDING.read_bytes()).json()["id"]
    sign_in(page, client)
    go_to(page, "stream_events")
    page.get_by_role("button", name="Try It!").click()
    said(page.locator("#try .answer"), lambda text: id_ in text)
    page.get_by_role("button", name="Cancel").click()
    said(page.locator("#try .outcome"), lambda text: text.startswith("Cancelled after"))
    go_to(page, "get_interaction_media")
    fill(page, {"interaction_id": id_})
    assert try_it(page).startswith("200")
    with page.expect_download() as saved:
        page.get_by_role("link", name="Save it").click()
    assert saved.value.path().read_bytes() == RECORDING.read_bytes()


def test_without_or_with_wrong_credentials_the_page_says_so(page: Page, server: Server):
    assert try_it(page).startswith("401")
    assert page.locator("#help").get_attribute("href") == "/docs/errors/unauthenticated"
    page.get_by_label("Client id").fill("nobody")
    page.get_by_label("Client secret").fill("wrong")
    page.get_by_role("button", name="Sign in").click()
    said(page.locator("#signed-in"), lambda text: "What this means" in text)
    link = page.locator("#signed-in a").get_attribute("href")
    assert link == "/docs/errors/invalid_client"


def test_credentials_stay_in_the_memory_of_the_page(page: Page, client: dict[str, str]):
    sign_in(page, client)
    go_to(page, "list_interactions")
    assert try_it(page).startswith("200")
    assert "Bearer $TOKEN" in page.locator("#curl").inner_text()
    secret = client["CLIENT_SECRET"]
    for language in RUN:
        page.get_by_label("Language").select_option(language)
        assert secret not in page.content()
    assert "eyJ" not in page.content()  # with which every token begins
    assert page.get_by_label("Client secret").input_value() == ""
    assert page.evaluate(KEPT) == [0, 0, "", [], [], None]
    assert secret not in page.url
    assert page.context.cookies() == []
    page.get_by_role("button", name="Forget").click()
    assert try_it(page).startswith("401")
    sign_in(page, client)
    page.reload()
    said(page.locator("#signed-in"), "Not signed in.".__eq__)


def test_a_recording_of_20_mb_shows_progress_and_is_kept(
    page: Page, client: dict[str, str], caller: Caller, tmp_path: Path
):
    big = tmp_path / "big.wav"
    big.write_bytes(RECORDING.read_bytes() + bytes(20_000_000))
    sign_in(page, client)
    attach(page, big)
    fill(page, {"FileName": "page/big.wav"})
    page.evaluate(PROGRESS_NOTED)
    slowed(page, 10_000_000)
    assert try_it(page).startswith("200")
    noted = page.evaluate("window.noted")
    assert len(noted) > 1
    assert noted[-1] == "19.5 of 19.5 MiB"
    assert caller.record(body(page)["id"])["size_bytes"] == big.stat().st_size


def test_a_large_upload_can_be_cancelled_and_leaves_nothing(
    page: Page, client: dict[str, str], caller: Caller, tmp_path: Path
):
    big = tmp_path / "slow.wav"
    big.write_bytes(RECORDING.read_bytes() + bytes(20_000_000))
    sign_in(page, client)
    slowed(page, 300_000)
    attach(page, big)
    fill(page, {"FileName": "page/slow.wav"})
    page.get_by_role("button", name="Try It!").click()
    said(page.locator("#sent"), lambda text: re.fullmatch(SOME, text))
    assert 0 < page.locator("progress").evaluate("(one) => one.value") < 1
    page.get_by_role("button", name="Cancel").click()
    said(page.locator("#try .outcome"), lambda text: text.startswith("Cancelled after"))
    assert page.get_by_role("button", name="Cancel").is_hidden()
    found = caller.http.get("/v1/interactions", params={"prefix": "page/slow"})
    assert found.json()["items"] == []


KEPT = """async () => [
  localStorage.length, sessionStorage.length, document.cookie,
  await indexedDB.databases(), window.caches ? await caches.keys() : [], history.state,
]"""
"""All places where a page can keep something."""

PROGRESS_NOTED = """() => {
  window.noted = [];
  new MutationObserver(() => {
    const text = document.querySelector("#sent").textContent;
    if (text) window.noted.push(text);
  }).observe(document.querySelector("#sent"), { childList: true });
}"""


# For everybody


def test_it_is_used_by_keyboard_alone(page: Page, client: dict[str, str]):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.get_by_label("Client id").focus()
    page.keyboard.type(client["CLIENT_ID"])
    page.keyboard.press("Tab")
    page.keyboard.type(client["CLIENT_SECRET"])
    page.keyboard.press("Enter")
    said(page.locator("#signed-in"), lambda text: text.startswith("Signed in as"))
    page.locator('#menu a[href="#list_interactions"]').focus()
    page.keyboard.press("Enter")
    said(page.locator("h2:focus"), "Find interactions, newest first".__eq__)
    page.locator('[data-field="prefix"] input').focus()
    page.keyboard.type("nothing/")
    page.keyboard.press("Enter")
    said(page.locator("#try .outcome"), lambda text: text.startswith("200"))


LOOKS = {
    f"{place}, {scheme}": {**size, "color_scheme": scheme}
    for place, size in (("desk", DESK), ("phone", PHONE))
    for scheme in ("light", "dark")
}


@pytest.fixture(params=LOOKS)
def look(
    request: pytest.FixtureRequest, browser: Browser, server: Server, client: dict[str, str]
) -> Iterator[Page]:
    """The reference, signed in, on a desk or a phone, in the light or in the dark."""
    with visiting(browser, server.base, **LOOKS[request.param]) as page:
        page.goto("/docs")
        page.wait_for_selector("#sample code")
        sign_in(page, client)
        yield page


def test_axe_finds_nothing_on_any_operation_and_nothing_is_cut_off(
    look: Page, request: pytest.FixtureRequest
):
    """Every second one in each look, so that each is seen large and small, light and dark."""
    links = look.locator("#menu a").evaluate_all("(all) => all.map((one) => one.hash.slice(1))")
    assert len(links) > 30
    first = request.node.callspec.params["look"] in {"desk, light", "phone, dark"}
    for name in links[first::2]:
        go_to(look, name)
        assert_clean(look)


@pytest.mark.parametrize("operation", ["uploadMedia", "createHierarchy", "list_interactions"])
def test_axe_finds_nothing_beside_an_answer(look: Page, operation: str):
    go_to(look, operation)
    if operation == "createHierarchy":
        name = str(time.monotonic_ns())
        fill(look, {"body": json.dumps({"name": name, "category": "wide " * 60})})
    assert re.match("200|400", try_it(look))
    assert_clean(look)


ERROR_PAGES = (
    "",  # the list of all
    "/file_name_taken",
    "/digest_mismatch",
    "/invalid_value",
    "/internal",  # with two meanings
    "/invalid_client",
    "/chat_unknown",
    "/container_differs",
)


def test_axe_finds_nothing_on_error_pages_and_nothing_is_cut_off(look: Page):
    for page in ERROR_PAGES:
        look.goto(f"/docs/errors{page}")
        assert_clean(look)


def assert_clean(page: Page) -> None:
    found = Axe().run(page)
    assert found.response["violations"] == [], found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, page.url
