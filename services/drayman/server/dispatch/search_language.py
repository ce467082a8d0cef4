"""The language of project searches, read: text in, tree out. Pure.

Words that are not quoted mean what their place says: `n` is a field before an operator, a text behind it. The lexer therefore asks the
parser which terminals can stand where it is. A word before `in` may be either, which shows only behind the `in`.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal

from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedToken, v_args
from lark.parsers.lalr_interactive_parser import InteractiveParser

from drayman.server.dispatch.search_tree import (
    ATTRIBUTES,
    And,
    Attribute,
    Comparison,
    Constant,
    Contains,
    Field,
    InList,
    InRange,
    Length,
    Not,
    Operator,
    Or,
    Place,
    Position,
    Present,
    Quantified,
    Query,
    SearchError,
    Subject,
    Value,
)

#: Characters that a query may have.
LONGEST_QUERY = 10_000
#: Groups and negations that may be open at a time.
DEEPEST_NESTING = 100
#: Digits and decimal exponent that a number may have.
_LARGEST_NUMBER = 1000

# \w has letters of all languages; a bare word ends where none of these follows
_WORD = r"[\w:%$@^.*?+\-]"
_KEYWORD = rf"(?:and|or|in|not)(?!{_WORD})"
_MOMENT = r"\d{4}-\d\d-\d\d +\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?: ?(?:Z|[+\-]\d\d(?::?\d\d)?))?"

_QUOTE = r"\"(?:[^\"]|\"\")*\"|'(?:[^']|'')*'"

_GRAMMAR = rf"""
?start: disjunction
?disjunction: conjunction (_OR conjunction)*
?conjunction: _term (_AND _term)*
_term: "(" disjunction ")" | negation | _predicate
negation: (BANG | NOT) _term
_predicate: comparison | in_range | in_list | contains | presence

comparison: (place | quantified | length) (COMPARISON | LIKE) constant
in_range: (place | quantified | length) is_in low ":" high
in_list: (place | quantified | length) is_in "(" constant ("," constant)* ")"
contains: (place | literal) is_in place
presence: place [[NOT] PRESENT]

place: NAME -> named
     | "[" QUOTED "]" -> named
     | place "[" INDEX "]" -> indexed
     | place "[" QUOTED "]" -> indexed
quantified: place "[" (ANY | ALL) "]"
length: _LEN "(" place ")"
is_in: [NOT] IN
literal: (QUOTED | WORD) -> constant
constant: (QUOTED | WORD | NAME | MOMENT)
low: (QUOTED | LOW | LOW_MOMENT) -> constant
high: (QUOTED | HIGH | MOMENT) -> constant

