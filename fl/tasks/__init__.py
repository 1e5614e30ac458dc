"""Tasks: what a federation learns, and how one site learns it.

``base`` says what a task is, ``registry`` finds one by name, ``loop`` trains and evaluates it, ``splits``
divides a data set among sites. Nothing here imports torch before it is needed.
"""

from fl.tasks.base import Site, Task
from fl.tasks.registry import available, create
from fl.tasks.training import TrainingConfig

__all__ = ["Site", "Task", "TrainingConfig", "available", "create"]
