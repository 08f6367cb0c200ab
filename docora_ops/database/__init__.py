"""The edge to Postgres: Docora's tables as they are."""

from psycopg import Rollback

from docora_ops.database.postgres import Database
from docora_ops.database.selection import Selection
from docora_ops.database.session import Session

__all__ = ["Database", "Rollback", "Selection", "Session"]
