"""The command line: quick, thin, and clear when something is wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rlhf import __version__, cli
from rlhf.config import Config, load
from rlhf.errors import ArtifactError
from rlhf.preferences import LabelStore, NewTask

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    "quickstart", "run", "sft", "sample", "reward", "ppo", "evaluate", "export", "active", "label", "data", "store",
    "people", "arena", "doctor", "config",
)  # fmt: skip
runner = CliRunner()


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(f"run_dir: {tmp_path}/run\nseed: 4\n")
    return path


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, dict[str, Any]]]:
    """Stands in for the pipeline: what it was asked to do, without doing it."""
    import rlhf.stages

    calls: list[tuple[Config, dict[str, Any]]] = []
    fake = types.ModuleType("rlhf.stages.pipeline")
    fake.run = lambda config, **how: calls.append((config, how))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "rlhf.stages.pipeline", fake)
    monkeypatch.setattr(rlhf.stages, "pipeline", fake, raising=False)
    return calls


def _fresh(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own."""
    code = (
        "import sys\n"
        "from rlhf.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    print('torch' in sys.modules, 'rlhf.config' in sys.modules, file=sys.stderr)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, text=True, env={**os.environ, **environment}, cwd=ROOT,
    )  # fmt: skip


# --- quick -------------------------------------------------------------------------------------------------------


def test_help_lists_every_command_without_importing_torch() -> None:
    done = _fresh("--help")
    assert done.returncode == 0
    assert all(re.search(rf"^│ {command}\b", done.stdout, re.M) for command in COMMANDS)
    assert done.stderr.split() == ["False", "False"]


def test_help_takes_less_than_half_a_second_of_cpu() -> None:
    """CPU seconds, for a busy machine stretches the clock's; the best of three, for the first run compiles."""
    code = (
        "import resource, sys\nfrom subprocess import DEVNULL, run\n"
        "run([sys.executable, '-c', 'from rlhf.cli import main; main()', '--help'], stdout=DEVNULL, check=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_utime + used.ru_stime)\n"
    )
    seconds = [float(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT)) for _ in range(3)]
    assert min(seconds) < 0.5


def test_a_config_fault_answers_before_torch_is_imported() -> None:
    done = _fresh("run", "-c", "configs/none.yaml")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0].startswith("rlhf: error: configs/none.yaml: no such config file")
    assert done.stderr.splitlines()[1] == "False True"


def test_version() -> None:
    result = runner.invoke(cli.app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"rlhf-toolkit {__version__}\n")


# --- faults ------------------------------------------------------------------------------------------------------


def test_a_fault_is_one_line_on_stderr_and_exit_code_2(config_file: Path) -> None:
    result = runner.invoke(cli.app, ["run", "-c", str(config_file), "ppo.update=3"])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == "rlhf: error: override 'ppo.update=3': unknown key 'ppo.update'; did you mean 'updates'?\n"


