"""Every way to reach the two servers, and what they see of us."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import redis
import trustme

from tests.support.docora import Docora, Result, finish
from tests.support.own_servers import OwnRedis
from tests.support.privileges import with_login
from tests.support.proxy import Proxy, eventually
from tests.support.rows import AUTH_KEY, GITHUB_TOKEN, TestLink

SECRET = "5ecr3t@passw0rd/t0ken?#% :é"
PIECES = ("5ecr3t", "passw0rd", "t0ken")


@pytest.fixture
def link(docora: Docora) -> TestLink:
    """A failed link."""
    return docora.add_link()


@dataclass(frozen=True)
class Authority:
    """Who vouches for 127.0.0.1."""

    server: ssl.SSLContext
    certificate: Path


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return Authority(server, path)


def retry(docora: Docora, link: TestLink, **environment: str) -> Result:
    return docora.run("retry", *link.ids, "--json", env=environment)


def was_queued(docora: Docora, link: TestLink, result: Result) -> None:
    """As `docora` sees it."""
    assert result.code == 0, result
    assert result.data["outcome"] == "queued"
    assert docora.waiting() == [link.job_id]
    assert docora.was_reset(link)


# Redis


def test_redis_is_reached_by_tls(docora: Docora, link: TestLink, authority: Authority) -> None:
    with Proxy.before_redis(docora.redis_url, tls=authority.server) as proxy:
        url = proxy.url.replace("redis://", "rediss://") + f"?ssl_ca_certs={authority.certificate}"
        was_queued(docora, link, retry(docora, link, REDIS_URL=url))


def test_a_redis_that_nobody_vouches_for_is_refused(
    docora: Docora, link: TestLink, authority: Authority
) -> None:
    with Proxy.before_redis(docora.redis_url, tls=authority.server) as proxy:
        url = proxy.url.replace("redis://", "rediss://")
        result = retry(docora, link, REDIS_URL=url)
    assert (result.code, result.json["code"]) == (5, "redis"), result
    assert "its TLS certificate is refused: unable to get local issuer" in result.json["error"]
    assert docora.status(link) == "failed"


def test_redis_is_reached_by_its_socket_with_a_login_of_any_characters(
    docora: Docora, link: TestLink, own: OwnRedis, tmp_path: Path
) -> None:
    own.client.acl_setuser(
        "ops:é", enabled=True, passwords=[f"+{SECRET}"], keys=["*"], commands=["+@all"]
    )
    url = with_login(f"unix://{tmp_path / 'r'}?db=3", "ops:é", SECRET)
    result = retry(docora, link, REDIS_URL=url)
    assert result.code == 0, result
    with redis.Redis.from_url(f"{own.access.owner}/3") as third:
        assert third.lrange(docora.queue.key, 0, -1) == [link.job_id.encode()]
    assert own.client.keys() == []
    assert docora.was_reset(link)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with certificates and keys of a client and of a stranger, and junk."""
    folder = tmp_path_factory.mktemp("tls")
    for name in ("client", "stranger"):
        authority = trustme.CA()
        certificate = authority.issue_cert("docora")
        certificate.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        certificate.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    (folder / "junk").write_text("not a certificate\n")
    return folder


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("missing", "", ""), "ssl_ca_certs={}/missing can't be used: no such file"),
        (("junk", "", ""), "ssl_ca_certs={}/junk can't be used: no certificate or crl found"),
        (("ca.pem", "", "client.key"), "ssl_keyfile needs ssl_certfile"),
        (("ca.pem", "client.pem", "stranger.key"), "can't be used: key values mismatch"),
    ],
)
def test_a_file_that_redis_url_names_in_vain_is_named_with_the_cause(
    docora: Docora, files: Path, options: tuple[str, str, str], reason: str
) -> None:
    names = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
    given = [f"{name}={files / file}" for name, file in zip(names, options, strict=True) if file]
    url = f"{docora.redis_url.replace('redis://', 'rediss://')}?{'&'.join(given)}"
    result = docora.run("queue", "--json", env={"REDIS_URL": url})
    assert (result.code, reason.format(files) in result.json["error"]) == (2, True), result


# Postgres


