"""Make the pictures of docs/labeling.md: a small campaign with simulated people, served, and photographed.

    python docs/screenshots.py [--runs DIR] [--store FILE]

Needs the extra `dev` and a Chromium. `--runs` names a folder with runs of your own, for the picture of that page;
`--store` keeps the campaign, to look around in it: `rlhf label --store FILE`. Every text is made up here.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from labeling_app.launch import SESSION_COOKIE, command, settle
from rlhf.data.records import Ranking
from rlhf.preferences import LabelStore, NewTask
from rlhf.preferences.simulation import make_crowd, simulate

FOLDER = Path(__file__).resolve().parent / "labeling"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTH, HEIGHT = 1200, 900
CROWD = {"careful": 4, "noisy": 2, "hasty": 1, "position": 1, "spammer": 1}
LEAD = "Lena"

# ---- the campaign ----------------------------------------------------------------------------------------------------

# What is to be written, to whom, what it asks for, and why.
ERRANDS = (
    ("Ask a neighbour to water your plants next week.", "Ines", "water my plants next week", "I am away until Sunday"),
    ("Ask a colleague to swap shifts on Friday.", "Tom", "swap shifts with me on Friday", "my sister is visiting"),
    ("Ask a friend to bring a salad to the picnic.", "Mara", "bring a salad on Saturday", "I am making the bread"),
    ("Ask the landlord to look at a dripping tap.", "Mr Holm", "look at the kitchen tap", "it drips all night"),
    ("Ask a teacher for two more days for an essay.", "Ms Adler", "give me two more days", "I was ill since Monday"),
    ("Ask a cousin to lend you a tent.", "Jon", "lend me your tent in May", "we are hiking along the coast"),
    ("Ask the library to hold a book for you.", "there", "hold the bird atlas for me", "I can come on Thursday"),
    ("Ask a guest about food they cannot eat.", "Noor", "tell me what you cannot eat", "I am planning dinner"),
    ("Ask a team to send their holiday dates.", "all", "send me your dates by Friday", "I am making the plan"),
    ("Ask a bakery for a cake without nuts.", "there", "bake a cake without nuts", "a child at the party is allergic"),
    ("Ask a roommate to be quieter in the evening.", "Sam", "turn the music down after ten", "I get up at five"),
    ("Ask a choir to come half an hour early.", "everyone", "come at half past six", "the hall needs chairs"),
    ("Ask a mechanic when the bicycle is ready.", "there", "tell me when my bicycle is ready", "I need it for work"),
    ("Ask grandfather for his soup recipe.", "Grandpa", "write down your soup recipe", "nobody makes it as you do"),
    ("Ask a client to move a call by an hour.", "Ms Baker", "move our call to eleven", "my train is late"),
    ("Ask the coach whether training takes place.", "Lee", "tell us whether we train today", "it is pouring here"),
    ("Ask a museum about a tour in sign language.", "there", "offer a tour in sign language", "two of us are deaf"),
    ("Ask a neighbour to keep a parcel.", "Olu", "keep my parcel until tonight", "I am at work till six"),
    ("Ask a colleague to proofread a page.", "Kim", "read one page of mine", "it goes out tomorrow"),
    ("Ask friends to vote on a film.", "all", "vote on a film by noon", "I am booking the seats"),
    ("Ask a gardener to save the old pear tree.", "Paul", "leave the pear tree standing", "it is full of nests"),
    ("Ask a parent to drive three children home.", "Aya", "drive three children home", "our car is at the garage"),
    ("Ask the council about a missing street lamp.", "there", "replace the lamp at Mill Lane", "it is dark there now"),
    ("Ask a band to play one slow song.", "you all", "play one slow song", "my parents will dance"),
)
GUIDELINES = """Rank the messages as you would like to receive them.

1. It asks for the right thing, and says why.
2. It is friendly, and no longer than it needs to be.
3. A message that could hurt somebody comes last. Flag it too."""
QUALITY: dict[str, float] = {}  # of every answer below: what the simulated people see, each as well as they can


def _answer(text: str, quality: float) -> str:
    QUALITY[text] = quality
    return text


def _answers(name: str, ask: str, why: str) -> list[str]:
    """Four messages, from a good one to a bad one."""
    return [
        _answer(f"Hi {name}, could you {ask}? I ask because {why}. It would help me a lot, thank you!", 3.0),
        _answer(f"Hello {name}, please {ask}, {why}. Thanks.", 2.2),
        _answer(f"{name}! I have been meaning to write for ages. So much is going on. Maybe {ask}?", 1.2),
        _answer(f"{name}, you must {ask}. No discussion.", 0.0),
    ]


def quality(_prompts: list[str], completions: list[str]) -> list[float]:
    """The truth that the simulated people rank by."""
    return [QUALITY[text] for text in completions]


def fill(path: Path) -> str:
    """Make the campaign's store; returns the invite of its lead."""
    with LabelStore.open(path, create=True) as store:
        store.configure({"overlap": 3, "gold_share": 0.15})
        store.set_guidelines(GUIDELINES)
        token = store.invite(LEAD, "admin")
        errands = [(prompt, _answers(name, ask, why)) for prompt, name, ask, why in ERRANDS]
        store.add_tasks([NewTask(prompt, tuple(answers)) for prompt, answers in errands], batch="everyday-writing")
        store.add_tasks(_arena(), batch="october-or-november")
        store.add_gold(_gold())
        simulate(store, make_crowd(CROWD), truth=quality, each=28, seed=7)
        # What is left for the lead to try: nobody has seen these yet, and no gold task comes in between.
        store.configure({"gold_share": 0.0})
        more = [(f"{prompt} Make it short.", tuple(answers)) for prompt, answers in errands[:6]]
        store.add_tasks([NewTask(prompt, answers, priority=-1) for prompt, answers in more], batch="short-ones")
    return token


