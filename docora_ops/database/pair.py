"""Reads what identifies this database."""

from collections.abc import Sequence

from docora_ops.database.link_rows import LINKED_JOBS
from docora_ops.database.postgres import Database

_APPS = 20

IDENTITY = f"""
SELECT current_database(), has_function_privilege('pg_control_system()', 'EXECUTE'),
    ARRAY(SELECT app_id FROM docora.apps ORDER BY app_id LIMIT %(most)s),
    ARRAY(SELECT app_id FROM docora.apps WHERE app_id = ANY (%(app_ids)s::text[])),
    ARRAY({LINKED_JOBS})
"""

# Not part of IDENTITY: where a provider has revoked the function, Postgres refuses any statement
# that mentions it.
SYSTEM_IDENTIFIER = "SELECT system_identifier::text FROM pg_control_system()"


def read_identity(
    database: Database, app_ids: Sequence[str] = (), job_ids: Sequence[str] = ()
) -> tuple[tuple[str, str | None, Sequence[str]], Sequence[str], Sequence[str]]:
    """Returns the database's identity, its apps among `app_ids`, and the `job_ids` with a link.

    The identity is the name of the database, its system identifier (None if the role may not read
    it), and the ids of up to 20 apps.
    """
    parameters = {"most": _APPS, "app_ids": list(app_ids), "job_ids": list(job_ids)}
    system = None
    with database.snapshot():
        [(name, may_read_system, apps, known, linked)] = database.rows(IDENTITY, parameters)
        if may_read_system:
            [(system,)] = database.rows(SYSTEM_IDENTIFIER)
    return (name, system, apps), known, linked
