"""The `metadata` part of `POST /Media/Upload`: each key, its forms, and what is kept of it."""

from __future__ import annotations

import json
import tracemalloc
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from contract.forms import WAV, body, file_part, form, meta, metadata_part, new_name, raw_part
from contract.test_upload_precedence import (
    BAD_FORM,
    BAD_HIERARCHY,
    BAD_LOCALE,
    BAD_NAME,
    BAD_TYPE,
    BAD_VALUE,
)
from earmark.model import AgentSent, Customer, Direction, MediaType

if TYPE_CHECKING:
    from contract.serving import Caller
    from earmark.model import Interaction

seed = pytest.mark.origin("seed")
published = pytest.mark.origin("published")
ours = pytest.mark.origin("ours")

KIBIBYTE = 1024


def kept(caller: Caller, **metadata: Any) -> Interaction:
    return caller.interaction(caller.upload(form(meta(**metadata))))


def refused(caller: Caller, metadata: dict[str, Any] | bytes, sentence: str) -> None:
    answer = caller.upload(form(metadata))
    assert (answer.status, answer.text) == (400, sentence)


def raw(text: str) -> bytes:
    """Metadata with these members, exactly as written, behind the required ones."""
    return f'{{"FileName": "{new_name()}", "UploadType": "Audio", {text}}}'.encode()


def kept_raw(caller: Caller, text: str) -> Interaction:
    return caller.interaction(caller.upload(form(raw(text))))


# The part


@seed
def test_every_key_of_the_page_is_kept(caller: Caller) -> None:
    interaction = kept(
        caller,
        CallDirection="Inbound",
        Name="Alice",
        Phone="800-555-5555",
        Email="alice@example.org",
        AgentFirstName="James",
        AgentLastName="Bond",
        AgentCode="007",
        InteractionDate="2022-03-18T17:56:09.8683110-04:00",
        ExtendedMetadataValues={"Data": "Example Data"},
        ApplyHierarchyToAgent=True,
        LocaleId=2058,
        ClientCallId="5CD1S",
    )
    assert interaction.media_type is MediaType.AUDIO
    assert interaction.direction is Direction.INBOUND
    assert interaction.customer == Customer("Alice", "800-555-5555", "alice@example.org")
    assert interaction.agent == AgentSent("007", "James", "Bond")
    assert interaction.interaction_date is not None
    assert interaction.interaction_date.instant == datetime(2022, 3, 18, 21, 56, 9, 868311, UTC)
    assert interaction.extended == {"Data": "Example Data"}
    assert interaction.locale == "es-MX"
    assert interaction.client_call_id == "5CD1S"


OPTIONAL = (
    *("CallDirection", "Name", "Phone", "Email", "AgentFirstName", "AgentLastName"),
    *("AgentCode", "InteractionDate", "ExtendedMetadata", "ExtendedMetadataValues"),
    *("HierarchyId", "HierarchyCode", "ApplyHierarchyToAgent", "LocaleId", "ClientCallId"),
)


@ours
@pytest.mark.parametrize("nothing", [None, ""], ids=["null", "empty"])
@pytest.mark.parametrize("key", OPTIONAL)
def test_null_and_empty_text_mean_absent(caller: Caller, key: str, nothing: Any) -> None:
    interaction = kept(caller, **{key: nothing})
    assert interaction.direction is None
    assert interaction.customer == Customer()
    assert interaction.agent == AgentSent()
    assert interaction.interaction_date is None
    assert interaction.extended == {}
    assert interaction.hierarchy is None
    assert interaction.locale == "en-US"
    assert interaction.client_call_id is None


@ours
def test_the_part_is_kept_verbatim(caller: Caller) -> None:
    sent = ' {"uploadtype":"audio",\r\n"FILENAME" : "%s", "x": [1.50, "\\u0000\\ud800"] }\n'
    sent = "\ufeff" + sent % new_name()
    interaction = caller.interaction(caller.upload(form(sent.encode())))
    assert interaction.metadata_sent == sent


@ours
@pytest.mark.parametrize(
    "headers",
    [
        ['Content-Disposition: form-data; name="metadata"'],
        ['Content-Disposition: form-data; name="metadata"', "Content-Type: application/json"],
        ['Content-Disposition: form-data; name="metadata"', "Content-Type: image/png"],
        ['Content-Disposition: form-data; name="metadata"; filename="meta.json"'],
        ['Content-Disposition: form-data; name="metadata"; filename="meta.wav"', "X-Other: 1"],
        [
            "content-type: text/plain; charset=utf-8",
            "content-disposition: form-data; name=metadata",
        ],
    ],
)
def test_the_part_may_bear_any_content_type_and_file_name(
    caller: Caller, headers: list[str]
) -> None:
    sent = raw_part(*headers, data=json.dumps(meta()).encode())
    assert caller.upload(body(sent, file_part())).status == 200


