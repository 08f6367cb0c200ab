"""`verify`: each difference is found, and nothing else counts."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest

from docora_ops.actions import verification
from docora_ops.actions.drift import Suspects
from docora_ops.actions.verification import Verification, verify
from tests.support.diagnoses import ONE_LOOK
from tests.support.docora import Docora, Result
from tests.support.read_only import frozen, read_only
from tests.support.rows import TestLink
from tests.support.terminal import at_terminals, plain_data

A, B, C = "a" * 64, "b" * 64, "c" * 64
HOUR, MOMENT = timedelta(hours=1), timedelta(milliseconds=100)
FILES = {"README.md": A, "src/größe.ts": B, "docs/日本.md": C, "e\u0301.txt": A, "back\\slash": B}


def store(
    docora: Docora, repository_id: str, files: Mapping[str, str], earlier: timedelta = MOMENT
) -> None:
    """The stored commit of the repository, scanned so much earlier than its link."""
    [snapshot] = docora.connection.execute(
        "INSERT INTO repository_snapshots (repository_id, commit_sha, scanned_at)"
        " SELECT repository_id, 'c0ffee', coalesce(max(last_scanned_at), now()) - %s"
        " FROM repositories LEFT JOIN app_repositories USING (repository_id)"
        " WHERE repository_id = %s GROUP BY repository_id RETURNING id",
        (earlier, repository_id),
    )
    with docora.connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO snapshot_files (snapshot_id, path, sha, size) VALUES (%s, %s, %s, 1)",
            [(snapshot["id"], path, sha) for path, sha in files.items()],
        )


def deliver(docora: Docora, link: TestLink, files: Mapping[str, str]) -> None:
    with docora.connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO app_delivered_files (app_id, repository_id, file_path, file_sha)"
            " VALUES (%s, %s, %s, %s)",
            [(*link.ids, path, sha) for path, sha in files.items()],
        )


def add(
    docora: Docora,
    delivered: Mapping[str, str] | None = None,
    stored: Mapping[str, str] | None = None,
    *,
    status: str = "synced",
    scanned: timedelta | None = HOUR,
    stored_earlier: timedelta = MOMENT,
) -> TestLink:
    """A link alone in its repository, with delivered and stored files."""
    link = docora.add_link(status, scanned=scanned)
    store(docora, link.repository_id, FILES if stored is None else stored, stored_earlier)
    deliver(docora, link, FILES if delivered is None else delivered)
    return link


def run(docora: Docora, *arguments: str, **environment: str) -> Result:
    environment = ONE_LOOK | read_only(docora) | environment
    with frozen(docora):
        return docora.run("verify", *arguments, env=environment)


def differing(data: Mapping[str, Any]) -> dict[str, tuple[int, int, int]]:
    """Missing, outdated and extra files by job id."""
    return {
        f"{link['app_id']}-{link['repository_id']}": (
            *(link["missing"], link["outdated"], link["extra"]),
        )
        for link in data["differing_links"]
    }


def without(path: str) -> dict[str, str]:
    return {name: sha for name, sha in FILES.items() if name != path}


def test_each_planted_difference_is_found_and_no_other(docora: Docora) -> None:
    many = {f"src/{number}.py": A for number in range(100)}
    planted = {
        add(docora, without("README.md")): (1, 0, 0),
        add(docora, without("docs/日本.md")): (1, 0, 0),
        add(docora, {}): (5, 0, 0),
        add(docora, FILES | {"README.md": C}): (0, 1, 0),
        add(docora, FILES | {"src/größe.ts": A}): (0, 1, 0),
        add(docora, dict.fromkeys(FILES, "0" * 64)): (0, 5, 0),
        add(docora, FILES | {"old.txt": A}): (0, 0, 1),
        add(docora, FILES, {}): (0, 0, 5),
        # The same letter in another Unicode form is another path.
        add(docora, without("e\u0301.txt") | {"\u00e9.txt": A}): (1, 0, 1),
        add(docora, FILES | {"x" * 1024: A}, FILES | {"y" * 1024: A}): (1, 0, 1),
        add(docora, FILES | many | {"README.md": C}, FILES | {"gone": A, "lost": B}): (2, 1, 100),
        # The commit was stored by the very same scan.
        add(docora, {}, {"a": A}, stored_earlier=timedelta(0)): (1, 0, 0),
    }
    for _ in range(3):
        add(docora)
    result = run(docora, "--json").ended(6)
    assert differing(result.data) == {link.job_id: each for link, each in planted.items()}
    counts = {"links": 15, "proven": 3, "differing": 12, "not_comparable": 0, "pending": 0}
    assert result.data | counts == result.data
    assert "not newer commits or what is on the app's disk" in result.stderr

    last = list(planted)[-2]
    screen = run(docora, *last.ids).ended(6)
    for part in (
        *("\t2\t1\t100\t", "2 missing: gone, lost", "1 outdated: README.md"),
        "100 extra: src/0.py, src/1.py, src/10.py, …",
        f"docora-ops resync {last.app_id} {last.repository_id} --update\n",
        "1 link differs, 0 links proven.",
    ):
        assert part in screen.stdout
    assert "not newer commits or what is on the app's disk" in screen.stderr


def test_what_docora_can_not_deliver_does_not_count(docora: Docora) -> None:
    too_long = {"l" * 1025: A, "\U0001f600" * 651: B, "é" * 1301: C}
    add(docora, FILES, FILES | too_long)
    # Of two files whose paths read the same, one is delivered.
    twice = add(docora)
    docora.connection.execute(
        "INSERT INTO snapshot_files (snapshot_id, path, sha, size)"
        " SELECT id, 'README.md', %s, 1 FROM repository_snapshots WHERE repository_id = %s",
        (C, twice.repository_id),
    )
    result = run(docora, "--json")
    assert (result.code, result.data["proven"], result.data["links"]) == (0, 2, 2), result
    assert "2 links proven." in run(docora).stdout


def test_only_the_link_that_has_stored_the_commit_differs_for_certain(docora: Docora) -> None:
    def add_beside(link: TestLink, scanned: timedelta | None, status: str = "synced") -> TestLink:
        other = docora.link(docora.add_app(), link.repository_id, status, scanned=scanned)
        deliver(docora, other, FILES)
        return other

    unclear = {
        add(docora, {}, stored_earlier=-MOMENT): "scanned_earlier",
        add(docora, {}, scanned=None): "scanned_earlier",
    }
    # Its clock may be ahead, or its own scan has ended since, too.
    for later in (timedelta(0), timedelta(minutes=5)):
        shared = add(docora, {})
        add_beside(shared, HOUR - later)
        unclear[shared] = "scanned_together"
    shared = add(docora, {})
    add_beside(shared, None, "pending_snapshot")
    unclear[shared] = "other_unfinished"
    failed = add(docora, {})
    add_beside(failed, None, "failed")
    unclear[failed] = "other_unfinished"
    # All links of a repository are scanned in the same pass, and so seconds apart.
    seconds = timedelta(seconds=10)
    certain = [add(docora, {}) for _ in range(2)]
    add_beside(certain[0], HOUR + seconds)
    add_beside(certain[1], HOUR + timedelta(seconds=70))
    # A worker of docora-ops stores the commit and sets the link to `synced` at the same moment.
    certain.append(add(docora, {}, stored_earlier=timedelta(0)))
    add_beside(certain[2], 2 * HOUR, "failed")
    # The files of the earlier one were lost: its commit is not known.
    lost = add_beside(add(docora), HOUR + seconds)
    docora.connection.execute(
        "DELETE FROM app_delivered_files WHERE app_id = %s AND file_path <> 'README.md'",
        (lost.app_id,),
    )
    unclear[lost] = "scanned_earlier"
    data = run(docora, "--json").data
    assert differing(data) == dict.fromkeys((each.job_id for each in certain), (5, 0, 0))
    doubts = {f"{it['app_id']}-{it['repository_id']}": it for it in data["uncertain_links"]}
    assert {id_: it["doubt"] for id_, it in doubts.items()} == {
        link.job_id: doubt for link, doubt in unclear.items()
    }
    assert (doubts[lost.job_id]["missing"], data["differing_links"][0]["doubt"]) == (4, None)
    counts = {"uncertain": 7, "proven": 5, "failed": 2, "pending": 1, "links": 18}
    assert data | counts == data

    def remove(*links: TestLink) -> None:
        docora.connection.execute(
            "DELETE FROM app_repositories WHERE repository_id = ANY (%s)",
            ([each.repository_id for each in links],),
        )

    remove(*certain)
    result = run(docora)
    remove(failed)
    rest, strict = run(docora), run(docora, "--strict")
    assert (rest.code, strict.code, strict.stdout) == (0, 6, rest.stdout), rest
    for part in (
        "\tuncertain: scanned earlier\t4\t0\t0\t4 missing: back\\slash, docs/日本.md, ",
        "\tuncertain: scanned together\t",
        "\tuncertain: other unfinished\t",
        "\nUncertain: the next good scan sends what is missing. Then: docora-ops verify\n",
        "\nTo send all files of a link again: docora-ops resync APP REPO\n",
        "\n1 link is failed, 3 links proven, 7 uncertain, ",
    ):
        assert part in result.stdout


def scanned(docora: Docora, link: TestLink, *, stored_at: str, ended_at: str) -> None:
    """Sets when the commit was stored, and when the link's last good scan has ended."""
    docora.connection.execute(
        "UPDATE repository_snapshots SET scanned_at = %s::text::timestamptz"
        " WHERE repository_id = %s",
        (stored_at, link.repository_id),
    )
    docora.set_link(link, last_scanned_at=ended_at)


