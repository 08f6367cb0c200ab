"""Links that have failed, by their names."""

from __future__ import annotations

from collections.abc import Sequence

from docora_ops.database import Database
from docora_ops.database.link_rows import names_of
from docora_ops.links import LinkFailure, LinkRef


def named_failures(database: Database, failed: Sequence[tuple[LinkRef, str]]) -> list[LinkFailure]:
    """Names the links, each with its error. Raises PostgresError."""
    names = names_of(database, [ref for ref, _ in failed]) if failed else []
    return [
        LinkFailure(ref.job_id, ref.app_id, ref.repository_id, error, *found)
        for (ref, error), found in zip(failed, names, strict=True)
    ]
