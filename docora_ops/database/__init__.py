"""The edge to Postgres: Docora's tables as they are."""

from psycopg import Rollback

from docora_ops.database.link_rows import Selection
from docora_ops.database.postgres import Database, Session

__all__ = ["Database", "Rollback", "Selection", "Session"]
