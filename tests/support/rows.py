"""The rows of a Docora to test on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any

import psycopg

GITHUB_TOKEN = f"{'aa11' * 8}:{'bb22' * 8}:{'ce11' * 10}"
AUTH_KEY = f"{'cc33' * 8}:{'dd44' * 8}:{'fe22' * 16}"
_THE_LINK = "app_repositories WHERE app_id = %s AND repository_id = %s"


@dataclass(frozen=True)
class TestLink:
    __test__ = False

    app_id: str
    repository_id: str

    @property
    def ids(self) -> tuple[str, str]:
        return self.app_id, self.repository_id

    @property
    def job_id(self) -> str:
        return f"{self.app_id}-{self.repository_id}"


def in_turns(job_ids: Iterable[str]) -> list[str]:
    """The order of a bulk operation: one link of each app, then a second one of each, and so on."""
    taken: Counter[str] = Counter()
    turns = []
    for job_id in sorted(job_ids):
        app_id, _, _ = job_id.partition("-")
        taken[app_id] += 1
        turns.append((taken[app_id], job_id))
    return [job_id for _, job_id in sorted(turns)]


class Rows:
    connection: psycopg.Connection[dict[str, Any]]
    _ids: count[int]

    def add_app(self, name: str = "Acme Search", app_id: str | None = None) -> str:
        app_id = app_id or f"app_{next(self._ids):024x}"
        self.connection.execute(
            "INSERT INTO apps (app_id, token_hash, app_name, base_url, email,"
            " client_auth_key_encrypted) VALUES (%s, 'hash', %s, %s, 'ops@acme.example', %s)",
            (app_id, name, "https://acme.example/docora", AUTH_KEY),
        )
        return app_id

    def add_repository(
        self,
        full_name: str = "octo/api",
        repository_id: str | None = None,
        *,
        url: str | None = None,
        circuit_open_for: timedelta | None = None,
    ) -> str:
        number = next(self._ids)
        repository_id = repository_id or f"repo_{number:024x}"
        owner, _, name = full_name.partition("/")
        self.connection.execute(
            "INSERT INTO repositories (repository_id, github_url, owner, name,"
            " consecutive_failures, circuit_open_until)"
            " VALUES (%s, %s, %s, %s, %s, now() + %s)",
            (
                *(repository_id, url or f"https://github.com/{full_name}-{number}", owner, name),
                *(5 if circuit_open_for else 0, circuit_open_for),
            ),
        )
        return repository_id

    def link(
        self,
        app_id: str,
        repository_id: str,
        status: str = "failed",
        *,
        retry_count: int = 5,
        last_error: str | None = "HTTP 500 on created README.md",
        scanned: timedelta | None = None,
    ) -> TestLink:
        self.connection.execute(
            "INSERT INTO app_repositories (app_id, repository_id, status, retry_count,"
            " last_error, github_token_encrypted, last_scanned_at)"
            " VALUES (%s, %s, %s, %s, %s, %s, now() - %s::interval)",
            (app_id, repository_id, status, retry_count, last_error, GITHUB_TOKEN, scanned),
        )
        return TestLink(app_id, repository_id)

    def add_link(self, status: str = "failed", **options: Any) -> TestLink:
        number = next(self._ids)
        app_id = self.add_app(f"App {number}")
        return self.link(app_id, self.add_repository(f"octo/repo{number}"), status, **options)

    def add_links(
        self, amount: int, *, apps: int = 1, last_error: str = "HTTP 500", status: str = "failed"
    ) -> None:
        """Many links that have never been scanned, of apps `App 1`, `App 2`, …"""
        for number in range(1, apps + 1):
            self.add_app(f"App {number}", f"app_{number:024x}")
        self.connection.execute(
            "INSERT INTO repositories (repository_id, github_url, owner, name)"
            " SELECT 'repo_' || lpad(to_hex(i), 24, '0'), 'https://github.com/octo/repo' || i,"
            " 'octo', 'repo' || i FROM generate_series(1, %s) i",
            (-(-amount // apps),),
        )
        self.connection.execute(
            "INSERT INTO app_repositories (app_id, repository_id, status, retry_count,"
            " last_error, github_token_encrypted)"
            " SELECT app_id, repository_id, %s, 5, %s, %s FROM apps, repositories"
            " ORDER BY repository_id, app_id LIMIT %s",
            (status, last_error, GITHUB_TOKEN, amount),
        )

    def add_deliveries(self, link: TestLink, files: int) -> None:
        self.connection.execute(
            "INSERT INTO app_delivered_files (app_id, repository_id, file_path, file_sha)"
            " SELECT %s, %s, 'src/file' || i, repeat('a', 64) FROM generate_series(1, %s) i",
            (link.app_id, link.repository_id, files),
        )

    def one(self, query: str, *values: object) -> Any:
        [row] = self.connection.execute(query.encode(), values or None).fetchall()
        return next(iter(row.values()))

    def row(self, link: TestLink) -> dict[str, Any]:
        [row] = self.connection.execute(f"SELECT * FROM {_THE_LINK}", link.ids).fetchall()
        return row

    def status(self, link: TestLink) -> str:
        return str(self.row(link)["status"])

    def statuses(self) -> dict[str, int]:
        rows = self.connection.execute(
            "SELECT status, count(*) AS links FROM app_repositories GROUP BY status"
        )
        return {row["status"]: row["links"] for row in rows}

    def links(self) -> list[TestLink]:
        """All links in the order of their ids, which is that of a bulk operation on one app."""
        rows = self.connection.execute("SELECT app_id, repository_id FROM app_repositories")
        return sorted((TestLink(**row) for row in rows), key=lambda link: link.ids)

    def deliveries(self, link: TestLink) -> int:
        of_link = "app_delivered_files WHERE app_id = %s AND repository_id = %s"
        return int(self.one(f"SELECT count(*) FROM {of_link}", *link.ids))

    def age_links(self) -> None:
        """All links so far were made an hour ago."""
        made = "created_at = now() - interval '1 hour'"
        self.connection.execute(f"UPDATE app_repositories SET {made}".encode())

    def set_link(self, link: TestLink, **columns: object) -> None:
        assignments = ", ".join(f"{name} = %s" for name in columns)
        which = "WHERE app_id = %s AND repository_id = %s"
        statement = f"UPDATE app_repositories SET {assignments} {which}".encode()
        self.connection.execute(statement, (*columns.values(), *link.ids))

    def add_trigger(
        self,
        statements: str,
        *,
        when: str = "true",
        event: str = "BEFORE UPDATE ON app_repositories",
        timing: str = "",
        name: str = "of_the_test",
    ) -> None:
        """Has Postgres run PL/pgSQL statements for each row of an event."""
        self.connection.execute(
            f"""
            CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN {statements}; RETURN coalesce(new, old); END $$;
            CREATE {"CONSTRAINT" if timing else ""} TRIGGER {name} {event} {timing}
            FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION {name}()
            """.encode()
        )

    def refuse_at_commit(self) -> None:
        event, timing = "AFTER UPDATE ON app_repositories", "DEFERRABLE INITIALLY DEFERRED"
        refuse = "RAISE EXCEPTION 'refused at commit'"
        self.add_trigger(refuse, event=event, timing=timing, name="refuse")

    def was_reset(self, link: TestLink) -> bool:
        row = self.row(link)
        reset = {"status": "pending_snapshot", "retry_count": 0, "last_error": None}
        return row | reset == row
