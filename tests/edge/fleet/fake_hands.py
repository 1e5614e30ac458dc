"""Hands without hosts, for what a rollout decides: each site is a few facts, and each answer is made from them."""

from edge.fleet.hands import Answer


class FakeHands:
    """See ``edge.fleet.hands.Hands``.

    Args:
        session: The fleet.
        natures: Of sites that are not just fine, by name: ``unreachable`` (a set of steps), ``fails`` (error by step),
            ``sick`` (what is wrong with its pods), ``restarts``, ``enrolled``, ``runs`` (digest before the rollout).
    """

    def __init__(self, session, natures=None):
        self.session, self.natures = session, natures or {}
        self.done = []
        self.running = {name: self.nature(name).get("runs") for name in session.wanted}
        self.revisions = {name: [digest] if digest else [] for name, digest in self.running.items()}
        self.looks = dict.fromkeys(session.wanted, 0)
        self.tokens = {}
        self.most_at_once = 0

    def nature(self, name):
        return self.natures.get(name, {})

    def each(self, sites, do, *, parallel, arguments=lambda site: {}, started=lambda site: None, step=lambda *_: None,
             is_stopping=lambda: False, tick=lambda: None):  # fmt: skip
        for name in list(sites):
            if is_stopping():
                return
            started(name)
            given = dict(arguments(name))
            self.done.append((do, name))
            step(name, f"at {do}")
            nature = self.nature(name)
            if do in nature.get("unreachable", ()):
                yield Answer(site=name, ok=False, kind="unreachable", error="timed out", seconds=1)
            elif do in nature.get("fails", {}):
                yield Answer(site=name, ok=False, kind="failed", error=nature["fails"][do], seconds=1)
            else:
                yield Answer(site=name, ok=True, result=getattr(self, do)(name, **given), seconds=1)
            tick()

    def stage(self, name):
        good = len(self.revisions[name]) or None
        changed = [] if self.running[name] == self.session.wanted[name].digest else ["image: import"]
        return {"good_revision": good, "is_enrolled": self.nature(name).get("enrolled", True), "changed": changed}

    def release(self, name, token=None):
        self.tokens[name] = token
        wanted = self.session.wanted[name].digest
        changed = self.running[name] != wanted
        if changed:
            self.running[name] = wanted
            self.revisions[name].append(wanted)
        return {"changed": ["helm: release"] if changed else []}

    def health(self, name):
        self.looks[name] += 1
        nature, digest = self.nature(name), self.running[name]
        fresh = digest == self.session.wanted[name].digest
        sick = nature.get("sick") if fresh else None
        restarts = self.looks[name] if nature.get("restarts") else 0
        pod = {"name": "fl-site-0", "is_ready": not sick, "restarts": restarts, "reason": sick or "", "images": []}
        revision = {"revision": len(self.revisions[name]), "status": "deployed", "digest": digest}
        key = f"HelmRelease(helm=helm, namespace=fl-system, release={self.session.wanted[name].site.release_name})"
        return {"Pods(x)": [pod], key: {"revisions": [revision]}}

    def enrolled(self, name):
        return {"changed": []}

    def roll_back(self, name, revision):
        self.running[name] = self.revisions[name][revision - 1] if revision else None
        self.revisions[name].append(self.running[name])
        return {"changed": ["helm: roll back"]}
