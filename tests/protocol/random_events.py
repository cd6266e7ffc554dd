"""Event streams as nobody has recorded them: recordings that were tampered with, and inventions.

Everything is wire text in the end, so that it comes in by the door that the hub uses.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

from hypothesis import strategies as st

from tests.protocol.recording import NAMES, recording
from tests.protocol.wire_events import (
    PROMPT,
    SESSION,
    answer_info,
    raw_child,
    raw_part,
    raw_text,
    raw_tool,
    user_info,
)

Json = dict[str, Any]
Frames = list[Json]
Path = tuple[str | int, ...]

# What Python's encoder does not write, though a server may: put in place of these strings.
LITERALS = {
    "<too great>": "1e999",
    "<too small>": "-1e999",
    "<long>": "9" * 400,
    "<endless>": "9" * 5000,
    "<not a number>": "NaN",
    "<deep>": "[" * 850 + "]" * 850,
}
CHILDREN = ("ses_child", "ses_grandchild")
SESSIONS = (*[SESSION] * 7, *CHILDREN, CHILDREN[0], "ses_foreign")
# Where something is said: a session, and a message that is in it, or in another.
PLACES = (
    *[(SESSION, "msg_a")] * 6,
    *[(SESSION, "msg_b")] * 2,
    *[("ses_child", "msg_c")] * 4,
    *[("ses_grandchild", "msg_d")] * 2,
    (SESSION, PROMPT),
    (SESSION, "msg_c"),
    ("ses_child", "msg_a"),
    ("ses_foreign", "msg_other"),
)
PARTS = ("prt_1", "prt_2", "prt_3", "prt_4", "prt_5")
CROSSED = ("sessionID", "messageID", "partID", "parentID", "id", "sessionId", "type", "tool")
DESCRIPTION = "Look"
SPOILT = ("\x00", "\ud800", "\udfff\ud83d")
UNKNOWN = (
    "plugin.added",
    "session.next.step",
    "message.part.removed",
    "session.diff",
    "",
    "x" * 99,
)

texts = st.sampled_from(
    [
        "",
        "Hello",
        "Hello, world",
        "a\x00b",
        "\ud800",
        "half \udfff",
        "\ud83d\ude00",
        "é\u2028",
        "\n",
    ]
) | st.text(max_size=4)
numbers = st.sampled_from(
    [0, 1, -1, 0.5, -0.25, 1e308, 5e-324, 2**31, 2**53, 2**63, -(2**63), 10**30, *LITERALS]
)
scalars = st.none() | st.booleans() | numbers | texts
values = scalars | st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)
MISSING = object()
tampered = values | st.just(MISSING)
places = st.integers(0, 10_000)  # taken modulo what there is
lengths = st.integers(1, 12)


@dataclass(frozen=True)
class Stream:
    """A stream of wire text, whose turn it may be, and frames of which REST tells."""

    session_id: str
    prompt_id: str
    frames: Sequence[Json]
    rest: Sequence[Json]


def wire_text(frame: object) -> str:
    """The frame as a server would write it."""
    text = json.dumps(frame)
    if "<" in text:
        for name, literal in LITERALS.items():
            text = text.replace(json.dumps(name), literal)
    return text


@cache
def prompts_of(name: str) -> list[tuple[int, str, str]]:
    """Each prompt of a recording: the frame in which it is first told, its session, its id."""
    found: dict[tuple[str, str], int] = {}
    for index, frame in enumerate(recording(name).frames()):
        info = frame["properties"].get("info", {})
        if frame["type"] == "message.updated" and info["role"] == "user":
            found.setdefault((info["sessionID"], info["id"]), index)
    return [(index, session_id, id_) for (session_id, id_), index in found.items()]


@cache
def frames_of(name: str) -> list[Json]:
    return list(recording(name).frames())


PROMPTS = [(name, n) for name in NAMES for n in range(len(prompts_of(name)))]
DELEGATING = [(name, n) for name, n in PROMPTS if name in ("subagent_task", "auth_and_escape")]


def paths(value: object, here: Path = ()) -> Iterator[Path]:
    """The way to each value within a JSON value, outer ones first."""
    items: Iterator[tuple[str | int, object]] = iter(())
    if isinstance(value, dict):
        items = iter(value.items())
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield (*here, key)
        yield from paths(inner, (*here, key))


def replaced(frame: Json, way: Path, value: object) -> None:
    """Put the value there, or take away what is there."""
    target: Any = frame
    for key in way[:-1]:
        target = target[key]
    if value is MISSING:
        del target[way[-1]]
    else:
        target[way[-1]] = deepcopy(value)


def at(frame: Json, way: Path) -> Any:
    value: Any = frame
    for key in way:
        value = value[key]
    return value


def message_in(frame: Json) -> Json | None:
    """What the frame tells of a message that has an id and a session."""
    properties = frame.get("properties")
    info = properties.get("info") if isinstance(properties, dict) else None
    named = isinstance(info, dict) and {"id", "sessionID", "role"} <= info.keys()
    return info if named else None


def frame_of(kind: str, **properties: object) -> Json:
    return {"id": "evt_1", "type": kind, "properties": properties}


def part_frame(raw: Json) -> Json:
    return frame_of("message.part.updated", sessionID=raw["sessionID"], part=raw, time=1)


def tamper(frames: Frames, tampering: tuple[str, int, int, int, object]) -> None:
    """Do one thing to the frames."""
    what, one, other, length, value = tampering
    if not frames:
        return
    here, there = one % len(frames), other % len(frames)
    run = slice(here, here + length)
    match what:
        case "cut":
            del frames[run]
        case "double":
            frames[there:there] = deepcopy(frames[run])
        case "move":
            moved = frames[run]
            del frames[run]
            frames[there:there] = moved
        case "turn around":
            frames[run] = frames[run][::-1]
        case "weave":  # two runs, each in its order
            far = frames[there : there + length]
            near = frames[run]
            woven = [f for pair in zip(near, far, strict=False) for f in pair]
            frames[here : here + len(woven) // 2] = deepcopy(woven)
        case "unknown":
            kind = UNKNOWN[other % len(UNKNOWN)]
            properties = None if value is MISSING else value
            frames.insert(here, {"id": "evt_x", "type": kind, "properties": properties})
        case "mistype" | "lose":
            frame = frames[here] = deepcopy(frames[here])
            ways = list(paths(frame))
            if ways:
                replaced(frame, ways[other % len(ways)], MISSING if what == "lose" else value)
        case "spoil":  # a text with what cannot be stored in it
            frame = frames[here] = deepcopy(frames[here])
            ways = [way for way in paths(frame) if isinstance(at(frame, way), str)]
            if ways:
                way = ways[other % len(ways)]
                replaced(frame, way, at(frame, way) + SPOILT[length % len(SPOILT)])
        case "rehome":  # a part goes on in another message, which may be another session's
            told = [n for n, f in enumerate(frames) if f.get("type") == "message.part.updated"]
            origin = told[one % len(told)] if told else 0
            infos = [i for f in frames[:origin] if (i := message_in(f)) is not None]
            properties = frames[origin].get("properties")
            part = properties.get("part") if isinstance(properties, dict) else None
            if infos and isinstance(part, dict):
                info = infos[other % len(infos)]
                moved_to = {"sessionID": info["sessionID"], "messageID": info["id"]}
                grown = {"text": f"{part.get('text', '')} and more"}
                frames.insert(origin + 1, part_frame({**part, **moved_to, **grown}))
        case "cross":  # what another frame has there: of the right type, and wrong
            frame = frames[here] = deepcopy(frames[here])
            source = frames[there]
            theirs = [at(source, w) for w in paths(source) if w[-1] in CROSSED]
            ways = [way for way in paths(frame) if way[-1] in CROSSED]
            if theirs and ways:
                replaced(frame, ways[length % len(ways)], theirs[other % len(theirs)])


MISCHIEF = ("cut", "double", "move", "turn around", "weave", "unknown", "mistype", "mistype")
tamperings = st.tuples(
    st.sampled_from([*MISCHIEF, "lose", "spoil", "rehome", "cross", "cross"]),
    places,
    places,
    lengths,
    tampered,
)


@st.composite
def recorded_streams(draw: st.DrawFn) -> Stream:
    """A turn of a recording, from about its prompt on, tampered with; another's woven in."""
    name, n = draw(st.sampled_from(PROMPTS) | st.sampled_from(DELEGATING))
    first, session_id, prompt_id = prompts_of(name)[n]
    start = max(0, first - draw(st.integers(0, 6)))
    told = frames_of(name)[start : start + draw(st.integers(8, 90))]
    frames = list(told)
    if draw(st.booleans()):
        other, m = draw(st.sampled_from(PROMPTS))
        begin = prompts_of(other)[m][0]
        foreign = frames_of(other)[begin : begin + draw(lengths) * 2]
        if draw(st.booleans()):  # as if they were of our session
            theirs = prompts_of(other)[m][1]
            text = json.dumps(foreign).replace(theirs, session_id)
            foreign = json.loads(text)
        for index, frame in enumerate(foreign):
            frames.insert(draw(places) % (len(frames) + 1) if index == 0 else 2 * index, frame)
    rest = list(told)
    for tampering in draw(st.lists(tamperings, min_size=1, max_size=10)):
        tamper(frames, tampering)
    for tampering in draw(st.lists(tamperings, max_size=3)):
        tamper(rest, tampering)
    return Stream(session_id, prompt_id, frames, rest)


