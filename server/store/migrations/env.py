"""What alembic runs for each command: on the connection that it is given, in that connection's transaction."""

from alembic import context

from server.store import runs as _runs  # noqa: F401
from server.store.models import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
context.run_migrations()
