"""The dashboard: pages that the server draws, with small scripts that keep them fresh.

Without scripts every page and button works, and shows what was so when it was loaded. Pages read the same views as the
API and change things through the same ``Actions``; the look and the charts are the report's (``fl.report``).
"""

from server.web.install import install

__all__ = ["install"]
