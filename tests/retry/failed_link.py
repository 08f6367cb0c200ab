"""A failed link whose ids and names are known."""

from tests.support.docora import Docora
from tests.support.rows import TestLink

APP = "app_" + "a" * 24
REPOSITORY = "repo_" + "b" * 24
ERROR = "HTTP 502 Bad Gateway on created docs/intro.md"


def fail_again(docora: Docora, link: TestLink) -> None:
    docora.set_link(link, status="failed", retry_count=5, last_error=ERROR)
