"""All access to Postgres: SQL and the functions that run it. Changes rows, never the schema."""

from docora_ops.database.postgres import Database, Session
from docora_ops.database.selections import Selection

__all__ = ["Database", "Selection", "Session"]
