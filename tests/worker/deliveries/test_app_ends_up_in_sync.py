"""Whatever is committed and whatever fails: in the end the app has what the repository has."""

from collections import Counter
from itertools import count

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from docora_ops.errors import SnapshotError
from tests.support.delivery_checks import assert_in_sync, sha
from tests.support.receiver import Request
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots

PATHS = ("a", "b.bin", "d/a", "d/ä\u2028", "z\n")
CONTENTS: tuple[bytes, ...] = (
    b"",
    b"text",
    "€\U0001f600\ufeff".encode(),
    b"\0",
    b"\0" * 30,
    bytes(range(256)) * 2,
    b"\xff" * 1000,
)
NUMBERS = count()


changes = st.dictionaries(st.sampled_from(PATHS), st.none() | st.sampled_from(CONTENTS), max_size=5)
"""A commit: contents by path; None deletes a file. Both for one content are a rename."""
statuses = st.lists(st.sampled_from([200, 200, 200, 201, 204, 400, 500, 503]), max_size=8)
"""Answers to the POSTs of the job after a commit; 200 to those beyond."""


class App:
    """Answers as it is told, and knows what it has acknowledged."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.acknowledged: Counter[tuple[str, str]] = Counter()
        self.failures = 0

    def answer(self, request: Request) -> int:
        status = self.statuses.pop(0) if self.statuses else 200
        if status >= 300:
            self.failures += 1
            return status
        file = request.json["file"]
        chunk = file.get("chunk")
        if chunk is None or chunk["index"] == chunk["total"] - 1:
            self.acknowledged[request.path, file["sha"]] += 1
        return status


def run(snapshots: Snapshots, link: TestLink, app: App) -> None:
    """Run the job, which fails exactly when the app refuses something."""
    failures = app.failures
    try:
        snapshots.run_job(link)
    except SnapshotError:
        assert app.failures == failures + 1
        assert snapshots.docora.status(link) == "failed"
    else:
        assert app.failures == failures


@settings(
    max_examples=8,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.tuples(changes, statuses), min_size=1, max_size=4))
def test_the_app_ends_up_with_the_files_of_the_repository(
    snapshots: Snapshots, steps: list[tuple[dict[str, bytes | None], list[int]]]
) -> None:
    chunks = {"binary_chunk_threshold_bytes": 20, "binary_chunk_size_bytes": 101}
    snapshots.settings_changes |= chunks
    number = next(NUMBERS)
    name, full_name = f"App{number}", f"octo/repo{number}"
    upstream = snapshots.add_upstream(full_name)
    link = snapshots.link(snapshots.add_app(name), snapshots.add_repository(upstream, full_name))
    app = App()
    snapshots.receiver.answer = app.answer
    files: dict[str, bytes] = {}
    received = snapshots.received(name)
    for commit, answers in steps:
        app.statuses = list(answers)
        acknowledged, before = app.acknowledged.copy(), dict(received.files)
        old = files.keys()
        contents = {**files, **commit}
        files = {path: content for path, content in contents.items() if content is not None}
        upstream.commit({path: files.get(path) for path in {*old, *files}})
        run(snapshots, link, app)
        # What the app has acknowledged is recorded, and nothing else.
        deliveries = snapshots.deliveries(link)
        assert deliveries == {path: sha(content) for path, content in received.files.items()}
        new = app.acknowledged - acknowledged
        assert max(new.values(), default=1) == 1
        changed = {path for path in before | files if before.get(path) != files.get(path)}
        assert {path for path, _ in new} <= changed
        if snapshots.docora.status(link) == "synced":
            assert {path for path, _ in new} == changed
            assert_in_sync(snapshots, link, upstream, name)
    app.statuses = []
    run(snapshots, link, app)
    assert_in_sync(snapshots, link, upstream, name)
    for path, content in files.items():
        assert app.acknowledged[path, sha(content)] >= 1
    requests = len(received.requests)
    run(snapshots, link, app)
    assert len(received.requests) == requests
