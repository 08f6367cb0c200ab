"""What a job leaves when its app fails: rows, and errors that show no secret."""

import logging

import pytest

from docora_ops.worker import snapshot_job as job
from tests.support.delivery_checks import assert_in_sync, events, failure
from tests.support.raw_app import Talk, raw_app
from tests.support.rows import TestLink
from tests.support.snapshots import Files, Snapshots, Upstream

FILES: Files = {"a.txt": "1", "src/b.py": "2", "z.txt": "3"}


def goes_on_after(snapshots: Snapshots, link: TestLink, upstream: Upstream) -> None:
    """Once the app works again, only what it has not acknowledged is sent."""
    snapshots.set_base_url(snapshots.receiver.base_url("Acme"))
    snapshots.receiver.answer = lambda _: 200
    done = snapshots.deliveries(link)
    before = len(events(snapshots))
    snapshots.run_job(link)
    sent = {path for _, path in events(snapshots)[before:]}
    assert sent == {path for path in upstream.contents() if path not in done}
    assert_in_sync(snapshots, link, upstream)


def test_a_failed_job_tells_the_file_and_shows_no_secret_of_the_base_url(
    snapshots: Snapshots, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def talk(talk: Talk) -> None:
        head = talk.read_head()
        assert head is not None
        talk.read_body(head)
        login = head[1]["Authorization"].removeprefix("Basic ")
        location = f"/password1/username1/p%40ssword/{login}/queryvalue"
        answer = f"HTTP/1.1 308 No\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
        talk.send(answer.encode())

    link, upstream = snapshots.add_link(FILES)
    with raw_app(snapshots.receiver, talk) as app, caplog.at_level(logging.DEBUG):
        snapshots.set_base_url(f"http://username1:p%40ssword@{app.host}?a=queryvalue")
        error = failure(snapshots, link)
    assert error.startswith("HTTP 308 on created a.txt: ")
    for secret in ("username1", "p%40ssword", "p@ssword", "queryvalue"):
        assert secret not in error + caplog.text
    assert job.DELIVERY_TIMEOUT == 30
    monkeypatch.setattr(job, "DELIVERY_TIMEOUT", 0.2)
    with raw_app(snapshots.receiver, Talk.wait_for_hangup) as app:
        snapshots.set_base_url(app.base_url)
        error = failure(snapshots, link)
        assert error == f"no answer from {app.host} within 0.2 s on created a.txt"
    monkeypatch.undo()
    goes_on_after(snapshots, link, upstream)
