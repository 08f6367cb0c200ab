"""`verify`: each difference is found, and nothing else counts."""

import time
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta

from tests.support.docora import Docora, Result
from tests.support.receiver import Request
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots

A, B, C = "a" * 64, "b" * 64, "c" * 64
HOUR, MOMENT = timedelta(hours=1), timedelta(milliseconds=100)
FILES = {"README.md": A, "src/größe.ts": B, "docs/日本.md": C, "e\u0301.txt": A, "back\\slash": B}


def add(
    docora: Docora,
    delivered: Mapping[str, str],
    stored: Mapping[str, str] = FILES,
    *,
    status: str = "synced",
    stored_earlier: timedelta = MOMENT,
) -> TestLink:
    """A link alone in its repository, whose scan ended `stored_earlier` after its commit."""
    link = docora.add_link(status, scanned=HOUR)
    with docora.connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO repository_snapshots (repository_id, commit_sha, scanned_at)"
            " SELECT repository_id, 'c0ffee', last_scanned_at - %s FROM app_repositories"
            " WHERE repository_id = %s",
            (stored_earlier, link.repository_id),
        )
        cursor.executemany(
            "INSERT INTO snapshot_files (snapshot_id, path, sha, size)"
            " SELECT id, %s, %s, 1 FROM repository_snapshots WHERE repository_id = %s",
            [(path, sha, link.repository_id) for path, sha in stored.items()],
        )
    deliver(docora, link, delivered)
    return link


def deliver(docora: Docora, link: TestLink, files: Mapping[str, str]) -> None:
    with docora.connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO app_delivered_files (app_id, repository_id, file_path, file_sha)"
            " VALUES (%s, %s, %s, %s)",
            [(*link.ids, path, sha) for path, sha in files.items()],
        )


def run(docora: Docora, *arguments: str) -> Result:
    before = docora.dump()
    result = docora.run("verify", *arguments, env={"DOCORA_OPS_DRIFT_GRACE": "0"})
    assert docora.dump() == before
    return result


def without(path: str) -> dict[str, str]:
    return {name: sha for name, sha in FILES.items() if name != path}


def test_each_planted_difference_is_found_and_no_other(docora: Docora) -> None:
    planted = {
        add(docora, without("docs/日本.md")): (1, 0, 0),
        add(docora, {}): (5, 0, 0),
        add(docora, FILES | {"README.md": C}): (0, 1, 0),
        add(docora, FILES | {"old.txt": A}): (0, 0, 1),
        add(docora, FILES, {}): (0, 0, 5),
        # The same letter in another Unicode form is another path.
        add(docora, without("e\u0301.txt") | {"\u00e9.txt": A}): (1, 0, 1),
        # Stored by the very same transaction, as docora-ops's worker does.
        add(docora, {}, {"a": A}, stored_earlier=timedelta(0)): (1, 0, 0),
    }
    proven = [add(docora, FILES) for _ in range(2)]
    data = run(docora, "--json").ended(6).data
    found = {
        (link["app_id"], link["repository_id"]): (link["missing"], link["outdated"], link["extra"])
        for link in data["differing"]
    }
    assert found == {link.ids: counts for link, counts in planted.items()}
    assert data["verdicts"] == {"differs": len(planted), "proven": len(proven)}
    link = next(iter(planted))
    screen = run(docora, *link.ids).ended(6)
    assert "missing docs/日本.md" in screen.stdout
    assert f"docora-ops resync {' '.join(link.ids)}" in screen.stderr
    assert "1 link: 1 proven." in run(docora, proven[0].app_id).ended(0).stdout


def test_what_docora_can_not_deliver_does_not_count(docora: Docora) -> None:
    too_long = {"l" * 1025: A, "\U0001f600" * 651: B, "é" * 1301: C}
    add(docora, FILES, FILES | too_long)
    twice = add(docora, FILES)  # of two files whose paths read the same, one is delivered
    docora.connection.execute(
        "INSERT INTO snapshot_files (snapshot_id, path, sha, size)"
        " SELECT id, 'README.md', %s, 1 FROM repository_snapshots WHERE repository_id = %s",
        (C, twice.repository_id),
    )
    assert run(docora, "--json").ended(0).data["verdicts"] == {"proven": 2}


def test_only_the_link_that_has_stored_the_commit_differs_for_certain(docora: Docora) -> None:
    add(docora, {}, stored_earlier=-MOMENT)  # scanned before the commit was stored
    shared = [add(docora, {}) for _ in range(2)]
    for link, status in zip(shared, ("synced", "scanning"), strict=True):
        other = docora.link(docora.add_app(), link.repository_id, status, scanned=HOUR - MOMENT)
        deliver(docora, other, FILES)
    data = run(docora, "--json").ended(0).data
    assert data["verdicts"] == {"uncertain": 3, "proven": 1, "at_work": 1}


def test_links_that_are_not_in_sync_are_not_compared(docora: Docora) -> None:
    for status in ("pending_snapshot", "scanning"):
        add(docora, {}, status=status)
    docora.add_link("synced", scanned=HOUR)  # without a stored commit
    assert run(docora, "--json").ended(0).data["verdicts"] == {"at_work": 2, "no_commit": 1}
    add(docora, FILES, status="failed")
    assert run(docora, "--json").ended(6).data["verdicts"]["failed"] == 1


def test_a_worker_that_is_just_sending_raises_no_false_alarm(snapshots: Snapshots) -> None:
    docora, upstream = snapshots.docora, snapshots.add_upstream()
    repository = snapshots.add_repository(upstream)
    links = [snapshots.link(snapshots.add_app(name), repository) for name in ("One", "Two", "Six")]

    def answer(_: Request) -> int:
        time.sleep(0.02)
        return 200

    snapshots.receiver.answer = answer
    seen: Counter[str] = Counter()
    for content in ("1\n", "2\n"):
        upstream.commit(dict.fromkeys("abcdef", content))
        for link in links:
            snapshots.queue(link)
        worker = snapshots.start_worker("--burst")
        while worker.poll() is None:
            result = docora.run("verify", "--json", env={"DOCORA_OPS_DRIFT_GRACE": "0"}).ended(0)
            seen.update(result.data["verdicts"])
    assert seen["at_work"] > 0
    assert "differs" not in seen
    assert docora.run("verify", "--json").ended(0).data["verdicts"] == {"proven": 3}
