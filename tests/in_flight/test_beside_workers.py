"""`--in-flight` beside real workers, and an app that does not answer."""

from threading import Event

from tests.support.docora import finish
from tests.support.proxy import PATIENCE, eventually
from tests.support.receiver import Request
from tests.support.snapshots import Snapshots
from tests.support.worker_processes import running

LIVE = [f"Live{number}" for number in range(9)]
ONE_TRY = {"MAX_RETRY_ATTEMPTS": "1"}


def test_live_apps_do_not_wait_for_one_that_does_not_answer(snapshots: Snapshots) -> None:
    docora = snapshots.docora
    repositories = []
    for name in ("octo/one", "octo/two"):
        upstream = snapshots.add_upstream(name)
        upstream.commit({"README.md": "# Acme\n"})
        repositories.append(snapshots.add_repository(upstream, name))
    apps = {name: snapshots.add_app(name) for name in ("Dead", *LIVE)}
    links = [snapshots.link(app, each) for app in apps.values() for each in repositories]
    docora.connection.execute("UPDATE app_repositories SET status = 'failed'")
    over = Event()

    def answer(request: Request) -> int:
        if request.app == "Dead":
            over.wait(PATIENCE)
            return 503
        return 201

    snapshots.receiver.answer = answer
    with running(snapshots, "--concurrency", "2", **ONE_TRY) as workers:
        workers.await_ready(2)
        process = docora.start("retry-all-failed", "--in-flight", "2", "--json", env=ONE_TRY)
        try:
            eventually(lambda: docora.statuses().get("synced") == 2 * len(LIVE), "all live apps")
            # The app that is down holds one of the workers, and its second link still waits.
            assert docora.statuses() == {"synced": 18, "scanning": 1, "failed": 1}
        finally:
            over.set()
        result = finish(process)
    assert result.code == 7, result
    assert (result.data["waited"]["synced"], result.data["waited"]["failed"]) == (18, 2)
    assert result.data["total"] == len(links)
