"""Commands and a worker in the image, as little privileged as can be: `make image-check`."""

import os
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from tests.support.docora import Docora, Process, Result, finish
from tests.support.git_over_http import GitSite
from tests.support.proxy import eventually
from tests.support.snapshots import Snapshots

IMAGE, ENGINE = os.environ["TEST_IMAGE"], os.environ.get("TEST_ENGINE", "docker")
CONFINED = ("--network=host", "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")


def start(docora: Docora, *arguments: str, env: dict[str, str | None], options: str) -> Process:
    """Starts a container with these variables."""
    variables = docora.environment(**env).keys() - {"PATH", "HOME", "TMPDIR", "LANG"}
    passed = [f"--env={name}" for name in sorted(variables)]
    [sockets] = parse_qs(urlsplit(docora.database_url).query).get("host", [""])
    passed += [f"--volume={sockets}:{sockets}"] if sockets else []
    command = (ENGINE, "run", "--rm", *CONFINED, *options.split(), *passed, IMAGE, *arguments)
    return docora.start_program(*command, env={**env, **engine_variables()})


def engine_variables() -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in ("DOCKER_HOST", "CONTAINER_HOST")}


def ask(docora: Docora, *command: str) -> Result:
    return finish(docora.start_program(ENGINE, *command, env=engine_variables()))


def run(docora: Docora, *arguments: str) -> Result:
    return finish(start(docora, *arguments, env={}, options=""))


def test_commands_say_what_they_say_outside(docora: Docora) -> None:
    link = docora.add_link()
    assert run(docora, "status").code == 0
    assert run(docora, "links", "--json").data == docora.run("links", "--json").data
    assert run(docora, "retry", *link.ids).code == 0
    assert docora.waiting() == [link.job_id]


def test_a_worker_delivers_passes_doctor_and_ends_when_told(snapshots: Snapshots) -> None:
    docora, upstream = snapshots.docora, snapshots.add_upstream()
    upstream.commit({"a": "1\n"})
    name = f"docora-ops-{uuid4().hex}"
    with GitSite(upstream.path.parent.parent).serving() as site:
        repository_id = docora.add_repository("octo/api", url=f"{site.url}/octo/api/.git")
        link = snapshots.link(snapshots.add_app(), repository_id)
        environment = snapshots.environment(REPOS_BASE_PATH=None)
        folders = "--tmpfs=/tmp --tmpfs=/data/repos:mode=1777"
        worker = start(
            docora, "worker", env=environment, options=f"--name={name} --stop-timeout=60 {folders}"
        )
        try:
            check = ("exec", name, "docora-ops", "doctor")
            eventually(lambda: ask(docora, *check).code == 0, "a live worker")
            snapshots.queue(link)
            eventually(lambda: docora.status(link) == "synced", "a snapshot")
        finally:
            ask(docora, "stop", name)
    assert finish(worker).code == 0
    assert snapshots.received().files == {"a": b"1\n"}
