// Building elements. Every text here may have been written by a model or a stranger: it only ever becomes a text node
// or a field's value. Attributes get constants and numbers, and only the harmless ones below can be set at all.

const SAFE_ATTRIBUTE = /^(class|id|type|role|tabindex|dir|rows|maxlength|name|aria-[a-z]+|data-[a-z]+)$/;

/** An element; `options.on` holds listeners, the rest are attributes (null leaves one out). */
function el(tag, options = {}, ...children) {
    const element = document.createElement(tag);
    const { on = {}, ...attributes } = options;
    for (const [name, value] of Object.entries(attributes)) {
        if (!SAFE_ATTRIBUTE.test(name)) throw new Error(`not an attribute to set here: ${name}`);
        if (value !== null) element.setAttribute(name, String(value));
    }
    for (const [name, listener] of Object.entries(on)) element.addEventListener(name, listener);
    element.append(...children.filter((child) => child !== null)); // strings become text nodes
    return element;
}

const button = (text, options = {}) => el("button", { type: "button", ...options }, text);

const readAloud = (text) => el("span", { class: "sr" }, text);

const key = (name) => el("kbd", {}, name);

function show(element, visible) {
    element.hidden = !visible;
}

function setText(element, text) {
    if (element.textContent !== text) element.textContent = text; // a live region speaks only when something changed
}

// ---- formatting that was parsed on the server ----

const TREE_TAGS = new Set(
    "p strong em code pre ul ol li blockquote h3 h4 hr br table tr th td del".split(" "),
);
const VOID_TAGS = new Set(["hr", "br"]);
const BLOCK_TAGS = new Set("p li blockquote h3 h4 th td".split(" "));
const DEEPEST = 40;

/** A tree's nodes as elements of the allow-list; anything else as the text it holds. */
function treeNodes(nodes, depth = 0) {
    return (Array.isArray(nodes) ? nodes : []).map((node) => treeNode(node, depth));
}

function treeNode(node, depth) {
    if (typeof node === "string") return document.createTextNode(node);
    const known = TREE_TAGS.has(node?.tag) && depth < DEEPEST;
    if (!known) return document.createTextNode(flatText(node));
    const element = document.createElement(node.tag);
    if (VOID_TAGS.has(node.tag)) return element;
    if (BLOCK_TAGS.has(node.tag)) element.dir = "auto";
    if (node.tag === "pre") element.dir = "ltr";
    element.append(...treeNodes(node.children, depth + 1));
    return node.tag === "table" ? el("div", { class: "wide" }, element) : element;
}

function flatText(node) {
    let text = "";
    const open = [node];
    while (open.length) {
        const next = open.pop();
        if (typeof next === "string") text += next;
        else if (Array.isArray(next?.children)) open.push(...[...next.children].reverse());
    }
    return text;
}

/** Show `item.tree` if it is wanted and there, else the characters of `item.text` as they are. */
function fillText(target, item, formatted) {
    const tree = formatted && Array.isArray(item.tree) ? item.tree : null;
    target.classList.toggle("plain", tree === null);
    target.replaceChildren(...(tree ? treeNodes(tree) : [document.createTextNode(item.text)]));
}

// ---- controls ----

/**
 * Choose one of `labels` (by arrow keys too), or none again: values count from 1.
 * `change` is told first and may refuse with false. Returns {element, set, focus}.
 */
function radioGroup(labels, options) {
    const radios = labels.map((label, index) =>
        el("button", { type: "button", class: "radio", role: "radio", "data-value": index + 1 }, ...[label].flat()),
    );
    const element = el("div", { class: "radios", role: "radiogroup", "aria-label": options.label }, ...radios);
    let value = null;
    const set = (next) => {
        value = next;
        radios.forEach((radio, index) => {
            radio.setAttribute("aria-checked", String(index + 1 === next));
            radio.tabIndex = index + 1 === (next ?? 1) ? 0 : -1;
        });
    };
    const choose = (next) => {
        if (options.change(next) !== false) set(next);
    };
    radios.forEach((radio, index) =>
        radio.addEventListener("click", (event) => {
            const again = options.clearable && event.detail > 0 && value === index + 1; // a second click of the mouse
            choose(again ? null : index + 1);
        }),
    );
    element.addEventListener("keydown", (event) => radioKey(event, { radios, choose, clearable: options.clearable }));
    set(null);
    return { element, set, choose, focus: () => radios[(value ?? 1) - 1].focus() };
}

const RADIO_STEPS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };

function radioKey(event, { radios, choose, clearable }) {
    if (event.defaultPrevented || isModified(event)) return;
    const at = radios.indexOf(event.target);
    if (event.code in RADIO_STEPS && at >= 0) {
        event.preventDefault();
        const next = (at + RADIO_STEPS[event.code] + radios.length) % radios.length;
        choose(next + 1);
        radios[next].focus();
    } else if (clearable && (event.code === "Delete" || event.code === "Backspace")) {
        event.preventDefault();
        choose(null);
    }
}

const isModified = (event) => event.ctrlKey || event.metaKey || event.altKey;

/** A labelled text area with a count that appears near the limit; returns {element, area, set}. */
function textField(label, options) {
    const area = el("textarea", { rows: options.rows, maxlength: options.length, dir: "auto", name: options.name });
    const count = el("span", { class: "count", "aria-live": "polite" });
    const recount = () => {
        const left = options.length - area.value.length;
        setText(count, left <= options.length / 10 ? `${Math.max(left, 0)} characters left` : "");
    };
    area.addEventListener("input", () => {
        recount();
        options.change(area.value);
    });
    const element = el("label", { class: "field" }, el("span", { class: "field-name" }, label), area, count);
    const set = (text) => {
        if (area.value !== text) area.value = text;
        recount();
    };
    return { element, area, set };
}