@ours
def test_keys_are_matched_without_regard_to_case(caller: Caller) -> None:
    sent = {"fileName": new_name(), "UPLOADTYPE": "Audio", "agentcode": "7", "localeID": 2058}
    interaction = caller.interaction(caller.upload(form(sent)))
    assert (interaction.agent.code, interaction.locale) == ("7", "es-MX")


@ours
def test_names_of_parts_are_matched_without_regard_to_case(caller: Caller) -> None:
    sent = form(meta()).replace(b'"metadata"', b'"MetaData"').replace(b'"file"', b'"FILE"')
    assert caller.upload(sent).status == 200


@ours
def test_unknown_keys_are_no_error(caller: Caller) -> None:
    unknown = {"CallDuration": 12, "Meta1": None, "Deep": {"a": [1, {"b": False}]}, "": ""}
    assert kept(caller, **unknown).extended == {}


@ours
def test_other_parts_are_ignored(caller: Caller) -> None:
    other = raw_part('Content-Disposition: form-data; name="comment"', data=b"x" * 100_000)
    sent = body(other, metadata_part(meta()), other, file_part(), other)
    assert caller.upload(sent).status == 200


NO_OBJECT = [
    b"nonsense",
    b"[]",
    b"null",
    b'"text"',
    b"7",
    b" ",
    b"{} {}",
    b'{"FileName": "a.wav", "UploadType": "Audio",}',
    b"{'FileName': 'a.wav'}",
    b'{"FileName": "a.wav", "UploadType": "Audio", "Name": "\xff"}',
    b'{"FileName": "a.wav", "UploadType": "Audio", "Name": "\xed\xa0\x80"}',
    b'{"FileName": "a.wav", "UploadType": "Audio", "Name": "a\nb"}',
    b'{"FileName": "a.wav", "UploadType": "Audio", "Name": "a\x00b"}',
    '{"FileName": "a.wav", "UploadType": "Audio"}'.encode("utf-16"),
    b'{"FileName": "a.wav", "UploadType": "Audio"',
]


@published
@pytest.mark.parametrize(
    "sent",
    NO_OBJECT,
    ids=ascii,
)
def test_what_is_no_json_object_is_refused(caller: Caller, sent: bytes) -> None:
    refused(caller, sent, BAD_FORM)


@ours
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "+1", "01", ".5", "1."])
@pytest.mark.parametrize("key", ["ExtendedMetadataValues", "Unknown"])
def test_what_json_does_not_call_a_number_is_refused(
    caller: Caller, key: str, number: str
) -> None:
    refused(caller, raw(f'"{key}": {{"a": {number}}}'), BAD_FORM)


@ours
@pytest.mark.parametrize("twice", ["FileName", "filename", "uploadTYPE", "Other"])
def test_a_key_named_twice_is_refused_whatever_its_case(caller: Caller, twice: str) -> None:
    refused(caller, raw(f'"OTHER": 1, "{twice}": "Audio"'), BAD_FORM)


@ours
def test_a_key_within_a_value_may_not_come_twice_either(caller: Caller) -> None:
    refused(caller, raw('"ExtendedMetadataValues": {"a": 1, "a": 2}'), BAD_FORM)
    assert kept_raw(caller, '"ExtendedMetadataValues": {"a": 1, "A": 2}').extended == {
        "a": 1,
        "A": 2,
    }


@ours
@pytest.mark.parametrize("bracket", ["[]", "{}"])
def test_sixteen_levels_are_taken_and_seventeen_refused(caller: Caller, bracket: str) -> None:
    opening, closing = ('{"a":' if bracket == "{}" else "["), bracket[1]
    for levels, status in ((16, 200), (17, 400)):
        inner = opening * (levels - 2) + "1" + closing * (levels - 2)
        answer = caller.upload(form(raw(f'"ExtendedMetadataValues": {{"k": {inner}}}')))
        assert answer.status == status
    assert answer.text == BAD_FORM


@ours
def test_brackets_within_text_are_no_levels(caller: Caller) -> None:
    text = "[{" * 40 + '\\"' + "[" * 40 + "\\\\"
    assert kept_raw(caller, f'"Name": "{text}", "ExtendedMetadata": [{{}}, {{}}]').customer.name


