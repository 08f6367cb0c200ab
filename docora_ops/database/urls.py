"""Reads the URLs of apps and repositories and the tokens of links, and sets an app's URL."""

from dataclasses import dataclass, field

from docora_ops.database.postgres import Database
from docora_ops.links import App

READ_BASE_URL = "SELECT base_url FROM docora.apps WHERE app_id = %(app_id)s"

# The lock lets links of the app be added meanwhile.
LOCK_BASE_URL = f"{READ_BASE_URL} FOR NO KEY UPDATE"

SET_BASE_URL = """
UPDATE docora.apps SET base_url = %(base_url)s, updated_at = now() WHERE app_id = %(app_id)s
"""

READ_TOKENS = """
SELECT r.github_url, l.app_id, a.app_name, l.github_token_encrypted
FROM docora.repositories r JOIN docora.app_repositories l USING (repository_id)
JOIN docora.apps a USING (app_id)
WHERE repository_id = %(repository_id)s
    AND (%(app_id)s::text IS NULL OR app_id = %(app_id)s::text)
ORDER BY a.app_name, app_id
"""


@dataclass(frozen=True)
class LinkToken:
    """The encrypted token of an app's link, None if it has none."""

    app: App
    encrypted: str | None = field(repr=False)


def read_base_url(database: Database, app_id: str, *, lock: bool = False) -> str | None:
    """Returns the base_url of an app, None if the app is gone. `lock`: until the commit."""
    rows = database.rows(LOCK_BASE_URL if lock else READ_BASE_URL, {"app_id": app_id})
    return str(rows[0][0]) if rows else None


def set_base_url(database: Database, app_id: str, base_url: str) -> None:
    """Replaces the base_url of an app."""
    database.execute(SET_BASE_URL, {"app_id": app_id, "base_url": base_url})


def read_tokens(
    database: Database, repository_id: str, app_id: str | None = None
) -> tuple[str, list[LinkToken]]:
    """Returns the URL of a repository, and the tokens of its links, or of the link of one app."""
    rows = database.rows(READ_TOKENS, {"repository_id": repository_id, "app_id": app_id})
    url = str(rows[0][0]) if rows else ""
    return url, [LinkToken(App(app_id, name), token) for _, app_id, name, token in rows]
