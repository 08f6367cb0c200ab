"""`--wait` beside a real worker: what it says is what the worker has done."""

from tests.support.delivery_checks import events, link_row
from tests.support.receiver import Request
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import running

TWO_TRIES = {"MAX_RETRY_ATTEMPTS": "2", "RETRY_BASE_DELAY_MS": "0"}
CREATED = ("create", "README.md")
ERROR = "HTTP 503 on created README.md"


def test_what_a_worker_does_is_what_the_command_says(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    upstream = snapshots.add_upstream()
    upstream.commit({"README.md": "# Acme\n"})
    repository = snapshots.add_repository(upstream)
    good, bad = (snapshots.link(snapshots.add_app(name), repository) for name in ("Good", "Bad"))
    answers = {"Good": [503], "Bad": [503] * 4}

    def answer(request: Request) -> int:
        left = answers[request.app]
        return left.pop() if left else 201

    snapshots.receiver.answer = answer
    wait = ("--wait", "--timeout", "60", "--json")
    with running(snapshots, **TWO_TRIES) as worker:
        worker.await_ready()
        second_try = docora.run("retry", *good.ids, *wait, env=TWO_TRIES)
        assert second_try.code == 0, second_try
        assert second_try.data["waited"]["status"] == "synced"
        assert events(snapshots, "Good") == [CREATED] * 2
        assert "no worker" not in second_try.stderr

        failed = docora.run("retry", *bad.ids, *wait, env=TWO_TRIES)
        assert failed.code == 7, failed
        assert failed.data["waited"]["error_message"] == ERROR
        assert link_row(snapshots, bad) == ("failed", 2, ERROR)

        docora.connection.execute("UPDATE app_repositories SET status = 'failed'")
        both = docora.run("retry-all-failed", *wait, env=TWO_TRIES)
        assert both.code == 7, both
        assert (both.data["waited"]["synced"], both.data["waited"]["unfinished"]) == (1, 0)
        assert [each["job_id"] for each in both.data["waited"]["failed_links"]] == [bad.job_id]

        rest = docora.run("retry-all-failed", *wait, env=TWO_TRIES)
        assert rest.code == 0, rest
        assert docora.statuses() == {"synced": 2}
