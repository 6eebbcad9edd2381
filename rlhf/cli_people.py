"""`rlhf people`: who may come in to rank, and as what."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from rlhf.cli_store import MaybeConfigPath, ProjectOption, StoreOption, cell, opened, visible
from rlhf.errors import ConfigError

if TYPE_CHECKING:
    from rlhf.preferences import Person

people_app = typer.Typer(
    no_args_is_help=True, help="Invite people to a label store; give roles, suspend, exclude, forget."
)

Name = Annotated[str, typer.Argument(help="the person's name, as it stands in rankings")]


class Role(StrEnum):
    """Each may do what those before it may."""

    LABELER = "labeler"
    REVIEWER = "reviewer"
    ADMIN = "admin"


@people_app.command("invite")
def invite(
    name: Name,
    role: Annotated[
        Role | None, typer.Option(help="what the person may do; without it: as before, new ones are labelers")
    ] = None,
    email: Annotated[str, typer.Option(help="for sign-in through an identity provider")] = "",
    url: Annotated[str, typer.Option(help="where the labeling page is, for a link that can be sent")] = "",
    store: StoreOption = None,
    config: MaybeConfigPath = None,
) -> None:
    """Print a personal invite, shown this once. Inviting somebody again makes their earlier invite worthless."""
    from rlhf.preferences.people import check_invite

    said = None if role is None else role.value
    link = _checked_url(url)
    check_invite(name, said, email)  # before the store is made: a bad name leaves nothing behind
    with opened(store, config, "default", create=True) as labels:
        token = labels.invite(name, said, email=email)
    typer.echo(f"{link}/invite/{token}" if link else token)


def _check_name(name: str) -> None:
    """DataError for what no database could look up; old stores hold names that would not be taken today."""
    from rlhf.data.records import check_text

    check_text(name, "name", blank=True)


def _checked_url(url: str) -> str:
    """The page's address without a slash behind it; ConfigError for what no browser could open."""
    from urllib.parse import urlsplit

    if not url:
        return ""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # no port, or half an IPv6 address
        parts, port = urlsplit(""), None
    plain = url.isprintable() and " " not in url and not parts.query and not parts.fragment
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain or port == 0:
        raise ConfigError(f"--url: expected the page's address, like https://rank.example.org, found {url[:200]!r}")
    return url.rstrip("/")


@people_app.command("list")
def list_people(store: StoreOption = None, config: MaybeConfigPath = None) -> None:
    """Everybody, with role and number of judgments."""
    from datetime import UTC, datetime

    from rich.console import Console
    from rich.table import Table

    with opened(store, config, "default") as labels:
        table = Table("name", "role", "e-mail", "may come in", "judgments", "last (UTC)", title=cell(labels.name))
        for person in labels.people():
            last = "" if person.last is None else datetime.fromtimestamp(person.last, UTC).strftime("%Y-%m-%d %H:%M")
            state, judged = _way_in(person), str(person.judgments)
            table.add_row(cell(person.name), person.role, cell(person.email), state, judged, last)
    Console().print(table)


def _way_in(person: Person) -> str:
    if not person.active:
        return "no"
    if person.invited or person.email:
        return "by invite" if person.invited else "by e-mail"
    return "by name, on this machine" if person.role == "labeler" and not person.imported else "once invited"


@people_app.command("role")
def set_role(name: Name, role: Role, store: StoreOption = None, config: MaybeConfigPath = None) -> None:
    """Make somebody a labeler, reviewer or admin."""
    _check_name(name)
    with opened(store, config, "default") as labels:
        labels.set_role(name, role.value)
    typer.echo(visible(f"{name}: {role.value}"))


@people_app.command("suspend")
def suspend(name: Name, store: StoreOption = None, config: MaybeConfigPath = None) -> None:
    """Let somebody do nothing more here: their open tasks go to others, what they said stays."""
    _check_name(name)
    with opened(store, config, "default") as labels:
        labels.suspend(name)
    typer.echo(visible(f"{name}: suspended"))


@people_app.command("reinstate")
def reinstate(name: Name, store: StoreOption = None, config: MaybeConfigPath = None) -> None:
    """Let a suspended person come in again."""
    _check_name(name)
    with opened(store, config, "default") as labels:
        labels.reinstate(name)
    typer.echo(visible(f"{name}: may come in again"))


@people_app.command("erase")
def erase(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    store: StoreOption = None,
    config: MaybeConfigPath = None,
) -> None:
    """Forget somebody's name and e-mail for good; their rankings stay, under a name that says nothing."""
    _check_name(name)
    with opened(store, config, "default") as labels:
        if not yes:
            typer.confirm(f"Forget {name!r} for good? Backups and exports made before still hold the name", abort=True)
        typer.echo(f"now called {labels.erase(name)}")


@people_app.command("exclude")
def exclude(
    name: Name,
    reason: Annotated[str, typer.Option(help="why; it stays on record")],
    replace: Annotated[
        bool, typer.Option("--replace", help="ask one person more of each task that they ranked")
    ] = False,
    store: StoreOption = None,
    config: MaybeConfigPath = None,
    project: ProjectOption = None,
) -> None:
    """Leave somebody's rankings out of a project's exports, and so out of training; they stay in the store."""
    _check_name(name)
    with opened(store, config, project) as labels:
        labels.exclude(name, reason, replace=replace)
    typer.echo(visible(f"{name}: in no export of project {labels.project}" + (", others are asked" if replace else "")))


@people_app.command("include")
def include(
    name: Name, store: StoreOption = None, config: MaybeConfigPath = None, project: ProjectOption = None
) -> None:
    """Take an excluded person's rankings into a project's exports again."""
    _check_name(name)
    with opened(store, config, project) as labels:
        labels.include(name)
    typer.echo(visible(f"{name}: in exports of project {labels.project} again"))
