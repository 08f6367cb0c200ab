"""The dashboard for Grafana: it can be imported, and each panel finds numbers in a Prometheus."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from functools import partial
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.help.documents import HELP, read, topic
from tests.support.docora import Docora
from tests.support.proxy import eventually, free_port, patience
from tests.support.terminal import on_terminal

DASHBOARD = json.loads(read(HELP / "grafana.json"))
PANELS = DASHBOARD["panels"]
TARGETS = [(panel["title"], target) for panel in PANELS for target in panel["targets"]]
CONTENT_TYPES = {
    "/plain": "text/plain; version=0.0.4; charset=utf-8",
    "/openmetrics": "application/openmetrics-text; version=1.0.0; charset=utf-8",
}


def test_help_prints_the_dashboard_and_how_to_import_it(docora: Docora, tmp_path: Path) -> None:
    env = {"DATABASE_URL": None, "REDIS_URL": None}
    result = docora.run("help", "grafana", env=env)
    assert (result.code, result.stderr) == (0, topic("grafana"))
    assert result.stdout == read(HELP / "grafana.json")
    [line] = re.findall(r"docora-ops help grafana >docora\.json", topic("grafana"))
    assert docora.run_in_shell(f"cd {tmp_path}; {line}", env=env).code == 0
    assert json.loads(read(tmp_path / "docora.json")) == DASHBOARD
    code, shown = on_terminal(docora, ["help", "grafana"], env=env)
    assert (code, "In Grafana, choose Dashboards" in shown.partition('"panels"')[2]) == (0, True)


def test_it_has_what_an_import_needs_and_no_data_source_of_its_author() -> None:
    assert (DASHBOARD["id"], DASHBOARD["uid"]) == (None, "docora-ops")
    assert DASHBOARD["schemaVersion"] == 39
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert variables["target"]["datasource"] == source
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel["title"]
        assert [panel["datasource"], *(each["datasource"] for each in panel["targets"])] == (
            [source] * (1 + len(panel["targets"]))
        )
    for _, target in TARGETS:
        assert set(re.findall(r"\$(\w+)", target["expr"])) == {"target"} < variables.keys()


class _Texts(BaseHTTPRequestHandler):
    """Answers with the text of the path."""

    def __init__(self, texts: dict[str, str], *arguments: Any) -> None:
        self._texts = texts
        super().__init__(*arguments)

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPES[self.path])
        self.end_headers()
        self.wfile.write(self._texts[self.path].encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(texts: dict[str, str]) -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Texts, texts)) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


class Prometheus:
    def __init__(self, port: int) -> None:
        self._port = port

    def ask(self, path: str, **parameters: str) -> Any:
        with closing(HTTPConnection("127.0.0.1", self._port, timeout=patience())) as connection:
            connection.request("GET", f"/api/v1/{path}?{urlencode(parameters)}")
            answer = json.load(connection.getresponse())
        assert answer["status"] == "success", answer
        return answer["data"]

    def has_scraped(self) -> bool:
        """Tells whether all texts were read. Fails on a text that could not be."""
        try:
            targets = self.ask("targets")["activeTargets"]
        except (ConnectionRefusedError, json.JSONDecodeError):  # it starts
            return False
        for target in targets:
            assert not target["lastError"], target
        return bool(targets) and all(target["health"] == "up" for target in targets)


@contextmanager
def prometheus(folder: Path, texts: dict[str, str]) -> Iterator[Prometheus]:
    """Starts a Prometheus that has scraped these texts."""
    with serving(texts) as source:
        at = [{"targets": [f"127.0.0.1:{source}"]}]
        jobs = [{"job_name": path, "metrics_path": path, "static_configs": at} for path in texts]
        config = folder / "prometheus.yml"
        # JSON is YAML, too.
        config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
        port = free_port()
        command = (
            *("prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"),
            *(f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"),
        )
        with (
            (folder / "log").open("w") as log,
            subprocess.Popen(command, stdout=log, stderr=log) as process,
        ):
            server = Prometheus(port)
            try:
                eventually(server.has_scraped, "a scrape by Prometheus")
                yield server
            finally:
                process.kill()


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs prometheus (Debian: prometheus)"
)
def test_each_expression_finds_numbers_of_a_real_docora(docora: Docora, tmp_path: Path) -> None:
    docora.link(docora.add_app("Acme Search"), docora.add_repository("octo/api"), "failed")
    docora.add_repository("octo/web", circuit_open_for=timedelta(hours=1))
    for minutes in (1, 2, 3):  # as few scans as tell how long a cycle is
        docora.add_link("synced", scanned=timedelta(minutes=minutes))
    docora.queue_job(docora.add_link())
    docora.add_worker()
    docora.redis.set("docora-ops:schedule", 1_764_380_000)
    file = tmp_path / "docora-ops" / "targets" / "prod.env"
    file.parent.mkdir(parents=True)
    file.touch(mode=0o600)
    file.write_text(f"DATABASE_URL={docora.database_url}\nREDIS_URL={docora.redis_url}\n")
    command = ("metrics", "--by-app", "--by-error")
    plain = docora.run(*command)
    of_target = docora.run(
        *command, "--openmetrics", "--target", "prod", env={"XDG_CONFIG_HOME": str(tmp_path)}
    )
    assert (plain.code, of_target.code) == (0, 0)
    texts = {"/plain": plain.stdout, "/openmetrics": of_target.stdout}
    with prometheus(tmp_path, texts) as server:
        values = server.ask("label/target/values", **{"match[]": "docora_up"})
        assert values == ["prod"]
        for title, target in TARGETS:
            for chosen, names in ((".*", [None, "prod"]), ("prod", ["prod"])):
                query = target["expr"].replace("$target", chosen)
                series = server.ask("query", query=query)["result"]
                assert {each["metric"].get("target") for each in series} == set(names), (
                    title,
                    query,
                )
                for label in set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) - {"target"}:
                    assert all(label in each["metric"] for each in series), (title, label)