def test_faults_of_the_stages_look_the_same(
    config_file: Path, pipeline: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(config: Config, **how: Any) -> None:
        raise ArtifactError("adapters/sft: made for another base")

    monkeypatch.setattr(sys.modules["rlhf.stages.pipeline"], "run", refuse)
    result = runner.invoke(cli.app, ["ppo", "-c", str(config_file)])
    assert (result.exit_code, result.stderr) == (2, "rlhf: error: adapters/sft: made for another base\n")


def test_ctrl_c_is_one_line_and_130(config_file: Path, pipeline: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(config: Config, **how: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["rlhf.stages.pipeline"], "run", interrupt)
    result = runner.invoke(cli.app, ["run", "-c", str(config_file)])
    assert result.exit_code == 130
    assert result.stderr.startswith("rlhf: stopped by Ctrl+C") and result.stderr.count("\n") == 1


def test_a_bug_keeps_its_traceback(config_file: Path, pipeline: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(config: Config, **how: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sys.modules["rlhf.stages.pipeline"], "run", fail)
    assert isinstance(runner.invoke(cli.app, ["run", "-c", str(config_file)]).exception, ZeroDivisionError)


# --- running -----------------------------------------------------------------------------------------------------


def test_run_passes_the_config_and_force(config_file: Path, pipeline: list[tuple[Config, dict[str, Any]]]) -> None:
    assert runner.invoke(cli.app, ["run", "-c", str(config_file), "--force", "ppo.updates=3"]).exit_code == 0
    ((config, how),) = pipeline
    assert (config.seed, config.ppo.updates, how) == (4, 3, {"force": True})


@pytest.mark.parametrize(
    ("arguments", "stage"),
    [
        (["sft"], "sft"),
        (["reward"], "reward"),
        (["reward", "--adapter", "gold"], "gold"),
        (["ppo"], "ppo"),
        (["evaluate"], "evaluate"),
        (["export"], "export"),
        (["sample"], "sample"),
    ],
)
def test_stage_commands_run_one_stage(arguments: list[str], stage: str, config_file: Path, pipeline: list[Any]) -> None:
    assert runner.invoke(cli.app, [*arguments, "-c", str(config_file)]).exit_code == 0
    assert [how for _, how in pipeline] == [{"stages": (stage,), "force": False}]


def test_a_stage_needs_a_config() -> None:
    result = runner.invoke(cli.app, ["sft"])
    assert result.exit_code == 2
    assert "--config" in result.stderr


def test_quickstart_is_run_with_the_packaged_config(
    pipeline: list[tuple[Config, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "site" / "rlhf"
    (package / "configs").mkdir(parents=True)
    (package / "configs" / "quickstart.yaml").write_text("run_dir: from-the-wheel\n")
    monkeypatch.setattr(cli, "__file__", str(package / "cli.py"))
    assert runner.invoke(cli.app, ["quickstart", "seed=9"]).exit_code == 0
    ((config, how),) = pipeline
    assert (config.run_dir, config.seed, how) == ("from-the-wheel", 9, {"force": False})


def test_a_checkout_has_its_configs_beside_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "rlhf").mkdir()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "quickstart.yaml").touch()
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "rlhf" / "cli.py"))
    assert cli.packaged_config("quickstart.yaml") == tmp_path / "configs" / "quickstart.yaml"


def test_a_config_that_was_not_packaged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "rlhf" / "cli.py"))
    result = runner.invoke(cli.app, ["quickstart"])
    assert (result.exit_code, result.stderr) == (
        2,
        "rlhf: error: quickstart.yaml: this config should have come with the toolkit; install rlhf-toolkit again\n",
    )


# --- config ------------------------------------------------------------------------------------------------------


def test_config_prints_what_loads_again(config_file: Path, tmp_path: Path) -> None:
    result = runner.invoke(cli.app, ["config", "-c", str(config_file), "ppo.updates=3"])
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(result.stdout)
    assert load(resolved) == load(config_file, ["ppo.updates=3"])


def test_config_without_a_file_explains_the_defaults() -> None:
    result = runner.invoke(cli.app, ["config"])
    assert result.exit_code == 0
    assert re.search(
        r"^  updates: 20 +# integer >= 1; default 20; rollout \+ optimisation rounds$", result.stdout, re.M
    )


def test_overrides_need_a_config() -> None:
    result = runner.invoke(cli.app, ["config", "seed=3"])
    assert (result.exit_code, result.stderr) == (
        2, "rlhf: error: override 'seed=3': there is no config to change; name one with -c\n",
    )  # fmt: skip


# --- labels ------------------------------------------------------------------------------------------------------


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    calls: list[tuple[str, dict[str, Any]]] = []
    fake = types.ModuleType("labeling_app.launch")
    fake.launch = lambda url, **how: calls.append((url, how))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "labeling_app.launch", fake)
    return calls


