// What opens on request: the reasons to skip, and the help on keys.

// ---- skip ----

const reasonsOf = (sheet) => (sheet.data.settings.skip_reasons.length ? sheet.data.settings.skip_reasons : [""]);

function openSkip(sheet, open) {
    if (sheet.busy) return;
    sheet.skipping = open;
    paint(sheet);
    if (open) sheet.view.skipTitle.focus({ preventScroll: true });
}

/** Close the reasons; the focus goes back to the button if it was reached by Tab, else nowhere. */
function closeSkip(sheet) {
    const { skipPlace, skipTitle } = sheet.view;
    const focused = sheet.root.activeElement;
    const tabbed = skipPlace.contains(focused) && focused !== skipTitle;
    sheet.skipping = false;
    paint(sheet);
    if (tabbed) sheet.view.skip.focus({ preventScroll: true });
}

function paintSkip(sheet) {
    const { skipPlace, skip: opener } = sheet.view;
    opener.setAttribute("aria-expanded", String(sheet.skipping));
    show(skipPlace, sheet.skipping);
    if (!sheet.skipping) skipPlace.replaceChildren();
    else if (!skipPlace.firstChild) skipPlace.append(buildSkip(sheet));
}

function buildSkip(sheet) {
    const reasons = reasonsOf(sheet).map((reason, index) => {
        const choice = button("", { class: "reason", on: { click: () => skip(sheet, reason) } });
        if (index < 9) choice.append(el("kbd", { "aria-hidden": "true" }, String(index + 1)));
        choice.append(el("span", { dir: "auto" }, reason || "Skip this one"));
        return choice;
    });
    sheet.view.skipTitle = el("h3", { tabindex: -1 }, "Skip this one because…");
    const cancel = button("Cancel", { class: "quiet", on: { click: () => closeSkip(sheet) } });
    const head = el("div", { class: "skip-head" }, sheet.view.skipTitle, cancel);
    const list = el("div", { class: "reasons" }, ...reasons);
    return el("div", { class: "skip", role: "group", "aria-label": "Reasons to skip" }, head, list);
}

// ---- help ----

function openHelp(sheet) {
    if (sheet.help) return;
    const cameFrom = sheet.root.activeElement;
    const close = button("Close", { on: { click: () => closeHelp(sheet) } });
    const named = { role: "dialog", "aria-modal": "true", "aria-labelledby": "help-title" };
    const dialog = el("dialog", { class: "help", ...named });
    const title = el("h2", { id: "help-title", tabindex: -1 }, "Keys");
    dialog.append(el("div", { class: "help-head" }, title, close), keySwitch(sheet), keyTable(sheet), mouseHelp(sheet));
    dialog.cameFrom = cameFrom;
    dialog.addEventListener("close", () => closeHelp(sheet)); // closed by the browser
    dialog.addEventListener("click", (event) => {
        if (event.target === dialog) closeHelp(sheet); // on what lies around it
    });
    sheet.help = dialog;
    sheet.element.append(dialog);
    dialog.showModal();
    title.focus();
}

/** At once, not when the browser tells of it: the key after Escape may come sooner. */
function closeHelp(sheet) {
    const dialog = sheet.help;
    if (!dialog) return;
    sheet.help = null;
    dialog.close();
    dialog.remove();
    if (dialog.cameFrom?.isConnected) dialog.cameFrom.focus({ preventScroll: true });
}

function keySwitch(sheet) {
    const toggle = button("", { class: "use-keys", role: "switch" });
    toggle.append(el("span", { class: "knob" }), "Use keys");
    const paintSwitch = () => toggle.setAttribute("aria-checked", String(sheet.useKeys));
    toggle.addEventListener("click", () => {
        sheet.useKeys = !sheet.useKeys;
        writeStored("keys", sheet.useKeys);
        paintSwitch();
        paint(sheet);
    });
    paintSwitch();
    return toggle;
}

/** Every key and what it does on this task. */
function keyRows(sheet) {
    const most = String(sheet.ids.length);
    const rank = [
        [["1", "–", most], "Place that answer next, best first"],
        [["Shift", "+", "1", "–", most], "Tie that answer with the one placed last"],
        [["⌫"], "Take the last one back"],
    ];
    const scale = [
        [["1", "–", "7"], "Choose a point, from “1 much better” to “2 much better”"],
        [["⌫"], "Take the choice back"],
    ];
    const chips = [
        [["←", "→"], "On a chip: one place better or worse"],
        [["Shift", "+", "←", "→"], "On a chip: tie it with the place beside it"],
        [["Delete"], "On a chip: take it out of the order"],
    ];
    const notes = [
        [["F", ",", "1", "–", most], "Notes on that answer; there, 1 – 7 is its quality"],
    ];
    const offered = notesOffered(sheet.data.settings) !== "";
    return [
        ...(scaleShown(sheet) ? scale : rank),
        [["Enter"], "Submit, once the ranking is complete"],
        ...(offered ? notes : []),
        [["S"], "Skip; then the number of the reason"],
        [["U"], "Correct my last one"],
        ...(scaleShown(sheet) ? [] : chips),
        [["Esc"], "Close, or leave a text field"],
        [["?"], "This help"],
    ];
}

function keyTable(sheet) {
    const rows = keyRows(sheet).map(([names, meaning]) => {
        const keys = names.map((name) => (/^[–+,]$/.test(name) ? el("span", { class: "between" }, name) : key(name)));
        return el("div", { class: "key-row" }, el("dt", {}, ...keys), el("dd", {}, meaning));
    });
    return el("dl", { class: "keys" }, ...rows);
}

function mouseHelp(sheet) {
    const text = scaleShown(sheet)
        ? "Without keys: choose a point on the scale."
        : "Without keys: press Place on the cards, best first, and drag the chips at the foot: between two places, " +
          "onto another chip to tie them, or back to “To place”.";
    return el("p", { class: "hint" }, text);
}
