"""From where a session looks: cheap looks from the start are made whenever there is a reason, and others seldom."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from session_lock.database import Claim, ClaimedTask, Work
from session_lock.pieces import WHOLE, Pieces, Stretch
from session_lock.whence import Whence

ROOM = 3


def found(tasks: int, position: str | None = None, walked: float | None = None, **more: Any) -> Work[Any]:
    claimed = [ClaimedTask(Claim(key, 1), 1, None) for key in range(tasks)]
    return Work(30.0, claimed, position=position, walked=walked, **more)


class Looks:
    """Looks one after another, at times of their own."""

    def __init__(self) -> None:
        self.whence = Whence(1.0)

    def __call__(
        self,
        at: float,
        tasks: int = 0,
        position: str | None = None,
        *,
        walk: float = 0.0,
        took: float = 0.0,
        **more: Any,
    ) -> str | None | Stretch:
        """A look at this time; returns from where, or the piece. `asked=True` if somebody says that there are tasks."""
        begun = self.whence.begin(at, asked=more.pop("asked", False))
        walked = walk if begun == WHOLE else None
        self.whence.found(found(tasks, position, walked, **more), begun, (ROOM, ROOM), at, took)
        return begun.start if begun.end is None else begun


def test_where_there_is_plenty_it_goes_on_from_there_and_looks_back_once_in_a_poll_interval() -> None:
    look = Looks()
    assert look(0, 3, "a") is None
    assert look(0.1, 3, "b") == "a"
    assert look(0.9, 3, "c") == "b"
    assert look(1.0, 3, "a") is None
    assert look(1.9, 3, "b") == "a"


def test_it_looks_back_soon_where_somebody_has_said_that_there_are_tasks() -> None:
    look = Looks()
    look(0, 3, "a")
    assert look(0.04, 3, "b", asked=True) == "a"
    assert look(0.051, 3, "b") is None  # that was not forgotten
    assert look(0.2, 3, "c") == "b"


def test_too_little_means_from_the_start_at_once() -> None:
    look = Looks()
    look(0, 3, "a")
    assert look(0.1, 1, "b") == "a"
    assert look.whence.again_at == 0  # before now
    assert look(0.1) is None
    assert look(0.2) is None


def test_a_look_from_the_start_that_takes_long_is_made_seldom() -> None:
    look = Looks()
    look(0, 3, "a")
    assert look(1, 1, "b", walk=0.05) is None  # once, it may have had to wait for the processor
    assert look(2, 1, "b", walk=0.05) is None
    assert look(2.1, 1, "c") == "a", "what little it found may stand far back"
    assert look(2.2, 0, asked=True) == "c"
    assert look(51.9, 0, asked=True) is not None
    assert look(52, 0, walk=0.05) is None
    assert look(102, 0, walk=0.001) is None  # vacuum was through
    assert look(102.1, 0) is None


def test_a_walk_that_brings_all_that_there_was_room_for_takes_the_position_back() -> None:
    look = Looks()
    for at in range(3):
        look(at, 3, "b", walk=0.02)
    assert look(22, 3, "a", walk=0.02) is None
    assert look(22.1, 3, "b") == "a"


@pytest.mark.parametrize(("walk", "pause"), [(0.005, 0), (0.02, 20), (0.3, 60), (2, 60), (4, 80)])
def test_what_stands_before_the_position_is_found_within_a_minute_if_that_takes_no_more_than_a_twentieth_of_the_time(
    walk: float, pause: float
) -> None:
    look = Looks()
    for at in (0, 1000, 2000):
        assert look(at, 3, "a", walk=walk) is None
    look(2000.001, 0)
    assert look.whence._whole.again_at() == 2000 + pause


def fail(look: Looks, at: float, took: float) -> str | None:
    begun = look.whence.begin(at, asked=False)
    look.whence.failed(begun, took)
    return begun.start


def test_a_look_from_the_start_that_ends_in_a_timeout_was_a_walk_if_the_next_one_from_the_position_succeeds() -> (
    None
):
    look = Looks()
    look(0, 3, "a")
    assert fail(look, 1, 10) is None
    assert look(11, 1, "b") == "a"
    assert look.whence.again_at == 201
    assert look(200.9, 0) == "b"
    assert look(201, 0) is None


def test_an_outage_is_no_walk() -> None:
    look = Looks()
    look(0, 3, "a")
    assert fail(look, 1, 10) is None
    assert fail(look, 12, 10) == "a"
    assert fail(look, 23, 10) is None
    assert fail(look, 34, 10) == "a"
    assert look(45, 0) is None


def test_a_look_that_was_not_sent_says_nothing_of_walks() -> None:
    look = Looks()
    for at in (0, 1, 2):
        look(at, 3, "a", walk=0.1)
    assert fail(look, 62, 0.0) is None
    assert look(62.1, 0) == Stretch(None, "a")
    assert look.whence._whole.again_at() == 122


def test_the_way_to_the_server_is_no_part_of_a_short_look_back() -> None:
    look = Looks()
    look(0, 3, "a", walk=0.5)
    look(1, 3, "b", walk=0.5)
    assert look(1.1, 3, "c", took=0.03) == "b"
    assert look(1.2, 3, "d", took=0.03) == "c"
    look(12, 3, "e", took=0.06)  # the processor was not at hand
    for at in (13.1, 13.2, 13.3):
        assert look(at, 0, took=0.034) == "b"
    for at in (13.4, 13.5):
        assert look(at, 0, took=0.04) == "b"
    assert look(13.6, 0) != "b"


class Table:
    """Second by second a task is finished, which is a dead entry to walk over; and what each look of a session is worth."""

    def __init__(self, cost: float) -> None:
        self.whence = Whence(1.0)
        self.cost = cost
        self.looks: list[tuple[float, Stretch]] = []
        self.late: list[int] = []  # where tasks stand that have come late

    def run(self, begin: float, end: float, *, busy: bool, step: float = 0.5) -> None:
        """Look as a session does that has always something to do, or never."""
        at = begin
        while at < end:
            stretch = self.whence.begin(at, asked=False)
            self.looks.append((at, stretch))
            here = int(min(at, 199))
            first, last = int(stretch.start or 0), here if stretch.end is None else int(stretch.end)
            walk = self.cost * (last - first)
            late = [each for each in self.late if first <= each <= last][:ROOM]
            self.late = [each for each in self.late if each not in late]
            full = busy and stretch.end is None
            work = found(
                ROOM if full else len(late),
                f"{here:05}" if full else f"{late[-1]:05}" if late else None,
                walk if stretch == WHOLE or stretch.end is not None else None,
            )
            self.whence.found(work, stretch, (ROOM, ROOM), at, walk + 0.001)
            at += step if full else 0.001 if work.tasks else min(max(self.whence.again_at - at, 0.001), 1.0)

    @property
    def pieces(self) -> list[Stretch]:
        return [stretch for _, stretch in self.looks if stretch.end is not None]


def size(stretch: Stretch) -> int:
    return int(stretch.end or 0) - int(stretch.start or 0)


def idle(cost: float) -> Table:
    """It was busy for 200 seconds, and so long nothing comes any more that it knows what a piece costs."""
    table = Table(cost)
    table.run(0, 200, busy=True)
    table.run(200, 300, busy=False)
    table.looks.clear()
    return table


def test_all_that_is_older_is_looked_through_piece_by_piece_from_the_newest_to_the_oldest() -> None:
    table = idle(0.0005)
    table.run(300, 330, busy=False)
    begin = next(number for number, piece in enumerate(table.pieces) if piece.start is None) + 1
    one_round = table.pieces[begin:]
    one_round = one_round[: next(number for number, piece in enumerate(one_round) if piece.start is None) + 1]
    assert int(one_round[0].end or 0) > 195
    assert [after.end for after in one_round[1:]] == [piece.start for piece in one_round[:-1]], (
        "none is left out"
    )
    assert 12 <= len(one_round) <= 50
    assert max(map(size, table.pieces)) <= 20, "of 5 ms; one may be twice as large before it is known"


@pytest.mark.parametrize("cost", [0.0001, 0.0005, 0.004, 0.04])
def test_looks_back_take_a_fiftieth_of_the_time_of_who_has_nothing_to_do(cost: float) -> None:
    table = idle(cost)
    table.run(300, 1300, busy=False)
    assert len(table.pieces) > 15
    behind = [stretch for _, stretch in table.looks if stretch != Stretch(table.whence._position)]
    walked = sum(
        cost * (size(stretch) if stretch.end else 199 - int(stretch.start or 0)) for stretch in behind
    )
    # a whole one in a minute at least, and the first pieces, which tell how long they take
    assert walked < 0.02 * 1000 + 17 * 200 * cost


def test_what_has_come_late_is_found_by_a_piece_where_a_look_from_the_start_would_take_a_tenth_of_a_second() -> (
    None
):
    waited = []
    for late in range(10, 190, 7):
        table = idle(0.0005)
        table.late = [late]
        table.run(300, 360, busy=False)
        assert not table.late
        waited.append(
            next(
                at
                for at, piece in table.looks
                if piece.end and int(piece.start or 0) <= late <= int(piece.end)
            )
        )
    assert max(waited) < 315


def test_no_round_follows_another_within_a_poll_interval() -> None:
    table = Table(0.01)
    table.run(0, 3, busy=True)
    table.cost = 0.0
    table.run(3, 40, busy=False)
    rounds = [at for at, stretch in table.looks if stretch.end == table.pieces[-1].end]
    assert len(rounds) > 5
    assert all(later - earlier >= 0.99 for earlier, later in pairwise(rounds))


def test_where_a_piece_brings_all_that_there_is_room_for_it_goes_on_from_there() -> None:
    table = idle(0.0005)
    before = table.whence._position
    table.late = [*range(100, 107)]
    table.run(300, 330, busy=False)
    assert not table.late
    number = next(
        number
        for number, (_, piece) in enumerate(table.looks)
        if piece.end and int(piece.start or 0) <= 100 <= int(piece.end)
    )
    (at, _), (then, onward) = table.looks[number : number + 2]
    assert then - at < 0.01
    assert onward.start in ("00102", "00105")
    assert table.whence._position == before, "nothing is left up to there"


@pytest.mark.parametrize("busy", [True, False])
def test_a_look_to_the_end_stands_between_two_pieces_and_short_looks_back_are_made_in_time(
    busy: bool,
) -> None:
    table = Table(0.0015)
    table.run(0, 100, busy=True)
    table.looks.clear()
    table.run(100, 199, busy=busy)
    assert len(table.pieces) > 20
    assert all(before.end is None or after.end is None for (_, before), (_, after) in pairwise(table.looks))
    ends = [at for at, stretch in table.looks if stretch.end is None]
    assert max(after - before for before, after in pairwise(ends)) < 1.1
    short = [
        at
        for at, stretch in table.looks
        if stretch.end is None and stretch.start not in (None, table.whence._position)
    ]
    assert not busy or len(short) > 50


def test_who_is_told_of_tasks_looks_to_the_end_first() -> None:
    table = idle(0.0005)
    at = 300.0
    for _ in range(100):
        stretch = table.whence.begin(at, asked=True)
        assert stretch.end is None
        table.whence.found(
            found(0, walked=0.1 if stretch == WHOLE else None), stretch, (ROOM, ROOM), at, 0.001
        )
        at = max(at + 0.01, table.whence.again_at) if table.whence.again_at < at + 1 else at + 1


@pytest.mark.parametrize("dear", [0.06, 0.2])
def test_dear_pieces_between_cheap_ones_take_a_twentieth_of_the_time_at_most(dear: float) -> None:
    pieces, walked, at = Pieces(1.0), 0.0, 0.0
    for number in range(300):
        pieces.mark(f"{number:05}", number)
    at = begin = 300.0
    while at < begin + 2000:
        pieces.begin_round()
        at = max(at, pieces.again_at)
        stretch = pieces.next(at)
        took = dear * sum(number % 3 == 0 for number in range(int(stretch.start or 0), int(stretch.end or 0)))
        walked += took
        at += took
        pieces.took(took, at)
    assert walked < 0.05 * 2000 + 100 * dear


def test_behind_a_piece_it_goes_on_at_once_where_there_is_plenty() -> None:
    table = Table(0.0005)
    table.run(0, 200, busy=True)
    assert len(table.pieces) > 50
    for (at, stretch), (after, onward) in pairwise(table.looks):
        if stretch.end is not None:
            assert after - at < 0.01
            assert onward.end is None


def test_a_database_that_does_not_end_a_look_where_it_is_to_end_is_asked_for_a_piece_once() -> None:
    look = Looks()
    for at in range(40):
        look(at, 3, f"{at:05}", walk=0.5)
    pieces = [begun for at in range(40, 200) if isinstance(begun := look(at, 0, walk=0.5), Stretch)]
    assert len(pieces) <= 1
    assert not look.whence._in_pieces


def test_beside_others_a_look_may_be_for_what_can_begin_at_once_and_is_full_with_that() -> None:
    whence, at = idle(0.0005).whence, 300.0
    while (begun := whence.begin(at, asked=False, sure=2)).end is None:
        whence.found(found(0, walked=0.1 if begun == WHOLE else None), begun, (2, ROOM), at, 0.001)
        at += 0.5
    whence.found(found(2, "00050", 0.001), begun, (2, ROOM), at, 0.001)
    assert whence.begin(at, asked=True, sure=2) == Stretch("00050"), "there may be more of it"


def test_a_look_that_may_have_been_for_nothing_says_nothing() -> None:
    table = idle(0.0005)
    whence = table.whence
    marks, position, walk = len(whence._pieces._marks), whence._position, whence._whole.walk
    assert walk > 0.09
    whence.failed(WHOLE, 1.0)
    at, looks = 300.0, 0
    while at < 400:
        stretch = whence.begin(at, asked=False, sure=0)
        assert stretch.end is None
        whence.found(found(0, walked=0.0 if stretch == WHOLE else None), stretch, (0, ROOM), at, 0.001)
        looks += 1
        at = min(max(whence.again_at, at + 0.001), at + 1)
    assert looks < 120, "a look a poll interval, and two from the start"
    assert (len(whence._pieces._marks), whence._position, whence._whole.walk) == (marks, position, walk)


def test_where_nothing_may_begin_the_position_stays_where_a_look_back_has_taken_it() -> None:
    look = Looks()
    for at in range(3):
        look(at, 3, f"{at}", walk=0.5)
    look.whence._go_back("0a", Stretch("0", "1"), 3)
    look.whence.found(found(0), look.whence.begin(3, asked=True, sure=0), (0, ROOM), 3, 0.001)
    assert look.whence.begin(3, asked=True) == Stretch("0a")
    look.whence.found(found(0), Stretch("0a"), (ROOM, ROOM), 3, 0.001)
    assert look.whence._position == "2"


def test_pieces_that_cost_nothing_do_not_grow_beyond_all() -> None:
    pieces = Pieces(1.0)
    for number in range(100):
        pieces.mark(f"{number:05}", number)
    for at in range(100, 400):
        pieces.begin_round()
        pieces.next(at)
        pieces.took(0.0, at)
    assert pieces._stride <= 100


def test_a_piece_that_cannot_be_looked_through_does_not_hold_up_those_behind_it() -> None:
    pieces, seen, at = Pieces(1.0), set(), 100.0
    for number in range(100):
        pieces.mark(f"{number:05}", number)
    for _ in range(200):
        pieces.begin_round()
        at = max(at, pieces.again_at)
        stretch = pieces.next(at)
        if int(stretch.start or 0) <= 50 <= int(stretch.end or 0):
            pieces.failed(0.1, at)
        else:
            seen.add(stretch.start)
            pieces.took(0.004, at)
    assert None in seen


def test_a_piece_that_fails_rests_too() -> None:
    table = Table(0.0005)
    table.run(0, 200, busy=True)
    at, stretch = 200.0, table.whence.begin(200.0, asked=False)
    while stretch.end is None:
        table.whence.found(found(ROOM, "00199"), stretch, (ROOM, ROOM), at, 0.001)
        at += 0.5
        stretch = table.whence.begin(at, asked=False)
    table.whence.failed(stretch, 1.0)
    onward = table.whence.begin(at + 1, asked=False)
    table.whence.found(found(0), onward, (ROOM, ROOM), at + 1, 0.001)
    table.looks.clear()
    table.run(at + 1, at + 60, busy=False)
    assert not table.pieces
    table.run(at + 61, at + 63, busy=False)
    assert table.pieces


def test_however_long_it_goes_on_it_keeps_no_more_than_a_thousand_positions_and_all_of_lately() -> None:
    pieces, most = Pieces(1.0), 0
    for second in range(100_000):
        pieces.mark(f"{second:06}", second)
        most = max(most, len(pieces._marks))
        assert int(pieces.lately(second) or 0) == max(second - 10, 0)
    assert most <= 1001
    distances = [int(b.position) - int(a.position) for a, b in pairwise(pieces._marks)]
    assert max(distances[:300]) <= 2 * min(distances[:300])
    assert len(distances) > 300


def test_before_it_has_found_anything_it_looks_from_the_start_however_long_that_takes() -> None:
    look = Looks()
    assert [look(at, walk=1) for at in range(5)] == [None] * 5
