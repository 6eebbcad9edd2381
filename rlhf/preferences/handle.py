"""A label store in hand: opened, upgraded, copied, checked; its transactions and its project. No rankings yet."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from rlhf.data.records import check_text
from rlhf.errors import StoreError
from rlhf.preferences import access, care
from rlhf.preferences import engine as db
from rlhf.preferences.schema import DEFAULT_PROJECT, SCHEMA_VERSION, projects, queues
from rlhf.preferences.settings import ProjectSettings, parse_settings, stored_settings
from rlhf.preferences.types import Labeler, Project


class StoreHandle:
    """One project of one database."""

    def __init__(self, engine: Engine, project: str = DEFAULT_PROJECT) -> None:
        self._engine = engine
        with self._reading() as connection:
            found = connection.scalar(sa.select(projects.c.id).where(projects.c.name == project))
            known = list(connection.scalars(sa.select(projects.c.name).order_by(projects.c.id)))
        if found is None and project == DEFAULT_PROJECT:
            raise StoreError(f"label store {self.name}: its project {DEFAULT_PROJECT!r} is missing; restore a backup")
        if found is None:
            raise StoreError(
                f"label store {self.name}: holds no project {project!r} but {', '.join(known)}; "
                f"make it with: rlhf store project {project} --create"
            )
        self._project_id: int = found
        self.project = project

    @classmethod
    def open(cls, url: str | Path, create: bool = False, project: str = DEFAULT_PROJECT) -> Self:
        """Open a project of the store at a file path or SQLAlchemy URL.

        `create` makes the store (and its folder) where there is none. Raises StoreError if it is missing, is no label
        store, has another schema version, or lacks the project.
        """
        where = db.store_url(url)
        path = _file(where)
        if path is not None and not path.is_file():
            if path.exists():
                raise StoreError(f"label store {path}: this is a folder; give the path of a file in it")
            if not create:
                raise StoreError(
                    f"label store {path}: no such file; check the path, or make a store by `rlhf store tasks`, "
                    "`rlhf data import` or `rlhf sample`"
                )
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"label store {path}: its folder cannot be made ({error.strerror})") from None
        engine = db.make_engine(where)
        try:
            if create and db.schema_version(engine) is None:
                db.migrate(engine)
            db.check_version(engine)
            db.use_wal(engine)
            return cls(engine, project)
        except BaseException:
            engine.dispose()
            raise

    @staticmethod
    def upgrade(url: str | Path) -> tuple[str, str]:
        """Bring a store's schema to this version; returns the version found and the one now. Copy it first."""
        where = db.store_url(url)
        path = _file(where)
        if path is not None and not path.is_file():
            raise StoreError(f"label store {path}: no such file; nothing to upgrade")
        engine = db.make_engine(where)
        try:
            found = db.schema_version(engine)
            if found is not None and found < SCHEMA_VERSION:
                db.migrate(engine)
            db.check_version(engine)
            return str(found), SCHEMA_VERSION
        finally:
            engine.dispose()

    def backup(self, file: str | Path, *, by: Labeler | None = None) -> None:
        """Copy the store as it is now into a new file, while people go on working; see `care.backup`. For admins."""
        with self._reading() as connection:
            access.allow(connection, by, "admin")
        care.backup(self._engine, Path(file))

    def check(self, *, by: Labeler | None = None) -> list[str]:
        """What should not be: damage, missing triggers, counts and judgments that do not fit. Empty: all is well."""
        with self._reading() as connection:
            access.allow(connection, by, "admin")
            return list(care.problems(connection))

    def close(self) -> None:
        """Let go of the database's connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def name(self) -> str:
        """The store for messages: its file, or its URL without the password."""
        return db.shown(self._engine.url)

    # Projects

    def projects(self) -> list[Project]:
        """All projects of the store with their settings, oldest first."""
        with self._reading() as connection:
            rows = connection.execute(sa.select(projects).order_by(projects.c.id)).all()
        return [Project(row.name, stored_settings(row.settings, f"project {row.name!r}")) for row in rows]

    def settings(self) -> ProjectSettings:
        """This project's settings."""
        with self._reading() as connection:
            return project_settings(connection, self._project_id)

    def create_project(self, name: str, changes: Mapping[str, Any] | None = None, *, by: Labeler | None = None) -> None:
        """Make a project beside this one, of a new name and with these settings (the rest are defaults). For admins."""
        check_text(name, "project")
        if len(name) > 80 or not name.isprintable() or name != name.strip():
            expected = "a name of 1 to 80 visible characters without spaces around them"
            raise StoreError(f"project: expected {expected}, found {name[:80]!r}")
        settings = parse_settings(changes or {}, f"project {name!r}")
        with self._filling() as connection:
            access.allow(connection, by, "admin")
            if connection.scalar(sa.select(projects.c.id).where(projects.c.name == name)) is not None:
                raise StoreError(f"project {name!r}: exists already; change its settings, or choose another name")
            row = {"name": name, "settings": settings.model_dump(mode="json"), "secret": secrets.token_hex(32)}
            added = connection.execute(sa.insert(projects).values(**row).returning(projects.c.id)).scalar_one()
            connection.execute(sa.insert(queues).values(project_id=added, version=1))
            access.record(connection, by, "create project", project=added)

    def configure(self, changes: Mapping[str, Any], *, by: Labeler | None = None) -> ProjectSettings:
        """Change some of this project's settings; returns all. ConfigError for a bad one: then none is changed.

        For admins (`by`); without `by` it is a program that has the database in its hands anyway.
        """
        with self._filling() as connection:
            access.allow(connection, by, "admin")
            before = connection.scalar(sa.select(projects.c.settings).where(projects.c.id == self._project_id)) or {}
            known = {key: value for key, value in before.items() if key in ProjectSettings.model_fields}
            settings = parse_settings({**known, **changes}, f"project {self.project!r}")
            mine = sa.update(projects).where(projects.c.id == self._project_id)
            connection.execute(mine.values(settings={**before, **settings.model_dump(mode="json")}))
            access.record(connection, by, "configure", project=self._project_id, settings=sorted(changes))
        return settings

    # Transactions

    def _reading(self) -> AbstractContextManager[Connection]:
        return db.transaction(self._engine, reading=True)

    def _writing(self) -> AbstractContextManager[Connection]:
        return db.transaction(self._engine)

    @contextmanager
    def _filling(self) -> Iterator[Connection]:
        """A write transaction that no other import, addition, setting or guideline of the project runs beside.

        SQLite has one writer anyway (so it is kept short); on PostgreSQL labelers go on meanwhile.
        """
        with self._writing() as connection:
            mine = sa.select(projects.c.id).where(projects.c.id == self._project_id)
            connection.execute(mine.with_for_update(key_share=True))
            yield connection


def project_settings(connection: Connection, project_id: int) -> ProjectSettings:
    """The settings of a project, as they are in this transaction."""
    row = connection.execute(sa.select(projects.c.name, projects.c.settings).where(projects.c.id == project_id)).one()
    return stored_settings(row.settings, f"project {row.name!r}")


def _file(url: sa.engine.URL) -> Path | None:
    return Path(str(url.database)) if url.get_backend_name() == "sqlite" else None
