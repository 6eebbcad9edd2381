"""The `rlhf` command: thin, and quick to answer. Everything heavy is imported by the command that needs it.

A fault that a person can mend (RLHFError) ends with one line on stderr and exit code 2; Ctrl+C with one line and 130.
"""

from __future__ import annotations

import logging
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from rlhf import __version__
from rlhf.cli_arena import arena_app
from rlhf.cli_data import data_app
from rlhf.cli_people import people_app
from rlhf.cli_simulate import (
    AmongPeople,
    SeedOption,
    SimulateOption,
    TasksOption,
    TruthOption,
    check_together,
    run_simulation,
)
from rlhf.cli_store import MaybeConfigPath, ProjectOption, StoreOption, located, store_app, visible
from rlhf.errors import ConfigError, RLHFError

if TYPE_CHECKING:
    from rlhf.config import Config


class RewardAdapter(StrEnum):
    """Which reward model `rlhf reward` trains: PPO's own, or the evaluation's judge on labels of its own."""

    REWARD = "reward"
    GOLD = "gold"


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except RLHFError as error:
            typer.echo(f"rlhf: error: {visible(str(error))}", err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            typer.echo("rlhf: stopped by Ctrl+C; what was finished is kept, and the same command goes on", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Align a language model with your own people's judgement. Begin with `rlhf quickstart`.",
)
app.add_typer(data_app, name="data")
app.add_typer(store_app, name="store")
app.add_typer(people_app, name="people")
app.add_typer(arena_app, name="arena")

ConfigPath = Annotated[Path, typer.Option("-c", "--config", metavar="CONFIG.yaml", help="the run's config")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="change the config, as ppo.updates=10")
]
Force = Annotated[bool, typer.Option("--force", help="run again even where config, inputs and parents are unchanged")]


def main() -> None:
    """Run the command line."""
    app(prog_name="rlhf")


def packaged_config(name: str) -> Path:
    """A config that comes with the toolkit: `rlhf/configs/` in an installed wheel, `configs/` in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / name).is_file():
            return folder / name
    raise ConfigError(f"{name}: this config should have come with the toolkit; install rlhf-toolkit again")


def _load(path: Path, overrides: list[str] | None) -> Config:
    from rlhf import config

    return config.load(path, overrides or [])


def _run(path: Path, overrides: list[str] | None, force: bool, stages: tuple[str, ...] | None = None) -> None:
    config = _load(path, overrides)  # before torch is imported, so that a typo answers at once
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns at import of a kernel that we do not want
    from rlhf.stages import pipeline

    if stages is None:
        pipeline.run(config, force=force)
    else:
        pipeline.run(config, stages=stages, force=force)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rlhf-toolkit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="show the version and leave")
    ] = False,
) -> None:
    """Options that stand before any command."""


# --- running -----------------------------------------------------------------------------------------------------


@app.command()
def quickstart(overrides: Overrides = None, force: Force = False) -> None:
    """The whole loop on real people's film ratings, no GPU needed: `rlhf run -c configs/quickstart.yaml`."""
    _run(packaged_config("quickstart.yaml"), overrides, force)


@app.command()
def run(config: ConfigPath, overrides: Overrides = None, force: Force = False) -> None:
    """All stages of a config, each skipped where nothing that it depends on has changed."""
    _run(config, overrides, force)


def _stage_command(name: str, text: str) -> None:
    def command(config: ConfigPath, overrides: Overrides = None, force: Force = False) -> None:
        _run(config, overrides, force, stages=(name,))

    app.command(name, help=text)(command)


_stage_command("sft", "Fine-tune the `sft` adapter on demonstrations.")


@app.command()
def reward(
    config: ConfigPath,
    overrides: Overrides = None,
    force: Force = False,
    adapter: Annotated[
        RewardAdapter, typer.Option(help="PPO's reward model, or the evaluation's")
    ] = RewardAdapter.REWARD,
) -> None:
    """Train a reward model on the label store's rankings."""
    _run(config, overrides, force, stages=(adapter.value,))


_stage_command("ppo", "Train the `policy` adapter against the reward model, held near `sft`.")
_stage_command("evaluate", "Compare the policy with SFT on held-out prompts.")
_stage_command("export", "Write the aligned adapter for plain PEFT, and check it in a fresh process.")
_stage_command("sample", "Put completions into the label store, for people to rank; with `sample.against`, an arena.")
_stage_command("active", "Order the tasks that wait: what the reward model does not know comes first.")


