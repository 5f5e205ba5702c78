"""Runs a coroutine or function inside a test's own namespace, in a process of its own."""

from __future__ import annotations

import asyncio
import os
import pickle
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from reconciler.network import namespace

InNamespace = Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]


def run_inside(name: str, body: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Fork, enter the namespace, run, and hand back the result or fail with the traceback."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        answer: tuple[str, Any]
        try:
            namespace.enter(name)
            answer = ("ok", asyncio.run(body()))
        except BaseException:  # noqa: BLE001 - the parent raises it
            answer = ("failed", traceback.format_exc())
        with os.fdopen(writer, "wb") as stream:
            pickle.dump(answer, stream)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        data = stream.read()
    os.waitpid(child, 0)
    state, value = pickle.loads(data)
    if state != "ok":
        pytest.fail(f"inside {name}:\n{value}")
    return value


@pytest.fixture
def inside(netns: str) -> InNamespace:
    def run(body: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return run_inside(netns, body)

    return run