@ours
def test_many_levels_one_after_another_are_not_deep(caller: Caller) -> None:
    interaction = kept(caller, ExtendedMetadata=[{f"k{number}": [number]} for number in range(99)])
    assert len(interaction.extended) == 99


@ours
@pytest.mark.parametrize("depth", [100_000, 200_000])
def test_depth_beyond_any_stack_is_refused(caller: Caller, depth: int) -> None:
    refused(caller, b'{"a":' + b"[" * depth, BAD_FORM)


@ours
@pytest.mark.parametrize("file_first", [False, True])
def test_metadata_may_be_256_kib_and_not_a_byte_more(caller: Caller, file_first: bool) -> None:
    for size, status in ((256 * KIBIBYTE, 200), (256 * KIBIBYTE + 1, 400)):
        sent = json.dumps(meta()).encode().ljust(size)
        answer = caller.upload(form(sent, file_first=file_first))
        assert answer.status == status
    assert answer.text == BAD_FORM


@ours
def test_metadata_far_too_large_is_not_held(caller: Caller) -> None:
    sent = form(b" " * 3 * KIBIBYTE * KIBIBYTE)
    pieces = [sent[at : at + 64 * KIBIBYTE] for at in range(0, len(sent), 64 * KIBIBYTE)]
    answer = caller.upload(pieces)
    assert (answer.status, answer.text) == (400, BAD_FORM)


@ours
def test_a_byte_order_mark_is_no_part_of_the_json(caller: Caller) -> None:
    assert caller.upload(form(b"\xef\xbb\xbf" + json.dumps(meta()).encode())).status == 200


# Each key


@seed
@pytest.mark.parametrize("sent", ["Audio", "audio", "AUDIO", "aUDIO"], ids=ascii)
def test_upload_type_is_audio(caller: Caller, sent: str) -> None:
    assert kept(caller, UploadType=sent).media_type is MediaType.AUDIO


@seed
@pytest.mark.parametrize("sent", ["Chat", "chat", "CHAT"], ids=ascii)
def test_upload_type_is_chat(caller: Caller, samples: dict[str, bytes], sent: str) -> None:
    metadata = meta(UploadType=sent, FileName=new_name(".zip"))
    answer = caller.upload(form(metadata, samples[".zip"], name="chat.zip"))
    assert caller.interaction(answer).media_type is MediaType.CHAT


@published
@pytest.mark.parametrize(
    "sent",
    [None, "", "Video", " Audio", "Audio ", 0, 1, True, ["Audio"], {"Audio": 1}, "\u0410udio"],
    ids=ascii,
)
def test_any_other_upload_type_is_refused(caller: Caller, sent: Any) -> None:
    refused(caller, meta(UploadType=sent), BAD_TYPE)


@published
def test_upload_type_must_be_there(caller: Caller) -> None:
    refused(caller, {"FileName": new_name()}, BAD_TYPE)


@published
def test_file_name_must_be_there(caller: Caller) -> None:
    refused(caller, {"UploadType": "Audio"}, BAD_NAME)
    refused(caller, meta(FileName=None), BAD_NAME)


@ours
@pytest.mark.parametrize("sent", [False, True, [], ["a.wav"], {}, {"a": "b.wav"}], ids=ascii)
def test_a_file_name_of_the_wrong_type_is_a_wrong_value(caller: Caller, sent: Any) -> None:
    refused(caller, meta(FileName=sent), BAD_VALUE)


@ours
def test_a_file_name_that_is_a_number_is_text_without_an_extension(caller: Caller) -> None:
    refused(caller, meta(FileName=7), BAD_NAME)


@seed
@pytest.mark.parametrize(
    "sent", ["Inbound", "inbound", "INBOUND", "Outbound", "outBOUND"], ids=ascii
)
def test_call_direction_is_read_without_regard_to_case(caller: Caller, sent: str) -> None:
    assert kept(caller, CallDirection=sent).direction == sent.lower()


NO_DIRECTION = ["In", "Inbound ", "Both", 1, True, ["Inbound"], {}]


@ours
@pytest.mark.parametrize("sent", NO_DIRECTION, ids=ascii)
def test_any_other_call_direction_is_refused(caller: Caller, sent: Any) -> None:
    refused(caller, meta(CallDirection=sent), BAD_VALUE)


TEXTS = ("Name", "Phone", "Email", "AgentFirstName", "AgentLastName", "AgentCode", "ClientCallId")


