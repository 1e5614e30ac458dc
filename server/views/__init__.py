"""What API, dashboard, metrics and commands show: read models as frozen dataclasses, one query module a subject.

They read the store and change nothing; words and advice are made here, once, for all who show them.

``visible`` is which projects' runs somebody may see: names, or ``None`` for all. What is not visible is not there.
"""
