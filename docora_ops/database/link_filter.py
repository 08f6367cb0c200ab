"""The one SQL condition that chooses links, and the tables that it reads."""

from __future__ import annotations

from docora_ops.links import LinkFilter

# Postgres plans each statement with its parameters: a condition on nothing costs nothing, nor does
# the join unless something of the repository is asked for.
LINKS = "docora.app_repositories l LEFT JOIN docora.repositories r USING (repository_id)"

MATCHES = """(
    (%(statuses)s::text[] IS NULL OR l.status = ANY (%(statuses)s::text[])
        OR %(or_held_back)s::boolean
            AND l.status = 'pending_snapshot' AND r.circuit_open_until > now())
    AND (%(app_ids)s::text[] IS NULL OR l.app_id = ANY (%(app_ids)s::text[]))
    AND (%(exclude_app_ids)s::text[] IS NULL OR l.app_id <> ALL (%(exclude_app_ids)s::text[]))
    AND (%(repository_ids)s::text[] IS NULL AND %(repository_names)s::text[] IS NULL
         OR l.repository_id = ANY (%(repository_ids)s::text[])
         OR r.owner || '/' || r.name ILIKE ANY (%(repository_names)s::text[]))
    AND (%(errors)s::text[] IS NULL AND NOT %(no_error)s::boolean
         OR l.last_error ILIKE ANY (%(errors)s::text[])
         OR %(no_error)s::boolean AND coalesce(l.last_error, '') = '')
    AND (%(exclude_errors)s::text[] IS NULL
         OR (l.last_error ILIKE ANY (%(exclude_errors)s::text[])) IS NOT TRUE)
    AND (%(open_circuit)s::boolean IS NULL
         OR coalesce(r.circuit_open_until > now(), false) = %(open_circuit)s::boolean)
)"""


def filter_parameters(which: LinkFilter) -> dict[str, object]:
    """Returns the parameters of the condition."""
    return {
        "statuses": [status.value for status in which.statuses] or None,
        "app_ids": list(which.app_ids) or None,
        "exclude_app_ids": list(which.exclude_app_ids) or None,
        "repository_ids": list(which.repository_ids) or None,
        "repository_names": [like(text) for text in which.repository_names] or None,
        "errors": [_part(text) for text in which.errors] or None,
        "exclude_errors": [_part(text) for text in which.exclude_errors] or None,
        "no_error": which.no_error,
        "open_circuit": which.open_circuit,
        "or_held_back": which.or_held_back,
    }


def _part(text: str) -> str:
    """Returns the pattern for LIKE: with `*` the text is all of an error, without it a part."""
    return like(text) if "*" in text else f"%{like(text)}%"


def like(text: str) -> str:
    """Returns the pattern for LIKE that matches this text, where `*` stands for anything."""
    literal = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return literal.replace("*", "%")
