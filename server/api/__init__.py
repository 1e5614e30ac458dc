"""The API of the control room: REST under ``/api/v1``, server-sent events, ``/metrics``. See ``docs/reference/api.md``.

``create_app`` makes the application; ``server.web`` adds its pages to the same one and uses the same sign-in.
"""

from server.api.app import create_app
from server.api.auth import Current, current_user

__all__ = ["Current", "create_app", "current_user"]
