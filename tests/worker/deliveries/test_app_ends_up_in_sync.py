"""Whatever is committed and whatever fails: in the end the app has what the repository has."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import count

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from docora_ops.demo.receiver import Request
from docora_ops.errors import SnapshotError
from tests.support.delivery_checks import assert_in_sync, sha
from tests.support.rows import TestLink
from tests.support.snapshots import Snapshots, Upstream

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


@dataclass(frozen=True)
class Write:
    """Create a file, or change it."""

    path: str
    content: bytes


@dataclass(frozen=True)
class Delete:
    path: str


@dataclass(frozen=True)
class Rename:
    path: str
    new_path: str


Change = Write | Delete | Rename

paths = st.sampled_from(PATHS)
changes = st.one_of(
    st.builds(Write, paths, st.sampled_from(CONTENTS)),
    st.builds(Delete, paths),
    st.builds(Rename, paths, paths),
)
statuses = st.lists(st.sampled_from([200, 200, 200, 201, 204, 400, 500, 503]), max_size=8)


@dataclass(frozen=True)
class Step:
    """A commit, and how the POSTs of the job after it are answered; those beyond: 200."""

    changes: list[Change]
    statuses: list[int]


steps = st.lists(st.builds(Step, st.lists(changes, max_size=5), statuses), min_size=1, max_size=4)


def commit(upstream: Upstream, files: dict[str, bytes], changes: list[Change]) -> None:
    """Make the changes that can be made to the files, in the repository too."""
    before = dict(files)
    for change in changes:
        match change:
            case Write(path, content):
                files[path] = content
            case Delete(path):
                files.pop(path, None)
            case Rename(path, new_path) if path in files:
                files[new_path] = files.pop(path)
    to_write: dict[str | bytes, str | bytes | None] = dict.fromkeys(before)
    to_write.update(files)
    upstream.commit(to_write)


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
    max_examples=20,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps)
def test_the_app_ends_up_with_the_files_of_the_repository(
    snapshots: Snapshots, steps: list[Step]
) -> None:
    snapshots.settings_changes = {
        "binary_chunk_threshold_bytes": 20,
        "binary_chunk_size_bytes": 101,
    }
    number = next(NUMBERS)
    name, full_name = f"App{number}", f"octo/repo{number}"
    upstream = snapshots.add_upstream(full_name)
    link = snapshots.link(snapshots.add_app(name), snapshots.add_repository(upstream, full_name))
    app = App()
    snapshots.receiver.answer = app.answer
    files: dict[str, bytes] = {}
    received = snapshots.received(name)
    for step in steps:
        app.statuses = list(step.statuses)
        acknowledged, before = app.acknowledged.copy(), dict(received.files)
        commit(upstream, files, step.changes)
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
