// The dock at the foot of the window: the order as chips (or the scale), and the buttons.

function buildDock(sheet) {
    const message = el("p", { class: "message", role: "status" });
    const skipPlace = el("div", { class: "skip-place" });
    const words = el("p", { class: "sr", "aria-live": "polite" });
    const main = scaleShown(sheet) ? buildScale(sheet) : buildStrip(sheet);
    const buttons = buildButtons(sheet);
    const parts = [words, message, skipPlace, main, buttons.row];
    const dock = el("section", { class: "dock", "aria-label": "Your ranking" }, ...parts);
    Object.assign(sheet.view, { dock, message, words, skipPlace, ...buttons.named });
    return dock;
}

function buildButtons(sheet) {
    const named = {
        submit: button("Submit", { class: "primary", on: { click: () => submit(sheet) } }),
        skip: button("Skip", { "aria-expanded": "false", on: { click: () => openSkip(sheet, !sheet.skipping) } }),
        takeBack: button("Take back", { on: { click: () => takeBack(sheet) } }),
        reopen: button("Correct my last one", { class: "quiet", on: { click: () => reopen(sheet) } }),
        formattedToggle: button("Formatted", {
            class: "quiet switch",
            "aria-pressed": "false",
            "data-free": 1,
            on: { click: () => setFormatted(sheet, !sheet.formatted) },
        }),
        help: button("Keys", {
            class: "quiet",
            "aria-haspopup": "dialog",
            "data-free": 1,
            on: { click: () => openHelp(sheet) },
        }),
    };
    const hints = { submit: "Enter", skip: "S", takeBack: "⌫", reopen: "U", help: "?" };
    for (const [name, hint] of Object.entries(hints)) named[name].append(el("kbd", { "aria-hidden": "true" }, hint));
    const tools = el("div", { class: "tools" }, named.reopen, named.formattedToggle, named.help);
    const row = el("div", { class: "buttons" }, named.submit, named.skip, named.takeBack, tools);
    return { row, named };
}

const hasTree = ({ prompt, completions }) => [...prompt, ...completions].some((item) => Array.isArray(item.tree));

/** Bring everything that depends on the draft or the lock up to date. */
function paint(sheet) {
    if (!sheet.view) return;
    paintCards(sheet);
    paintNotes(sheet);
    paintTexts(sheet);
    paintSkip(sheet);
    if (scaleShown(sheet)) sheet.view.scale.set(sheet.draft.point);
    else paintStrip(sheet);
    paintButtons(sheet);
    paintMessage(sheet);
    setText(sheet.view.words, spokenOrder(sheet));
    sheet.element.setAttribute("aria-busy", String(sheet.busy !== null));
    sheet.element.classList.toggle("no-keys", !sheet.useKeys);
}

function paintButtons(sheet) {
    const { view, draft } = sheet;
    view.submit.disabled = !isComplete(sheet);
    view.takeBack.disabled = scaleShown(sheet) ? draft.point === null : draft.order.placed.length === 0;
    show(view.reopen, canReopen(sheet));
    show(view.formattedToggle, hasTree(sheet.data));
    view.formattedToggle.setAttribute("aria-pressed", String(sheet.formatted));
}

function paintMessage(sheet) {
    const { message } = sheet.view;
    const asking = sheet.armed ? { text: "Notes on which answer? Press its number.", refused: false } : null;
    const shown = asking ?? sheet.message;
    setText(message, shown?.text ?? "");
    message.classList.toggle("refused", Boolean(shown?.refused));
    show(message, shown !== null);
}

function spokenOrder(sheet) {
    if (!scaleShown(sheet)) return orderInWords(sheet.draft.order, sheet.ids);
    const { point } = sheet.draft;
    return point === null ? "Nothing chosen yet." : `Chosen: ${SCALE[point - 1]}.`;
}

// ---- two answers and how much better one is ----

const SCALE = [
    "1 much better",
    "1 better",
    "1 slightly better",
    "About the same",
    "2 slightly better",
    "2 better",
    "2 much better",
];

function buildScale(sheet) {
    const labels = SCALE.map((text, index) => [
        el("span", { class: "point", "aria-hidden": "true" }, String(index + 1)),
        el("span", { class: "point-name" }, text),
    ]);
    const group = radioGroup(labels, {
        label: "Which answer is better, and by how much",
        change: (point) => choosePoint(sheet, point),
    });
    sheet.view.scale = group;
    const [first, last] = [el("span", {}, SCALE[0]), el("span", {}, SCALE[6])];
    const ends = el("div", { class: "scale-ends", "aria-hidden": "true" }, first, last);
    return el("div", { class: "scale" }, group.element, ends);
}

// ---- the strip of chips ----

