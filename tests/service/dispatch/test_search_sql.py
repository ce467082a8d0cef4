"""Conditions against PostgreSQL: the same projects that the tree finds when Python reads it, by the index, within limits."""

import json
import operator
import re
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drayman.dispatch.v1 import project_service_pb2 as pb
from drayman.server.dispatch import search_sql, searching
from drayman.server.dispatch.search_language import parse
from drayman.server.dispatch.search_tree import (
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
    Present,
    Quantified,
    Query,
    to_text,
)
from drayman.server.dispatch.store import HERE, Store, search_statement
from drayman.server.platform.database import migrate, open_pool
from drayman.server.platform.errors import Refusal

_INSERT = """
WITH p AS (
    INSERT INTO dispatch.project (owner, state, facts, query, worker_timeout, created_at, ended_at)
    VALUES ($1, $2::text::dispatch.project_state, $3, $4, $5, $6, $7) RETURNING project_id
)
INSERT INTO dispatch.tally (project_id) SELECT project_id FROM p RETURNING project_id
"""

# --- the same in Python ----------------------------------------------------------------------------------------------

_MISSING = object()
_ORDERS: dict[Operator, Callable[[Any, Any], bool]] = {
    Operator.LESS: operator.lt,
    Operator.AT_MOST: operator.le,
    Operator.GREATER: operator.gt,
    Operator.AT_LEAST: operator.ge,
}
_DENIED = {
    Operator.NOT_EQUAL: Operator.EQUAL,
    Operator.MATCHES_NOT: Operator.MATCHES,
    Operator.MATCHES_NOT_ANY_CASE: Operator.MATCHES_ANY_CASE,
}
_SPANS = {"1m": 60, "1 hour": 3600, "00:01": 60}
_MOMENTS = [datetime(2024, month, 1, tzinfo=UTC) for month in (1, 2, 3)]


def finds(query: Query, project: dict[str, Any]) -> bool:
    match query:
        case Or(operands):
            return any(finds(operand, project) for operand in operands)
        case And(operands):
            return all(finds(operand, project) for operand in operands)
        case Not(operand):
            return not finds(operand, project)
        case Present(place, negated):
            return (_value(place, project) in (_MISSING, None if isinstance(place, Attribute) else _MISSING)) == negated
        case Contains(place, constant, negated):
            return _contains(place, constant.value, negated, project)
        case _:
            return _tested(query, project)


def _contains(place: Place, wanted: Any, negated: bool, project: dict[str, Any]) -> bool:
    value = _value(place, project)
    if isinstance(place, Attribute):
        return value is not None and (wanted in value) != negated
    inside = isinstance(wanted, str) and isinstance(value, str) and wanted in value
    return (inside or any(_equal(element, wanted) for element in _elements(value))) != negated


def _tested(query: Comparison | InRange | InList, project: dict[str, Any]) -> bool:
    denied = query.operator in _DENIED if isinstance(query, Comparison) else query.negated
    match query.subject:
        case Quantified(field, every):
            tests = [_passes(element, query) != denied for element in _elements(_value(field, project))]
            return all(tests) if every else any(tests)
        case Length(field):
            value = _value(field, project)
            if isinstance(value, list):
                return _passes(len(value), query) != denied
            return denied and not isinstance(query, Comparison)
        case Attribute() as attribute:
            value = _value(attribute, project)
            nothing_asked = (isinstance(query, Comparison) and query.constant.value is None) or (
                isinstance(query, InList) and any(constant.value is None for constant in query.constants)
            )
            if value is None:
                return nothing_asked and not denied
            return _passes(value, query) != denied
        case Field() as field:
            value = _value(field, project)
            passed = any(_passes(element, query) for element in _elements(value))
            if denied and isinstance(query, Comparison):
                return value is not _MISSING and not passed
            return passed != denied


def _passes(value: Any, query: Comparison | InRange | InList) -> bool:
    """Test one value by what the query affirms or denies."""
    match query:
        case Comparison(_, sign, constant):
            return _compared(value, _DENIED.get(sign, sign), _read(constant, value))
        case InRange(_, low, high):
            return _compared(value, Operator.AT_LEAST, _read(low, value)) and _compared(
                value, Operator.AT_MOST, _read(high, value)
            )
        case InList(_, constants):
            return any(_equal(value, _read(constant, value)) for constant in constants)


def _read(constant: Constant, value: Any) -> Any:
    if isinstance(value, datetime) and constant.value is not None:
        return datetime.fromisoformat(str(constant.value)).replace(tzinfo=UTC)
    return _SPANS.get(constant.value, constant.value) if isinstance(constant.value, str) else constant.value


def _compared(value: Any, sign: Operator, wanted: Any) -> bool:
    if sign in _ORDERS:
        return (
            _kind(value) == _kind(wanted)
            and _kind(value) in ("number", "str", "datetime")
            and _ORDERS[sign](value, wanted)
        )
    if sign is Operator.EQUAL:
        return _equal(value, wanted)
    if not isinstance(value, str):
        return False
    if sign is Operator.LIKE:
        pattern = "".join({"%": ".*", "_": "."}.get(char, re.escape(char)) for char in wanted)
        return re.fullmatch(pattern, value, re.DOTALL) is not None
    return re.search(wanted, value, re.IGNORECASE if sign is Operator.MATCHES_ANY_CASE else 0) is not None


