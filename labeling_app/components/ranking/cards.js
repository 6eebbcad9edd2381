// The upper part of the sheet: what is being judged, and the notes on it.

const ROLES = { system: "System", user: "User", assistant: "Assistant" };

/** Draw the whole sheet anew. Only for another task: everything else is painted onto what is there. */
function build(sheet) {
    const start = el("h2", { class: "section-name", tabindex: -1 }, "Prompt");
    sheet.view = { start, texts: [], cards: new Map() };
    const guidelines = el("div", { class: "guidelines" });
    sheet.view.guidelines = guidelines;
    const answers = sheet.data.completions.map((completion) => buildCard(sheet, completion));
    sheet.element.replaceChildren(
        ...[
            sheet.data.reopened ? buildBanner(sheet) : null,
            guidelines,
            buildPrompt(sheet, start),
            el("section", { class: `cards ${cardLayout(sheet.data)}`, "aria-label": "Answers" }, ...answers),
            buildTexts(sheet),
            buildDock(sheet),
        ].filter(Boolean),
    );
    buildGuidelines(sheet);
    fillTexts(sheet);
    paint(sheet);
}

/** Side by side where that helps comparing: two answers, or several short ones where there is much room. */
function cardLayout({ completions }) {
    if (completions.length === 2) return "pair";
    return completions.every(({ text }) => text.length < 600 && text.split("\n").length < 12) ? "short" : "";
}

function buildBanner(sheet) {
    const text = el("p", {}, "You are correcting an earlier ranking. Saving replaces it.");
    const back = button("Leave it as it was", { on: { click: () => leave(sheet) } });
    return el("div", { class: "banner", role: "note" }, text, back);
}

// ---- instructions and prompt ----

function buildGuidelines(sheet) {
    const { guidelines } = sheet.data;
    const place = sheet.view.guidelines;
    place.replaceChildren();
    show(place, Boolean(guidelines));
    if (!guidelines) return;
    const name = `guidelines:${sheet.data.storage}`;
    const read = readStored(name);
    const news = Number.isFinite(read) ? "changed since you last read them" : "not read yet";
    const hint = el("span", { class: "hint" }, news);
    show(hint, !(read >= guidelines.version));
    const body = el("div", { class: "text", dir: "auto" });
    fillText(body, guidelines, true);
    const version = Number(guidelines.version);
    const summary = el("summary", {}, el("span", {}, `Instructions, version ${version}`), hint);
    const details = el("details", {}, summary, body);
    details.addEventListener("toggle", () => {
        if (!details.open) return;
        writeStored(name, version);
        show(hint, false);
    });
    place.append(details);
}

function buildPrompt(sheet, start) {
    const turns = sheet.data.prompt.map((turn) => {
        const body = el("div", { class: "text", dir: "auto" });
        sheet.view.texts.push({ body, item: turn });
        const role = ROLES[turn.role];
        return el("div", { class: "turn", "data-role": role ?? "none" }, role ? el("h3", {}, role) : null, body);
    });
    return el("section", { class: "prompt", "aria-label": "Prompt" }, start, ...turns);
}

// ---- cards ----

function buildCard(sheet, completion) {
    const { id } = completion;
    const number = numberOf(sheet, id);
    const body = el("div", { class: "text clip", dir: "auto", id: `answer-${number}` });
    const more = button("Show all", { class: "more", "aria-controls": `answer-${number}`, "data-free": 1 });
    more.addEventListener("click", () => toggleLong(sheet, id));
    const card = { id, body, more, ...cardHead(sheet, id, number), notes: buildNotes(sheet, id, number) };
    const parts = [card.head, body, more, ...(card.notes?.parts ?? [])];
    card.element = el("article", { class: "card", "data-card": number }, ...parts);
    sheet.view.texts.push({ body, item: completion });
    sheet.view.cards.set(id, card);
    return card.element;
}

function cardHead(sheet, id, number) {
    const pill = el("span", { class: "pill" });
    const name = el("h3", { class: "sr" }, `Answer ${number}`);
    if (scaleShown(sheet)) {
        const badge = el("span", { class: "badge", "aria-hidden": "true" }, String(number));
        return { pill, head: el("header", {}, badge, name, pill) };
    }
    const put = (change) => () => changeOrder(sheet, (order) => change(order, id));
    // The badge does what "Place" does, for the mouse alone: twice in the tab order would be once too often.
    const forMouse = { class: "badge", tabindex: -1, "aria-hidden": "true" };
    const badge = button(String(number), { ...forMouse, on: { click: put(placeNext) } });
    const tie = button("", { class: "quiet tie", on: { click: put(tieLast) } });
    const place = button("Place", {
        class: "place",
        on: { click: () => changeOrder(sheet, (order) => (isPlaced(order, id) ? takeOut : placeNext)(order, id)) },
    });
    return { pill, tie, place, head: el("header", {}, badge, name, pill, el("span", { class: "room" }), tie, place) };
}

