"""`show`: everything about one link on one screen, with the next step."""

from datetime import timedelta

import pytest
from rq.suspension import suspend

from tests.support.docora import Docora
from tests.support.rows import AUTH_KEY, GITHUB_TOKEN
from tests.support.terminal import TerminalSession


@pytest.mark.parametrize(
    ("status", "job", "step"),
    [
        ("failed", None, "docora-ops retry"),
        ("failed", "waiting", "nothing: its job is waiting"),
        ("failed", "held", 'the workers are suspended: rq resume --url "$REDIS_URL"'),
        ("failed", "abandoned", "no worker is running: docora-ops worker"),
        ("pending_snapshot", None, "docora-ops repair"),
        ("scanning", "running", "nothing: its job is running"),
        ("synced", None, "docora-ops verify"),
    ],
)
def test_it_says_what_to_do_next(docora: Docora, status: str, job: str | None, step: str) -> None:
    link = docora.add_link(status)
    if job in {"waiting", "held"}:
        docora.add_worker()
        docora.enqueue(link.job_id)
        if job == "held":
            suspend(docora.redis)
    elif job == "abandoned":
        docora.enqueue(link.job_id)
    elif job:
        docora.start_job(link.job_id)
    before = docora.dump()
    data = docora.run("show", *link.ids, "--json").ended(0).data
    assert docora.dump() == before
    state = {None: "none", "abandoned": "waiting", "held": "waiting"}.get(job, job)
    assert (data["job"]["state"], step in data["next_step"]) == (state, True), data


def test_a_screen_has_all_of_a_link_but_its_secrets(docora: Docora) -> None:
    repository = docora.add_repository("octo/api", circuit_open_for=timedelta(hours=1))
    link = docora.link(docora.add_app("Acme Search"), repository, scanned=timedelta(days=2))
    docora.add_deliveries(link, 12)
    docora.connection.execute(
        "INSERT INTO repository_snapshots (repository_id, commit_sha) VALUES (%s, repeat('c', 40))",
        (repository,),
    )
    with TerminalSession(docora, "show", "acme", "octo/api") as terminal:
        code, screen = terminal.end()
    assert (code, len(screen.splitlines()) <= 24) == (0, True), screen
    for text in ("HTTP 500 on created README.md", "cccccccccccc", "12 files", *link.ids):
        assert text in screen
    every = docora.run("show", *link.ids, "--all", "--json").ended(0)
    assert len(every.data["files"]) == 12
    for secret in (GITHUB_TOKEN, AUTH_KEY):
        assert secret not in screen + every.stdout
    docora.run("show", *link.ids[:1], "octo/none").ended(3)


def test_a_long_error_does_not_push_the_rest_off_the_screen(docora: Docora) -> None:
    link = docora.add_link(last_error="fatal: " + "no such ref, " * 300)
    with TerminalSession(docora, "show", *link.ids) as terminal:
        _, screen = terminal.end()
    assert len(screen.splitlines()) <= 24
    assert "in full: --json" in screen
    piped = docora.run("show", *link.ids).ended(0)
    assert piped.stdout.count("no such ref") == 300
