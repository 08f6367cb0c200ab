"""A failed link whose ids and names are known."""

import pytest

from tests.retry.failed_link import APP, ERROR, REPOSITORY
from tests.support.docora import Docora
from tests.support.rows import TestLink


@pytest.fixture
def link(docora: Docora) -> TestLink:
    """A failed link whose ids and names are known."""
    docora.add_app("Acme Search", APP)
    docora.add_repository("octo/api", REPOSITORY)
    return docora.link(APP, REPOSITORY, retry_count=5, last_error=ERROR)
