"""`docora-ops operations`: what goes on, what went on, and what nobody goes on with."""

from datetime import UTC, datetime, timedelta

from tests.support.docora import Docora

NO_DATABASE = {"DATABASE_URL": None}


def write(docora: Docora, operation_id: str, *, left: int = 3_600_000, **changed: str) -> str:
    """The hash as Docora's dashboard makes it; `left`: of its life, in ms."""
    fields = {"total": "9", "completed": "4", "succeeded": "3", "failed": "1", "cancelled": "false"}
    key = f"docora:bulk:{operation_id}"
    docora.redis.hset(key, items=[x for each in {**fields, **changed}.items() for x in each])
    docora.redis.pexpire(key, left)
    return key


def test_each_state_is_listed_with_the_dashboards_fields_and_the_latest_step_first(
    docora: Docora,
) -> None:
    nothing = docora.run("operations", env=NO_DATABASE)
    assert nothing.stderr.endswith(": no operations.\n")
    write(docora, "bulk_running", left=3_590_000)
    write(docora, "bulk_gone", left=3_400_000)
    write(docora, "bulk_cancelled", left=3_300_000, cancelled="true")
    write(docora, "bulk_done", left=1_000_000, completed="9", cancelled="true")
    docora.redis.persist(write(docora, "bulk_for_ever"))
    # Neighbours that are no operations.
    docora.redis.set("docora:bulk:text", "not a hash")
    docora.redis.hset("docora:bulk:other", "colour", "green")
    before = docora.dump()
    document, table, last = docora.run_together(
        ("operations", "--json"),
        ("operations",),
        ("operations", "--limit", "2", "--page", "3"),
        env=NO_DATABASE,
    )
    assert docora.dump() == before
    found = document.data
    assert [(each["operation_id"], each["state"]) for each in found] == [
        ("bulk_running", "running"),
        ("bulk_gone", "owner_gone"),
        ("bulk_cancelled", "cancelled"),
        ("bulk_done", "done"),
        ("bulk_for_ever", "running"),
    ]
    last_step = datetime.fromisoformat(found[0]["last_step_at"])
    assert timedelta(0) < datetime.now(UTC) - last_step < timedelta(minutes=5)
    assert found[-1]["last_step_at"] is found[-1]["last_step_seconds"] is None
    heading, *rows = [line.split("\t") for line in table.stdout.splitlines()]
    assert heading[0] == "Operation"
    assert rows[1][:5] == ["bulk_gone", "4 of 9", "3", "1", "owner gone"]
    assert rows[1][6].startswith("3 min")
    assert rows[-1][6] == "unknown"
    assert last.stdout.count("bulk_") == 1
    assert last.stderr.endswith(": 5 operations, page 3 of 3.\n")
