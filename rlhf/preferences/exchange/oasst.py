"""OpenAssistant's message trees, one a line: `{"message_tree_id", "prompt": {"text", "replies": [...]}}`.

A person's turn with two or more ranked answers is one ranking of them all (`rank` counts from 0; an answer without one
is not ranked); the turns above it are the prompt, and the tree is the group. Going out, rankings of one group whose
prompts begin alike share a tree again. What a tree has no field for stands under `ranking` at the turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlhf.data.readers import Rows
from rlhf.data.records import Ranking
from rlhf.errors import DataError
from rlhf.preferences.exchange.base import Format, Row, Tally, made_id, ranking, shown

ROLES = {"prompter": "user", "assistant": "assistant"}
MOST_RANK = 10**9  # more is no rank
MOST_TURNS = 200  # JSON that is nested deeper is not read everywhere


def known(row: Mapping[str, Any]) -> bool:
    return "message_tree_id" in row and isinstance(row.get("prompt"), dict)


def read(found: Rows, tally: Tally) -> Iterator[tuple[str, Ranking]]:
    for where, row in found:
        tree = row.get("message_tree_id")
        if not isinstance(tree, str) or not isinstance(row.get("prompt"), dict):
            raise DataError(f"{where}: expected a message tree with 'message_tree_id' and 'prompt'")
        waiting: list[tuple[Row, list[dict[str, str]]]] = [(row["prompt"], [])]
        while waiting:  # no recursion: a chat may be as long as it likes
            node, above = waiting.pop()
            at = f"{where}, message {shown(node.get('message_id', ''))}"
            role = node.get("role")
            if not isinstance(role, str) or role not in ROLES or not isinstance(node.get("text"), str):
                raise DataError(f"{at}: expected a 'text' and a 'role' of prompter or assistant")
            path = [*above, {"role": ROLES[role], "content": node["text"]}]
            replies = node.get("replies") or []
            if not isinstance(replies, list) or not all(isinstance(r, dict) for r in replies):
                raise DataError(f"{at}, field 'replies': expected a list of messages")
            waiting += [(reply, path) for reply in reversed(replies)]
            if role == "prompter" and len(replies) > 1:
                ranked = sum(reply.get("rank") is not None for reply in replies)
                if ranked > 1 or isinstance(node.get("ranking"), dict):
                    yield at, _ranking(node, path, tree, at)
                elif "ranking" not in node:  # of a tree that we wrote it says: only the way to what is ranked below
                    tally.left_out["turns whose answers have no ranks"] += 1


def _ranking(node: Row, path: list[dict[str, str]], tree: str, where: str) -> Ranking:
    replies = node["replies"]
    ranks = [reply.get("rank") for reply in replies]
    for rank in ranks:
        if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank < MOST_RANK):
            raise DataError(f"{where}, field 'rank': expected whole numbers from 0 (best), found {shown(rank)}")
    kept = node.get("ranking")
    if isinstance(kept, dict):  # of a tree that we wrote
        prompt: Any = path[0]["content"] if kept.get("plain") else path
        beside = {name: kept.get(name, "") for name in ("labeler", "created_at", "group")}
        meta = kept.get("meta") or {}
    else:
        prompt, beside = path, {"group": tree}
        meta = {"message_ids": [reply.get("message_id") for reply in replies]}
        if any(reply.get("model_name") for reply in replies):
            meta["sources"] = [reply.get("model_name") or "" for reply in replies]
    texts = [reply.get("text") for reply in replies]
    return ranking(
        where,
        {"prompt": prompt, "completions": texts, "ranks": [None if r is None else r + 1 for r in ranks], **beside},
        meta,
    )


@dataclass
class _Turn:
    text: str
    ranking: Ranking | None = None
    answers: dict[str, list[_Turn]] = field(default_factory=dict)  # by text: the turns that follow them


def rows(rankings: Sequence[Ranking], tally: Tally) -> Iterator[Row]:
    trees: dict[tuple[str, str], list[_Turn]] = {}
    for one in rankings:
        path = [one.prompt] if isinstance(one.prompt, str) else [message["content"] for message in one.prompt]
        roles = ["user"] if isinstance(one.prompt, str) else [message["role"] for message in one.prompt]
        if roles != ["user", "assistant"] * (len(roles) // 2) + ["user"]:
            tally.left_out["rankings whose prompt has a system turn or two turns of one speaker"] += 1
        elif len(path) > MOST_TURNS:
            tally.left_out[f"rankings whose prompt has more than {MOST_TURNS} turns"] += 1
        else:
            grown = trees.setdefault((one.group, path[0]), [])
            if not any(_placed(root, path, one) for root in grown):
                grown.append(_Turn(path[0]))
                _placed(grown[-1], path, one)
    shared = Counter(group for group, _ in trees)
    for (group, text), grown in trees.items():
        for number, root in enumerate(grown):
            tree = group if group and not number and shared[group] == 1 else made_id(group, text, number)
            yield {"message_tree_id": tree, "tree_state": "ready_for_export", "prompt": _node(root, None, tree)}


def _placed(turn: _Turn, path: Sequence[str], one: Ranking) -> bool:
    """Put the ranking where its prompt leads in this tree; False, and nothing done, if the tree has no room for it."""
    at: _Turn | None = turn
    for answer, question in zip(path[1::2], path[2::2], strict=True):  # look before anything is changed
        if at is None:
            break
        if at.ranking is not None and answer not in at.ranking.completions:
            return False
        at = next((t for t in at.answers.get(answer, ()) if t.text == question), None)
    if at is not None and (at.ranking is not None or not set(at.answers) <= set(one.completions)):
        return False
    for answer, question in zip(path[1::2], path[2::2], strict=True):
        after = turn.answers.setdefault(answer, [])
        found = next((t for t in after if t.text == question), None)
        if found is None:
            found = _Turn(question)
            after.append(found)
        turn = found
    turn.ranking = one
    return True


def _node(turn: _Turn, parent: str | None, own: str) -> Row:
    node: Row = {"message_id": own, "parent_id": parent, "text": turn.text, "role": "prompter", "replies": []}
    one, after = turn.ranking, dict(turn.answers)
    answers: list[tuple[str, int | None, str]] = []
    if one is None:
        node["ranking"] = None
    else:
        fields = {name: getattr(one, name) for name in ("labeler", "created_at", "group") if getattr(one, name)}
        node["ranking"] = {**fields, "meta": dict(one.meta), "plain": isinstance(one.prompt, str)}
        ids = one.meta.get("message_ids")
        known_ids = ids if isinstance(ids, list) and len(ids) == len(one.ranks) else [None] * len(one.ranks)
        for i, (text, rank) in enumerate(zip(one.completions, one.ranks, strict=True)):
            answers.append((text, None if rank is None else rank - 1, known_ids[i] or made_id(own, text, i)))
    ranked = {text for text, _, _ in answers}
    answers += [(text, None, made_id(own, text)) for text in after if text not in ranked]
    for text, rank, answer in answers:
        replies = [_node(t, answer, made_id(answer, t.text)) for t in after.pop(text, [])]
        reply = {"message_id": answer, "parent_id": own, "text": text, "role": "assistant", "rank": rank}
        node["replies"].append({**reply, "replies": replies})
    return node


FORMAT = Format("oasst", "OpenAssistant's message trees", known, read, rows)