def test_postgres_is_reached_by_tls(docora: Docora, link: TestLink, authority: Authority) -> None:
    with Proxy.before_postgres(docora.database_url, tls=authority.server) as proxy:
        url = f"{proxy.url}?sslmode=verify-full&sslrootcert={authority.certificate}"
        was_queued(docora, link, retry(docora, link, DATABASE_URL=url))
        unknown = retry(docora, link, DATABASE_URL=f"{url}.missing")
    assert f"{authority.certificate}.missing" in unknown.json["error"]


def test_tls_is_used_as_node_pg_is_told_to(
    docora: Docora, link: TestLink, authority: Authority
) -> None:
    option = "ssl=true"
    with Proxy.before_postgres(docora.database_url, tls=authority.server) as proxy:
        was_queued(docora, link, retry(docora, link, DATABASE_URL=f"{proxy.url}?{option}"))
    with Proxy.before_postgres(docora.database_url) as proxy:
        result = docora.run("failed", "--json", env={"DATABASE_URL": f"{proxy.url}?{option}"})
    assert "server does not support SSL" in result.json["error"]


# What the servers see


def test_postgres_sees_who_we_are_and_all_timeouts(docora: Docora) -> None:
    docora.add_links(5)
    docora.connection.execute("CREATE TABLE seen (name text, value text)")
    docora.connection.execute(
        "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN"
        " INSERT INTO public.seen SELECT name, setting || coalesce(unit, '')"
        " FROM pg_settings WHERE name IN ('application_name', 'statement_timeout', 'lock_timeout',"
        " 'idle_in_transaction_session_timeout'); RETURN NULL; END $$"
    )
    docora.connection.execute(
        "CREATE TRIGGER look AFTER UPDATE ON app_repositories EXECUTE FUNCTION look()"
    )
    timeouts = {"DOCORA_OPS_STATEMENT_TIMEOUT": "17", "DOCORA_OPS_LOCK_TIMEOUT": "3"}
    assert docora.run("retry-all-failed", env=timeouts).code == 0
    rows = docora.connection.execute("SELECT DISTINCT name, value FROM seen").fetchall()
    docora.connection.execute("DROP TABLE seen; DROP FUNCTION look CASCADE")
    assert {row["name"]: row["value"] for row in rows} == {
        "application_name": "docora-ops",
        "statement_timeout": "17000ms",
        "lock_timeout": "3000ms",
        "idle_in_transaction_session_timeout": "6000ms",
    }


def test_no_secret_is_in_the_process_list_nor_where_the_servers_show_their_clients(
    docora: Docora, link: TestLink, own: OwnRedis, tmp_path: Path
) -> None:
    own.client.acl_setuser(
        "docora", enabled=True, passwords=[f"+{SECRET}"], keys=["*"], commands=["+@all"]
    )
    redis_url = with_login(own.url, "docora", SECRET)
    # Whoever is let in without a password is let in with any.
    database_url = docora.database_url
    if not docora.connection.info.password:
        database_url = with_login(database_url, docora.role, SECRET)
    file = tmp_path / "docora.env"
    file.write_text(f"DATABASE_URL='{database_url}'\nREDIS_URL='{redis_url}'\n", encoding="utf-8")
    with psycopg.connect(docora.database_access.owner) as holder:
        holder.execute("SELECT 1 FROM app_repositories FOR UPDATE")
        process = docora.start_installed(
            *("retry", *link.ids, "--env-file", str(file), "--json"),
            env={"DATABASE_URL": None, "REDIS_URL": None},
        )

        def seen() -> str:
            rows = docora.connection.execute(
                "SELECT query FROM pg_stat_activity WHERE application_name = 'docora-ops'"
                " AND wait_event_type = 'Lock'"
            )
            return "".join(row["query"] for row in rows)

        eventually(seen, "a command that waits for the row")
        shown = seen()
        for task in Path("/proc", str(process.pid), "task").iterdir():
            shown += (task / "cmdline").read_text() + (task / "comm").read_text()
            assert (task / "children").read_text() == "", "another process"
        clients = own.client.client_list()
        shown += str(clients)
        holder.rollback()
    result = finish(process)
    assert result.code == 0, result
    assert link.app_id in shown
    assert "docora-ops" in {client["name"] for client in clients}
    for secret in (*PIECES, GITHUB_TOKEN, AUTH_KEY):
        assert secret not in shown
        assert secret not in result.stdout + result.stderr