_OR.4: /(or|OR)(?!{_WORD})/
_AND.4: /(and|AND)(?!{_WORD})/
NOT.4: /(not|NOT)(?!{_WORD})/
IN.4: /(in|IN)(?!{_WORD})/
PRESENT.4: /(present|PRESENT)(?!{_WORD})/
LIKE.4: /(like|LIKE)(?!{_WORD})/
ANY.4: /(any|ANY)(?!{_WORD})/
ALL.4: /(all|ALL)(?!{_WORD})/
_LEN.4: /(len|LEN)(?=\s*\()/
BANG: "!"
COMPARISON: /!~\*|!~|!=|~\*|~|==|=|<=|<|>=|>/
INDEX.4: /-?[0-9]+/
LOW_MOMENT.6: /{_MOMENT}(?=\s*:)/
MOMENT.5: /{_MOMENT}(?!{_WORD})/
LOW.3: /(?!{_KEYWORD}){_WORD.replace(":", "")}+(?=\s*:)/
HIGH.3: /(?!{_KEYWORD}){_WORD.replace(":", "")}+(?!{_WORD})/
NAME.2: /(?!{_KEYWORD})[^\W\d]\w*(?:\.[^\W\d]\w*)*(?!{_WORD})/
WORD.1: /(?!{_KEYWORD}){_WORD}+/
QUOTED: /{_QUOTE}/

%ignore /\s+/
"""

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?([0-9]+))?")
_UNREADABLE = re.compile("[\x00\ud800-\udfff]")
_QUOTED = re.compile(_QUOTE)
_FOUND = re.compile(rf"{_WORD}+|{_QUOTE}|[<>=!~]+\*?|.", re.DOTALL)

#: Terminals that open something.
_OPENING = ("LPAR", "BANG", "NOT")


def parse(text: str) -> Query:
    """Read a query. Raises SearchError, and nothing else, for any other text."""
    if len(text) > LONGEST_QUERY:
        raise SearchError(_position(text, LONGEST_QUERY), f"{len(text)} characters", f"at most {LONGEST_QUERY}")
    if odd := _UNREADABLE.search(text):
        raise SearchError(_position(text, odd.start()), f"the character {ascii(odd[0])[1:-1]}", "text without it")
    parser: InteractiveParser = _PARSER.parse_interactive(text)
    try:
        for token in parser.iter_parse():
            if token.type in _OPENING:
                _check_depth(parser, token)
        query: Query = parser.feed_eof()  # type: ignore[no-untyped-call]  # lark's
    except (UnexpectedCharacters, UnexpectedToken) as error:
        raise _explained(text, error) from None
    return query


def _check_depth(parser: InteractiveParser, token: Token) -> None:
    opened = sum(isinstance(value, Token) and value.type in _OPENING for value in parser.parser_state.value_stack)
    if opened >= DEEPEST_NESTING:
        found = f"`{token}` inside {opened} others"
        raise SearchError(_at(token), found, f"groups and negations at most {DEEPEST_NESTING} deep")


@dataclass(frozen=True)
class _Spot:
    """A place and the token that it begins with; a bare one is a single word, which may turn out to be a value."""

    place: Place
    token: Token
    bare: bool = False

    @property
    def field(self) -> Field:
        """The place, which must not be an attribute."""
        if isinstance(self.place, Attribute):
            raise SearchError(_at(self.token), f"the attribute `{self.token}`", "a field, which alone has elements")
        return self.place


@v_args(inline=True)
class _TreeBuilder(Transformer[Token, Query]):
    """Makes the tree while the parser reduces; one method a rule."""

    def disjunction(self, *operands: Query) -> Query:
        return Or(operands)

    def conjunction(self, *operands: Query) -> Query:
        return And(operands)

    def negation(self, _sign: Token, operand: Query) -> Query:
        return Not(operand)

    def comparison(self, subject: _Spot | Subject, sign: Token, constant: Constant) -> Query:
        operator = Operator("=" if sign == "==" else sign.lower())
        return Comparison(_subject(subject), operator, constant, _at(sign))

    def in_range(self, subject: _Spot | Subject, negated: bool, low: Constant, high: Constant) -> Query:
        return InRange(_subject(subject), low, high, negated)

    def in_list(self, subject: _Spot | Subject, negated: bool, *constants: Constant) -> Query:
        return InList(_subject(subject), constants, negated)

    def contains(self, left: _Spot | Constant, negated: bool, right: _Spot) -> Query:
        if isinstance(left, _Spot):
            if not left.bare:
                raise SearchError(_at(right.token), f"`{right.token}`", _LIST, _RANGE)
            left = self.constant(left.token)
        return Contains(right.place, left, negated)

    def presence(self, spot: _Spot, negation: Token | None, _present: Token | None) -> Query:
        return Present(spot.place, negation is not None)

    def named(self, token: Token) -> _Spot:
        if token.type == "QUOTED":
            return _Spot(Field((_unquoted(token),)), token)
        return _Spot(ATTRIBUTES.get(token) or Field((str(token),)), token, bare=True)

    def indexed(self, spot: _Spot, token: Token) -> _Spot:
        step = _unquoted(token) if token.type == "QUOTED" else _index(token)
        return _Spot(Field((*spot.field.steps, step)), spot.token)

    def quantified(self, spot: _Spot, word: Token) -> Subject:
        return Quantified(spot.field, every=word.type == "ALL")

    def length(self, spot: _Spot) -> Subject:
        return Length(spot.field)

    def is_in(self, negation: Token | None, _in: Token) -> bool:
        return negation is not None

    def constant(self, token: Token) -> Constant:
        return Constant(_unquoted(token) if token.type == "QUOTED" else _read(token), _at(token))


_PARSER = Lark(_GRAMMAR, parser="lalr", lexer="contextual", transformer=_TreeBuilder())


def _subject(found: _Spot | Subject) -> Subject:
    return found.place if isinstance(found, _Spot) else found


def _unquoted(token: Token) -> str:
    quote = token[0]
    return token[1:-1].replace(quote * 2, quote)


def _index(token: Token) -> int:
    if len(token.lstrip("-")) > 8:  # an array has no such element, and PostgreSQL no such index
        raise SearchError(_at(token), f"the index {token[:12]}...", "an index of at most 8 digits")
    return int(token)


def _read(token: Token) -> Value:
    """Read a word that is not quoted."""
    word = token.lower()
    if word in ("true", "false"):
        return word == "true"
    if word == "null":
        return None
    number = _NUMBER.fullmatch(token)
    if number is None:
        return str(token)
    if len(token) > _LARGEST_NUMBER or int(number[1] or 0) > _LARGEST_NUMBER:
        raise SearchError(_at(token), f"the number {token[:20]}...", f"a number of at most {_LARGEST_NUMBER} digits")
    return Decimal(str(token))


# --- errors ----------------------------------------------------------------------------------------------------------

_LIST = "a list in parentheses"
_RANGE = "a range such as 1:5"
_WORDS = {
    "_OR": "`or`",
    "_AND": "`and`",
    "NOT": "`not`",
    "IN": "`in`",
    "PRESENT": "`present`",
    "LIKE": "`like`",
    "COMPARISON": "an operator such as `=`",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "COMMA": "`,`",
    "COLON": "`:`",
    "INDEX": "a number",
    "QUOTED": "a quoted name",
    "ANY": "`any`",
    "ALL": "`all`",
    "NAME": "a field",
    "$END": "the end of the query",
}
#: What several terminals that can stand in one place are together; the first whose key is among them.
_TOGETHER = {
    "BANG": ("a condition such as `state = active`",),
    "LOW": (_LIST, _RANGE, "a field"),
    "HIGH": ("the upper end of the range",),
    "WORD": ("a value",),
}


def _explained(text: str, error: UnexpectedCharacters | UnexpectedToken) -> SearchError:
    ended = isinstance(error, UnexpectedToken) and error.token.type == "$END"
    start = len(text) if ended else error.pos_in_stream or 0
    if text[start : start + 1] in ("'", '"') and not _QUOTED.match(text, start):
        return SearchError(_position(text, start), "a quote that is never closed", f"another {text[start]} behind it")
    accepted = _acceptable(text, start)
    expected = next((words for key, words in _TOGETHER.items() if key in accepted), None)
    if expected is None:
        expected = tuple(words for key, words in _WORDS.items() if key in accepted)
    return SearchError(_position(text, start), _found(text, start), *expected)


def _acceptable(text: str, start: int) -> set[str]:
    """Say which terminals could follow what is before `start`: read again, since the parser that failed has drawn conclusions already."""
    parser = _PARSER.parse_interactive(text)
    with suppress(UnexpectedCharacters, UnexpectedToken):
        for token in parser.iter_parse():
            if token.start_pos is not None and token.start_pos >= start:
                break
    accepted: set[str] = parser.accepts()  # type: ignore[no-untyped-call]  # lark's
    return accepted


def _found(text: str, start: int) -> str:
    token = _FOUND.match(text, start)
    if token is None:
        return "the end of the query"
    return f"`{token[0]}`" if len(token[0]) <= 40 else f"`{token[0][:40]}...`"


def _position(text: str, offset: int) -> Position:
    return Position(text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset))


def _at(token: Token) -> Position:
    return Position(token.line or 1, token.column or 1)