def doubts(result: Result) -> dict[str, str]:
    links = [*result.data["differing_links"], *result.data["uncertain_links"]]
    return {f"{link['app_id']}-{link['repository_id']}": link["doubt"] for link in links}


def test_the_commit_that_a_link_stored_before_it_was_removed_proves_nothing_of_another(
    docora: Docora,
) -> None:
    """The clock of the worker that scanned the other link is minutes ahead."""
    link = add(docora, {})
    gone = docora.link(docora.add_app(), link.repository_id, "synced")
    scanned(docora, link, stored_at="2026-11-28 08:00:01.250Z", ended_at="2026-11-28 08:03:12.345Z")
    docora.delete_link(gone)
    assert doubts(run(docora, "--json")) == {link.job_id: "scanned_later"}
    scanned(docora, link, stored_at="2026-11-28 08:03:12.345Z", ended_at="2026-11-28 08:00:01.250Z")
    assert doubts(run(docora, "--json")) == {link.job_id: "scanned_earlier"}


def test_a_single_link_is_certain_though_the_clock_of_postgres_is_ahead(docora: Docora) -> None:
    """Docora's worker has Postgres date the first commit, and dates all else by its own clock."""
    link = add(docora, {})
    scanned(
        docora, link, stored_at="2026-11-28 08:10:00.123456Z", ended_at="2026-11-28 08:00:00.250Z"
    )
    unscanned = docora.link(docora.add_app(), link.repository_id, "failed")
    assert doubts(run(docora, "--json")) == {link.job_id: None}
    docora.delete_link(unscanned)
    assert doubts(run(docora, "--json")) == {link.job_id: None}