function paintCards(sheet) {
    const { order } = sheet.draft;
    for (const card of sheet.view.cards.values()) {
        const placed = scaleShown(sheet) ? scaleWords(sheet, card.id) : placeInWords(order, card.id);
        setText(card.pill, placed);
        show(card.pill, placed !== "");
        card.element.classList.toggle("placed", placed !== "");
        if (card.place) paintPlacing(sheet, card);
    }
}

function paintPlacing(sheet, card) {
    const { order } = sheet.draft;
    const number = numberOf(sheet, card.id);
    const placed = isPlaced(order, card.id);
    const partners = order.groups[lastGroup(order)] ?? [];
    const with_ = listed(partners.map((id) => numberOf(sheet, id)).sort());
    card.place.replaceChildren(placed ? "Take out" : "Place", readAloud(` answer ${number}`));
    card.place.classList.toggle("quiet", placed);
    show(card.tie, !placed && partners.length > 0);
    card.tie.replaceChildren(readAloud(`Answer ${number}: `), `Tie with ${with_}`);
}

const STRENGTHS = ["About the same", "Slightly better", "Better", "Much better"];

/** What the chosen point on the scale says of this card; empty for the other one. */
function scaleWords(sheet, id) {
    const { point } = sheet.draft;
    if (point === null) return "";
    const winner = point < 4 ? 1 : 2;
    return point === 4 || numberOf(sheet, id) === winner ? STRENGTHS[Math.abs(point - 4)] : "";
}

// ---- texts: plain or formatted, long or short ----

function fillTexts(sheet) {
    for (const { body, item } of sheet.view.texts) fillText(body, item, sheet.formatted);
    measure(sheet);
}

/** Fold what is much longer than a card should be. Measured, since only the browser knows how a text breaks. */
function measure(sheet) {
    for (const { id, body, more } of sheet.view.cards.values()) {
        const open = sheet.expanded.has(id);
        body.classList.remove("folded", "unfolded");
        const long = body.scrollHeight > body.clientHeight + 48; // not for the sake of two lines
        body.classList.add(long && !open ? "folded" : "unfolded");
        show(more, long);
        setText(more, open ? "Show less" : "Show all");
        more.setAttribute("aria-expanded", String(open));
    }
}

function toggleLong(sheet, id) {
    const wasOpen = sheet.expanded.delete(id);
    if (!wasOpen) sheet.expanded.add(id);
    measure(sheet);
    if (wasOpen) sheet.view.cards.get(id).element.scrollIntoView({ block: "nearest" }); // else one is lost further down
}

function setFormatted(sheet, formatted) {
    sheet.formatted = formatted;
    writeStored("formatted", formatted);
    fillTexts(sheet);
    paint(sheet);
}

// ---- notes on a card ----

function buildNotes(sheet, id, number) {
    const { settings } = sheet.data;
    const offered = notesOffered(settings);
    if (!offered) return null;
    const change = (edit) => changeDraft(sheet, (draft) => edit(draft.notes[id]));
    const quality = settings.quality ? buildQuality(number, change) : null;
    const flags = settings.flags.map((flag) => buildFlag(sheet, id, flag, change));
    const comment = settings.comment_length > 0 ? buildNoteComment(number, settings, change) : null;
    const summary = el("span", { class: "summary" });
    const toggle = button(offered, { class: "toggle", "aria-controls": `notes-${number}`, "data-free": 1 });
    toggle.append(readAloud(` answer ${number}`));
    toggle.addEventListener("click", () => toggleNotes(sheet, id));
    const chips = flags.map(({ chip }) => chip);
    const flagRow = flags.length ? el("div", { class: "flags", role: "group", "aria-label": "Flags" }, ...chips) : null;
    const rows = [quality?.row ?? null, flagRow, comment?.element ?? null];
    const panel = el("div", { class: "notes", id: `notes-${number}` }, ...rows);
    const bar = el("div", { class: "notes-bar" }, toggle, summary);
    const { group, clear } = quality ?? {};
    return { parts: [bar, panel], toggle, summary, panel, quality: group, clear, flags, comment };
}

/** "Rate, flag, comment", or what of it this project asks for; empty for nothing. */
function notesOffered({ quality, flags, comment_length }) {
    const words = [quality ? "rate" : "", flags.length ? "flag" : "", comment_length > 0 ? "comment" : ""];
    const text = words.filter(Boolean).join(", ");
    return text.charAt(0).toUpperCase() + text.slice(1);
}

