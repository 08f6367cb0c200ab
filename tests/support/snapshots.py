"""A Docora whose snapshots can really be made: git repositories, a receiver, worker processes."""

import io
import os
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import SecretStr

from docora_ops.settings import Settings
from tests.support.docora import Docora, Process, Result, finish
from tests.support.receiver import Received, Receiver
from tests.support.rows import TestLink

KEY = bytes(range(32))
TOKEN = "ghp_averysecrettoken"
AUTH_KEY = "a-very-secret-auth-key"

Files = Mapping[str | bytes, str | bytes | None]  # contents by path; None removes a file
FILES: Files = {"a": "1\n", "b": "2\n"}


def encrypt(text: str, key: bytes = KEY) -> str:
    iv = os.urandom(16)
    sealed = AESGCM(key).encrypt(iv, text.encode(), None)
    return f"{iv.hex()}:{sealed[-16:].hex()}:{sealed[:-16].hex()}"


class Upstream:
    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")

    @property
    def url(self) -> str:
        return f"file://{self.path}"

    def git(self, *arguments: str) -> str:
        return self.git_of_bytes(*arguments).decode()

    def git_of_bytes(self, *arguments: str, stdin: bytes = b"") -> bytes:
        command = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.com", *arguments]
        done = subprocess.run(command, cwd=self.path, check=True, capture_output=True, input=stdin)
        return done.stdout

    def write(self, files: Files) -> None:
        for name, content in files.items():
            path = os.path.join(os.fsencode(self.path), os.fsencode(name))  # noqa: PTH118 - bytes
            if content is None:
                os.unlink(path)  # noqa: PTH108
                continue
            os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
            with open(path, "wb") as file:  # noqa: PTH123
                file.write(content if isinstance(content, bytes) else content.encode())

    def commit(self, files: Files | None = None) -> str:
        self.write(files or {})
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message=change")
        return self.head

    @property
    def head(self) -> str:
        return self.git("rev-parse", "HEAD").strip()

    def contents(self) -> dict[str, bytes]:
        objects = {}
        listing = self.git_of_bytes("ls-tree", "-r", "-z", "--full-tree", "HEAD")
        for record in listing.split(b"\0")[:-1]:
            header, _, path = record.partition(b"\t")
            if header.startswith(b"100"):
                objects[path.decode(errors="replace")] = header.split()[2]
        asked = b"".join(object_id + b"\n" for object_id in objects.values())
        answers = io.BytesIO(self.git_of_bytes("cat-file", "--batch", stdin=asked))
        contents = {}
        for name in objects:
            contents[name] = answers.read(int(answers.readline().split()[2]))
            answers.readline()
        return contents


@dataclass
class Snapshots:
    docora: Docora
    folder: Path
    receiver: Receiver
    settings_changes: dict[str, Any] = field(default_factory=dict)

    def add_app(self, name: str = "Acme", *, base_url: str | None = None) -> str:
        """An app that the receiver knows by `name`."""
        app_id = self.docora.add_app(name)
        self.receiver.keys[name] = AUTH_KEY
        self.docora.connection.execute(
            "UPDATE apps SET base_url = %s, client_auth_key_encrypted = %s WHERE app_id = %s",
            (base_url or self.receiver.base_url(name), encrypt(AUTH_KEY), app_id),
        )
        return app_id

    def add_upstream(self, full_name: str = "octo/api") -> Upstream:
        return Upstream(self.folder / "upstream" / full_name)

    def add_repository(self, upstream: Upstream, full_name: str = "octo/api") -> str:
        return self.docora.add_repository(full_name, url=upstream.url)

    def link(
        self, app_id: str, repository_id: str, status: str = "failed", **options: Any
    ) -> TestLink:
        link = self.docora.link(app_id, repository_id, status, **options)
        self.set_token(link, None)
        return link

    def set_token(self, link: TestLink, token: str | None) -> None:
        self.docora.set_link(link, github_token_encrypted=token and encrypt(token))

    def add_link(
        self, files: Files, status: str = "failed", **options: Any
    ) -> tuple[TestLink, Upstream]:
        """A new app's link to a new repository with one commit of these files."""
        upstream = self.add_upstream()
        upstream.commit(files)
        link = self.link(self.add_app(), self.add_repository(upstream), status, **options)
        return link, upstream

    def add_queued(self, files: Files) -> tuple[TestLink, Upstream]:
        link, upstream = self.add_link(files)
        self.queue(link)
        return link, upstream

    def add_links(self, names: Iterable[str]) -> dict[str, TestLink]:
        """Links of as many new apps to one repository with one file."""
        upstream = self.add_upstream()
        upstream.commit({"a": "1\n"})
        repository_id = self.add_repository(upstream)
        return {name: self.link(self.add_app(name), repository_id) for name in names}

    def set_base_url(self, url: str) -> None:
        self.docora.connection.execute("UPDATE apps SET base_url = %s", (url,))

    def received(self, name: str = "Acme") -> Received:
        return self.receiver.of(name)

    @property
    def repos(self) -> Path:
        return self.folder / "repos"

    def clone(self) -> Path:
        return self.repos / ".docora-ops/clones/octo/api"

    @property
    def settings(self) -> Settings:
        changes = {
            "database_url": SecretStr(self.docora.database_url),
            "redis_url": SecretStr(self.docora.redis_url),
            "encryption_key": SecretStr(KEY.hex()),
            "repos_base_path": self.repos,
            "git_protocols": "file,http",
            **self.settings_changes,
        }
        return self.docora.settings.model_copy(update=changes)

    def environment(self, **changes: str | None) -> dict[str, str | None]:
        return {
            "DATABASE_URL": self.docora.database_url,
            "REDIS_URL": self.docora.redis_url,
            "ENCRYPTION_KEY": KEY.hex(),
            "REPOS_BASE_PATH": str(self.repos),
            "DOCORA_OPS_GIT_PROTOCOLS": "file,http",
            "SCAN_CONCURRENCY": "1",
            **changes,
        }

    def queue(self, link: TestLink) -> None:
        """Has the link's job wait in the queue, whatever the status of the link."""
        self.docora.queue_job(link)

    def start_worker(self, *arguments: str, **changes: str | None) -> Process:
        return self.docora.start_installed("worker", *arguments, env=self.environment(**changes))

    def work(self, *arguments: str, **changes: str | None) -> Result:
        return finish(self.start_worker("--burst", *arguments, **changes))

    def deliveries(self, link: TestLink) -> dict[str, str]:
        of_link = "app_delivered_files WHERE app_id = %s AND repository_id = %s"
        query = f"SELECT file_path, file_sha FROM {of_link}"
        rows = self.docora.connection.execute(query.encode(), link.ids)
        return {row["file_path"]: row["file_sha"] for row in rows}

    def snapshot_files(self, repository_id: str) -> dict[str, str]:
        stored = "snapshot_files f JOIN repository_snapshots s ON s.id = f.snapshot_id"
        query = f"SELECT path, sha FROM {stored} WHERE repository_id = %s"
        rows = self.docora.connection.execute(query.encode(), (repository_id,))
        return {row["path"]: row["sha"] for row in rows}
