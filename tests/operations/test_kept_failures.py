"""The links that an operation has left undone, and why, as long as it is remembered."""

from tests.support.docora import Docora
from tests.support.rows import TestLink

NO_DATABASE = {"DATABASE_URL": None}
HOSTILE = "\x1b[31m[bold]red"


def add_poison(docora: Docora, number: int) -> TestLink:
    """A link whose ids can't form a job id; it comes before all others."""
    app_id = docora.add_app("Poison", f"app_!{number:03}{HOSTILE}")
    return docora.link(app_id, docora.add_repository(f"octo/poison{number}", f"repo_!{number}"))


def failures_key(operation: str) -> str:
    return f"docora-ops:operation:{operation}:failures"


def test_progress_lists_the_failures_later_and_forgets_them_with_the_operation(
    docora: Docora,
) -> None:
    docora.add_links(3)
    poison = [add_poison(docora, number) for number in range(22)]
    run = docora.run("retry-all-failed", "--json", "--batch-size", "7")
    assert (run.code, run.data["not_queued"], run.data["put_to_work"]) == (6, 22, 3)
    operation = run.data["operation_id"]
    before = docora.dump()
    document, table, followed = docora.run_together(
        ("progress", operation, "--json"),
        ("progress", operation),
        ("progress", operation, "--follow", "--json"),
        env=NO_DATABASE,
    )
    assert docora.dump() == before
    assert document.code == 0, document
    assert document.data["failures"] == run.data["failures"]
    assert [each["job_id"] for each in document.data["failures"]] == [
        link.job_id for link in poison
    ]
    assert (followed.code, followed.data["failures"]) == (6, run.data["failures"])
    assert "Poison ← octo/poison0\t" in table.stdout
    assert "\x1b" not in table.stdout + document.stdout
    assert "octo/poison21\t" in table.stdout
    # One operation, and one lifetime.
    lives = [
        docora.redis.pttl(key) for key in (f"docora:bulk:{operation}", failures_key(operation))
    ]
    assert 3_500_000 < min(lives) <= max(lives) <= min(lives) + 100