function buildQuality(number, change) {
    const set = (value) => change((note) => (note.quality = value));
    const group = radioGroup(["1", "2", "3", "4", "5", "6", "7"], {
        label: `Quality of answer ${number}: 1 is very bad, 7 is excellent`,
        clearable: true,
        change: set,
    });
    const clear = button("Clear", { class: "quiet clear", on: { click: () => set(null) } });
    const name = el("span", { class: "field-name" }, "Quality, from 1 (very bad) to 7 (excellent)");
    const row = el("div", { class: "quality" }, name, group.element, clear);
    return { row, group, clear };
}

function buildFlag(sheet, id, flag, change) {
    const toggled = (flags) => sheet.data.settings.flags.filter((name) => (name === flag) !== flags.includes(name));
    const flip = () => change((note) => (note.flags = toggled(note.flags)));
    return { flag, chip: button(flag, { class: "flag", "aria-pressed": "false", dir: "auto", on: { click: flip } }) };
}

function buildNoteComment(number, settings, change) {
    return textField(`Comment on answer ${number}`, {
        rows: 2,
        length: settings.comment_length,
        name: `comment-${number}`,
        change: (text) => change((note) => (note.comment = text)),
    });
}

function paintNotes(sheet) {
    for (const { id, notes } of sheet.view.cards.values()) {
        if (!notes) continue;
        const note = sheet.draft.notes[id];
        const open = sheet.openNotes.has(id);
        notes.toggle.setAttribute("aria-expanded", String(open));
        show(notes.panel, open);
        setText(notes.summary, open ? "" : noteInWords(note));
        notes.quality?.set(note.quality);
        if (notes.clear) notes.clear.classList.toggle("gone", note.quality === null);
        for (const { flag, chip } of notes.flags) chip.setAttribute("aria-pressed", String(note.flags.includes(flag)));
        notes.comment?.set(note.comment);
    }
}

/** "5/7 · 2 flags · comment" */
function noteInWords({ quality, flags, comment }) {
    const flagged = flags.length === 1 ? "1 flag" : `${flags.length} flags`;
    const parts = [quality ? `${quality}/7` : "", flags.length ? flagged : "", comment ? "comment" : ""];
    return parts.filter(Boolean).join(" · ");
}

function toggleNotes(sheet, id) {
    if (!sheet.openNotes.delete(id)) sheet.openNotes.add(id);
    paintNotes(sheet);
}

/** Open a card's notes with the focus in them; Escape goes back to where it was. */
function enterNotes(sheet, id) {
    const { notes, element } = sheet.view.cards.get(id);
    sheet.cameFrom = sheet.root.activeElement;
    sheet.openNotes.add(id);
    paintNotes(sheet);
    const first = notes.quality ?? notes.flags[0]?.chip ?? notes.comment.area;
    first.focus();
    element.scrollIntoView({ block: "nearest" });
}

function leaveNotes(sheet, id) {
    const back = sheet.cameFrom;
    sheet.cameFrom = null;
    sheet.root.activeElement?.blur();
    sheet.openNotes.delete(id);
    paintNotes(sheet);
    if (back?.isConnected) back.focus({ preventScroll: true });
}

// ---- what concerns all answers ----

function buildTexts(sheet) {
    const { settings } = sheet.data;
    const edit = (name) => (text) => changeDraft(sheet, (draft) => (draft[name] = text));
    const fields = el("section", { class: "texts", "aria-label": "Comment" });
    if (settings.comment_length > 0) {
        const comment = { rows: 2, length: settings.comment_length, name: "comment", change: edit("comment") };
        sheet.view.comment = textField("Comment (optional)", comment);
        fields.append(sheet.view.comment.element);
    }
    if (settings.better_answer) fields.append(buildBetter(sheet, edit("better")));
    return fields;
}

function buildBetter(sheet, change) {
    const length = sheet.data.settings.better_length;
    const better = textField("Your answer", { rows: 6, length, name: "better", change });
    sheet.view.better = better;
    const summary = el("summary", {}, "Write a better answer (optional)");
    const details = el("details", { class: "better" }, summary, better.element);
    details.open = sheet.draft.better !== ""; // what was written is not hidden
    return details;
}

function paintTexts(sheet) {
    sheet.view.comment?.set(sheet.draft.comment);
    sheet.view.better?.set(sheet.draft.better);
    for (const area of sheet.element.querySelectorAll("textarea")) area.readOnly = sheet.busy !== null;
}
