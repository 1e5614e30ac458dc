"""One log of all parts."""

import json

import pytest

from server.logbook import Logbook, parse

FLOWER = "\x1b[92mINFO \x1b[0m:      Starting Flower SuperLink\n"
ACCESS = '2026-11-26T11:42:11.538Z INFO [uvicorn.access] 127.0.0.1:1 - "POST /v1/x HTTP/1.1" 200\n'


@pytest.fixture
def files(tmp_path):
    return tmp_path / "a.log", tmp_path / "b.log"


def test_lines_of_all_parts_come_as_json_objects_from_now_on(files):
    first, second = files
    first.write_text("INFO before\n")
    lines = []
    book = Logbook(lines.append, as_json=True)
    book.follow("superlink", first)
    book.follow("gateway", second)
    with first.open("a") as log:
        log.write(FLOWER + ACCESS)
    second.write_text("2026-01-31 12:03:04,123 ERROR server.x: no\nTraceback (most recent call last):\n  half a li")
    book.poll()
    with second.open("a") as log:
        log.write("ne\n")
    book.poll()
    found = [json.loads(line) for line in lines]
    assert [(one["part"], one["level"], one["message"]) for one in found] == [
        ("superlink", "info", "Starting Flower SuperLink"),
        ("gateway", "error", "server.x: no"),
        ("gateway", "error", "Traceback (most recent call last):"),
        ("gateway", "error", "  half a line"),
    ]
    assert all(set(one) == {"ts", "part", "level", "message"} for one in found)


def test_a_file_that_was_begun_anew_is_read_from_its_beginning(files):
    lines = []
    book = Logbook(lines.append, as_json=False)
    files[0].write_text("x" * 100 + "\n")
    book.follow("gateway", files[0])
    files[0].write_text("WARNING short\n")
    book.poll()
    assert lines[0].endswith("gateway             warning: short")


def test_a_call_that_failed_is_told():
    assert parse(ACCESS.replace("200", "412"), "info")[0] == "info"
    lines = []
    book = Logbook(lines.append, as_json=False)
    book.say("hm", level="error")
    assert lines[0].endswith("error: hm")
