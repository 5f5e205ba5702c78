"""The real store, in which the process may die or the disk fill up at any call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

from reconciler.errors import TransientError
from reconciler.execution.state.sqlite import SqliteStore
from reconciler.execution.state.store import Reader, Store
from tests.simulation.faults import Faults


class _Failing:
    """Hands every call on to the store; dies before or after some, fails before others."""

    def __init__(
        self, store: SqliteStore, faults: Faults, before: Callable[[str, tuple[Any, ...]], None]
    ) -> None:
        self._store = store
        self._faults = faults
        self._before = before

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found):
            return found
        looks = hasattr(Reader, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._faults.point(f"before store.{name}")
            if not looks:
                self._before(name, args)
                if self._faults.rate and self._faults.rng.random() < self._faults.rate / 20:
                    self._faults.trace(f"store.{name}: disk full")
                    raise TransientError("the disk is full")
            answer = found(*args, **kwargs)
            self._faults.point(f"after store.{name}")
            return answer

        return call

    @contextmanager
    def grouped(self) -> Iterator[None]:
        self._faults.point("before store.grouped")
        with self._store.grouped():
            yield
            self._faults.point("before store.grouped commits")
        self._faults.point("after store.grouped")


def failing(
    store: SqliteStore, faults: Faults, before: Callable[[str, tuple[Any, ...]], None]
) -> Store:
    """``before`` hears of every writing call, with its arguments, before it is made."""
    return cast(Store, _Failing(store, faults, before))
