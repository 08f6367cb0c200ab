"""`apps`: the links of each app by status."""

from datetime import timedelta

from tests.support.docora import Docora
from tests.support.read_only import frozen, read_only


def test_each_app_has_its_links_by_status_most_failed_first(docora: Docora) -> None:
    well, ill, new = (docora.add_app(name) for name in ("Acme", "Tin Robot", "Quiet Harbor"))
    docora.connection.execute(
        "UPDATE apps SET base_url = 'https://u:hush@acme.example/a?key=hush' WHERE app_id = %s",
        (well,),
    )
    for app, status, days in (
        (well, "synced", 2),
        (well, "synced", 1),
        (well, "scanning", None),
        (ill, "failed", None),
        (ill, "failed", None),
        (ill, "pending_snapshot", None),
    ):
        scanned = None if days is None else timedelta(days=days)
        docora.link(app, docora.add_repository(), status, scanned=scanned)
    env = {**read_only(docora), "REDIS_URL": "redis://127.0.0.1:1"}
    with frozen(docora):
        result = docora.run("apps", "--json", env=env)
        second = docora.run("apps", "--limit", "1", "--page", "2", "--json", env=env)
        table = docora.run("apps", env=env)
    assert result.code == 0
    assert result.json["pagination"] == {"page": 1, "limit": 50, "total": 3, "total_pages": 1}
    [_, latest] = docora.run("links", "--status", "synced", "--sort", "last-scan", "--json").data
    url = "https://acme.example/docora"
    assert [tuple(app.values()) for app in result.data] == [
        (ill, "Tin Robot", url, 3, 2, 1, 0, 0, None),
        (well, "Acme", "https://***@acme.example/a?***", 3, 0, 0, 1, 2, latest["last_scanned_at"]),
        (new, "Quiet Harbor", url, 0, 0, 0, 0, 0, None),
    ]
    assert list(result.data[0]) == [
        *("app_id", "app_name", "base_url", "links", "failed", "pending_snapshot", "scanning"),
        *("synced", "last_scanned_at"),
    ]
    assert [app["app_id"] for app in second.data] == [well]
    assert second.json["pagination"]["total_pages"] == 3
    assert "hush" not in result.stdout + table.stdout
    assert f"\nTin Robot\t{ill}\t3\t2\t1\t0\tnever\t{url}\n" in table.stdout
    assert table.stderr.endswith(": 3 apps, page 1 of 1.\n")
