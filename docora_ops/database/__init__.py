"""The edge to Postgres: Docora's tables as they are."""

from psycopg import Rollback

from docora_ops.database.postgres import Database, Session
from docora_ops.database.selections import Selection

__all__ = ["Database", "Rollback", "Selection", "Session"]