def info_frame(info: Json) -> Json:
    return frame_of("message.updated", sessionID=info["sessionID"], info=info)


def tokens(count: object, cached: object) -> Json:
    return {"input": count, "output": cached, "cache": {"read": count, "write": cached}}


def invented_tool(
    id_: str, place: tuple[str, str], status: str, tool: str, child: str | None, value: object
) -> Json:
    session, message = place
    metadata = {} if child is None else {"metadata": {"sessionId": child}}
    given = {"description": DESCRIPTION, "subagent_type": "general", "todos": [{"content": value}]}
    more: Json = {"input": given, "output": value, "error": value, **metadata}
    return part_frame(raw_tool(id_, status, tool=tool, message=message, session=session, **more))


sessions, where, parts = map(st.sampled_from, (SESSIONS, PLACES, PARTS))
moments = st.integers(900, 1300) | numbers
infos = st.builds(
    lambda place, parent, done, created, cost, count, cached, **more: info_frame(
        answer_info(place[1], parent=parent, session=place[0])
        | {"time": {"created": created} | ({"completed": 1} if done else {})}
        | {"cost": cost, "tokens": tokens(count, cached)}
        | {key: value for key, value in more.items() if value is not None}
    ),
    where,
    st.sampled_from([*[PROMPT] * 5, "msg_other", "msg_copy"]),
    st.booleans(),
    moments,
    numbers,
    numbers,
    numbers,
    finish=st.sampled_from([None, "stop", "tool-calls", "error", "length"]),
    error=st.sampled_from([None, None, {"name": "APIError", "data": {"message": "\x00No"}}]),
    summary=st.sampled_from([None, None, None, True]),
)
# Such as begin like one another: then what is told of a change is only what was added.
growing = st.sampled_from(["", "Hello", "Hello", "Hello, world"]) | texts
whole = st.builds(
    lambda id_, said, ended, kind, place: part_frame(
        raw_text(id_, said, ended=ended, kind=kind, message=place[1], session=place[0])
    ),
    parts,
    growing,
    st.booleans(),
    st.sampled_from(["text", "text", "text", "reasoning"]),
    where,
)
deltas = st.builds(
    lambda id_, said, place: frame_of(
        "message.part.delta",
        sessionID=place[0],
        messageID=place[1],
        partID=id_,
        field="text",
        delta=said,
    ),
    parts,
    texts,
    where,
)
tools = st.builds(
    invented_tool,
    parts,
    where,
    st.sampled_from(["pending", "running", "completed", "error"]),
    st.sampled_from(["bash", "task", "task", "todowrite", "edit"]),
    st.sampled_from([None, None, *CHILDREN, *SESSIONS]),
    values,
)
children = st.builds(
    lambda link, created: frame_of(
        "session.created",
        sessionID=link[0],
        info=raw_child(link[0], link[1], f"{DESCRIPTION} (@general subagent)")
        | {"time": {"created": created}},
    ),
    st.sampled_from(
        [
            *[("ses_child", SESSION)] * 3,
            ("ses_grandchild", "ses_child"),
            ("ses_grandchild", SESSION),
            ("ses_child", "ses_grandchild"),
            (SESSION, "ses_child"),
            ("ses_child", "ses_child"),
        ]
    ),
    moments,
)
states = st.builds(
    lambda session, kind, attempt, message, due: frame_of(
        "session.status",
        sessionID=session,
        status={"type": kind, "attempt": attempt, "message": message, "next": due},
    ),
    sessions,
    st.sampled_from(["busy", "idle", "retry"]),
    numbers,
    texts,
    numbers,
)
others = st.builds(
    lambda kind, session, value: frame_of(
        kind, sessionID=session, error={"name": "UnknownError", "data": value}, todos=[value]
    ),
    st.sampled_from(["session.idle", "session.error", "todo.updated", "session.deleted"]),
    sessions,
    values | st.builds(lambda v, s: {"content": v, "status": s, "message": v}, texts, values),
)
users = st.builds(
    lambda id_, created, session: info_frame(
        user_info(id_, session=session) | {"time": {"created": created}}
    ),
    st.sampled_from([PROMPT, "msg_other", "msg_copy"]),
    moments,
    sessions,
)
odd_parts = st.builds(
    lambda kind, id_, place: part_frame(
        raw_part(kind, "prt_odd", message=id_ or place[1], session=place[0])
    ),
    st.sampled_from(["step-start", "step-start", "step-finish", "compaction", "file"]),
    st.sampled_from([None, None, "msg_copy"]),
    where,
)
said = (whole, whole, whole, deltas, deltas, deltas, tools, tools, tools)
inventions = st.one_of(*said, infos, infos, children, states, others, users, odd_parts)
BEGINNING = [
    info_frame(user_info()),
    part_frame(raw_text("prt_prompt", "Hello", message=PROMPT)),
    frame_of("session.status", sessionID=SESSION, status={"type": "busy"}),
    info_frame(answer_info("msg_a")),
]
DELEGATED = [
    *BEGINNING,
    invented_tool("prt_task", (SESSION, "msg_a"), "running", "task", "ses_child", None),
    info_frame(answer_info("msg_c", session="ses_child")),
]


@st.composite
def invented_streams(draw: st.DrawFn) -> Stream:
    """Events of a few sessions, messages and parts, in any order; some of them mistyped."""
    frames = draw(st.sampled_from([[], BEGINNING, BEGINNING, DELEGATED, DELEGATED]))
    frames = [*frames, *draw(st.lists(inventions, min_size=10, max_size=30))]
    rest = [*frames, *draw(st.lists(inventions, max_size=4))]
    for tampering in draw(st.lists(tamperings, max_size=3)):
        tamper(frames, tampering)
    for tampering in draw(st.lists(tamperings, max_size=2)):
        tamper(rest, tampering)
    return Stream(SESSION, PROMPT, frames, rest)
