// Dragging a chip: between two places, onto a place (a tie), or back to the tray. Pointer events: a finger works too.

const DRAG_AFTER = 5; // pixels: less is a click
const DROP_WITHIN = 90; // pixels: dropped further off, the chip goes back to where it was

function beginDrag(sheet, event, id) {
    if (event.button !== 0 || !event.isPrimary || sheet.busy || isQuiet(sheet, event)) return;
    const chip = event.currentTarget;
    const start = { x: event.clientX, y: event.clientY, pointer: event.pointerId };
    const drag = { id, chip, ...start, moving: false, target: null };
    sheet.drag = drag;
    const moved = (next) => next.pointerId === drag.pointer && dragMoved(sheet, drag, next);
    const ended = (next) => {
        if (next.pointerId !== drag.pointer) return;
        for (const [name, listener] of listeners) chip.removeEventListener(name, listener);
        endDrag(sheet, drag, next.type === "pointerup");
    };
    const endings = ["pointerup", "pointercancel", "lostpointercapture"].map((name) => [name, ended]);
    const listeners = [["pointermove", moved], ...endings];
    for (const [name, listener] of listeners) chip.addEventListener(name, listener);
    chip.setPointerCapture(event.pointerId);
}

function dragMoved(sheet, drag, event) {
    if (sheet.drag !== drag) return; // called off, or another task has come
    const [x, y] = [event.clientX - drag.x, event.clientY - drag.y];
    if (!drag.moving && Math.hypot(x, y) < DRAG_AFTER) return;
    drag.moving = true;
    drag.chip.classList.add("dragged");
    sheet.view.dock.classList.add("dragging");
    drag.chip.style.transform = `translate(${x}px, ${y}px)`;
    drag.target?.element.classList.remove("target");
    drag.target = nearestTarget(sheet.view.targets, event.clientX, event.clientY);
    drag.target?.element.classList.add("target");
}

function nearestTarget(targets, x, y) {
    let nearest = null;
    let least = DROP_WITHIN;
    for (const target of targets) {
        const box = target.element.getBoundingClientRect();
        const away = Math.hypot(Math.max(box.left - x, 0, x - box.right), Math.max(box.top - y, 0, y - box.bottom));
        if (away < least) [nearest, least] = [target, away];
    }
    return nearest;
}

function endDrag(sheet, drag, dropped) {
    const current = sheet.drag === drag;
    drag.chip.classList.remove("dragged");
    drag.target?.element.classList.remove("target");
    sheet.view.dock.classList.remove("dragging");
    if (drag.moving) swallowClick(drag.chip);
    if (current) sheet.drag = null;
    const lands = current && dropped && drag.moving && drag.target;
    const landed = lands && changeOrder(sheet, (order) => dropOn(order, drag.id, drag.target));
    if (!landed) drag.chip.style.transform = "";
}

function dropOn(order, id, { kind, index }) {
    if (kind === "tray") return takeOut(order, id);
    return kind === "gap" ? intoGap(order, id, index) : joinGroup(order, id, index);
}

/** The click that a browser makes of the end of a drag is none. */
function swallowClick(chip) {
    const stop = (event) => {
        event.stopImmediatePropagation();
        event.preventDefault();
    };
    chip.addEventListener("click", stop, { capture: true, once: true });
    window.setTimeout(() => chip.removeEventListener("click", stop, { capture: true }), 0);
}

/** Call a drag off: the chip goes back. */
function cancelDrag(sheet) {
    const { drag } = sheet;
    sheet.drag = null;
    if (drag) endDrag(sheet, drag, false);
    return drag?.moving ?? false;
}
