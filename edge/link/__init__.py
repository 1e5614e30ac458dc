"""The link: what the site's SuperNode takes for the SuperLink, with one connection to the centre behind it.

``endpoint`` speaks Flower's Fleet API on loopback, ``channel`` holds the connection, ``outbox`` brings replies to the
centre, ``limits`` keeps to the owner's policy, ``status`` says how it is. ``process`` puts them together.
"""
