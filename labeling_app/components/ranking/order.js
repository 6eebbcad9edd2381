// The order as data: groups of completion ids, best first; ids in one group are tied. Every function returns a new
// order, or the very same one where nothing changed, so that a caller can tell.
// `placed` remembers in which sequence the ids were placed, so that "take back" undoes the last one.

const emptyOrder = () => ({ groups: [], placed: [] });

const groupIndex = (order, id) => order.groups.findIndex((group) => group.includes(id));

const isPlaced = (order, id) => groupIndex(order, id) >= 0;

/** The order with these groups; `id` (if any) becomes the one placed last. Empty groups vanish. */
function reordered(order, groups, id = null) {
    const kept = groups.filter((group) => group.length > 0);
    const present = new Set(kept.flat());
    const placed = order.placed.filter((other) => other !== id && present.has(other));
    return { groups: kept, placed: id === null ? placed : [...placed, id] };
}

/** As the next best, after all that are placed already. */
function placeNext(order, id) {
    return isPlaced(order, id) ? order : reordered(order, [...order.groups, [id]], id);
}

/** The group that the last placed id is in: what a tie joins. -1 while nothing is placed. */
function lastGroup(order) {
    return order.placed.length ? groupIndex(order, order.placed[order.placed.length - 1]) : order.groups.length - 1;
}

/** Tied with what was placed last; alone, as the first, if nothing was. */
function tieLast(order, id) {
    if (isPlaced(order, id)) return order;
    const target = lastGroup(order);
    return target < 0 ? placeNext(order, id) : joinGroup(order, id, target);
}

function takeOut(order, id) {
    if (!isPlaced(order, id)) return order;
    return reordered(order, order.groups.map((group) => group.filter((other) => other !== id)));
}

function takeBackLast(order) {
    return order.placed.length ? takeOut(order, order.placed[order.placed.length - 1]) : order;
}

/** Into the group at `index`, as a tie. */
function joinGroup(order, id, index) {
    if (groupIndex(order, id) === index) return order;
    const groups = order.groups.map((group) => group.filter((other) => other !== id));
    groups[index] = [...groups[index], id];
    return reordered(order, groups, id);
}

/** Alone, into the gap before the group at `index` (the number of groups: after the last). */
function intoGap(order, id, index) {
    const from = groupIndex(order, id);
    const alone = from >= 0 && order.groups[from].length === 1;
    if (alone && (index === from || index === from + 1)) return order;
    const groups = order.groups.map((group) => group.filter((other) => other !== id));
    groups.splice(index, 0, [id]);
    return reordered(order, groups, id);
}

/** One place better (-1) or worse (+1): out of a tie, or past the neighbour. What is not placed comes in at the end. */
function step(order, id, direction) {
    const from = groupIndex(order, id);
    if (from < 0) return placeNext(order, id);
    if (order.groups[from].length > 1) return intoGap(order, id, direction < 0 ? from : from + 1);
    const gap = direction < 0 ? from - 1 : from + 2;
    return gap < 0 || gap > order.groups.length ? order : intoGap(order, id, gap);
}

/** Tied with the neighbouring place on that side; what is not placed ties with the last placed. */
function stepTie(order, id, direction) {
    const from = groupIndex(order, id);
    if (from < 0) return tieLast(order, id);
    const to = from + direction;
    return to < 0 || to >= order.groups.length ? order : joinGroup(order, id, to);
}

/** Standard competition ranks by id: 1 + how many are strictly better; null where not placed. */
function ranksOf(order, ids) {
    const ranks = {};
    for (const id of ids) ranks[id] = null;
    let better = 0;
    for (const group of order.groups) {
        for (const id of group) ranks[id] = better + 1;
        better += group.length;
    }
    return ranks;
}

/** The order that such ranks express. */
function orderFromRanks(ranks, ids) {
    const places = new Map();
    for (const id of ids) {
        const rank = ranks?.[id];
        if (Number.isInteger(rank)) places.set(rank, [...(places.get(rank) ?? []), id]);
    }
    const groups = [...places.keys()].sort((a, b) => a - b).map((rank) => places.get(rank));
    return { groups, placed: groups.flat() };
}

/** Only what fits: known ids, each once. */
function fittingOrder(raw, ids) {
    const free = new Set(ids);
    const take = (id) => free.delete(id);
    const groups = (Array.isArray(raw?.groups) ? raw.groups : []).map((group) =>
        Array.isArray(group) ? group.filter(take) : [],
    );
    const present = new Set(groups.flat());
    const placed = (Array.isArray(raw?.placed) ? raw.placed : []).filter((id) => present.delete(id));
    return reordered({ groups: [], placed: [...present, ...placed] }, groups);
}

// ---- in words ----

const listed = (words) => (words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`);

function ordinal(number) {
    const teens = number % 100 >= 11 && number % 100 <= 13;
    const ending = teens ? "th" : ({ 1: "st", 2: "nd", 3: "rd" }[number % 10] ?? "th");
    return `${number}${ending}`;
}

/** "2nd, tied"; empty where not placed. */
function placeInWords(order, id) {
    const index = groupIndex(order, id);
    if (index < 0) return "";
    const rank = 1 + order.groups.slice(0, index).flat().length;
    return order.groups[index].length > 1 ? `${ordinal(rank)}, tied` : ordinal(rank);
}

/** "3 first, then 1 and 4 tied, then 2. Still to place: 5." Cards are called by their position on screen. */
function orderInWords(order, ids) {
    const number = (id) => String(ids.indexOf(id) + 1);
    const sorted = (group) => group.map(number).sort();
    const missing = ids.filter((id) => !isPlaced(order, id)).map(number);
    const steps = order.groups.map((group) => listed(sorted(group)) + (group.length > 1 ? " tied" : ""));
    const rest = missing.length ? `Still to place: ${listed(missing)}.` : "";
    if (!steps.length) return `Nothing placed yet. ${rest}`;
    if (steps.length === 1 && !rest) return `${listed(sorted(order.groups[0]))} all tied.`;
    return [`${[`${steps[0]} first`, ...steps.slice(1)].join(", then ")}.`, rest].filter(Boolean).join(" ");
}
