"""What the guide to secure aggregation shows can be typed."""

import tomllib

from fl.config import load
from fl.secagg.policy import SitePolicy
from tests.docs import pages


def test_the_policy_file_of_the_guide_is_one():
    (table,) = [
        tomllib.loads(text)
        for text in pages.fences("docs/how-to/secure-aggregation.md", "toml")
        if "[task]" not in text and "[secagg]" in text
    ]
    assert load(SitePolicy, table["secagg"]).max_clip == 0.5
