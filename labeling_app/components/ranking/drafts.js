// What outlives a reload or a dead server: drafts, and this browser's preferences, in localStorage.
// Storage may be full, switched off, or hold what an older version wrote: nothing here may throw.

const PREFIX = "rlhf:ranking:";
const MOST_DRAFTS = 20;
const IDLE_MS = 60_000; // a longer gap between two signs of life is a break, and counts as this much work

function readStored(name) {
    try {
        return JSON.parse(window.localStorage.getItem(PREFIX + name));
    } catch {
        return null;
    }
}

function writeStored(name, value) {
    try {
        window.localStorage.setItem(PREFIX + name, JSON.stringify(value));
        return true;
    } catch {
        return false;
    }
}

function removeStored(name) {
    try {
        window.localStorage.removeItem(PREFIX + name);
    } catch {
        // switched off: then there is nothing to remove
    }
}

const draftName = (storage, task) => `draft:${storage}:${task}`;

/** The names of all stored drafts, oldest first. */
function storedDrafts() {
    try {
        const names = Object.keys(window.localStorage)
            .filter((name) => name.startsWith(`${PREFIX}draft:`))
            .map((name) => name.slice(PREFIX.length));
        const age = new Map(names.map((name) => [name, Number(readStored(name)?.at) || 0]));
        return names.sort((a, b) => age.get(a) - age.get(b));
    } catch {
        return [];
    }
}

/** Keep the draft. Older ones make room: beyond the twentieth, or one by one where the storage is full. */
function saveDraft(name, draft) {
    const value = { ...draft, at: Date.now() };
    if (readStored(name) !== null && writeStored(name, value)) return; // the common case: no look at the others
    const others = storedDrafts().filter((other) => other !== name);
    while (others.length >= MOST_DRAFTS) removeStored(others.shift());
    while (!writeStored(name, value)) {
        if (!others.length) return;
        removeStored(others.shift());
    }
}

/** A name for one judgment, so that sending it again counts once. */
function newSubmitId() {
    if (typeof crypto.randomUUID === "function") return crypto.randomUUID();
    const bytes = crypto.getRandomValues(new Uint8Array(16)); // randomUUID is missing on plain http
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const textOf = (value) => (typeof value === "string" ? value : "");

/** The notes on one completion, as far as this project asks for them. */
function fittingNote(raw, settings) {
    const quality = raw?.quality;
    const flags = Array.isArray(raw?.flags) ? raw.flags : [];
    return {
        quality: settings.quality && Number.isInteger(quality) && quality >= 1 && quality <= 7 ? quality : null,
        flags: settings.flags.filter((flag) => flags.includes(flag)),
        comment: textOf(raw?.comment),
    };
}

const isScale = (data) => data.settings.strength && data.completions.length === 2;

/** The point on the scale (1 to 7) that an earlier judgment stands for; null where it said no strength. */
function pointFrom(before, ids) {
    const [first, second] = ids.map((id) => before?.ranks?.[id]);
    if (!Number.isInteger(first) || !Number.isInteger(second)) return null;
    if (first === second) return 4;
    const strength = before.strength;
    if (![1, 2, 3].includes(strength)) return null;
    return first < second ? 4 - strength : 4 + strength;
}

/** The draft for this data: the stored one if there is any, else the earlier judgment, else an empty one. */
function draftFor(data, found) {
    const stored = found !== null && typeof found === "object" ? found : null;
    const ids = data.completions.map((completion) => completion.id);
    const source = stored ?? data.before ?? {};
    const point = stored ? stored.point : pointFrom(data.before, ids);
    const notes = {};
    for (const id of ids) notes[id] = fittingNote(source.notes?.[id], data.settings);
    return {
        submit_id: textOf(stored?.submit_id) || newSubmitId(),
        order: stored ? fittingOrder(stored.order, ids) : orderFromRanks(data.before?.ranks, ids),
        point: isScale(data) && Number.isInteger(point) && point >= 1 && point <= 7 ? point : null,
        notes,
        comment: textOf(source.comment),
        better: data.settings.better_answer ? textOf(source.better) : "",
        active: Number.isFinite(stored?.active) && stored.active > 0 ? stored.active : 0, // milliseconds
    };
}

/** The notes that say something, as the event carries them. */
function spokenNotes(notes) {
    const said = Object.entries(notes).filter(([, note]) => note.quality !== null || note.flags.length || note.comment);
    return Object.fromEntries(said);
}