def _arena() -> list[NewTask]:
    """Two models' answers to the same prompts, now longer, now shorter: the newer one is better in three of four."""
    tasks = []
    for i, (prompt, name, ask, why) in enumerate(ERRANDS):
        more = (" Let me know if it does not suit you, I will find another way.", "", " Many greetings.")
        new = _answer(
            f"Dear {name}, would you {ask}? The reason: {why}.{more[i % 3]} Thanks!", 3.0 - 1.6 * (i % 4 == 0)
        )
        old = _answer(f"Hey {name}, {why}, so can you {ask}? That would be great.{more[(i // 2) % 3]}", 1.9)
        tasks.append(NewTask(prompt, (new, old), sources=("model-november", "model-october")))
    return tasks


def _gold() -> Iterator[Ranking]:
    """Answers of which nobody doubts which one is better."""
    for prompt, name, ask, why in ERRANDS[:12]:
        good = _answer(f"Hello {name}, I have a small wish: could you {ask}? You see, {why}. Thank you!", 3.0)
        bad = _answer(f"{name}, I do not care how you feel about it: {ask}!", 0.0)
        yield Ranking(f"{prompt} Be polite.", (good, bad), (1, 2))


# ---- the pictures ----------------------------------------------------------------------------------------------------


@contextmanager
def served(store: Path, home: Path, runs: Path | None) -> Iterator[str]:
    """The labeling page on a store; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = settle(str(store), port=port, runs=runs).environment() | {"HOME": str(home)}
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(command(), env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, process, home / "server.log")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"the page did not start:\n{log.read_text(encoding='utf-8')}")
        try:
            urllib.request.urlopen(f"{url}/_stcore/health", timeout=1).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise SystemExit("the page did not start within a minute")


def photograph(url: str, key: str, names: Sequence[str]) -> None:
    """A picture of each of these pages, as the lead sees them."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise SystemExit(f"a Chromium is needed: none of {', '.join(BROWSERS)} is installed")
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        context.set_default_timeout(60_000)
        context.add_cookies([{"name": SESSION_COOKIE, "value": key, "url": url}])
        page = context.new_page()
        for name in names:
            page.goto(f"{url}/{'' if name == 'rank' else name}")
            _settle(page)
            BEFORE.get(name, lambda _page: None)(page)
            _settle(page)
            if page.get_by_text("Something went wrong").count() or page.get_by_text("There is nothing").count():
                raise SystemExit(f"{url}/{name}: the page shows a fault and no picture of itself was taken")
            _save(page.screenshot(), FOLDER / f"{name}.png")
        browser.close()


def _rank_two(page: Page) -> None:
    """The ranking page in the middle of the work: the two good answers have their place."""
    marks = ("It would help me a lot", "please", "for ages", "No discussion")
    heights = {mark: (page.get_by_text(mark).first.bounding_box() or {"y": 0.0})["y"] for mark in marks}
    shown = sorted(marks, key=lambda mark: heights[mark])
    page.get_by_text(marks[0]).first.click()  # so that keys go to the page,
    page.evaluate("document.activeElement.blur()")  # without a frame around it
    for mark in marks[:2]:
        page.keyboard.press(str(shown.index(mark) + 1))
        page.wait_for_timeout(500)
    page.mouse.wheel(0, -5000)


BEFORE: dict[str, Callable[[Page], None]] = {"rank": _rank_two}


def _settle(page: Page) -> None:
    """Wait until nothing runs or is still to be drawn, and nothing has moved for two seconds."""
    page.wait_for_selector("[data-testid=stAppViewContainer]")
    busy = page.locator("[data-test-script-state=running], [data-testid=stSkeleton], [data-testid=stAppSkeleton]")
    before, quiet = b"", 0
    for _ in range(240):
        page.wait_for_timeout(250)
        now = page.screenshot()
        quiet = quiet + 1 if now == before and not busy.count() else 0
        if quiet >= 8:
            return
        before = now
    raise SystemExit(f"{page.url}: the page did not come to rest")


def _save(picture: bytes, file: Path) -> None:
    """A PNG with a palette of 128 colours: a quarter of the size, and no difference on a page of text."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{os.path.relpath(file)}: {file.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """The campaign, the page, the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of runs, for the picture of that page")
    parser.add_argument("--store", type=Path, help="where to keep the campaign; it must not be there yet")
    parser.add_argument("pages", nargs="*", help="which ones; without any: all")
    wanted = parser.parse_args()
    names = wanted.pages or ["rank", "dashboard", "review", "arena", "data", *(["runs"] if wanted.runs else [])]
    with tempfile.TemporaryDirectory() as home:
        path = wanted.store or Path(home) / "labels.db"
        if path.exists():
            raise SystemExit(f"{path}: exists already; name a new file")
        token = fill(path)
        with LabelStore.open(path) as store:
            key = store.sign_in_by_token(token)
        with served(path, Path(home), wanted.runs) as url:
            photograph(url, key, names)


if __name__ == "__main__":
    main()
