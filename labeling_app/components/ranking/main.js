// What Streamlit calls: once when the sheet is put on the page, and again on every rerun.

const sheets = new WeakMap(); // by the shadow root they live in

/** Find this root's sheet, or start one. */
function sheetIn(root) {
    const known = sheets.get(root);
    if (known) return known;
    const sheet = newSheet(root);
    sheets.set(root, sheet);
    return sheet;
}

function attach(sheet) {
    if (sheet.stop) return;
    const stop = new AbortController();
    sheet.stop = stop;
    sheet.element = el("div", { class: "sheet" });
    sheet.root.append(sheet.element);
    listenOnPage(sheet, stop.signal);
    listenOnSheet(sheet);
    const observer = new ResizeObserver(() => remeasure(sheet));
    observer.observe(sheet.element);
    stop.signal.addEventListener("abort", () => observer.disconnect());
}

function listenOnPage(sheet, signal) {
    window.addEventListener("keydown", (event) => onKey(sheet, event), { capture: true, signal });
    for (const name of ["pointerdown", "pointermove", "wheel", "scroll", "input"]) {
        window.addEventListener(name, () => signOfLife(sheet), { capture: true, passive: true, signal });
    }
    document.addEventListener("visibilitychange", () => visibilityChanged(sheet), { signal });
    window.addEventListener("pagehide", () => keepDraft(sheet), { signal });
}

function listenOnSheet(sheet) {
    const { element } = sheet;
    element.addEventListener("click", (event) => guardClick(sheet, event), { capture: true });
    element.addEventListener("mousedown", (event) => keepFocusOff(sheet, event));
    // The page takes letters for shortcuts, and cannot see from outside that they are typed into a field of ours.
    for (const name of ["keydown", "keypress", "keyup"]) {
        element.addEventListener(name, (event) => {
            if (isTyping(event.target)) event.stopPropagation();
        });
    }
}

/** A click while the sheet is locked, or meant for the task before, does nothing. */
function guardClick(sheet, event) {
    const free = sheet.busy && !isQuiet(sheet, event) && event.target.closest("[data-free], .help");
    if (free || !(sheet.busy || isQuiet(sheet, event))) return;
    event.preventDefault();
    event.stopPropagation();
}

/** The mouse leaves no focus on a control: Enter, pressed next, would press it again instead of submitting. */
function keepFocusOff(sheet, event) {
    if (!event.target.closest("button, summary")) return;
    event.preventDefault();
    if (sheet.help) return;
    sheet.root.activeElement?.blur();
    const outside = document.activeElement;
    if (outside && outside !== document.body && outside !== sheet.root.host) outside.blur();
}

function remeasure(sheet) {
    const width = Math.round(sheet.element.clientWidth);
    if (!sheet.view || width === sheet.measuredAt) return;
    sheet.measuredAt = width;
    measure(sheet);
}

function detach(sheet) {
    keepDraft(sheet);
    sheet.stop?.abort();
    sheet.stop = null;
    window.clearTimeout(sheet.timer);
    window.clearTimeout(sheet.disarming);
    window.clearInterval(sheet.heartbeat);
    sheet.element?.remove();
    Object.assign(sheet, { element: null, view: null, data: null, draft: null, busy: null, sent: null, help: null });
}

export default function ranking(component) {
    const sheet = sheetIn(component.parentElement);
    attach(sheet);
    receive(sheet, component);
    sheet.runs += 1;
    const run = sheet.runs;
    return () => {
        if (run === sheet.runs) detach(sheet); // an overtaken run's cleanup must not stop the sheet
    };
}
