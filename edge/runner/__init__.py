"""Runs the tasks of a site's SuperNode in warm processes: a fork of one that has the app's imports already.

::

    base ──forks──► runner      asks the SuperNode for tasks, pulls what a task gets, pushes what it answers
      │                         (one event at a time, one task at a time; the only one with secrets)
      └──forks──► app zygote    one for each app's digest: torch, then the app's modules, imported; nothing runs
                    └──forks──► task    answers one message, within limits, and ends; a file in, a file out

The base has Flower's modules and torch, one thread, no secret and no GPU. It forks the runner before it imports
torch, so an idle site's memory is shared between them. Runner and base live and die together: whoever of them is
killed, both are started again by the site's supervisor, and the record of the task in hand (``record``) lets
the new runner answer for the old one.
"""