def texts(interaction: Interaction) -> dict[str, str | None]:
    customer, agent = interaction.customer, interaction.agent
    return {
        "Name": customer.name,
        "Phone": customer.phone,
        "Email": customer.email,
        "AgentFirstName": agent.first_name,
        "AgentLastName": agent.last_name,
        "AgentCode": agent.code,
        "ClientCallId": interaction.client_call_id,
    }


@ours
@pytest.mark.parametrize("key", TEXTS)
@pytest.mark.parametrize(
    "number", ["7", "0", "-0", "1.50", "1E5", "12345678901234567890123", "1e999", "0.10"]
)
def test_a_number_where_text_is_expected_is_kept_as_its_json_text(
    caller: Caller, key: str, number: str
) -> None:
    assert texts(kept_raw(caller, f'"{key}": {number}'))[key] == number


@ours
@pytest.mark.parametrize("key", TEXTS)
def test_text_is_kept_as_it_is(caller: Caller, key: str) -> None:
    text = " 007 é\u0065\u0301 \U0001f600\t\u202e'; DROP TABLE x; --"
    assert texts(kept(caller, **{key: text}))[key] == text


NO_TEXT = ["true", "[]", "{}", '["a"]', '"a\\u0000"', '"\\ud83d"']


@ours
@pytest.mark.parametrize("key", TEXTS)
@pytest.mark.parametrize("sent", NO_TEXT, ids=ascii)
def test_what_is_no_text_that_can_be_kept_is_refused(caller: Caller, key: str, sent: str) -> None:
    refused(caller, raw(f'"{key}": {sent}'), BAD_VALUE)


@ours
def test_a_surrogate_pair_is_one_character(caller: Caller) -> None:
    assert kept_raw(caller, '"Name": "\\ud83d\\ude00"').customer.name == "\U0001f600"


@ours
@pytest.mark.parametrize("key", ["AgentCode", "ClientCallId"])
def test_codes_may_have_512_characters(caller: Caller, key: str) -> None:
    longest = "\U0001f600" * 512
    assert texts(kept(caller, **{key: longest}))[key] == longest
    refused(caller, meta(**{key: longest + "x"}), BAD_VALUE)
    refused(caller, meta(HierarchyCode="x" * 513), BAD_VALUE)


@seed
def test_client_call_id_need_not_be_unique(caller: Caller) -> None:
    first, second = kept(caller, ClientCallId="5CD1S"), kept(caller, ClientCallId="5CD1S")
    assert (first.client_call_id, second.client_call_id) == ("5CD1S", "5CD1S")
    assert first.id != second.id


@seed
@pytest.mark.parametrize(
    ("sent", "instant", "offset"),
    [
        ("2022-03-18T21:52:26", datetime(2022, 3, 18, 21, 52, 26, tzinfo=UTC), None),
        ("2022-03-18T21:52:26Z", datetime(2022, 3, 18, 21, 52, 26, tzinfo=UTC), 0),
        ("2022-03-18T21:52:26.8816090Z", datetime(2022, 3, 18, 21, 52, 26, 881609, tzinfo=UTC), 0),
        ("2022-03-19", datetime(2022, 3, 19, tzinfo=UTC), None),
        (
            "2022-03-18T17:56:09.8683110-04:00",
            datetime(2022, 3, 18, 21, 56, 9, 868311, tzinfo=UTC),
            -240,
        ),
        ("2022-03-18T00:00:00+14:00", datetime(2022, 3, 17, 10, tzinfo=UTC), 840),
        ("2022-03-18T00:00:00+05:45", datetime(2022, 3, 17, 18, 15, tzinfo=UTC), 345),
        ("2022-03-18T00:00:00-00:00", datetime(2022, 3, 18, tzinfo=UTC), 0),
        ("2022-03-18T00:00:00-00:30", datetime(2022, 3, 18, 0, 30, tzinfo=UTC), -30),
        ("2022-03-18T21:52:26.1", datetime(2022, 3, 18, 21, 52, 26, 100000, tzinfo=UTC), None),
        (
            "2022-03-18T21:52:26.123456789Z",
            datetime(2022, 3, 18, 21, 52, 26, 123456, tzinfo=UTC),
            0,
        ),
        ("2024-02-29", datetime(2024, 2, 29, tzinfo=UTC), None),
        ("0001-01-01", datetime(1, 1, 1, tzinfo=UTC), None),
        (
            "9999-12-31T23:59:59.999999999",
            datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
            None,
        ),
    ],
)
def test_an_interaction_date_is_kept_as_instant_offset_and_text(
    caller: Caller, sent: str, instant: datetime, offset: int | None
) -> None:
    date = kept(caller, InteractionDate=sent).interaction_date
    assert date is not None
    assert date.instant == instant
    assert (date.offset_minutes, date.sent) == (offset, sent)


