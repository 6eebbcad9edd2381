// The keyboard. One listener on the window sees every key first, so that keys take effect in the order they came in,
// however fast; the state changes at once, the server hears of it on submit only.

const DIGIT = /^(?:Digit|Numpad)([1-9])$/;
const TEXT_FIELDS = "input, textarea, select, [contenteditable]:not([contenteditable='false'])";
const PRESSED_ROLES = ["button", "link", "menuitem", "tab", "option", "switch"].map(ofRole).join();
const OWN_ENTER = `button, summary, a, area, ${PRESSED_ROLES}`; // what Enter presses by itself
const TEXT_ROLES = ["textbox", "combobox", "listbox", "slider", "spinbutton", "searchbox"].map(ofRole).join();

function onKey(sheet, event) {
    signOfLife(sheet);
    if (!sheet.data || event.isComposing || event.keyCode === 229 || isModified(event)) return;
    const target = event.composedPath()[0];
    const asElement = target instanceof Element ? target : document.body;
    if (sheet.busy || isQuiet(sheet, event)) return; // meant for the task that is on its way out
    const used = handleKey(sheet, event, asElement);
    if (used) {
        event.preventDefault();
        event.stopPropagation(); // the page has shortcuts of its own
    }
}

function handleKey(sheet, event, target) {
    if (event.code === "Escape") return escape(sheet, target);
    if (event.code === "Tab") return sheet.help ? keepFocusInHelp(sheet, event) : false;
    if (event.repeat || sheet.help || sheet.drag?.moving) return false;
    if (isTyping(target) || isElsewhere(sheet, target)) return false;
    if (chipKey(sheet, event, target)) return true;
    const notes = target.closest(".notes");
    if (notes) return sheet.useKeys && notesKey(sheet, event, notes);
    return sheet.useKeys && sheetKey(sheet, event, target);
}

const isTyping = (target) => target.matches(`${TEXT_FIELDS}, ${TEXT_ROLES}`) || target.isContentEditable;

function ofRole(role) {
    return `[role=${role}]`;
}

/** Whether a dialog of the page has the floor. */
function isElsewhere(sheet, target) {
    if (sheet.element.contains(target)) return false;
    const within = target.closest("[role=dialog], dialog, [role=menu]");
    return within !== null || document.querySelector('[data-testid="stDialog"]') !== null;
}

// ---- on the sheet ----

function sheetKey(sheet, event, target) {
    const name = keyName(event);
    if (name === "Shift") return false; // on its way to Shift and a digit
    const digit = digitOf(event);
    if (sheet.armed) {
        const id = digit ? sheet.ids[digit - 1] : undefined;
        disarm(sheet);
        if (id !== undefined) return enterNotes(sheet, id), true;
    }
    if (name === "?") return openHelp(sheet), true;
    if (sheet.skipping) return skipKey(sheet, isShifted(event) ? 0 : digit, name);
    if (digit) return digitKey(sheet, digit, isShifted(event));
    if (name === "Enter") return enterKey(sheet, target);
    if (name === "Backspace") return takeBack(sheet), true;
    return letterKey(sheet, name);
}

const digitOf = (event) => Number(DIGIT.exec(event.code)?.[1] ?? 0);

/** Windows turns Shift and a numpad digit into an arrow key without Shift: NumLock gives it away. */
function isShifted(event) {
    const disguised = event.code.startsWith("Numpad") && event.key.length > 1 && event.getModifierState("NumLock");
    return event.shiftKey || disguised;
}

/** What the key says, on any layout: letters by what is printed if that is Latin, else by where they are. */
function keyName(event) {
    if (event.key === "?" || (event.shiftKey && event.code === "Slash")) return "?";
    if (event.code === "NumpadEnter") return "Enter";
    if (event.key === "Shift") return "Shift";
    if (event.shiftKey) return event.code;
    const letter = /^[a-z]$/i.test(event.key) ? event.key : (/^Key([A-Z])$/.exec(event.code)?.[1] ?? "");
    return letter ? letter.toUpperCase() : event.code;
}

function digitKey(sheet, digit, shifted) {
    if (scaleShown(sheet)) {
        if (digit <= 7 && !shifted) choosePoint(sheet, digit);
        return true;
    }
    const id = sheet.ids[digit - 1];
    if (id === undefined) return true;
    if (!changeOrder(sheet, (order) => (shifted ? tieLast : placeNext)(order, id))) shake(sheet, id);
    return true;
}

function enterKey(sheet, target) {
    const chosen = target.matches(".scale [role=radio][aria-checked=true]"); // there Enter has nothing else to do
    if (target.closest(OWN_ENTER) && !chosen) return false;
    submit(sheet);
    return true;
}

function letterKey(sheet, name) {
    if (name === "F" && notesOffered(sheet.data.settings)) arm(sheet);
    else if (name === "S") openSkip(sheet, true);
    else if (name === "U" && canReopen(sheet)) reopen(sheet);
    else return false;
    return true;
}

function skipKey(sheet, digit, name) {
    const reason = digit ? reasonsOf(sheet)[digit - 1] : undefined;
    if (reason !== undefined) skip(sheet, reason);
    else if (name === "S") closeSkip(sheet);
    return digit > 0 || name === "S" || name === "Backspace";
}

// ---- F, then a card's number ----

function arm(sheet) {
    sheet.armed = true;
    window.clearTimeout(sheet.disarming);
    sheet.disarming = window.setTimeout(() => disarm(sheet), 6000); // forgotten: a digit places again
    paintMessage(sheet);
}

function disarm(sheet) {
    window.clearTimeout(sheet.disarming);
    sheet.armed = false;
    if (sheet.view) paintMessage(sheet);
}

// ---- inside controls ----

const STEPS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };

function chipKey(sheet, event, target) {
    if (!target.matches(".chip") || !sheet.element.contains(target)) return false;
    const id = sheet.ids[Number(target.dataset.chip) - 1];
    const direction = STEPS[event.code];
    if (direction) {
        const move = event.shiftKey ? stepTie : step;
        if (!changeOrder(sheet, (order) => move(order, id, direction))) shake(sheet, id);
        return true;
    }
    if (event.code !== "Delete") return false;
    changeOrder(sheet, (order) => takeOut(order, id));
    return true;
}

/** In a card's notes a digit is its quality: the order is left alone. */
function notesKey(sheet, event, notes) {
    if (keyName(event) === "?") return openHelp(sheet), true;
    const digit = digitOf(event);
    const card = [...sheet.view.cards.values()].find((other) => other.notes?.panel === notes);
    if (!digit || digit > 7 || isShifted(event) || !card?.notes.quality) return false;
    card.notes.quality.choose(digit);
    card.notes.quality.focus();
    return true;
}

/** Close the innermost thing that is open; false if nothing is. */
function escape(sheet, target) {
    if (sheet.drag) return cancelDrag(sheet);
    if (sheet.help) return closeHelp(sheet), true;
    if (sheet.armed) return disarm(sheet), true;
    const card = [...sheet.view.cards.values()].find((other) => other.notes?.panel.contains(target));
    if (card) return leaveNotes(sheet, card.id), true;
    if (sheet.skipping) return closeSkip(sheet), true;
    if (!sheet.element.contains(target) || !isTyping(target)) return false;
    target.blur();
    return true;
}

function keepFocusInHelp(sheet, event) {
    const stops = [...sheet.help.querySelectorAll("button")];
    const at = stops.indexOf(sheet.root.activeElement);
    const next = event.shiftKey ? (at <= 0 ? stops.length : at) - 1 : (at + 1) % stops.length;
    stops[next].focus();
    return true;
}
