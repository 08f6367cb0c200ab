"""Reads what tells this database from another one."""

from collections.abc import Sequence

from docora_ops.database.postgres import Database
from docora_ops.pair import DatabaseIdentity

_APPS = 20

IDENTITY = """
SELECT current_database(), has_function_privilege('pg_control_system()', 'EXECUTE'),
    ARRAY(SELECT app_id FROM docora.apps ORDER BY app_id LIMIT %(most)s),
    ARRAY(SELECT app_id FROM docora.apps WHERE app_id = ANY (%(app_ids)s::text[]))
"""

# Not part of IDENTITY: where a provider has revoked the function, Postgres refuses any statement
# that mentions it.
SYSTEM_IDENTIFIER = "SELECT system_identifier::text FROM pg_control_system()"


def read_identity(
    database: Database, app_ids: Sequence[str] = ()
) -> tuple[DatabaseIdentity, Sequence[str]]:
    """Returns the identity of the database, and which of these apps exist in it."""
    parameters = {"most": _APPS, "app_ids": list(app_ids)}
    system = None
    with database.snapshot():
        [(name, may_read_system, apps, known)] = database.rows(IDENTITY, parameters)
        if may_read_system:
            [(system,)] = database.rows(SYSTEM_IDENTIFIER)
    return DatabaseIdentity(name, system, apps), known