def _equal(value: Any, wanted: Any) -> bool:
    return _kind(value) == _kind(wanted) and value == wanted


def _kind(value: Any) -> str:
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return "number"
    return type(value).__name__


def _elements(value: Any) -> list[Any]:
    if value is _MISSING:
        return []
    return value if isinstance(value, list) else [value]


def _value(place: Place, project: dict[str, Any]) -> Any:
    if isinstance(place, Attribute):
        return project[place]
    value: Any = project["facts"]
    for step in place.steps:
        if isinstance(step, int):
            there = isinstance(value, list) and -len(value) <= step < len(value)
        else:
            there = isinstance(value, dict) and step in value
        if not there:
            return _MISSING
        value = value[step]
    return value


# --- queries that fit ------------------------------------------------------------------------------------------------

_SCALARS = [5, 5.5, "5", "ab", "a", "B", "", True, False, None]
_VALUES = [*_SCALARS, [], [5, "a"], [[5]], ["b", None], {"k": 5}, {"k": [5, "a"]}, [{"k": 5}]]
_WANTED: list[Any] = [Decimal(5), Decimal("5.0"), Decimal(0), "5", "a", "ab", "b", "", True, False, None]
_constants = st.builds(Constant, st.sampled_from(_WANTED))
_patterns = st.sampled_from(["a", "^a", "b$", "a.*b", "[AB]+", "^5$", "x"]).map(Constant)
_likes = st.sampled_from(["a%", "_", "%b", "%", ""]).map(Constant)
_numbers = st.sampled_from([Decimal(0), Decimal(1), Decimal("1.5"), Decimal(2)]).map(Constant)
_texts = st.sampled_from(["a", "ab", "b", "cancelled", "active", ""]).map(Constant)
_days = st.sampled_from([f"2024-0{month}-{day}" for month in (1, 2, 3) for day in ("01", "15")]).map(Constant)
_spans = st.builds(Constant, st.sampled_from([Decimal(60), Decimal(0), *_SPANS]))
_flags = st.booleans()

_fields = st.builds(
    lambda name, steps: Field((name, *steps)),
    st.sampled_from(["f", "g", "k-1", "nothing"]),
    st.lists(st.sampled_from(["k", 0, -1, 1]), max_size=2),
)
_elements_of = _fields | st.builds(Quantified, _fields, _flags)
_EQUALITIES = [Operator.EQUAL, Operator.NOT_EQUAL]
_EXPRESSIONS = [Operator.MATCHES, Operator.MATCHES_NOT, Operator.MATCHES_ANY_CASE, Operator.MATCHES_NOT_ANY_CASE]


def _lists(constants: st.SearchStrategy[Constant]) -> st.SearchStrategy[tuple[Constant, ...]]:
    return st.lists(constants, min_size=1, max_size=3).map(tuple)


def _alike(*kinds: st.SearchStrategy[Constant]) -> st.SearchStrategy[tuple[Constant, Constant]]:
    return st.one_of(*(st.tuples(kind, kind) for kind in kinds))


def _of(
    subjects: st.SearchStrategy[Any],
    ordered: Sequence[st.SearchStrategy[Constant]],
    listed: st.SearchStrategy[Constant],
) -> st.SearchStrategy[Query]:
    """Comparisons, ranges and lists of subjects with constants that have an order, and with those that may be equal."""
    return st.one_of(
        st.builds(Comparison, subjects, st.sampled_from(_EQUALITIES), listed),
        st.builds(Comparison, subjects, st.sampled_from(list(_ORDERS)), st.one_of(*ordered)),
        st.builds(
            lambda subject, ends, negated: InRange(subject, ends[0], ends[1], negated),
            subjects,
            _alike(*ordered),
            _flags,
        ),
        st.builds(InList, subjects, _lists(listed), _flags),
    )


_nothing = st.just(Constant(None))
_text_places = st.sampled_from([Attribute.OWNER, Attribute.STATE, Attribute.QUERY])
_texts_tested = _text_places | _elements_of
_conditions = st.one_of(
    _of(_elements_of, [_numbers, _texts], _constants),
    _of(st.builds(Length, _fields), [_numbers], _numbers),
    _of(_text_places, [_texts], _texts | _nothing),
    _of(st.sampled_from([Attribute.CREATED, Attribute.ENDED]), [_days], _days | _nothing),
    _of(st.sampled_from([Attribute.WORKER_TIMEOUT, Attribute.IDLE_TIMEOUT]), [_spans], _spans | _nothing),
    st.builds(Comparison, _texts_tested, st.sampled_from(_EXPRESSIONS), _patterns),
    st.builds(Comparison, _texts_tested, st.just(Operator.LIKE), _likes),
    st.builds(Contains, _fields, _constants, _flags),
    st.builds(Contains, _text_places | _fields, _texts, _flags),
    st.builds(Present, _fields | st.sampled_from(Attribute), _flags),
)
_queries = st.recursive(
    _conditions,
    lambda inner: st.one_of(
        st.builds(Not, inner), st.builds(And, st.tuples(inner, inner)), st.builds(Or, st.tuples(inner, inner))
    ),
    max_leaves=4,
)

