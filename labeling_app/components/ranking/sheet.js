// The sheet's state and what can happen to it: changes to the draft, events to the server and what came of them.

const ANSWER_MS = 8000; // no news for so long after an event: the server may be away
const QUIET_MS = 150; // after a task has appeared, what was meant for the one before may still come in
const NOT_CONFIRMED = "Not confirmed yet. Is the server away?";

function newSheet(root) {
    return {
        root,
        element: null, // the sheet's outermost element
        component: null, // what Streamlit handed over last
        data: null,
        ids: [], // completion ids in the order on screen
        draft: null,
        busy: null, // the event whose answer is awaited: the sheet is locked
        sent: null, // the last submit or skip, until it is known what became of it
        answered: "", // the answer that was shown last
        timer: 0,
        heartbeat: 0,
        quietUntil: 0,
        hushed: null,
        message: null, // {text, refused}
        formatted: readStored("formatted") === true,
        useKeys: readStored("keys") !== false,
        armed: false, // F was pressed: a card's number comes next
        skipping: false,
        drag: null,
        expanded: new Set(), // ids of long texts that are shown in full
        openNotes: new Set(),
        view: null,
        lastSign: performance.now(),
        watched: document.visibilityState === "visible",
        lively: false, // whether there was a sign of life since the last "alive"
        runs: 0,
    };
}

const numberOf = (sheet, id) => sheet.ids.indexOf(id) + 1;

const scaleShown = (sheet) => isScale(sheet.data);

function isComplete(sheet) {
    if (scaleShown(sheet)) return sheet.draft.point !== null;
    const placed = sheet.draft.order.placed.length;
    return placed === sheet.ids.length || (sheet.data.settings.allow_partial && placed >= 2);
}

const isQuiet = (sheet, event) => event.timeStamp < sheet.quietUntil;

// ---- the draft ----

const nameOfDraft = (sheet) => draftName(sheet.data.storage, sheet.data.task);

function keepDraft(sheet) {
    if (sheet.draft) saveDraft(nameOfDraft(sheet), sheet.draft);
}

/** Change the order by one of the functions in order.js; false where that changed nothing. */
function changeOrder(sheet, change) {
    if (sheet.busy || scaleShown(sheet)) return false;
    const order = change(sheet.draft.order);
    if (order === sheet.draft.order) return false;
    sheet.draft.order = order;
    sheet.message = null;
    keepDraft(sheet);
    paint(sheet);
    return true;
}

function choosePoint(sheet, point) {
    if (sheet.busy || point === sheet.draft.point) return false;
    sheet.draft.point = point;
    sheet.message = null;
    keepDraft(sheet);
    paint(sheet);
    return true;
}

function takeBack(sheet) {
    return scaleShown(sheet) ? choosePoint(sheet, null) : changeOrder(sheet, takeBackLast);
}

/** Change one card's note, or the draft's own texts. */
function changeDraft(sheet, change) {
    if (sheet.busy) return false;
    change(sheet.draft);
    keepDraft(sheet);
    paintNotes(sheet);
    return true;
}

function ranksAndStrength(sheet) {
    const { draft, ids } = sheet;
    if (!scaleShown(sheet)) return { ranks: ranksOf(draft.order, ids), strength: null };
    const ranks = { [ids[0]]: draft.point <= 4 ? 1 : 2, [ids[1]]: draft.point >= 4 ? 1 : 2 };
    return { ranks, strength: Math.abs(draft.point - 4) };
}

// ---- events ----

function submit(sheet) {
    if (sheet.busy || !isComplete(sheet)) return;
    signOfLife(sheet);
    send(sheet, {
        do: "submit",
        task: sheet.data.task,
        submit_id: sheet.draft.submit_id,
        guidelines: guidelinesShown(sheet),
        ...ranksAndStrength(sheet),
        notes: spokenNotes(sheet.draft.notes),
        comment: sheet.draft.comment,
        better: sheet.draft.better,
        active_seconds: activeSeconds(sheet),
    });
}

function skip(sheet, reason) {
    if (sheet.busy) return;
    signOfLife(sheet);
    sheet.skipping = false;
    const { task } = sheet.data;
    const { submit_id } = sheet.draft;
    const guidelines = guidelinesShown(sheet);
    send(sheet, { do: "skip", task, submit_id, guidelines, reason, active_seconds: activeSeconds(sheet) });
}

const guidelinesShown = (sheet) => sheet.data.guidelines?.version ?? 0;

const canReopen = (sheet) => Boolean(sheet.data.can_reopen) && !sheet.data.reopened;

function reopen(sheet) {
    if (!sheet.busy && canReopen(sheet)) send(sheet, { do: "reopen" });
}

function leave(sheet) {
    if (!sheet.busy && sheet.data.reopened) send(sheet, { do: "leave", task: sheet.data.task });
}

/** Send the event and lock the sheet until there is news. */
function send(sheet, event) {
    keepDraft(sheet); // before it leaves: the same submit_id must be there after a crash
    sheet.busy = event;
    sheet.sent = event.submit_id ? { name: nameOfDraft(sheet), submit_id: event.submit_id } : null;
    sheet.message = null;
    sheet.timer = window.setTimeout(() => notConfirmed(sheet), ANSWER_MS);
    paint(sheet);
    sheet.component.setTriggerValue("event", event);
}