LABEL_DEFAULTS: dict[str, Any] = {
    "project": "default", "host": "127.0.0.1", "port": 8501, "open_browser": False, "sign_in": None,
    "allowed_hosts": (), "https": False, "tls_cert": None, "tls_key": None, "insecure_http": False,
    "oidc_secrets": None, "runs": None,
}  # fmt: skip


def test_label_opens_the_app_on_the_configs_store(config_file: Path, launched: list[Any]) -> None:
    assert runner.invoke(cli.app, ["label", "-c", str(config_file), "--open"]).exit_code == 0
    changed = {"open_browser": True, "runs": config_file.parent}
    assert launched == [(f"{config_file.parent}/run/labels.db", LABEL_DEFAULTS | changed)]


def test_label_takes_a_store_and_says_who_may_come_in(launched: list[Any]) -> None:
    arguments = ["label", "--store", "postgresql://db/x", "--project", "news", "--host", "0.0.0.0", "--port", "9000"]
    arguments += ["--sign-in", "oidc", "--allowed-host", "a.example", "--allowed-host", "b.example", "--https"]
    arguments += ["--tls-cert", "c.pem", "--tls-key", "k.pem", "--insecure-http", "--oidc-secrets", "s.toml"]
    arguments += ["--runs", "runs"]
    assert runner.invoke(cli.app, arguments).exit_code == 0
    expected = {
        "project": "news", "host": "0.0.0.0", "port": 9000, "open_browser": False, "sign_in": "oidc",
        "allowed_hosts": ("a.example", "b.example"), "https": True, "tls_cert": Path("c.pem"),
        "tls_key": Path("k.pem"), "insecure_http": True, "oidc_secrets": Path("s.toml"),
        "runs": Path("runs"),
    }  # fmt: skip
    assert launched == [("postgresql://db/x", expected)]


def test_label_refuses_strangers_in_one_line() -> None:
    result = runner.invoke(cli.app, ["label", "--store", "x.db", "--host", "0.0.0.0"])
    assert (result.exit_code, result.stdout, len(result.stderr.splitlines())) == (2, "", 1)
    assert result.stderr.startswith("rlhf: error: --allowed-host: host '0.0.0.0' makes the page reachable for others")


@pytest.mark.parametrize("name", ["a\nb", "\udcff", "\x1b[2J"])
@pytest.mark.parametrize("option", ["--host", "--allowed-host"])
def test_label_takes_no_name_that_nothing_can_have(option: str, name: str, launched: list[Any]) -> None:
    result = runner.invoke(cli.app, ["label", "--store", "x.db", option, name])
    assert (result.exit_code, result.stderr) == (
        2, f"rlhf: error: --host, --allowed-host: expected the name of a machine, found {name!r}\n",
    )  # fmt: skip
    assert launched == []


def test_an_error_is_one_line_and_steers_no_terminal() -> None:
    result = runner.invoke(cli.app, ["label", "--store", "x.db\x1b]0;x\x07\nnext", "-c", "none"])
    assert result.stderr.count("\n") == 1
    result = runner.invoke(cli.app, ["store", "stats", "--store", "none\x1b[2J\nnext.db"])
    assert result.exit_code == 2
    assert result.stderr.startswith(r"rlhf: error: label store none\x1b[2J\nnext.db: no such file; ")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("both", [True, False])
def test_a_store_is_named_once(both: bool, config_file: Path) -> None:
    arguments = ["--store", "x.db", "-c", str(config_file)] if both else []
    result = runner.invoke(cli.app, ["store", "stats", *arguments])
    assert (result.exit_code, result.stderr) == (
        2, "rlhf: error: name the label store by exactly one of --store URL and -c CONFIG.yaml\n",
    )  # fmt: skip


