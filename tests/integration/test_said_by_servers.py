"""What a server says is shown without the password that it was given."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from docora_ops.errors import LinkError
from tests.harness import Docora


def test_a_password_in_what_postgres_says_is_cut_out(docora: Docora) -> None:
    """As of a trigger that passes the change on, and says how it logs in."""
    password = str(conninfo_to_dict(docora.database_url).get("password") or "")
    url = docora.database_url
    if not password:
        password = "s3cr3t"
        url += ("&" if "?" in url else "?") + f"password={password}"
    docora.connection.execute(
        f"""
        CREATE FUNCTION say_all() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE 'can not pass it on as user:{password} at {url}'; END $$;
        CREATE TRIGGER say_all BEFORE UPDATE ON app_repositories
            FOR EACH ROW EXECUTE FUNCTION say_all();
        """.encode()
    )
    link = docora.add_link()
    rooms = docora.rooms(database_url=SecretStr(url))
    with pytest.raises(LinkError, match=r"as user:\*\*\* at \*\*\*$") as refusal:
        rooms.retry(link)
    assert password not in refusal.value.message
    [failure] = rooms.retry_all().failures
    assert failure.error == refusal.value.message
