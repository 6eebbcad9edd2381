"""Many processes at one store, and processes that die: nothing is given twice, counted twice, or lost.

A short form always; the whole (10,000 judgments, 1,000 leases, 50 kills) with --slow.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter

import pytest
import sqlalchemy as sa

from rlhf.preferences import LabelStore, NewTask
from rlhf.preferences.schema import judgments

SUBMITS = pytest.mark.parametrize(
    ("processes", "count"), [(4, 60), pytest.param(16, 10_000, marks=(pytest.mark.slow, pytest.mark.timeout(1800)))]
)
LEASES = pytest.mark.parametrize(
    ("processes", "count"), [(4, 60), pytest.param(8, 1_000, marks=(pytest.mark.slow, pytest.mark.timeout(900)))]
)
KILLS = pytest.mark.parametrize(
    "kills", [3, pytest.param(50, marks=(pytest.mark.slow, pytest.mark.timeout(900)))], ids=["short", "whole"]
)

# Takes tasks until there are none and sends every submit twice; prints what it was given and told.
SUBMIT = """
import json, sys
from rlhf.preferences import LabelStore
url, name = sys.argv[1:]
with LabelStore.open(url) as store:
    labeler = store.labeler(name)
    while (task := store.claim(labeler)) is not None:
        ranks = {c.id: i for i, c in enumerate(task.completions, start=1)}
        said = [store.submit(task, ranks, submit_id=f"{name}-{task.task_id}").name for _ in range(2)]
        print(json.dumps([task.task_id, said]), flush=True)
"""
# Takes one task after another, each as another person, and keeps them all.
LEASE = """
import json, sys
from rlhf.preferences import LabelStore
url, name = sys.argv[1:]
with LabelStore.open(url) as store:
    number = 0
    while (task := store.claim(store.labeler(f"{name}-{number}"))) is not None:
        number += 1
        print(json.dumps(task.task_id), flush=True)
"""
# Ranks until it is killed; says what was acknowledged, after it was.
RANK = """
import sys
from rlhf.preferences import LabelStore
url, name = sys.argv[1:]
with LabelStore.open(url) as store:
    labeler = store.labeler(name)
    print("ready", flush=True)
    while (task := store.claim(labeler)) is not None:
        ranks = {c.id: i for i, c in enumerate(task.completions, start=1)}
        store.submit(task, ranks, submit_id=f"{name}-{task.task_id}")
        print(f"{name}-{task.task_id}", flush=True)
"""


def start(code: str, url: str, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, url, name], stdout=subprocess.PIPE, text=True)


def answers(code: str, url: str, processes: int) -> list[str]:
    """The lines that so many processes print, all of which end well."""
    running = [start(code, url, f"l{i}") for i in range(processes)]
    lines: list[str] = []
    for process in running:
        lines += process.communicate()[0].splitlines()
        assert process.returncode == 0
    return lines


def fill(store: LabelStore, count: int) -> None:
    store.add_tasks([NewTask(f"p{i}", ("a", "b")) for i in range(count)], batch="one")


@SUBMITS
def test_every_judgment_is_made_once(store: LabelStore, store_url: str, processes: int, count: int) -> None:
    fill(store, count)
    said = [json.loads(line) for line in answers(SUBMIT, store_url, processes)]
    assert sorted(task for task, _ in said) == sorted({task for task, _ in said}), "no task went to two people"
    assert Counter(name for _, names in said for name in names) == {"COUNTED": count, "REPEATED": count}
    assert store.counts().judgments == len(store.rankings()) == count
    assert store.check() == []


@LEASES
def test_no_task_is_leased_twice(store: LabelStore, store_url: str, processes: int, count: int) -> None:
    fill(store, count)
    given = [json.loads(line) for line in answers(LEASE, store_url, processes)]
    assert len(given) == len(set(given)) == count
    assert store.check() == []


@KILLS
def test_what_was_acknowledged_outlives_a_kill(store: LabelStore, store_url: str, kills: int) -> None:
    fill(store, 400 * kills)
    chooser, acknowledged = random.Random(1), set[str]()
    for number in range(kills):
        process = start(RANK, store_url, f"l{number}")
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(chooser.uniform(0.05, 0.6))
        process.kill()
        lines = process.communicate()[0].split("\n")
        acknowledged |= set(lines[:-1])  # a line that was cut off was not acknowledged
    with store._reading() as connection:
        kept = set(connection.scalars(sa.select(judgments.c.submit_id)))
    assert len(acknowledged) > kills
    assert acknowledged <= kept
    assert len(kept - acknowledged) <= kills, "at most the one that was on its way when the kill came"
    assert store.check() == []
