"""Each example runs: those of the commands' own help, of README, and of the topics.

test_transcripts.py plays the console blocks of two topics, test_python.py the example in Python.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from docora_ops.demo.servers import apps
from docora_ops.demo.world import ACME, API, ROBOT
from docora_ops.links import batches
from tests.help.documents import README, TOPICS, command_lines, group, read
from tests.help.test_transcripts import Stage
from tests.support.docora import Docora, Result
from tests.support.privileges import block

NOT_RUN = {
    "worker": "it runs until it is stopped: tests/worker",
    "demo": "it starts servers of its own: tests/help/test_demo.py",
    "help": "whether the page exists is a test of its own",
}
PLAYED = {"incident", "json"}
ENV_FILE = re.compile(r"/etc/docora/\w+\.env")
OPERATION = re.compile(r"ID|bulk_[0-9a-f]{16}")
PLACEHOLDERS = {"APP": ACME.name, "REPO": API.repository_name, "URL": "https://new.example/hook"}
CHANGING = {
    *("retry", "retry-all-failed", "resync", "repair", "schedule", "set-url", "cancel"),
    *("pause", "resume"),
}
WRONG = {1, 2, 3, 5, 129, 130}
"""All codes but success, refused in the present state, and finished with problems."""


def examples() -> list[tuple[str, ...]]:
    """Returns the arguments of each example once."""
    texts = [f"`{each.epilog.removeprefix('Example: ')}`" for each in group().commands.values()]
    for name, file in {"README": README, **TOPICS}.items():
        console = r"^```console\n.*?^```" if name in PLAYED else "^$"
        texts.append(re.sub(console, "", read(file), flags=re.MULTILINE | re.DOTALL))
    return list(dict.fromkeys(tuple(words) for text in texts for words in command_lines(text)))


def is_run(words: tuple[str, ...]) -> bool:
    """Tells whether the command is run: it must end by itself."""
    return "--check" in words or (words[0] not in NOT_RUN and "--watch" not in words)


def as_typed(words: tuple[str, ...], env_file: Path, operation_id: str) -> tuple[str, ...]:
    """Returns the arguments for the Docora of the test, with the answer to a question.

    No worker runs, so a command that waits for snapshots does so for a second.
    """
    typed = [PLACEHOLDERS.get(word, word) for word in words]
    typed = [str(env_file) if ENV_FILE.fullmatch(word) else word for word in typed]
    # The folder of the page is made when the package is installed.
    typed = [word.replace("/var/lib/docora", str(env_file.parent)) for word in typed]
    typed = [operation_id if OPERATION.fullmatch(word) else word for word in typed]
    parameters = {parameter.name for parameter in group().commands[words[0]].params}
    if "yes" in parameters and not {"--yes", "--dry-run"} & set(words):
        typed.append("--yes")
    if words[0] == "wait" or {"--wait", "--in-flight"} & set(words):
        typed += ["--timeout", "1"]  # the last one counts
    return tuple(typed)


def test_each_page_that_an_example_names_exists() -> None:
    pages = {words[1] for words in examples() if words[0] == "help" and len(words) > 1}
    assert pages - {*TOPICS, *group().commands} == set()


@pytest.fixture
def stage(docora: Docora, tmp_path: Path, repository_root: Path) -> Iterator[Stage]:
    """The small Docora of the demo, as the examples have it."""
    grant = block("GRANT UPDATE (base_url, updated_at) ON apps")
    docora.connection.execute(grant.replace("docora_ops", docora.role).encode())
    with apps() as (url, _):
        stage = Stage(docora, tmp_path / "upstream", url, repository_root)
        # A resync forgets what was delivered, and examples need a file below docs/.
        docora.connection.execute(
            "WITH stored AS (INSERT INTO repository_snapshots (repository_id, commit_sha)"
            " VALUES (%s, 'c0ffee') RETURNING id)"
            " INSERT INTO snapshot_files (snapshot_id, path, sha, size)"
            " SELECT id, 'docs/index.md', 'c0ffee', 1 FROM stored",
            (API.repository_id,),
        )
        yield stage


@pytest.mark.slow
def test_each_example_runs(stage: Stage, tmp_path: Path) -> None:
    docora = stage.docora
    prod = tmp_path / "prod.env"
    prod.write_text(f"DATABASE_URL={docora.database_url}\nREDIS_URL={docora.redis_url}\n")
    started = docora.run("retry-all-failed", "--app", ROBOT.name, "--json", env=stage.environment)
    operation_id = started.data["operation_id"]

    found: dict[str, Result] = {}
    typed = (as_typed(words, prod, operation_id) for words in examples() if is_run(words))
    commands = sorted(dict.fromkeys(typed), key=lambda words: words[0] in CHANGING)
    for some in batches(commands, 8):
        if some[-1][0] in CHANGING:
            stage.fail("HTTP 502 on created README.md", "true")
            docora.redis.delete(docora.queue.key, *docora.redis.keys("rq:job:*"))
        results = docora.run_together(*some, env=stage.environment)
        found |= {" ".join(words): result for words, result in zip(some, results, strict=True)}
    assert {line: each for line, each in found.items() if each.code in WRONG} == {}
