"""Each of the fourteen checkers finds what it is for: in what a broken library did, or in logs that are forged."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from session_lock.embedded import temp_postgres
from session_lock.session import boottime
from tests.chaos.forks import Forks, forks
from tests.chaos.storm.checkers import ALL, UNHURRIED, W, wrongs
from tests.chaos.storm.evidence import Event, Evidence
from tests.chaos.storm.ledger import Pause, Run, read
from tests.chaos.storm.tables import Change
from tests.chaos.storm.weather import MODULE, Instance, Storm, storm
from tests.conftest import TestDatabase, fresh_database, prepare_template

# A library that is broken ------------------------------------------------------------------------------------


async def until_sessions(it: Storm, count: int) -> None:
    while await it.beside.ask("SELECT count(*) FROM session_lock.session") < count:
        await asyncio.sleep(0.05)


async def until_runs(it: Storm, count: int) -> None:
    """Until so many runs have begun."""
    while len(read(it.folder).runs) < count:
        await asyncio.sleep(0.05)


def who_has_begun(it: Storm) -> Instance:
    pid = read(it.folder).runs[0].pid
    return next(one for one in it.instances if one.pid == pid)


async def lose_the_reply_to_a_finish(it: Storm) -> None:
    """Three times, since a lease may be over before it has asked again."""
    for _ in range(3):
        lost = it.instances[0].network.lose_reply("finish_tasks")
        await it.beside.feed([0.01] * 20)
        await lost
        await asyncio.sleep(1)


async def stop_who_has_begun(it: Storm) -> None:
    """Who has begun stands still until another has begun the same, which takes longer then."""
    await it.beside.feed([1.0])
    await until_runs(it, 1)
    await it.beside.ask("UPDATE public.chore SET nap = 4")
    pid, at = who_has_begun(it).pid, boottime()
    os.kill(pid, signal.SIGSTOP)
    await until_runs(it, 2)
    os.kill(pid, signal.SIGCONT)
    it.nemesis.events.append(Event("stop", pid, at, boottime()))


async def part_who_has_begun(it: Storm) -> None:
    """For as long as it takes another to begin the same, which takes less time then."""
    await it.beside.feed([15.0])
    await until_runs(it, 1)
    await it.beside.ask("UPDATE public.chore SET nap = 0.1")
    network = who_has_begun(it).network
    network.partition()
    await until_runs(it, 2)
    await asyncio.sleep(2 * W)
    network.heal()


async def kill_it(it: Storm) -> None:
    await it.beside.feed([0.5] * 20)
    await until_runs(it, 1)
    await it.nemesis.kill()


async def all_have_begun(it: Storm) -> None:
    await it.beside.feed([0.5] * 20)
    await until_runs(it, 10)


async def share_what_is_scarce(it: Storm) -> None:
    await it.look_at_shares(100, seconds=2)


async def much_work(it: Storm) -> None:
    """So much that what the server has used before is nothing beside it."""
    await it.beside.feed([0.001] * 1000)
    while await it.beside.ask("SELECT EXISTS (SELECT FROM public.chore WHERE done_at IS NULL)"):
        await asyncio.sleep(0.05)


async def only_work(it: Storm) -> None:
    """Until all is done, or some of it has been done again and again."""
    await it.beside.feed([0.01] * 20)
    while await it.beside.ask("SELECT EXISTS (SELECT FROM public.chore WHERE done_at IS NULL)"):
        if len(read(it.folder).runs) > 60:
            break
        await asyncio.sleep(0.1)


@dataclass(frozen=True)
class Seeded:
    """A fault of the library, or of its functions, and what brings it to light."""

    ways: Sequence[str]
    happens: Callable[[Storm], Awaitable[None]]
    mutations: Mapping[str, Mapping[str, str]]
    broken: str = ""
    """How the instances are, by its name in `storm.instance`. Those that believe in their leases for ever leave it to the functions alone."""


HELD = "task.holder = p_id AND task.pending THEN 'held'"

FREE = 't."session_id" IS NULL OR t."session_id" = ANY (my.ended)'

SEEDED = {
    "C1": Seeded(["batch"], all_have_begun, {"get_work_": {"c.key, c.token, c.attempt": "c.key, c.token + 1000, c.attempt"}}),
    "C2": Seeded(["one", "one"], all_have_begun, {"get_work_": {FREE: 't."session_id" IS DISTINCT FROM my.id'}}),
    "C3": Seeded(["batch"], lose_the_reply_to_a_finish, {"standing_": {HELD: "true THEN 'held'"}}),
    "C4": Seeded(
        ["one", "one"], stop_who_has_begun,
        {
            "standing_": {HELD: "task.pending THEN 'held'", "task.token IS DISTINCT FROM claim.token": "false"},
            "bump_session": {" AND s.ended_at IS NULL": "", "v_expires <= v_now": "false"},
            "hold_session": {" AND s.ended_at IS NULL": "", "hold_session.expires_at <= at": "false"},
        },
        broken="believes",
    ),
    "C5": Seeded(["one", "one"], part_who_has_begun, {}, broken="believes"),
    "C6": Seeded(["batch"], kill_it, {"sessions_of": {"SET ended_at = p_now FROM expired": "SET idle = s.idle FROM expired"}}),
    "C8": Seeded(["batch"], kill_it, {"sessions_of": {"s.expires_at <= p_now": "s.expires_at + interval '3 seconds' <= p_now"}}),
    "C9": Seeded(["batch"], only_work, {}, broken="leaks"),
    "C11": Seeded(["batch"], only_work, {}, broken="tells"),
    "C13": Seeded(
        ["transaction"], only_work,
        {"finish_in_": {"limit_transaction(my.expires - my.clock);": "limit_transaction(my.expires - my.clock); RETURN;"}},
    ),
    "C14": Seeded(["batch"], kill_it, {"get_work_": {"ELSE 0 END) + 1": "ELSE 1 END)"}}),
}  # fmt: skip


async def play(seeded: Seeded, folder: Path, mother: Forks, server_dsn: str, template: str) -> Evidence:
    """The first instance runs, and the others as soon as what happens starts them."""
    folder.mkdir()
    async with (
        fresh_database(server_dsn, template) as database,
        storm(
            database,
            folder,
            1,
            ways=seeded.ways,
            mother=mother,
            mutations=seeded.mutations,
            broken=seeded.broken,
        ) as it,
    ):
        async with asyncio.timeout(100):
            await until_sessions(it, len(seeded.ways))
            await seeded.happens(it)
        await it.clear(within=8)
        return await it.end()


async def play_all(
    scenes: Mapping[str, Seeded], folder: Path, server_dsn: str, template: str
) -> dict[str, Evidence]:
    """At once, since they mostly wait."""
    async with forks(MODULE) as mother, asyncio.TaskGroup() as group:
        plays = {
            name: group.create_task(play(one, folder / name, mother, server_dsn, template))
            for name, one in scenes.items()
        }
    return {name: played.result() for name, played in plays.items()}


PARTS = pytest.mark.parametrize("part", [0, 1], ids=["a half", "the others"])
"""All at once are too many for two cores, where leases last a second."""


def scenes_of(part: int) -> dict[str, Seeded]:
    return dict(list(SEEDED.items())[part::2])


@PARTS
@pytest.mark.timeout(240)
async def test_a_broken_library_is_found(server_dsn: str, template: str, tmp_path: Path, part: int) -> None:
    seen = await play_all(scenes_of(part), tmp_path, server_dsn, template)
    assert [checker for checker, evidence in seen.items() if not ALL[checker](evidence)] == []


@PARTS
@pytest.mark.timeout(240)
async def test_a_sound_one_is_not(server_dsn: str, template: str, tmp_path: Path, part: int) -> None:
    """Under the same faults; and where its instances believe in their leases for ever, its functions do not."""
    sound = {
        checker: replace(seeded, mutations={}, broken="believes" if checker == "C4" else "")
        for checker, seeded in scenes_of(part).items()
        if checker not in {"C8", "C11", "C14"}  # which are those of C6 and of C9 once more
    }
    seen = await play_all(sound, tmp_path, server_dsn, template)
    found = {name: wrongs(evidence, UNHURRIED) for name, evidence in seen.items()}
    found.get("C4", {}).pop("C5", None)  # such an instance does not stop its taskers
    assert {
        scene: {checker: wrong for checker, wrong in all_.items() if wrong} for scene, all_ in found.items()
    } == dict.fromkeys(sound, {})


AGAIN_AND_AGAIN = """
  FOR again IN 1..25 LOOP
    UPDATE public.chore AS t SET session_id = t.session_id WHERE t.id = ANY (my.keys);
  END LOOP;
  PERFORM session_lock.note_look("""

SEEDED_BESIDE = {
    "C7": Seeded(
        ["batch", "batch"], share_what_is_scarce,
        {
            "share": {"SELECT s.share FROM": "SELECT CASE WHEN p_id = p_ids[1] THEN p_tasks ELSE 0 END::integer FROM"},
            "get_work_": {"(p_over_share OR my.until IS NOT NULL)": "(my.until IS NOT NULL)"},
        },
    ),
    "C10": Seeded(["batch"], much_work, {"get_work_": {"\n  PERFORM session_lock.note_look(": AGAIN_AND_AGAIN}}),
    "C12": Seeded(["batch"], kill_it, {"bump_session": {"v_expires <= v_now": "1 / (p_running - p_running) > 0"}}),
}  # fmt: skip
"""These look at a whole server, or at who is the first to look: so it is one of their own."""


@pytest.mark.parametrize("checker", SEEDED_BESIDE)
@pytest.mark.parametrize("is_broken", [True, False], ids=["broken", "sound"])
@pytest.mark.timeout(100)
async def test_what_is_wrong_with_a_server_is_found(tmp_path: Path, checker: str, is_broken: bool) -> None:
    seeded = SEEDED_BESIDE[checker]
    with temp_postgres(log_line_prefix="%m %e ") as server:
        await prepare_template(server.dsn)
        async with storm(
            TestDatabase(server.dsn, "postgres"), tmp_path, 1,
            ways=seeded.ways, server=server, mutations=seeded.mutations if is_broken else {},
        ) as it:  # fmt: skip
            async with asyncio.timeout(40):
                await until_sessions(it, len(seeded.ways))
                await seeded.happens(it)
            await asyncio.sleep(it.lease)
            evidence = await it.end()
    assert (ALL[checker](evidence) != []) is is_broken
    assert "SL001" not in str(ALL["C12"](evidence))


def test_each_checker_has_its_fault() -> None:
    assert SEEDED.keys() | SEEDED_BESIDE.keys() == ALL.keys()


# Logs that are forged ------------------------------------------------------------------------------------------


def run(
    pid: int = 1, task: int = 1, session: int = 1, token: int = 1, begin: float = 0.0, end: float | None = 1.0
) -> Run:
    return Run(pid, task, session, token, begin, end)


def claim(
    token: int = 1, holder: int = 1, *, task: int = 1, at: float = 0.0, before: tuple[Any, Any] = (None, None)
) -> Change:
    return Change(at, f"storm batch {holder}", task, (before[0], holder), (before[1], token), (None, None))


def finish(
    token: int = 1, holder: int = 1, *, at: float = 1.0, by: str = "storm batch 1", **rest: Any
) -> Change:
    facts: dict[str, Any] = {
        "done": (None, "now"),
        "live": True,
        "label": "host:1",
        "tokens": (token, token),
    } | rest
    return Change(at, by, 1, (holder, None), **facts)


SOUND = Evidence(
    runs=[run()], changes=[claim(), finish()], fed=frozenset({1}), accepted=[(1, 1)], left={1: 0}, to_end=frozenset({1}),
    shares=[{1: 50, 2: 48}], secrets=frozenset({"s3cret"}), health={"bytes of a task": 200.0},
    logs={"1.log": "session 1 started", "server": "2026-11-28 17:00:00.0 UTC SL001 ERROR:  session 1 is not live"},
)  # fmt: skip

AGAIN = claim(2, 2, at=2.0, before=(1, 1))
"""By another session."""

FORGED: dict[str, list[Evidence]] = {
    "C1": [replace(SOUND, runs=[run(), run(task=2)]), replace(SOUND, runs=[run(), run(pid=2)])],
    "C2": [replace(SOUND, changes=[claim(), AGAIN]), replace(SOUND, ended={1: 2.5}, changes=[claim(), AGAIN]), replace(SOUND, runs=[])],
    "C3": [replace(SOUND, changes=[claim(), finish(), finish()]), replace(SOUND, changes=[claim(), finish(), finish(done=("now", None))])],
    "C4": [
        replace(SOUND, changes=[claim(), change])
        for change in (
            finish(live=False), finish(live=None), finish(tokens=(1, 2)), finish(holder=None), finish(by="storm batch 2"),
        )
    ],
    "C5": [
        replace(SOUND, runs=[run(end=5.0), run(2, session=2, token=2, begin=2.0, end=3.0)]),
        replace(SOUND, runs=[run(end=None), run(2, session=2, token=2, begin=2.0)], events=[Event("kill", 1, 3.0)]),
        replace(SOUND, runs=[run(end=5.0), run(2, session=2, token=2, begin=2.0)], pauses=[Pause(1, 1.0, 3.0)]),
    ],
    "C6": [replace(SOUND, pending=[1]), replace(SOUND, fed=frozenset({1, 2}))],
    "C7": [
        replace(SOUND, shares=[{1: 100, 2: 0}, {1: 90, 2: 30}]),
        # Before anything is held, and when next to nothing is left, all are level.
        replace(SOUND, shares=[{1: 0, 2: 0}, {1: 100, 2: 0}, {1: 10, 2: 0}]), replace(SOUND, shares=[{1: 0, 2: 0}]),
        replace(SOUND, shares=[{1: 100}]),
    ],
    "C8": [replace(SOUND, changes=[claim(), replace(AGAIN, at=5.0)], events=[Event("kill", 1, 1.0)])],
    "C9": [
        replace(SOUND, left={1: 1}), replace(SOUND, left={}), replace(SOUND, backends=["('storm one 1', 'idle in transaction')"]),
        replace(SOUND, logs={"1.log": "Task exception was never retrieved"}),
    ],
    "C10": [replace(SOUND, health={"transactions for a task": 5.0})],
    "C11": [replace(SOUND, logs={"1.log": "connecting to postgresql://app:s3cret@localhost"})],
    "C12": [replace(SOUND, logs={"server": "2026-11-28 17:00:00.0 UTC 40P01 ERROR:  deadlock detected"})],
    "C13": [
        replace(SOUND, effects={1: 1}, total=1),
        replace(SOUND, changes=[claim(), finish(by="storm transaction 1")]),
        replace(SOUND, changes=[claim(), finish(by="storm transaction 1")], effects={1: 2}, total=1),
        replace(SOUND, changes=[claim(), finish(by="storm transaction 1")], effects={1: 1}, total=2),
    ],
    "C14": [replace(SOUND, changes=[claim(), claim(1, 2, before=(1, 1))]), replace(SOUND, accepted=[(1, 2), (1, 1)])],
}  # fmt: skip


@pytest.mark.parametrize("checker", ALL)
def test_forged_logs_are_found(checker: str) -> None:
    assert wrongs(SOUND) == dict.fromkeys(ALL, [])
    for evidence in FORGED[checker]:
        assert ALL[checker](evidence) != []


def test_what_is_excused() -> None:
    twice = replace(SOUND, changes=[claim(), AGAIN], ended={1: 1.5})
    assert ALL["C2"](replace(twice, runs=[run(), run(2, session=2, token=2)])) == []
    overlapping = replace(SOUND, runs=[run(end=5.0), run(2, session=2, token=2, begin=2.0)])
    assert ALL["C5"](replace(overlapping, pauses=[Pause(1, 1.0, 4.9)])) == []
    stops = [Event("stop", 1, 1.0, 3.0), Event("stop", 1, 3.1, 4.9)]
    assert ALL["C5"](replace(overlapping, events=stops)) == []
    given_up = (
        "ERROR:asyncio:Future exception was never retrieved\n"
        "future: <Future finished exception=ConnectionError('unexpected connection_lost() call')>\n"
    )
    assert ALL["C9"](replace(SOUND, logs={"1.log": given_up})) == []
    assert ALL["C9"](replace(SOUND, logs={"1.log": given_up + "Task was destroyed but it is pending!"})) != []