const AGAIN = {
    submit: "Press Submit to send it again; it will count once.",
    skip: "Press Skip to send it again; it will count once.",
};

function notConfirmed(sheet) {
    const again = AGAIN[sheet.busy?.do] ?? "Try it again.";
    unlock(sheet);
    sheet.message = { text: `${NOT_CONFIRMED} ${again}`, refused: true };
    paint(sheet);
}

function unlock(sheet) {
    window.clearTimeout(sheet.timer);
    sheet.busy = null;
    sheet.lastSign = performance.now(); // waiting for the server was not the labeler's work
}

// ---- news from the server ----

/** Take in what a rerun brought. */
function receive(sheet, component) {
    const before = sheet.data;
    const { data } = component;
    sheet.component = component;
    if (!data || data === before) return; // another theme, say
    const moved = before !== null && (data.task !== before.task || data.storage !== before.storage);
    const done = settle(sheet, data, moved);
    if (before === null || moved || done) startTask(sheet, data);
    else continueTask(sheet, data);
}

/** Find out what became of the event that was sent; true if its draft is done with. */
function settle(sheet, data, moved) {
    const { answer } = data;
    const { busy, sent } = sheet;
    const mine = Boolean(answer && sent && answer.submit_id === sent.submit_id);
    const done = mine && answer.ok;
    if (done) removeStored(sent.name); // confirmed: another task alone may come for any reason
    const news = JSON.stringify(answer ?? "") !== sheet.answered;
    if (busy?.do === "leave" && moved && news && answer?.ok) removeStored(nameOfDraft(sheet));
    if (mine) sheet.sent = null;
    if (busy && (moved || mine || !busy.submit_id)) unlock(sheet);
    if (moved) sheet.message = null;
    showAnswer(sheet, answer, mine);
    return done;
}

function showAnswer(sheet, answer, mine) {
    const said = JSON.stringify(answer ?? "");
    if (answer && (mine || said !== sheet.answered)) {
        const text = textOf(answer.message) || (answer.ok ? "" : "That was not saved.");
        sheet.message = text ? { text, refused: !answer.ok } : null;
    }
    sheet.answered = said;
}

function startTask(sheet, data) {
    const first = sheet.data === null;
    const hadFocus = sheet.root.activeElement !== null;
    sheet.data = data;
    sheet.ids = data.completions.map((completion) => completion.id);
    sheet.draft = draftFor(data, readStored(nameOfDraft(sheet)));
    Object.assign(sheet, { armed: false, skipping: false, drag: null, expanded: new Set(), openNotes: new Set() });
    build(sheet);
    hush(sheet);
    if (!first) {
        document.querySelector('[data-testid="stMain"]')?.scrollTo({ top: 0 });
        if (hadFocus) sheet.view.start.focus({ preventScroll: true }); // not left on something that is gone
    }
    sheet.lastSign = performance.now();
    restartHeartbeat(sheet);
}

function continueTask(sheet, data) {
    const changed = shownSignature(data) !== shownSignature(sheet.data);
    const instructed = JSON.stringify(data.guidelines) !== JSON.stringify(sheet.data.guidelines);
    sheet.data = data;
    if (changed) {
        sheet.ids = data.completions.map((completion) => completion.id);
        sheet.draft = { ...draftFor(data, sheet.draft), submit_id: sheet.draft.submit_id };
        build(sheet);
    } else {
        if (instructed) buildGuidelines(sheet);
        paint(sheet);
    }
}

const shownSignature = ({ prompt, completions, settings, reopened }) =>
    JSON.stringify([prompt, completions, settings, reopened]);

/** Let no key or click through until the new task has been on screen for a moment. */
function hush(sheet) {
    const mine = {};
    sheet.hushed = mine;
    sheet.quietUntil = Infinity;
    const begin = () => {
        if (sheet.hushed !== mine) return; // begun already, or yet another task has come
        sheet.hushed = null;
        sheet.quietUntil = performance.now() + QUIET_MS;
    };
    window.requestAnimationFrame(() => window.requestAnimationFrame(begin)); // the second: it has been painted
    window.setTimeout(begin, 1000); // a tab in the background paints nothing
}

// ---- time at work ----

/** Note that the labeler is there. */
function signOfLife(sheet) {
    const now = performance.now();
    if (sheet.watched && sheet.draft && !sheet.busy) {
        sheet.draft.active += Math.min(Math.max(now - sheet.lastSign, 0), IDLE_MS);
        sheet.lively = true;
    }
    sheet.lastSign = now;
}

function visibilityChanged(sheet) {
    signOfLife(sheet); // counts up to the moment of leaving; `watched` is still false on coming back
    sheet.watched = document.visibilityState === "visible";
    if (!sheet.watched) keepDraft(sheet);
}

const activeSeconds = (sheet) => Math.round(sheet.draft.active / 100) / 10;

/** Tell the server now and then that this task is being worked on. */
function restartHeartbeat(sheet) {
    window.clearInterval(sheet.heartbeat);
    sheet.lively = false;
    const seconds = Number(sheet.data.renew_seconds);
    if (!(seconds > 0)) return;
    sheet.heartbeat = window.setInterval(() => {
        if (!sheet.lively || sheet.busy) return;
        sheet.lively = false;
        sheet.component.setTriggerValue("event", { do: "alive", task: sheet.data.task });
    }, seconds * 1000);
}
