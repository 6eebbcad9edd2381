// A text by itself, formatted: what `show_formatted` draws.

const texts = new WeakMap(); // by the shadow root they live in

export default function text({ parentElement, data }) {
    let target = texts.get(parentElement);
    if (!target) {
        target = el("div", { class: "text", dir: "auto" });
        texts.set(parentElement, target);
        parentElement.append(el("div", { class: "sheet" }, target));
    }
    fillText(target, data, true);
}
