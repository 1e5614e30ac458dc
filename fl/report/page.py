"""The report as one HTML page that needs nothing else: no network, no library, and it says so to the browser.

Everything that a site or a run file says is text: the template escapes it, data for the script is JSON that cannot
end its element, and a content security policy allows only this page's own script and style, by their digests.
"""

from __future__ import annotations

import base64
import datetime
import functools
import hashlib
import re
from importlib import resources

import jinja2
from markupsafe import Markup, escape

from fl import __version__
from fl.report import advice, timeline, view, words
from fl.report.facts import Facts

MOST_REASONS = 100
"""Rows of the table of reasons."""


def render(facts: Facts) -> str:
    """The page, a few MB at most for any number of rounds and sites."""
    script, style = asset("page.js"), asset("page.css")
    timelines = timeline.timelines(facts)
    sites = view.sites_shown(facts)
    html = _template().render(
        facts=facts,
        run=facts.run,
        script=Markup(script),  # noqa: S704  # our own files, not what a run says
        style=Markup(style),  # noqa: S704
        policy=policy(script, style),
        generated=datetime.datetime.now(datetime.UTC),
        version=__version__,
        tiles=view.tiles(facts),
        concerns=advice.concerns(facts),
        curves=view.curves(facts),
        round_charts=view.round_charts(facts),
        sites=[(site, view.strip(site, facts.rounds)) for site in sites],
        site_metrics=view.site_metrics(sites),
        outcomes=view.outcomes_seen(facts),
        letters={letter: (outcome, view.OUTCOMES[outcome]) for outcome, letter in view.LETTERS.items()},
        strip_width=-(-len(facts.rounds) // view.MOST_COLUMNS),
        reasons=facts.reasons[:MOST_REASONS],
        timelines=timelines,
        round_table=view.round_table(facts),
        config_tables=view.config_tables(facts),
        left_out=left_out(facts, len(timelines)),
    )
    return html.lstrip()  # what the macros leave


def left_out(facts: Facts, num_timelines: int) -> dict[str, str]:
    """What is not on the page, by section."""
    found = {}
    num_rounds, num_sites = len(facts.rounds), len(facts.sites)
    if num_timelines < num_rounds:
        found["timelines"] = f"The newest {words.count(num_timelines)} of {words.count(num_rounds)} rounds are here."
    if num_rounds > view.MOST_ROUNDS:
        found["rounds"] = f"The newest {words.count(view.MOST_ROUNDS)} of {words.count(num_rounds)} rounds are here."
    if num_sites > view.MOST_SITES:
        found["sites"] = (
            f"The {words.count(view.MOST_SITES)} of {words.count(num_sites)} sites with the most trouble are here."
        )
    if len(facts.reasons) > MOST_REASONS:
        found["reasons"] = (
            f"The {MOST_REASONS} most frequent of {words.count(len(facts.reasons))} different reasons are here."
        )
    metrics = view.metric_names(facts.rounds)
    if len(metrics) > view.MOST_METRICS:
        found["metrics"] = f"The first {view.MOST_METRICS} of {len(metrics)} metrics are here."
    return found


def environment(package: str = "fl.report") -> jinja2.Environment:
    """What draws the templates of a package, ``parts.html`` of this one among them."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: asset(name, "fl.report" if name == "parts.html" else package)),
    )
    environment.filters |= {
        "seconds": words.seconds,
        "size": words.size,
        "count": words.count,
        "energy": words.energy,
        "moment": words.moment,
        "names": words.names,
        "advice": advice.advice,
        "prose": _prose,
    }
    environment.globals |= {"metric": words.metric, "plural": words.plural, "slug": _slug}
    return environment


def policy(script: str, style: str) -> str:
    """A content security policy under which this script and style run and apply, and nothing is loaded."""
    return f"default-src 'none'; script-src {_digest(script)}; style-src {_digest(style)}; base-uri 'none'"


def asset(name: str, package: str = "fl.report") -> str:
    """A file that lies beside the modules of a package."""
    return (resources.files(package) / name).read_text(encoding="utf-8")


@functools.cache
def _template() -> jinja2.Template:
    return environment().get_template("page.html")


def _prose(text: str) -> Markup:
    """A docstring as HTML: double backquotes are code."""
    return Markup(re.sub(r"``(.+?)``", r"<code>\1</code>", str(escape(" ".join(text.split())))))  # noqa: S704


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