def test_it_offers_the_resync_of_the_link_or_of_the_app_that_differs(docora: Docora) -> None:
    harbor = docora.add_app("Quiet Harbor")
    one, other, doubtful = (
        docora.link(app_id, docora.add_repository(name), "synced", scanned=scanned)
        for app_id, name, scanned in (
            (harbor, "octo/one", HOUR),
            (harbor, "octo/two", HOUR),
            (docora.add_app(), "octo/one", None),
        )
    )
    for link in (one, other, doubtful):
        store(docora, link.repository_id, FILES)

    def offers(*lines: str) -> bool:
        return "\n{}\n".format("\n".join(lines)) in run(docora).stdout

    uncertain = "Uncertain: the next good scan sends what is missing. Then: docora-ops verify"
    again, ids = "again: docora-ops resync", " ".join(doubtful.ids)
    send = "To send all files of Quiet Harbor"
    assert offers(f"{uncertain} {ids}", f"{send} {again} {harbor} --all")
    docora.set_link(other, status="failed")
    assert offers(f"{uncertain} {ids}", f"{send} ← octo/one {again} {' '.join(one.ids)}")
    docora.set_link(one, status="failed")
    assert offers(
        f"{uncertain} {ids}", f"To send all files of Acme Search ← octo/one {again} {ids}"
    )


