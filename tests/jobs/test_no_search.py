"""The queue's list is searched for a single job only, and read at most once for many."""

from itertools import takewhile

import pytest

from tests.support.docora import Docora

KEY = "rq:queue:snapshot-queue"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "searches"),
    [
        *(("links --limit 1000", 0), ("status", 0), ("queue", 0)),
        *(("retry-all-failed --yes", 0), ("show", 1), ("retry", 1)),
    ],
)
def test_a_command_searches_for_no_more_jobs_than_it_names(
    docora: Docora, command: str, searches: int
) -> None:
    docora.add_links(300)
    docora.actions().retry_all(batch_size=1000)
    for link in docora.links()[7:207]:
        docora.set_link(link, status="failed")
    docora.age_links()
    words = [*command.split(), *(docora.links()[7].ids if searches else ())]
    with docora.redis.monitor() as monitor:  # type: ignore[no-untyped-call]
        assert docora.run(*words).code == 0
        docora.redis.echo("the end")
        sent = [
            each["command"]
            for each in takewhile(lambda each: each["command"] != "ECHO the end", monitor.listen())
        ]
    found = [each for each in sent if each.upper().startswith(f"LPOS {KEY} ".upper())]
    assert len(found) == searches, found
    if command == "show":
        assert found[0].endswith("MAXLEN 10000")
    read = [each.split()[2:] for each in sent if each.startswith(f"LRANGE {KEY} ")]
    assert all(0 <= int(end) - int(start) < 5000 for start, end in read), read
    whole = [start for start, _ in read if int(start) < 0]
    # One page, and one behind the end of the list.
    assert len(whole) == (2 if "all" in command else 0), read
    assert not [
        each for each in sent if each.upper().startswith((f"LREM {KEY} ".upper(), "LSET", "LINDEX"))
    ]
