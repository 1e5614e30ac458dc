"""Rounds: the engine that runs them and the journal that never loses one. Pure of Flower.

``engine`` reads like the life of a round: it opens, replies land, the quorum closes it, the strategy folds, the model
is committed. ``port`` is what it needs of the sites; ``journal`` what it leaves on disk; ``events`` and ``state`` how
what happened is written down and read back.
"""