function buildStrip(sheet) {
    const { view } = sheet;
    view.chips = new Map(sheet.ids.map((id) => [id, buildChip(sheet, id)]));
    view.strip = el("div", { class: "strip", role: "group", "aria-label": "Your order, best first" });
    view.tray = el("div", { class: "tray", role: "group", "aria-label": "Still to place" });
    const keysHere = "Arrow keys move it; with Shift they tie it. Delete takes it out.";
    const help = el("p", { class: "sr", id: "chip-help" }, keysHere);
    return el("div", { class: "rank" }, view.strip, view.tray, help);
}

function buildChip(sheet, id) {
    const number = numberOf(sheet, id);
    const chip = button(String(number), { class: "chip", "data-chip": number, "aria-describedby": "chip-help" });
    chip.addEventListener("click", () => {
        if (!isPlaced(sheet.draft.order, id)) changeOrder(sheet, (order) => placeNext(order, id));
        else findCard(sheet, id);
    });
    chip.addEventListener("pointerdown", (event) => beginDrag(sheet, event, id));
    return chip;
}

/** Bring a placed chip's card into view, and say which it is. */
function findCard(sheet, id) {
    const { element } = sheet.view.cards.get(id);
    element.scrollIntoView({ block: "nearest", behavior: calm() ? "auto" : "smooth" });
    flash(element);
}

function paintStrip(sheet) {
    const { view, ids, draft } = sheet;
    const { groups } = draft.order;
    const focused = sheet.root.activeElement;
    const before = chipPlaces(view);
    for (const chip of view.chips.values()) chip.style.transform = ""; // a dropped one glides on from under the pointer
    view.targets = [];
    view.strip.replaceChildren(...stripParts(sheet, groups));
    const missing = ids.filter((id) => !isPlaced(draft.order, id));
    const trayName = el("span", { class: "tray-name" }, "To place");
    view.tray.replaceChildren(trayName, ...missing.map((id) => view.chips.get(id)));
    view.tray.classList.toggle("empty", missing.length === 0);
    view.targets.push({ element: view.tray, kind: "tray" });
    for (const id of ids) nameChip(sheet, id);
    if (focused?.classList.contains("chip") && focused.isConnected) focused.focus({ preventScroll: true });
    slide(view, before);
}

function stripParts(sheet, groups) {
    const { view } = sheet;
    const gap = (index) => {
        const hint = groups.length ? null : el("span", { class: "hint" }, emptyHint(sheet));
        const arrow = index > 0 && index < groups.length ? "›" : "";
        const element = el("span", { class: index === groups.length ? "gap last" : "gap" }, hint ?? arrow);
        view.targets.push({ element, kind: "gap", index });
        return element;
    };
    const parts = groups.flatMap((group, index) => [gap(index), buildGroup(sheet, group, index)]);
    return [...parts, gap(groups.length)];
}

function emptyHint(sheet) {
    const keys = sheet.useKeys ? `press 1–${sheet.ids.length}, or ` : "";
    return `Best first: ${keys}place an answer above`;
}

function buildGroup(sheet, group, index) {
    const chips = group.flatMap((id, at) => {
        const chip = sheet.view.chips.get(id);
        return at > 0 ? [el("span", { class: "equals", "aria-hidden": "true" }, "="), chip] : [chip];
    });
    const element = el("span", { class: group.length > 1 ? "group tied" : "group" }, ...chips);
    sheet.view.targets.push({ element, kind: "group", index });
    return element;
}

function nameChip(sheet, id) {
    const place = placeInWords(sheet.draft.order, id);
    const chip = sheet.view.chips.get(id);
    chip.setAttribute("aria-label", `Answer ${numberOf(sheet, id)}, ${place || "not placed"}`);
    chip.classList.toggle("in", place !== "");
}

// ---- motion ----

const calm = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;

function chipPlaces(view) {
    const places = new Map();
    if (calm()) return places;
    for (const [id, chip] of view.chips) if (chip.isConnected) places.set(id, chip.getBoundingClientRect());
    return places;
}

/** Let chips glide from where they were: the eye follows what moved. */
function slide(view, before) {
    for (const [id, old] of before) {
        const chip = view.chips.get(id);
        const now = chip.getBoundingClientRect();
        const [x, y] = [old.left - now.left, old.top - now.top];
        if (Math.abs(x) + Math.abs(y) < 2) continue;
        const frames = [{ transform: `translate(${x}px, ${y}px)` }, { transform: "none" }];
        chip.animate(frames, { duration: 140, easing: "ease-out" });
    }
}

function flash(element) {
    if (calm()) return;
    const frames = [{ boxShadow: "0 0 0 4px var(--accent-text)" }, { boxShadow: "0 0 0 4px transparent" }];
    element.animate(frames, { duration: 900 });
}

/** No, that one is placed already. */
function shake(sheet, id) {
    const chip = sheet.view.chips?.get(id);
    if (!chip || calm()) return;
    const shift = (x) => ({ transform: `translateX(${x}px)` });
    chip.animate([shift(0), shift(-4), shift(4), shift(-3), shift(0)], { duration: 220 });
}
