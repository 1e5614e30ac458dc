"""The only port that sites reach: gRPC with mutual TLS in front of SuperLink, which listens on loopback.

``service`` answers the link's calls, ``nodes`` knows what each site may do now, ``mail`` holds a site's question for
mail until there is some, ``leases`` tells SuperLink who is online, ``fleet`` speaks Flower's Fleet API, ``ledger``
keeps on disk what was delivered, ``limits`` and ``counters`` bound and count, ``process`` puts them together.
"""