# --- looking -----------------------------------------------------------------------------------------------------


@app.command("config")
def show_config(config: MaybeConfigPath = None, overrides: Overrides = None) -> None:
    """The resolved config as YAML, every key with its range, default and meaning; without -c, the defaults."""
    from rlhf import config as configs
    from rlhf.config_help import annotated

    typer.echo(annotated(_load(config, overrides) if config else configs.parse(_from_nothing(overrides), "defaults")))


def _from_nothing(overrides: list[str] | None) -> dict[str, Any]:
    if overrides:
        raise ConfigError(f"override {overrides[0]!r}: there is no config to change; name one with -c")
    return {}


@app.command()
def doctor(config: MaybeConfigPath = None, overrides: Overrides = None) -> None:
    """What this machine can do; with -c, whether the config fits into its memory."""
    loaded = _load(config, overrides) if config else None
    from rlhf import doctor as checks

    raise typer.Exit(checks.run(loaded))


# --- labels ------------------------------------------------------------------------------------------------------


SignInOption = Annotated[
    Literal["name", "invite", "oidc"] | None,
    typer.Option(
        help="by name (this machine only), by personal invite, or by an identity provider; without it: by name where "
        "only this machine reaches the page, else by invite",
        show_default=False,
    ),
]
AllowedHosts = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="name under which others reach the page; may be given again")
]
Https = Annotated[
    bool, typer.Option("--https", help="a proxy with a certificate stands before it, and passes Host on unchanged")
]
TlsCert = Annotated[Path | None, typer.Option(metavar="PEM", help="certificate, to speak TLS without a proxy")]
TlsKey = Annotated[Path | None, typer.Option(metavar="PEM", help="the certificate's private key, not encrypted")]
InsecureHttp = Annotated[
    bool, typer.Option("--insecure-http", help="let others come unencrypted: only where you trust the network (a VPN)")
]
OidcSecrets = Annotated[
    Path | None,
    typer.Option(metavar="TOML", help="identity provider: the auth section of a secrets.toml of Streamlit's"),
]

RunsFolder = Annotated[
    Path | None,
    typer.Option(
        "--runs",
        metavar="DIR",
        help="folder of runs that admins may look at, live; without it: with -c the one that holds the config's "
        "run_dir, with --store none",
        show_default=False,
    ),
]


@app.command()
def label(
    context: typer.Context,
    store: StoreOption = None,
    config: MaybeConfigPath = None,
    project: ProjectOption = None,
    host: Annotated[str, typer.Option(help="address to listen on; others need --allowed-host and TLS")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8501,
    open_browser: Annotated[bool, typer.Option("--open", help="open the page in a browser")] = False,
    sign_in: SignInOption = None,
    allowed_host: AllowedHosts = None,
    https: Https = False,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    insecure_http: InsecureHttp = False,
    oidc_secrets: OidcSecrets = None,
    runs: RunsFolder = None,
    simulate: SimulateOption = None,
    truth: TruthOption = None,
    tasks: TasksOption = None,
    seed: SeedOption = 0,
    among_people: AmongPeople = False,
) -> None:
    """Open the labeling app on a label store, or let simulated people rank on it."""
    check_together(context)
    if simulate is not None:
        how: dict[str, Any] = {"truth": truth, "tasks": tasks, "seed": seed, "among_people": among_people}
        run_simulation(simulate, store, config, project, **how)
        return
    url, name = located(store, config, project)
    for reached in (host, *(allowed_host or ())):
        if not reached.isprintable():  # bytes that are no UTF-8 come as such too
            raise ConfigError(f"--host, --allowed-host: expected the name of a machine, found {reached!r}")
    from labeling_app.launch import launch

    code = launch(
        url,
        project=name,
        host=host,
        port=port,
        open_browser=open_browser,
        sign_in=sign_in,
        allowed_hosts=tuple(allowed_host or ()),
        https=https,
        tls_cert=tls_cert,
        tls_key=tls_key,
        insecure_http=insecure_http,
        oidc_secrets=oidc_secrets,
        runs=_runs_beside(config) if runs is None and config else runs,
    )
    raise typer.Exit(code)


def _runs_beside(config: Path) -> Path | None:
    """The folder that holds the config's run directory; None if there is none yet."""
    folder = _load(config, None).run_path.absolute().parent
    return folder if folder.is_dir() else None
