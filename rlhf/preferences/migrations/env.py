"""Run by Alembic, on the connection that `rlhf.preferences.engine.migrate` hands over in an open transaction."""

from __future__ import annotations

from alembic import context

from rlhf.preferences.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