def test_it_is_a_table_at_80_columns_with_usual_names(docora: Docora) -> None:
    app_id = docora.add_app("Quiet Harbor")
    for scanned in (None, HOUR):
        repository_id = docora.add_repository("hollow-hill/infra")
        docora.link(app_id, repository_id, "synced", scanned=scanned)
        store(docora, repository_id, {f"src/module-{number}.ts": A for number in range(4)})
    shown = plain_data(at_terminals(docora, ["verify"], columns=80, env=ONE_LOOK).data)
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert lines[0] == "Link Result Files"
    for result in ("differs", "uncertain: scanned"):
        assert f"Quiet Harbor ← hollow-hill/infra {result} 4 missing:" in lines


def test_without_a_stored_commit_nothing_is_proven(docora: Docora) -> None:
    docora.add_link("synced", scanned=HOUR)  # and nothing is delivered
    deliver(docora, docora.add_link("synced", scanned=HOUR), FILES)
    result = run(docora, "--json")
    counts = (result.data["links"], result.data["proven"], result.data["not_comparable"])
    assert (result.code, counts) == (0, (2, 0, 2)), result


def test_without_links_nothing_is_proven_in_a_script(docora: Docora) -> None:
    app = docora.add_app("Quiet Harbor")
    for words in ((), (app,)):
        assert (run(docora, *words).code, run(docora, *words, "--strict").code) == (0, 6), words


def test_a_link_not_in_sync_is_unproven_and_a_failed_one_is_a_problem(docora: Docora) -> None:
    add(docora)
    for status, code, said in (
        ("pending_snapshot", 0, "1 link proven, 1 skipped (1 pending).\n"),
        ("scanning", 0, "1 link proven, 2 skipped (1 pending, 1 being scanned).\n"),
        ("failed", 6, "1 link is failed, 1 link proven, 2 skipped (1 pending, 1 being scanned).\n"),
    ):
        link = add(docora, status=status)
        result = run(docora)
        assert (result.code, result.stdout.endswith(said)) == (code, True), result
        assert ("docora-ops failed\n" in result.stdout) == (status == "failed")
        alone, delivered = run(docora, *link.ids, "--strict"), docora.run("deliveries", *link.ids)
        assert (alone.code, delivered.code) == (6, code), delivered
        assert "\nNot all files are proven: " in delivered.stdout
    data = run(docora, "--json").data
    counts = {"links": 4, "proven": 1, "failed": 1, "pending": 1, "scanning": 1}
    assert data | counts == data


def test_links_beside_one_that_is_being_scanned_are_compared(docora: Docora) -> None:
    proven = add(docora)
    lost, unclear = add(docora, {}, stored_earlier=timedelta(0)), add(docora, {})
    for link in (proven, lost, unclear):
        docora.link(docora.add_app("Tarpit"), link.repository_id, "scanning")
    data = run(docora, "--json").data
    assert data | {"proven": 1, "scanning": 3} == data
    # Docora's own worker may have stored another commit already, before the scan ends.
    [uncertain] = data["uncertain_links"]
    assert (uncertain["app_id"], uncertain["doubt"]) == (unclear.app_id, "other_unfinished")
    assert differing(data) == {lost.job_id: (5, 0, 0)}


