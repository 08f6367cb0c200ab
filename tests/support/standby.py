"""A Postgres with a streaming standby, of which a test may stop the one and promote the other."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from pwd import getpwnam

import psycopg
from psycopg.conninfo import conninfo_to_dict

from tests.support import servers
from tests.support.database import TestDatabase, with_database
from tests.support.privileges import Access, role_access
from tests.support.proxy import eventually
from tests.support.rows import TestLink


@dataclass
class Pair:
    primary: Access
    standby: Access
    on_standby: psycopg.Connection
    _server: ExitStack

    @property
    def either(self) -> str:
        """How commands reach the one of the two that takes writes."""
        return f"{self.primary.command},{self.standby_host}&target_session_attrs=read-write"

    @property
    def primary_host(self) -> str:
        return str(conninfo_to_dict(self.primary.owner)["host"])

    @property
    def standby_host(self) -> str:
        return str(conninfo_to_dict(self.standby.owner)["host"])

    def stop_primary(self) -> None:
        self._server.close()

    def promote(self) -> None:
        self.on_standby.execute("SELECT pg_promote()")

    @property
    def is_standby(self) -> object:
        return self._one("SELECT pg_is_in_recovery()")

    def cut_off(self) -> None:
        self.on_standby.execute("ALTER SYSTEM SET primary_conninfo = ''")
        self.on_standby.execute("SELECT pg_reload_conf()")
        eventually(lambda: not self._one("SELECT count(*) FROM pg_stat_wal_receiver"), "the end")

    def status(self, link: TestLink) -> object:
        of_link = "WHERE app_id = %s AND repository_id = %s"
        return self._one(f"SELECT status FROM app_repositories {of_link}", *link.ids)

    def lag(self) -> None:
        self.on_standby.execute("SELECT pg_wal_replay_pause()")
        state = "SELECT pg_get_wal_replay_pause_state()"
        eventually(lambda: self._one(state) == "paused", "a pause")

    def catch_up(self) -> None:
        """Until the standby shows what the primary has by now."""
        self.on_standby.execute("SELECT pg_wal_replay_resume()")
        with psycopg.connect(self.primary.owner) as primary:
            [[lsn]] = primary.execute("SELECT pg_current_wal_lsn()::text").fetchall()
        eventually(lambda: self._one("SELECT pg_last_wal_replay_lsn() >= %s", lsn), "a standby")

    def _one(self, query: str, *values: str) -> object:
        [[value]] = self.on_standby.execute(query.encode(), values).fetchall()
        return value


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
        user: str | None = None
        if os.geteuid() == 0:  # the servers run as this user then
            user = "embedded_postgres"
            os.chown(data, getpwnam(user).pw_uid, -1)
        data.chmod(0o700)
        # Copies older servers, too, with some of which no such program comes. They would not know
        # the newer options that it writes into `primary_conninfo`.
        program = servers.PACKAGED_PROGRAMS / "pg_basebackup"
        copy = [str(program), "-D", str(data), "-d", url, "--checkpoint=fast"]
        subprocess.run(copy, check=True, user=user)
        (data / "standby.signal").touch()
        with (data / "postgresql.auto.conf").open("a", encoding="utf-8") as settings:
            settings.write(f"primary_conninfo = '{url}'\n")
        for of_primary in (".s.PGSQL.5432.lock", ".handle_pids.json", "log"):
            (data / of_primary).unlink()
        with servers.postgres(directory / "standby") as standby_url:
            standby = role_access(with_database(standby_url, database.name), 0)
            with psycopg.connect(standby.owner, autocommit=True) as on_standby:
                yield Pair(database.access, standby, on_standby, primary_server)