def test_rankings_go_into_a_store_and_come_out(tmp_path: Path, tiny_task: Any) -> None:
    store = str(tmp_path / "labels.db")

    def call(*arguments: str) -> str:
        result = runner.invoke(cli.app, [*arguments, "--store", store])
        assert result.exit_code == 0, result.output
        return result.stdout

    put_in = call("data", "import", str(tiny_task.rankings), "--batch", "ours")
    assert put_in == (
        f"{tiny_task.rankings}: rankings, told by its content; 30 to import\n"
        f"{store}: read 30 rankings, added 30 to batch 'ours' (0 of them revisions), 0 were there already\n"
    )
    assert "added 0 to batch 'ours'" in call("data", "import", str(tiny_task.rankings), "--batch", "ours")
    out = tmp_path / "out.jsonl"
    said = f"{out}: 30 rows (rankings) of 30 rankings from {store}\n"
    assert call("data", "export", str(out), "--batch", "ours") == said
    expected = [json.loads(line) for line in tiny_task.rankings.read_text().splitlines()]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [{key: row[key] for key in expected[0]} for row in rows] == expected
    # Of 30 rankings of four, six have their two best tied: 24 * 6 + 6 * 5 untied pairs
    said = f"{out}: 174 rows (trl) of 30 rankings from {store}\nleft out: tied pairs (6)\n"
    assert call("data", "export", str(out), "--format", "trl").startswith(said)
    assert {"prompt", "chosen", "rejected"} <= set(json.loads(out.read_text().splitlines()[0]))
    assert re.search(r"│ ours +│ 30 ", call("store", "stats"))
    assert "already" in call("store", "upgrade")
    assert "already" in runner.invoke(cli.app, ["store", "upgrade", store]).stdout


@pytest.mark.parametrize("format", ["rankings", "trl"])
def test_an_export_of_nothing_is_refused_and_overwrites_nothing(tmp_path: Path, tiny_task: Any, format: str) -> None:
    store, kept = str(tmp_path / "labels.db"), tmp_path / "kept.jsonl"
    kept.write_text("precious", encoding="utf-8")
    runner.invoke(cli.app, ["data", "import", str(tiny_task.rankings), "--batch", "desk", "--store", store])
    with LabelStore.open(store) as labels:
        labels.add_tasks([NewTask("A prompt", ("one", "two"))], batch="new")
    messages = {"dest": "holds no batch 'dest'; its batches: desk, new", "new": "nothing is ranked yet (1 tasks wait)"}
    for batch, message in messages.items():
        arguments = ["export", str(kept), "--format", format, "--store", store, "--batch", batch]
        result = runner.invoke(cli.app, ["data", *arguments])
        assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1
    assert kept.read_text(encoding="utf-8") == "precious"


def test_a_bad_row_leaves_no_store_behind(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "p", "completions": ["a", "b"], "ranks": [1]}\n')
    result = runner.invoke(cli.app, ["data", "import", str(bad), "--batch", "b", "--store", str(tmp_path / "new.db")])
    assert result.exit_code == 2
    assert "bad.jsonl" in result.stderr and "ranks" in result.stderr
    assert not (tmp_path / "new.db").exists()


def test_a_store_that_is_not_there(tmp_path: Path) -> None:
    result = runner.invoke(cli.app, ["data", "export", str(tmp_path / "out.jsonl"), "--store", str(tmp_path / "no.db")])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"rlhf: error: label store {tmp_path}/no.db: no such file")
    assert not (tmp_path / "out").exists()


def test_doctors_verdict_is_the_exit_code(monkeypatch: pytest.MonkeyPatch, config_file: Path) -> None:
    from rlhf import doctor

    seen: list[Config | None] = []

    def answer(config: Config | None) -> int:
        seen.append(config)
        return 2

    monkeypatch.setattr(doctor, "run", answer)
    assert runner.invoke(cli.app, ["doctor"]).exit_code == 2
    assert runner.invoke(cli.app, ["doctor", "-c", str(config_file), "seed=5"]).exit_code == 2
    assert seen[0] is None and seen[1] is not None and seen[1].seed == 5
