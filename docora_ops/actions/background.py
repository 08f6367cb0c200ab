"""Asking one server while another is asked."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

from docora_ops.errors import ServerError

PATIENCE = 8
"""Seconds after which a look ends with what was read by then."""
T = TypeVar("T")


def in_background(ask: Callable[[], T]) -> Future[T]:
    """Calls the function in a daemon thread, which an interrupt does not wait for."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(ask())
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def outcome(future: Future[T], errors: list[ServerError]) -> T | None:
    """Returns the result, None if there is none yet; adds the error of a lost server."""
    if future.done():
        try:
            return future.result()
        except ServerError as error:
            errors.append(error)
    return None


def too_late(server: str, kind: type[ServerError]) -> ServerError:
    """Returns the error of a server that has not told all in time."""
    return kind(
        f"{server} has not told all within {PATIENCE} s",
        hint="check its load and the network",
    )
