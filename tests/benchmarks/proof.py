"""How fast `verify` compares, against a plain read of the same rows: `proof NAME LINKS`."""

import statistics
import sys

from docora_ops import actions
from docora_ops.actions import Docora
from docora_ops.actions.verification import Verification
from docora_ops.settings import load_settings
from tests.benchmarks import world
from tests.benchmarks.ways import Results, measure, report, show

FILES = 100  # of each link
FILL = f"""
INSERT INTO repository_snapshots (repository_id, commit_sha, scanned_at)
SELECT repository_id, repeat('ab', 20), now() - interval '2 days' FROM repositories;
INSERT INTO snapshot_files (snapshot_id, path, sha, size)
SELECT id, 'src/part' || i / 10 || '/file' || i || '.py',
    encode(sha256((id::text || i)::bytea), 'hex'), 1000
FROM repository_snapshots, generate_series(1, {FILES}) i;
INSERT INTO app_delivered_files (app_id, repository_id, file_path, file_sha)
SELECT app_id, repository_id, path, sha
FROM app_repositories JOIN repository_snapshots s USING (repository_id)
    JOIN snapshot_files f ON f.snapshot_id = s.id
"""
READ = (
    "COPY (SELECT app_id, repository_id, file_path, file_sha FROM app_delivered_files) TO STDOUT",
    "COPY (SELECT snapshot_id, path, sha FROM snapshot_files) TO STDOUT",
)


def compare(sizes: list[int], rounds: int) -> None:
    """Prints how fast files are compared, and whether that stays so when there are more."""
    by_size: dict[int, Results] = {}
    for links in sizes:
        results = by_size[links] = {}
        world.fill(links, "synced")
        with world.connect()[0] as connection:
            connection.execute(FILL.encode())
            connection.execute("VACUUM ANALYZE")
            connection.execute("CHECKPOINT")
        for _ in range(rounds):
            for way in WAYS:
                results.setdefault(way, []).append(measure(way, links, "proof"))
        print(f"\n{links * FILES:,} delivered files of {links:,} links, median of {rounds}")
        show(results, "plain read")
    small, large = min(sizes), max(sizes)
    if small < large:
        # Against the plain read, which is slower, too, where the rows do not fit into memory.
        ratio = times_the_read(by_size[large]) / times_the_read(by_size[small])
        files = f"among {large * FILES:,} takes {ratio:.2f} times one among {small * FILES:,}"
        print(f"  verify: against the plain read, a file {files}")


def times_the_read(results: Results) -> float:
    pairs = zip(results["verify"], results["plain read"], strict=True)
    return statistics.median(own.seconds / read.seconds for own, read in pairs)


def verify(links: int) -> int:
    *_, found = actions.verify(Docora(load_settings()))
    assert isinstance(found, Verification)
    assert found.proven == found.links == links, found
    return links * FILES


def plain_read(links: int) -> int:
    with world.connect()[0] as connection:
        for statement in READ:
            with connection.cursor().copy(statement) as rows:
                for _ in rows:
                    pass
    return links * FILES


WAYS = {"verify": verify, "plain read": plain_read}


if __name__ == "__main__":
    report(lambda: WAYS[sys.argv[1]](int(sys.argv[2])))
