"""Kill a real SuperLink at a chosen instant: right after it has written something, and before anybody hears of it.

``sitecustomize.py`` beside this file is loaded by Python itself into the SuperLink whose ``PYTHONPATH`` names this
folder. It changes nothing but the instant of death: what is in the database then is what SuperLink wrote.
"""

from pathlib import Path

HERE = Path(__file__).parent
VARIABLE = "FEDFLEET_TEST_DEATH"


def environment(wish: Path) -> dict[str, str]:
    """What SuperLink's environment needs; ``wish`` is the file that says when to die."""
    return {"PYTHONPATH": f"{HERE}:{HERE.parents[1]}", VARIABLE: str(wish)}


def die_after(wish: Path, step: str, call: int = 1) -> None:
    """Have the SuperLink die after the coming ``call``-th time that a step comes to something.

    Args:
        wish: The file that the SuperLink looks at.
        step: ``fleet.pull_messages``, say: see ``STEPS`` in ``sitecustomize.py``.
        call: From 1.
    """
    part = wish.with_suffix(".part")
    part.write_text(f"{step} {call}")
    part.replace(wish)
