"""A centre for rollouts of made-up sites: it sees those whose release runs, and counts what it is asked."""

import json

from edge.fleet.centre import Seen


class FakeCentre:
    """See ``edge.fleet.centre.Centre``; ``rounds`` are told one after the other, the last for ever."""

    def __init__(self, session, *, rounds=({},), smoke="", version="0.3.1"):
        self.session, self.rounds, self.smoke_result, self._version = session, list(rounds), smoke, version
        self.tokens, self.smokes, self.asked_rounds = [], [], 0
        self.offline = set()

    def version(self):
        return self._version

    def open_rounds(self):
        self.asked_rounds += 1
        return self.rounds.pop(0) if len(self.rounds) > 1 else self.rounds[0]

    def sites(self):
        seen = {}
        for path in (self.session.store.directory / "sites").glob("*.json"):
            state = json.loads(path.read_text())
            if "secret/fl-site-identity" in state["objects"] and state["revisions"]:
                seen[path.stem] = Seen(path.stem not in self.offline, self.session.fleet.release.version)
        return seen

    def join_token(self, site):
        self.tokens.append(site)
        return f"fl1.token-of-{site}"

    def smoke(self, run_file, sites, timeout_s):
        self.smokes.append(run_file)
        return self.smoke_result
