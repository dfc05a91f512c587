"""The human judge: verdicts are saved at once, blind and resumable. The page runs in a real browser, and is secure."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import struct
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alignlab.errors import ConfigError, OutputError
from alignlab.judges.base import Comparison, Judged, Verdict
from alignlab.judges.human import Human
from alignlab.judges.web_page import Session, serve

ROWS = [Comparison(f"r{i}", (f"prompt {i}",), (f"answer A{i}",), (f"answer B{i}",)) for i in range(12)]


def request(address: str, what: str, content: dict[str, Any] | None = None, **headers: str) -> dict[str, Any]:
    data = None if content is None else json.dumps(content).encode()
    asked = urllib.request.Request(address + what, data, {"content-type": "application/json", **headers})
    with urllib.request.urlopen(asked, timeout=30) as reply:
        found = json.loads(reply.read())
    assert isinstance(found, dict)
    return found


def prefer_a(state: dict[str, Any]) -> dict[str, str]:
    """The request of a person who prefers the answers a, on whatever side they are."""
    return {"key": state["row"]["key"], "say": "left" if "answer A" in state["row"]["left"][0] else "right"}


def test_sides_and_order_are_drawn_and_stay(tmp_path: Path) -> None:
    session = Session(ROWS, tmp_path / "v.jsonl", seed=1)
    seen, left = [], 0
    while (row := session.state()["row"]) is not None:
        seen.append(row["prompt"][0])
        left += "answer A" in row["left"][0]
        assert set(row) == {"key", "prompt", "left", "right"}, "nothing reveals whose answer is whose"
        session.say(row["key"], "left")
    assert sorted(seen) == sorted(r.prompt[0] for r in ROWS)
    assert seen != [r.prompt[0] for r in ROWS]
    assert 2 <= left <= 10
    assert sum(session.verdict(r) is Verdict.A for r in ROWS) == left
    again, other = (Session(ROWS[::-1], tmp_path / f"{s}.jsonl", seed=s).state()["row"] for s in (1, 2))
    assert again["prompt"][0] == seen[0], "the content decides, not the place"
    assert other["prompt"][0] != seen[0]


def test_every_verdict_is_on_disk_at_once_and_resumed(tmp_path: Path) -> None:
    file = tmp_path / "store" / "v.jsonl"
    session = Session(ROWS, file, seed=1)
    for choice in ("left", "right", "tie", "invalid"):
        session.say(session.state()["row"]["key"], choice)
        assert json.loads(file.read_text().splitlines()[-1])["verdict"] in ("a", "b", "tie", "invalid")
    resumed = Session(ROWS, file, seed=1)
    assert resumed.state() == session.state()
    assert resumed.state()["done"] == 4
    assert [resumed.verdict(r) for r in ROWS] == [session.verdict(r) for r in ROWS]
    changed = Comparison("r0", ROWS[0].prompt, ("another answer",), ROWS[0].b)
    assert Session([changed], file, seed=1).verdict(changed) is Verdict.UNJUDGED, "a verdict belongs to the texts"


def test_a_line_cut_off_by_a_crash(tmp_path: Path) -> None:
    file = tmp_path / "v.jsonl"
    session = Session(ROWS, file, seed=1)
    for _ in range(3):
        session.say(session.state()["row"]["key"], "left")
    file.write_text(file.read_text()[:-30])
    resumed = Session(ROWS, file, seed=1)
    assert resumed.state()["done"] == 2
    resumed.say(resumed.state()["row"]["key"], "tie")
    assert Session(ROWS, file, seed=1).state()["done"] == 3


def test_undo(tmp_path: Path) -> None:
    session = Session(ROWS, tmp_path / "v.jsonl", seed=1)
    session.undo()
    first = session.state()["row"]["key"]
    session.say(first, "left")
    second = session.state()["row"]["key"]
    session.say(second, "left")
    session.undo()
    assert session.state()["row"]["key"] == second
    session.undo()
    assert session.state()["row"]["key"] == first
    assert Session(ROWS, tmp_path / "v.jsonl", seed=1).state()["done"] == 0


def test_a_file_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    session = Session(ROWS, tmp_path / "file" / "v.jsonl", seed=1)
    key = session.state()["row"]["key"]
    with serve(session) as address, pytest.raises(urllib.error.HTTPError) as caught:
        request(address, "verdict", {"key": key, "say": "left"})
    assert caught.value.code == 500
    assert "can't be saved" in caught.value.read().decode()
    assert session.state()["row"]["key"] == key, "it was not saved, so it is asked again"


def test_only_with_the_word_and_only_from_here(tmp_path: Path) -> None:
    session = Session(ROWS, tmp_path / "v.jsonl", seed=1)
    key = session.state()["row"]["key"]
    with serve(session) as address:
        root, port = address[: address.index("/", 8)], int(address.split(":")[2].split("/")[0])
        refused = [
            (root + "/", "state", None, {}),
            (root + "/wrong-word/", "state", None, {}),
            (address, "state", None, {"host": f"evil.example:{port}"}),
            (address, "verdict", {"key": key, "say": "left"}, {"content-type": "text/plain"}),
            (address, "verdict", {"key": key, "say": "left"}, {"origin": "https://evil.example"}),
            (address, "verdict", {"key": key, "say": "left"}, {"origin": f"http://127.0.0.1:{port + 1}"}),
            (address, "stop", {}, {"origin": "null"}),
            (address, "etc/passwd", None, {}),
            (address, "erase", {}, {}),
        ]
        for place, what, content, headers in refused:
            with pytest.raises(urllib.error.HTTPError) as caught:
                request(place, what, content, **headers)
            assert caught.value.code == 404, (place, what)
        assert request(address, "state", origin=root)["done"] == 0, "the page's own requests name this origin"
        for content in ({"key": "no such", "say": "left"}, {"key": key, "say": "both"}, {}):
            with pytest.raises(urllib.error.HTTPError) as caught:
                request(address, "verdict", content)
            assert caught.value.code == 400
        with pytest.raises(urllib.error.HTTPError):
            request(address, "verdict", {"key": key, "say": "left", "more": "x" * 20_000})
        assert session.state()["done"] == 0
        own = {str(found[4][0]) for found in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)}
        for ip in (own | {"127.0.0.2"}) - {"127.0.0.1"}:
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((ip, port), timeout=1)
        with urllib.request.urlopen(address, timeout=30) as page:
            policy = page.headers["content-security-policy"]
            text = page.read().decode()
        assert "default-src 'none'" in policy
        assert "unsafe-inline" not in policy
        assert "http" not in text, "nothing is loaded from elsewhere"


def in_the_background(human: Human, store: Path) -> tuple[threading.Thread, list[Judged]]:
    found: list[Judged] = []
    thread = threading.Thread(target=lambda: found.append(human.compare(ROWS, store)), daemon=True)
    thread.start()
    return thread, found


def address_of(caplog: pytest.LogCaptureFixture) -> str:
    for _ in range(1200):
        for record in caplog.records:
            if "waiting for you at" in record.getMessage():
                return record.getMessage().split()[-1]
        threading.Event().wait(0.05)
    raise AssertionError("no address was logged")


def test_a_session_in_two_sittings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    thread, found = in_the_background(Human(open_browser=False), tmp_path)
    address = address_of(caplog)
    assert "12 of 12 pairs" in caplog.text
    for _ in range(5):
        request(address, "verdict", prefer_a(request(address, "state")))
    assert request(address, "stop", {})["stopped"] is True
    thread.join(60)
    wins = found[0].win_rate()
    assert (wins.wins, wins.losses, wins.unjudged) == (5, 0, 7)
    assert wins.orders is None
    caplog.clear()
    thread, found = in_the_background(Human(open_browser=False), tmp_path)
    address = address_of(caplog)
    assert "7 of 12 pairs" in caplog.text
    while (state := request(address, "state"))["row"] is not None:
        request(address, "verdict", prefer_a(state))
    request(address, "stop", {})
    thread.join(60)
    assert found[0].win_rate().wins == 12
    assert found[0].bill.cached == 5
    assert Human(open_browser=False).compare(ROWS, tmp_path).win_rate().wins == 12, "nothing is left to ask"


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(OutputError, match="can't be used"):
            Human(port=taken.getsockname()[1], open_browser=False).compare(ROWS, tmp_path)
    with pytest.raises(ConfigError, match=r"\[0, 65535\]"):
        Human(port=70000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        there = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield there
        there.close()


def test_in_a_browser(browser: Any, tmp_path: Path) -> None:
    """Pairs are shown, judged by keyboard, and resumed after the page was closed. Markup is shown as text."""
    hostile = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\"><b>bold</b>"
    rows = [
        Comparison("1", ("What is 2 + 2?",), ("4",), (hostile,)),
        Comparison("2", ("Name a city.", "And another."), ("Rome", "Oslo"), ("A", "B")),
        Comparison("3", ("Say hi.",), ("hi",), ("ho",)),
    ]
    file = tmp_path / "v.jsonl"
    session = Session(rows, file, seed=1)
    asked: list[str] = []
    with serve(session) as address:
        page = browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda r: asked.append(r.url))
        page.goto(address)
        page.get_by_text("0 of 3").wait_for()
        shown = session.state()["row"]
        assert page.locator("#left .text").first.inner_text().strip() == shown["left"][0].strip()
        assert page.locator("#right .text").first.inner_text().strip() == shown["right"][0].strip()
        page.keyboard.press("ArrowLeft")
        page.get_by_text("1 of 3").wait_for()
        first = json.loads(file.read_text().splitlines()[0])
        assert first["key"] == shown["key"]
        assert first["verdict"] == first["left"], "the answer on the left"
        page.close()

        page = browser.new_page()
        page.goto(address)
        page.get_by_text("1 of 3").wait_for()
        page.keyboard.press("ArrowDown")
        page.get_by_text("2 of 3").wait_for()
        page.keyboard.press("u")
        page.get_by_text("1 of 3").wait_for()
        page.get_by_role("button", name="right").click()
        page.get_by_text("2 of 3").wait_for()
        page.keyboard.press("x")
        page.get_by_text("All judged and saved").wait_for()
        assert page.title() == "Which answer is better?"
        assert page.locator("main").is_hidden()
        page.keyboard.press("q")
        page.get_by_text("Finished").wait_for()
        page.close()
    assert session.over.is_set()
    assert {session.verdict(row) for row in rows} >= {Verdict.INVALID}
    assert all(session.verdict(row) is not Verdict.UNJUDGED for row in rows)
    assert errors == []
    assert all(url.startswith(address) for url in asked)


def test_conversations_and_markup_in_a_browser(browser: Any, tmp_path: Path) -> None:
    turns = Comparison("2", ("Name a city.", "And another."), ("Rome", "Oslo"), ("<b>bold</b>", "line\n  two"))
    session = Session([turns], tmp_path / "v.jsonl", seed=1)
    with serve(session) as address:
        page = browser.new_page()
        page.goto(address)
        page.get_by_text("0 of 1").wait_for()
        sides = {page.locator(f"#{side}").inner_text() for side in ("left", "right")}
        assert page.locator("#left b, #right b").count() == 0
        page.close()
    assert {" | ".join(line for line in side.split("\n") if line) for side in sides} == {
        "Rome | And another. | Oslo",
        "<b>bold</b> | And another. | line |   two",
    }


def test_a_server_that_is_gone_is_told(browser: Any, tmp_path: Path) -> None:
    session = Session(ROWS, tmp_path / "v.jsonl", seed=1)
    with serve(session) as address:
        page = browser.new_page()
        page.goto(address)
        page.get_by_text("0 of 12").wait_for()
    page.route("**/verdict", lambda route: route.abort())
    page.keyboard.press("1")
    page.get_by_text("Not saved").wait_for()
    assert page.get_by_text("0 of 12").is_visible()
    page.close()


def test_requests_that_break_print_no_traceback(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    session = Session(ROWS, tmp_path / "v.jsonl", seed=1)
    with serve(session) as address:
        port, word = int(address.split(":")[2].split("/")[0]), address.split("/")[3]
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(address + "verdict", b"[" * 9_000, timeout=30)
        closed = socket.create_connection(("127.0.0.1", port), timeout=30)
        closed.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing it resets it
        closed.sendall(f"POST /{word}/undo HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 50\r\n\r\n".encode())
        closed.close()
        assert request(address, "state")["done"] == 0
    assert capfd.readouterr().err == ""