def test_only_what_differs_in_the_same_way_twice_counts(docora: Docora) -> None:
    kept, healed, changed, rescanned, unlinked = (add(docora, {}) for _ in range(5))
    actions = docora.actions(drift_grace=0)
    for event in verify(actions.docora):
        if isinstance(event, Suspects):
            if docora.deliveries(healed):
                continue
            assert event.count == 5
            deliver(docora, healed, FILES)
            deliver(docora, changed, {"README.md": A})
            docora.set_link(rescanned, status="scanning")
            docora.delete_link(unlinked)
    assert isinstance(event, Verification)
    assert [link.job_id for link in event.differing_links] == [kept.job_id]
    assert (event.proven, event.changing, event.scanning, event.links) == (1, 1, 1, 4)


@pytest.mark.parametrize("pages", [1, 3])
def test_links_are_compared_in_pages_of_an_app_or_of_all(
    docora: Docora, monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    monkeypatch.setattr(verification, "_FIRST_PAGE", pages)
    monkeypatch.setattr(verification, "_FAST", 0)
    first, second = docora.add_app("Acme"), docora.add_app("Zebra")
    for number in range(4):
        repository = docora.add_repository(f"octo/repo{number}")
        store(docora, repository, FILES)
        for app in (first, second):
            deliver(docora, docora.link(app, repository, "synced", scanned=HOUR), FILES)
    api = docora.actions(drift_grace=0).docora
    *_, found = verify(api)
    assert isinstance(found, Verification)
    assert (found.links, found.proven) == (8, 8)
    *_, found = verify(api, "zebra")
    assert isinstance(found, Verification)
    assert (found.links, found.proven) == (4, 4)


@pytest.mark.slow
def test_a_statement_that_takes_too_long_is_tried_with_fewer_links(docora: Docora) -> None:
    for _ in range(8):
        add(docora, {})
    # A comparison that takes 0.15 s for each link that is compared.
    docora.connection.execute(
        b"ALTER TABLE repository_snapshots RENAME TO real_snapshots;"
        b"CREATE VIEW repository_snapshots AS SELECT id, repository_id, commit_sha, branch,"
        b" scanned_at FROM real_snapshots WHERE pg_sleep(0.15) IS NOT NULL;"
        b"GRANT SELECT ON repository_snapshots TO PUBLIC"
    )
    try:
        result = docora.run(
            "verify", "--json", env=ONE_LOOK | {"DOCORA_OPS_STATEMENT_TIMEOUT": "1"}
        )
    finally:
        docora.connection.execute(
            b"DROP VIEW repository_snapshots;"
            b"ALTER TABLE real_snapshots RENAME TO repository_snapshots"
        )
    assert (result.code, result.data["differing"]) == (6, 8), result


def test_a_held_app_is_named_because_nothing_is_sent_to_it(docora: Docora) -> None:
    lost, other = add(docora, {}), add(docora)
    docora.connection.execute("UPDATE apps SET app_name = 'Quiet Harbor'")
    assert docora.run("hold", lost.app_id, "--yes").code == 0
    line = f"\nQuiet Harbor is held, nothing is sent: docora-ops release {lost.app_id}\n"
    for arguments, is_said in (((), True), (lost.ids, True), ((other.app_id,), False)):
        screen, result = run(docora, *arguments), run(docora, *arguments, "--json")
        assert ((line in screen.stdout), len(result.data["held"])) == (is_said, is_said), screen
    [held] = run(docora, "--json").data["held"]
    assert (held["app_id"], "@" in held["held"]["who"]) == (lost.app_id, True)
    unknown = run(docora, "--json", REDIS_URL="redis://127.0.0.1:1")
    assert (unknown.code, unknown.data["held"]) == (6, None)
    assert "it is unknown which apps are held" in unknown.stderr
