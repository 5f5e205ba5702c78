"""Seeds of the simulation: whatever goes wrong, the laws hold and the host converges.

METALD_SIMULATION_SEED plays one seed again; METALD_SIMULATION_STEPS, _SEEDS and _FIRST change
how many steps, how many seeds and the first of them. The soak plays thousands of seeds, and
some for thousands of steps: half an hour of two cores.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.simulation.simulation import Simulation, Totals, make_template

SEEDS, STEPS = 200, 100
# (seeds, steps): many lives, and long ones, whose history grows.
SOAK = ((2000, 200), (40, 2000))
MEMORY = Path("/dev/shm")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """In memory where there is such a place: the state is written durably all the time."""
    where = str(MEMORY) if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="metald-simulation-", dir=where) as name:
        make_template(Path(name) / "template")
        yield Path(name)


def play(seed: int, steps: int, folder: Path) -> tuple[Totals, str]:
    """Play one seed; a failure carries the seed and the last actions."""
    place = folder / f"seed-{seed}"
    simulation = Simulation(seed, place, folder / "template")
    try:
        simulation.run(steps)
    except BaseException as error:
        trace = "\n".join(simulation.faults.trace.last)
        error.add_note(f"METALD_SIMULATION_SEED={seed} METALD_SIMULATION_STEPS={steps}\n{trace}")
        raise
    finally:
        simulation.close()
        shutil.rmtree(place)
    return simulation.totals, simulation.faults.trace.digest()


def play_all(seeds: range, steps: int, folder: Path) -> Totals:
    """On all cores; each failing seed is told, and the others go on."""
    totals, failed = Totals(), []
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        running = {pool.submit(play, seed, steps, folder): seed for seed in seeds}
        for done in as_completed(running):
            if (error := done.exception()) is not None:
                failed.append(running[done])
                print(f"{error!r}\n" + "\n".join(getattr(error, "__notes__", ())))
            else:
                totals.add(done.result()[0])
    print(f"seeds {seeds.start} to {seeds.stop - 1}, {steps} steps each: {totals}")
    assert not failed
    return totals


def seeds_and_steps(seeds: int, steps: int) -> tuple[range, int]:
    """As the environment says, else these."""
    steps = int(os.environ.get("METALD_SIMULATION_STEPS", steps))
    if (given := os.environ.get("METALD_SIMULATION_SEED")) is not None:
        return range(int(given), int(given) + 1), steps
    first = int(os.environ.get("METALD_SIMULATION_FIRST", "0"))
    return range(first, first + int(os.environ.get("METALD_SIMULATION_SEEDS", seeds))), steps


@pytest.mark.timeout(600)
def test_whatever_goes_wrong_the_laws_hold_and_the_host_converges(folder: Path) -> None:
    seeds, steps = seeds_and_steps(SEEDS, STEPS)
    totals = play_all(seeds, steps, folder)
    if len(seeds) == SEEDS:
        # A simulation in which nothing happens proves nothing.
        assert min(totals.kills, totals.errors, totals.refused, totals.starts) > SEEDS


def test_a_seed_plays_the_same_every_time(folder: Path) -> None:
    for seed in range(10):
        assert play(seed, STEPS, folder) == play(seed, STEPS, folder)


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize(("many", "long"), SOAK)
def test_thousands_of_seeds_and_thousands_of_steps(folder: Path, many: int, long: int) -> None:
    seeds, steps = seeds_and_steps(many, long)
    play_all(seeds, steps, folder)
