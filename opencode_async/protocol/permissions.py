"""What the agent may do: OpenCode's permission rules, in order; of those that match, the last wins.

Facts of OpenCode here are of 1.18.33: measured, or read in its source where that is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self, get_args

from opencode_async.protocol.wire import clean

Action = Literal["allow", "deny", "ask"]
Rule = dict[str, str]  # as it is on the wire

DOTENV, DOTENV_EXAMPLE = ("*.env", "*.env.*"), "*.env.example"  # as OpenCode names them itself
NOT_PERMISSIONS = ("write", "apply_patch")  # tools whose permission is another's (its source)


@dataclass(frozen=True, slots=True)
class PermissionRule:
    """One rule; raises ``ValueError`` for one that OpenCode would refuse or never apply.

    ``permission`` names a tool (``bash``, ``edit``, which covers ``write`` and ``apply_patch``,
    ``webfetch``, …), ``external_directory`` (paths outside the server's directory), ``doom_loop``
    (the same call for the third time), or several with ``*``. ``pattern`` is what it is applied to:
    a command, or for ``read`` and ``edit`` a path relative to the git work tree, without git to
    ``/``. In both ``*`` stands for anything, ``/`` included, and ``?`` for one character.
    """

    permission: str
    pattern: str
    action: Action

    def __post_init__(self) -> None:
        for value in (self.permission, self.pattern):
            if not value or clean(value) != value:
                raise ValueError(f"a rule's permission and pattern are text, not {value!r}")
        if self.action not in get_args(Action):
            raise ValueError(f"a rule's action is one of {get_args(Action)}, not {self.action!r}")
        if self.permission in NOT_PERMISSIONS:
            raise ValueError(f"the permission of {self.permission} is edit")

    def to_json(self) -> Rule:
        return {"permission": self.permission, "pattern": self.pattern, "action": self.action}


@dataclass(frozen=True, slots=True)
class Permissions:
    """What the agent of a conversation may do: rules, of which the last that matches wins.

    ::

        Permissions().deny("bash").allow("bash", "git status*", "git diff*").ask("edit")

    What no rule matches is as the server's configuration has it: unless that says otherwise all is
    allowed, but OpenCode asks for ``external_directory``, ``doom_loop`` and to read ``.env`` files.

    An ``ask`` of a session does not reach its subagents, who would do unasked what the rule is
    about; of all rules only ``deny`` and those of ``external_directory`` reach them. So a set with
    an ``ask`` denies ``task``, which starts subagents, unless it has a rule named ``task``.

    A set is made for one conversation by ``inside(pattern)``, which says what ``SANDBOX`` means.
    """

    SANDBOX: ClassVar[str] = "{sandbox}"
    """As a pattern of ``read`` and ``edit``: the conversation's folder and all that is in it."""

    rules: tuple[PermissionRule, ...] = ()
    sandbox: str | None = None

    def allow(self, permission: str, *patterns: str) -> Self:
        """With a rule for each pattern, or for everything."""
        return self._with(permission, patterns, "allow")

    def deny(self, permission: str, *patterns: str) -> Self:
        """With a rule for each pattern; a tool denied altogether is not offered to the model."""
        return self._with(permission, patterns, "deny")

    def ask(self, permission: str, *patterns: str) -> Self:
        """With a rule for each pattern, or for everything; see the class about subagents."""
        return self._with(permission, patterns, "ask")

    def __add__(self, other: Permissions) -> Self:
        return replace(self, rules=self.rules + other.rules)

    @classmethod
    def read_only(cls) -> Self:
        """Look at the files of the server's directory and search them, nothing else.

        Not at ``.env`` files, though ``grep`` searches those, too. More is for the host to allow
        behind it, also tools of its own. Nothing is left to ask.
        """
        seeing = cls().deny("*").allow("read").deny("read", *DOTENV).allow("read", DOTENV_EXAMPLE)
        return seeing.allow("glob").allow("grep").allow("todowrite")

    @classmethod
    def sandboxed(cls) -> Self:
        """Read and edit in the conversation's own sandbox, nothing else.

        The sandbox is ``sandbox/<its sandbox_key>`` below the server's directory; the agent is told
        so. ``glob`` and ``grep`` cannot be fenced: what OpenCode matches is what is searched for,
        not where. Nor can ``bash``: a host that allows it behind this gives the agent all files of
        the server's user, whatever the rules say of paths. OpenCode does not check where
        ``apply_patch`` moves a file, so it is made to ask for each edit, and the library, which
        sees all of its paths, answers. Nothing is left to ask a person.
        """
        return (
            cls().deny("*").allow("read", cls.SANDBOX).allow("edit", cls.SANDBOX).allow("todowrite")
        )

    @classmethod
    def unattended(cls) -> Self:
        """Never wait for a person: what OpenCode would ask for by itself is denied.

        These are paths outside the directory, a call repeated for the third time, and reading
        ``.env`` files (``.env.example`` stays readable); the question tool is off. All else stays
        as it is, an ``ask`` of the server's configuration, too. It opens what is named
        ``.env.example``, so narrower rules go behind it; ``sandboxed`` and ``read_only`` leave
        nothing to ask as they are.
        """
        never = cls().deny("external_directory").deny("doom_loop").deny("question")
        return never.deny("read", *DOTENV).allow("read", DOTENV_EXAMPLE)

    @property
    def fenced(self) -> bool:
        """Whether a rule is about the conversation's sandbox."""
        return any(self.SANDBOX in rule.pattern for rule in self.rules)

    def inside(self, sandbox: str) -> Self:
        """The set for the conversation whose sandbox has that pattern."""
        return replace(self, sandbox=sandbox)

    @property
    def sent(self) -> list[Rule]:
        """The rules as a session is given them; raises ``ValueError`` where ``SANDBOX`` is open."""
        rules: list[PermissionRule] = []
        for rule in self.rules:
            meant = list(self._meant(rule))
            rules += meant
            edits = like("edit", rule.permission)
            if self.SANDBOX in rule.pattern and rule.action == "allow" and edits:
                rules += [PermissionRule("edit", each.pattern, "ask") for each in meant]
        asks = any(rule.action == "ask" for rule in self.rules)
        if asks and not any(rule.permission == "task" for rule in self.rules):
            rules.append(PermissionRule("task", "*", "deny"))
        return [rule.to_json() for rule in rules]

    def action(self, permission: str, patterns: Sequence[str]) -> Action | None:
        """What the rules say to an ask that OpenCode raised for all these patterns at once.

        One denied is all denied; ``None`` where a pattern is one that no rule matches. OpenCode
        itself asks whatever the rules say for ``doom_loop``, and for subagents whom an ``allow``
        did not reach.
        """
        found = {self._last(permission, pattern) for pattern in patterns}
        order: tuple[Action | None, ...] = ("deny", None, "ask", "allow")
        return next((action for action in order if action in found), None)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The set as a worker stored it."""
        rules = tuple(PermissionRule(**rule) for rule in stored.get("rules", ()))
        return cls(rules, stored.get("sandbox"))

    def to_json(self) -> dict[str, Any]:
        return {"rules": [rule.to_json() for rule in self.rules], "sandbox": self.sandbox}

    def _with(self, permission: str, patterns: Sequence[str], action: Action) -> Self:
        new = tuple(PermissionRule(permission, each, action) for each in patterns or ("*",))
        return replace(self, rules=self.rules + new)

    def _last(self, permission: str, pattern: str) -> Action | None:
        """The action of the last rule that matches."""
        found: Action | None = None
        for rule in self.rules:
            about = like(permission, rule.permission)
            if about and any(like(pattern, each.pattern) for each in self._meant(rule)):
                found = rule.action
        return found

    def _meant(self, rule: PermissionRule) -> Iterator[PermissionRule]:
        """The rule with the sandbox's own pattern: for the folder itself, and for what is in it."""
        if self.SANDBOX not in rule.pattern:
            yield rule
            return
        if self.sandbox is None:
            raise ValueError("only a conversation has a sandbox: say which with inside(pattern)")
        pattern = rule.pattern.replace(self.SANDBOX, self.sandbox)
        yield replace(rule, pattern=pattern)
        if rule.pattern == self.SANDBOX:
            yield replace(rule, pattern=f"{pattern}/*")


def like(value: str, pattern: str) -> bool:
    """Whether OpenCode's wildcard pattern matches: a last ``" *"`` may be missing (its source)."""
    expression = re.escape(pattern.replace("\\", "/")).replace(r"\*", ".*").replace(r"\?", ".")
    if expression.endswith(r"\ .*"):
        expression = expression.removesuffix(r"\ .*") + r"(\ .*)?"
    return re.fullmatch(expression, value.replace("\\", "/"), re.DOTALL) is not None
