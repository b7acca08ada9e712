"""What Alembic runs: the revisions, on the connection that `database` hands over."""

from typing import Any

from alembic import context

from autocompress.store import schema


def include_object(
    _object: object, name: str | None, kind: str, _reflected: bool, _compare_to: Any
) -> bool:
    """Answer whether a table is ours.

    Another program's tables may live in the same database (Optuna's do); without this a comparison
    would drop them all.
    """
    return kind != "table" or (name is not None and name.startswith("ac_"))


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=schema.metadata,
    include_object=include_object,
    # Optuna refuses a database whose `alembic_version` it did not write.
    version_table="ac_alembic_version",
)
with context.begin_transaction():
    context.run_migrations()
