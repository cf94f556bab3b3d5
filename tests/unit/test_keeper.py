"""Orders are kept while the loop goes on."""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from appliance.keeper import Keeper
from tests.unit.fleet.ends import until


class Disk:
    """A file that hangs as a disk does, until it is let go on, or that is refused after it was written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.goes = threading.Event()
        self.goes.set()
        self.refused = ""

    def save(self, text: str) -> None:
        self.goes.wait()
        self.path.write_text(text)
        if text == self.refused:
            raise OSError("no name for it")


@pytest.fixture
def disk(tmp_path):
    made = Disk(tmp_path / "file")
    made.path.write_text("before")
    yield made
    made.goes.set()


async def test_the_loop_goes_on_while_a_disk_hangs(disk):
    """Who waits is told that it is not known whether it is kept; who comes later does not write behind our back, and at
    the end the file is what stands."""
    keeper = Keeper(disk.save, "before", 0.2)
    disk.goes.clear()
    turns = 0
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(_outcome(keeper, text)) for text in ("one", "two")]
        while not all(one.done() for one in waiting):
            await asyncio.sleep(0.01)
            turns += 1
    assert [one.result() for one in waiting] == ["the disk has not answered for 0.2 s"] * 2
    assert turns > 2
    assert not keeper.behind("before")  # nobody knows yet
    disk.goes.set()
    await until(lambda: keeper.behind("before"), "the refused order came to the disk")
    assert disk.path.read_text() in ("one", "two")
    await keeper.put("before")
    assert disk.path.read_text() == "before"
    assert not keeper.behind("before")


async def _outcome(keeper, text):
    try:
        await keeper.put(text)
    except OSError as error:
        return str(error)
    return ""


async def test_what_is_refused_is_not_on_the_disk(disk):
    """Where an order came to the disk and was refused all the same, the one before is written again."""
    keeper = Keeper(disk.save, "before")
    disk.refused = "one"
    with pytest.raises(OSError, match="no name for it"):
        await keeper.put("one")
    assert disk.path.read_text() == "before"
    assert not keeper.behind("before")


async def test_writers_do_not_meet(tmp_path):
    """However many write at once, each of them writes alone."""
    inside, most = 0, 0

    def save(_):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.005)
        inside -= 1

    keeper = Keeper(save, 0)
    await asyncio.gather(*(keeper.put(number) for number in range(1, 9)))
    assert most == 1


async def test_what_is_still_in_another_place_is_written(disk):
    """What an earlier version has kept elsewhere, and could not be brought here."""
    keeper = Keeper(disk.save, "before", sure=False)
    assert keeper.behind("before")
    await keeper.put("before")
    assert not keeper.behind("before")
