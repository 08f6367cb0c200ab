"""Where a worker goes: the URLs of apps and repositories, and the tokens of links."""

from dataclasses import dataclass, field

from docora_ops.database.postgres import Database
from docora_ops.links import App

READ_BASE_URL = "SELECT base_url FROM docora.apps WHERE app_id = %(app_id)s"

READ_GITHUB_URL = """
SELECT github_url FROM docora.repositories WHERE repository_id = %(repository_id)s
"""

READ_TOKENS = """
SELECT l.app_id, a.app_name, l.github_token_encrypted
FROM docora.app_repositories l JOIN docora.apps a USING (app_id)
WHERE l.repository_id = %(repository_id)s
    AND (%(app_id)s::text IS NULL OR l.app_id = %(app_id)s::text)
ORDER BY a.app_name, l.app_id
"""

# The lock lets links of the app be added meanwhile.
LOCK_BASE_URL = f"{READ_BASE_URL} FOR NO KEY UPDATE"

SET_BASE_URL = """
UPDATE docora.apps SET base_url = %(base_url)s, updated_at = now() WHERE app_id = %(app_id)s
"""


@dataclass(frozen=True)
class LinkToken:
    """The encrypted token of an app's link, None if it has none."""

    app: App
    encrypted: str | None = field(repr=False)


def read_base_url(database: Database, app_id: str, *, lock: bool = False) -> str | None:
    """Returns the base_url of an app, None if the app is gone. `lock`: until the commit."""
    sql = LOCK_BASE_URL if lock else READ_BASE_URL
    rows = database.rows(sql, {"app_id": app_id})
    return str(rows[0][0]) if rows else None


def set_base_url(database: Database, app_id: str, base_url: str) -> None:
    """Replaces the base_url of an app."""
    database.execute(SET_BASE_URL, {"app_id": app_id, "base_url": base_url})


def read_tokens(
    database: Database, repository_id: str, app_id: str | None = None
) -> tuple[str, list[LinkToken]]:
    """Returns the URL of a repository, and the tokens of its links, or of the link of one app."""
    parameters = {"repository_id": repository_id, "app_id": app_id}
    url = "".join(row[0] for row in database.rows(READ_GITHUB_URL, parameters))
    rows = database.rows(READ_TOKENS, parameters)
    return url, [LinkToken(App(app_id, name), token) for app_id, name, token in rows]
