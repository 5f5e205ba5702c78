"""Wake-ups when files change, also when the whole tree is exchanged under its name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from reconciler.source.git import GitSource
from reconciler.source.watching import changes
from tests.source.repositories import Repo

PATIENCE_S = 10.0


class Watch:
    """The wake-ups of one path, while a test changes it."""

    def __init__(self, path: Path) -> None:
        self.stop = asyncio.Event()
        self._woken = asyncio.Event()
        self._path = path
        self.count = 0

    async def run(self) -> None:
        async for _ in changes(self._path, self.stop):
            self.count += 1
            self._woken.set()

    async def wakes_on(self, change: Callable[[int], object]) -> None:
        """Make the change until it is told: the watch may still be on its way to be set up."""
        self._woken.clear()
        async with asyncio.timeout(PATIENCE_S):
            for turn in range(1000):
                change(turn)
                try:
                    async with asyncio.timeout(0.5):
                        await self._woken.wait()
                        return
                except TimeoutError:
                    continue

    async def wakes(self) -> None:
        """Wait for a wake-up that comes without another change."""
        async with asyncio.timeout(PATIENCE_S):
            await self._woken.wait()
        self._woken.clear()


@asynccontextmanager
async def watched(path: Path) -> AsyncIterator[Watch]:
    watch = Watch(path)
    task = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        watch.stop.set()
        await task


def writer(file: Path) -> Callable[[int], object]:
    return lambda turn: file.write_text(f"{turn}\n")


def switch(link: Path, target: str) -> None:
    """Set a link to another target in one step, as kubelet does with ``..data``."""
    fresh = link.with_name(f"{link.name}.fresh")
    fresh.symlink_to(target)
    fresh.rename(link)


async def test_saves_wake(tmp_path: Path) -> None:
    async with watched(tmp_path) as watch:
        await watch.wakes_on(writer(tmp_path / "a.yaml"))
        (tmp_path / "sub").mkdir()
        await watch.wakes_on(writer(tmp_path / "sub" / "b.yaml"))


@pytest.mark.parametrize("inside", ["", "specs"])
async def test_commits_wake(tmp_path: Path, inside: str) -> None:
    """What a source of commits watches is its .git, which watchers like to pass over."""
    repo = Repo(tmp_path / "repo")
    repo.commit("acme")
    place = GitSource(str(repo.top / inside), cache=tmp_path / "cache").watched
    assert place is not None
    async with watched(place) as watch:
        await watch.wakes_on(lambda turn: repo.commit(f"acme-{turn}"))


async def test_a_burst_is_few_wakeups(tmp_path: Path) -> None:
    async with watched(tmp_path) as watch:
        await watch.wakes_on(writer(tmp_path / "a.yaml"))
        before = watch.count
        for number in range(500):
            (tmp_path / f"{number}.yaml").write_text("")
        await watch.wakes_on(writer(tmp_path / "last.yaml"))
        assert watch.count - before < 50


async def test_a_file_that_editors_replace_at_every_save(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("begin\n")

    def save(turn: int) -> None:
        fresh = tmp_path / "a.yaml.tmp"
        fresh.write_text(f"{turn}\n")
        fresh.rename(file)

    async with watched(file) as watch:
        for _ in range(3):
            await watch.wakes_on(save)


async def test_a_folder_that_is_moved_away_and_made_anew(tmp_path: Path) -> None:
    specs = tmp_path / "specs"
    specs.mkdir()
    async with watched(specs) as watch:
        await watch.wakes_on(writer(specs / "a.yaml"))
        for turn in range(2):
            specs.rename(tmp_path / f"old-{turn}")
            specs.mkdir()
            await watch.wakes()
            await watch.wakes_on(writer(specs / "a.yaml"))


async def test_a_folder_that_vanishes_and_comes_back(tmp_path: Path) -> None:
    specs = tmp_path / "specs"
    specs.mkdir()
    async with watched(specs) as watch:
        await watch.wakes_on(writer(specs / "a.yaml"))
        specs.rename(tmp_path / "away")
        await watch.wakes()
        (tmp_path / "away").rename(specs)
        await watch.wakes()
        await watch.wakes_on(writer(specs / "a.yaml"))


@pytest.mark.parametrize("inside", ["", "inner"])
async def test_a_link_that_is_set_to_another_folder(tmp_path: Path, inside: str) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name / "inner").mkdir(parents=True)
    link = tmp_path / "..data"
    link.symlink_to("one")
    async with watched(link / inside) as watch:
        await watch.wakes_on(writer(link / inside / "a.yaml"))
        for name in ("two", "three"):
            switch(link, name)
            await watch.wakes()
            await watch.wakes_on(writer(link / inside / "a.yaml"))


async def test_it_ends_when_told_also_while_there_is_nothing(tmp_path: Path) -> None:
    async with watched(tmp_path / "nowhere") as watch:
        await asyncio.sleep(0)
    assert watch.count == 0


async def test_a_folder_that_is_linked_into_the_tree(tmp_path: Path) -> None:
    for name in ("specs", "shared"):
        (tmp_path / name).mkdir()
    (tmp_path / "specs" / "linked").symlink_to("../shared")
    async with watched(tmp_path / "specs") as watch:
        await watch.wakes_on(writer(tmp_path / "shared" / "a.yaml"))