# --- tests -----------------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    await migrate(database_url, "dispatch", HERE / "migrations")
    pool = await open_pool(database_url, 2)
    yield pool
    await pool.close()


def _projects() -> list[dict[str, Any]]:
    facts: list[dict[str, Any]] = [{name: value} for value in _VALUES for name in ("f", "k-1")]
    facts += [{"f": one, "g": other} for one, other in zip(_VALUES, reversed(_VALUES), strict=True)]
    projects = []
    for number, each in enumerate([{}, *facts]):
        over = number % 3 == 0
        projects.append(
            {
                "facts": each,
                Attribute.OWNER: ("a", "ab", "b")[number % 3],
                Attribute.STATE: "cancelled" if over else "active",
                Attribute.QUERY: ("ab", "", None, "b")[number % 4],
                Attribute.WORKER_TIMEOUT: (60.0, None)[number % 2],
                Attribute.IDLE_TIMEOUT: None,
                Attribute.CREATED: _MOMENTS[number % 3],
                Attribute.ENDED: _MOMENTS[2] if over else None,
            }
        )
    return projects


_PROJECTS = _projects()


@settings(max_examples=800, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=_queries)
async def test_postgresql_and_python_find_the_same(pool: asyncpg.Pool, query: Query) -> None:
    if not await pool.fetchval("SELECT count(*) FROM dispatch.project"):
        for project in _PROJECTS:
            facts = json.dumps(project["facts"])
            columns = [project[Attribute.QUERY], project[Attribute.WORKER_TIMEOUT], project[Attribute.CREATED]]
            project[Attribute.ID] = await pool.fetchval(
                _INSERT, project[Attribute.OWNER], project[Attribute.STATE], facts, *columns, project[Attribute.ENDED]
            )
    rows = await Store(pool, pool).search_projects(search_sql.condition(parse(to_text(query)), 4), None, None, 0, 1000)
    found = {row["project_id"] for row in rows}
    expected = {project[Attribute.ID] for project in _PROJECTS if finds(query, project)}
    different = [project for project in _PROJECTS if project[Attribute.ID] in found ^ expected]
    assert not different, to_text(query)


async def test_equality_is_answered_by_the_index(pool: asyncpg.Pool) -> None:
    await pool.execute(
        """
        WITH p AS (
            INSERT INTO dispatch.project (owner, facts)
            SELECT 'o', jsonb_build_object('run', n, 'kind', n % 3, 'tags', jsonb_build_array('t' || n, 'all'),
                                           'beam', jsonb_build_object('energy', n))
              FROM generate_series(1, 5000) n RETURNING project_id
        )
        INSERT INTO dispatch.tally (project_id) SELECT project_id FROM p
        """
    )
    await pool.execute("VACUUM ANALYZE dispatch.project, dispatch.tally")
    for query, count in (
        ("run = 4711", 1),
        ("run = 4711.0 and owner = o", 1),
        ("run in (11, 12, 4711)", 3),
        ("t4711 in tags and kind = 1", 1),
        ("tags = t4711", 1),
        ("tags[any] = t4711 and tags = t4711", 1),
        ('beam["energy"] = 4711', 1),
        ("run = 1 or run = 2", 2),
        ("(run = 1 or tags = t2) and ! kind = 0", 2),
    ):
        condition = search_sql.condition(parse(query), 4)
        statement = search_statement(condition, 101)
        async with pool.acquire() as connection:
            for mode in ("force_custom_plan", "force_generic_plan"):
                async with connection.transaction():
                    await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
                    plan = await connection.fetch(f"EXPLAIN {statement}", 0, None, None, *condition.parameters)
                    assert any("Bitmap Index Scan on project_by_facts" in row[0] for row in plan), (query, mode, plan)
            assert len(await connection.fetch(statement, 0, None, None, *condition.parameters)) == count


async def test_a_search_takes_no_longer_than_it_may(pool: asyncpg.Pool) -> None:
    facts = json.dumps({"s": "a" * 3001})
    await pool.fetchval(_INSERT, "o", "active", facts, None, None, datetime.now(UTC), None)
    store = Store(pool, pool, search_seconds=0.3)
    with pytest.raises(Refusal) as refused:
        await searching.page(store, pb.SearchProjectsRequest(query=r"s ~ '^(a+)(a+)(a+)\1\2\3$'"))
    assert (refused.value.reason, refused.value.field) == ("DEADLINE", "query")
    rows, token = await searching.page(store, pb.SearchProjectsRequest(query=r"s ~ ^a+$"))
    assert (len(rows), token) == (1, "")
    assert await pool.fetchval("SHOW statement_timeout") == "0"
