"""The edge to Postgres: Docora's tables as they are."""

from psycopg import Rollback

from docora_ops.database.connection import Database
from docora_ops.database.selection import Selection

__all__ = ["Database", "Rollback", "Selection"]
