import typing

import pytest

from fl.errors import BusyError
from server.controller import states
from server.controller.states import ACTIVE, FINISHED, MOVES, Happening, State, after, can_be

STATES = typing.get_args(State)
HAPPENINGS = typing.get_args(Happening)


def test_every_state_has_a_row_and_every_move_leads_to_a_state():
    assert set(MOVES) == set(STATES)
    for row in MOVES.values():
        assert set(row) <= set(HAPPENINGS)
        assert set(row.values()) <= set(STATES)


def test_every_state_is_reached_from_the_queue_and_none_but_completed_is_a_dead_end():
    reached, todo = set(), ["queued"]
    while todo:
        state = todo.pop()
        if state not in reached:
            reached.add(state)
            todo += MOVES[state].values()
    assert reached == set(STATES)
    assert [state for state in STATES if not MOVES[state]] == ["completed"]


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("happening", HAPPENINGS)
def test_a_move_that_is_not_in_the_table_is_refused_in_words(state, happening):
    if happening in MOVES[state]:
        assert after(state, happening, run="r") == MOVES[state][happening]
        return
    with pytest.raises(BusyError, match=f"run r is {state} and cannot be") as caught:
        after(state, happening, run="r")
    assert caught.value.hint.startswith("fl run ")


def test_a_finished_run_moves_only_when_somebody_asks():
    for state in FINISHED:
        assert set(MOVES[state]) <= {"resume"}


def test_whatever_dies_while_it_works_is_started_again():
    for state in ("starting", "running"):
        assert MOVES[MOVES[state]["died"]]["start"] == "starting"


def test_a_run_that_takes_a_place_is_neither_waiting_nor_finished():
    assert set(STATES) - ACTIVE - FINISHED == {"queued", "paused"}


def test_an_operator_is_offered_what_the_table_allows():
    assert can_be("running") == ["pause", "stop"]
    assert can_be("paused") == ["stop", "resume"]
    assert can_be("completed") == []
    assert all(happening in states.ASKED for state in STATES for happening in can_be(state))