NO_DATE = [
    "yesterday",
    "2022-03-18T21:52",
    "2022-03-18 21:52:26",
    "2022-03-18t21:52:26z",
    "2022-03-18T21:52:26.1234567890Z",
    "2022-03-18T21:52:26.Z",
    "2022-03-18T21:52:26,5",
    "2022-03-18T21:52:26-0400",
    "2022-03-18T21:52:26-04",
    "2022-03-18T21:52:26+14:01",
    "2022-03-18T21:52:26+04:60",
    "2022-03-18Z",
    "2022-02-29",
    "2022-13-01",
    "2022-03-18T24:00:00",
    "2022-03-18T23:59:60",
    "0000-01-01",
    "9999-12-31T23:59:59-04:00",
    "0001-01-01T00:00:00+04:00",
    "20220318",
    "2022-W11-5",
    "2022-077",
    "03/18/2022",
    "٢٠٢٢-٠٣-١٨",
    " 2022-03-18",
    "2022-03-18\n",
    1647640346,
    True,
    ["2022-03-18"],
]


@ours
@pytest.mark.parametrize(
    "sent",
    NO_DATE,
    ids=ascii,
)
def test_any_other_interaction_date_is_refused(caller: Caller, sent: Any) -> None:
    refused(caller, meta(InteractionDate=sent), BAD_VALUE)


@seed
def test_extended_metadata_is_merged_in_order_and_the_later_wins(caller: Caller) -> None:
    sent = [{"Data": "Example Data"}, {"Data": 2, "Key": "Value"}, {}]
    assert kept(caller, ExtendedMetadata=sent).extended == {"Data": 2, "Key": "Value"}


@ours
def test_extended_metadata_values_win_over_extended_metadata(caller: Caller) -> None:
    interaction = kept(
        caller,
        ExtendedMetadataValues={"a": "new"},
        ExtendedMetadata=[{"a": "old", "b": "stays", "A": "other"}],
    )
    assert interaction.extended == {"a": "new", "b": "stays", "A": "other"}


@ours
def test_extended_metadata_values_may_be_an_array_of_objects(caller: Caller) -> None:
    sent = [{"Data": 1}, {"Data2": 2}, {"Data": 3}]
    assert kept(caller, ExtendedMetadataValues=sent).extended == {"Data": 3, "Data2": 2}


@ours
def test_extended_values_may_be_any_json_value(caller: Caller) -> None:
    values = {
        "text": "é",
        "none": None,
        "yes": True,
        "whole": 10**60,
        "less": -5,
        "real": 1.5,
        "large": 1e300,
        "list": [1, "2", None, [False]],
        "object": {"a": {"b": 0.25}},
        "": "",
    }
    extended = kept(caller, ExtendedMetadataValues=values).extended
    assert extended == values
    assert isinstance(extended["whole"], int)


NO_VALUES = [
    '"text"',
    "7",
    "true",
    "[1]",
    '["a"]',
    "[[]]",
    "[null]",
    '{"a": 1e999}',
    '{"a": [-1e999]}',
    '{"a": 1' + "0" * 64 + "}",
    '{"a": "\\u0000"}',
    '{"a\\u0000": 1}',
    '{"a": {"\\ud800": 1}}',
    '{"a": ["\\udfff"]}',
]


@ours
@pytest.mark.parametrize(
    "sent",
    NO_VALUES,
    ids=ascii,
)
def test_extended_values_that_cannot_be_kept_are_refused(caller: Caller, sent: str) -> None:
    refused(caller, raw(f'"ExtendedMetadataValues": {sent}'), BAD_VALUE)


NO_EXTENDED = [{}, {"a": 1}, "text", 7, [1]]


@ours
@pytest.mark.parametrize("sent", NO_EXTENDED, ids=ascii)
def test_extended_metadata_is_an_array_of_objects(caller: Caller, sent: Any) -> None:
    refused(caller, meta(ExtendedMetadata=sent), BAD_VALUE)


NO_UUID = ["Accounting", 7, True, ["a"], "00000000-0000-0000-0000-00000000000"]


@ours
@pytest.mark.parametrize("sent", NO_UUID, ids=ascii)
def test_a_hierarchy_id_that_is_no_uuid_is_a_wrong_value(caller: Caller, sent: Any) -> None:
    refused(caller, meta(HierarchyId=sent), BAD_VALUE)


@published
def test_a_hierarchy_id_of_nothing_is_refused(caller: Caller) -> None:
    refused(caller, meta(HierarchyId="00000000-0000-0000-0000-000000000002"), BAD_HIERARCHY)


@ours
@pytest.mark.parametrize("sent", [True, False, "true", "False", "TRUE"], ids=ascii)
def test_apply_hierarchy_is_a_boolean_or_its_text(caller: Caller, sent: Any) -> None:
    assert kept(caller, ApplyHierarchyToAgent=sent)


NO_BOOLEAN = [0, 1, "1", "yes", "true ", [], {}]


@ours
@pytest.mark.parametrize("sent", NO_BOOLEAN, ids=ascii)
def test_any_other_apply_hierarchy_is_refused(caller: Caller, sent: Any) -> None:
    refused(caller, meta(ApplyHierarchyToAgent=sent), BAD_VALUE)


@seed
@pytest.mark.parametrize(
    ("sent", "locale"),
    [
        ("1033", "en-US"),
        ("2058", "es-MX"),
        ('"1033"', "en-US"),
        ('" 2058 "', "es-MX"),
        ("2058.0", "es-MX"),
        ("2.058e3", "es-MX"),
        ('"02058"', "es-MX"),
    ],
)
def test_a_locale_is_its_number_or_numeric_text(caller: Caller, sent: str, locale: str) -> None:
    assert kept_raw(caller, f'"LocaleId": {sent}').locale == locale


@seed
def test_the_default_locale_is_english(caller: Caller) -> None:
    assert kept(caller).locale == "en-US"


OTHER_LOCALE = ["0", "1036", "-1033", "1033.5", '"1036"', "1e999", '"99999999999999999999"']


@published
@pytest.mark.parametrize(
    "sent",
    OTHER_LOCALE,
    ids=ascii,
)
def test_another_locale_is_refused(caller: Caller, sent: str) -> None:
    refused(caller, raw(f'"LocaleId": {sent}'), BAD_LOCALE)


NO_LOCALE = ['"en-US"', '"English"', "true", "[1033]", "{}", '" "', '"nan"', '"1_033"', '"١٠٣٣"']


@ours
@pytest.mark.parametrize(
    "sent",
    NO_LOCALE,
    ids=ascii,
)
def test_a_locale_that_is_no_number_is_a_wrong_value(caller: Caller, sent: str) -> None:
    refused(caller, raw(f'"LocaleId": {sent}'), BAD_VALUE)


@seed
@pytest.mark.parametrize("ending", [".wav", ".mp3", ".mp4", ".ogg", ".opus", ".m4a"])
@pytest.mark.parametrize("upper", [False, True])
def test_each_audio_extension_is_taken_without_regard_to_case(
    caller: Caller, ending: str, upper: bool
) -> None:
    name = new_name(ending.upper() if upper else ending)
    answer = caller.upload(form(meta(FileName=name), WAV, name=f"a{ending}"))
    assert caller.interaction(answer).file_name == name


@seed
@pytest.mark.parametrize(
    ("upload_type", "ending"),
    [("Audio", ".zip"), ("Audio", ".tar"), ("Chat", ".wav"), ("Chat", ".mp3"), ("Audio", ".flac")],
)
def test_an_extension_of_the_other_upload_type_is_refused(
    caller: Caller, upload_type: str, ending: str
) -> None:
    metadata = meta(UploadType=upload_type, FileName=new_name(ending))
    sent = form(metadata, name=f"a{ending if ending != '.flac' else '.wav'}")
    assert caller.upload(sent).text == BAD_NAME


@ours
@pytest.mark.parametrize("depth", [17, 20_000])
def test_text_that_ends_in_a_backslash_hides_no_levels(caller: Caller, depth: int) -> None:
    refused(caller, raw(f'"Name": "\\\\", "Other": {"[" * depth}{"]" * depth}'), BAD_FORM)


@ours
def test_metadata_far_too_large_takes_no_memory(caller: Caller) -> None:
    begin, _, end = form(b"HERE").partition(b"HERE")
    pieces = [begin, *[b" " * 64 * KIBIBYTE] * 256, end]
    tracemalloc.start()
    try:
        answer = caller.upload(pieces)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.text == BAD_FORM
    assert most_bytes < 4 * KIBIBYTE * KIBIBYTE
