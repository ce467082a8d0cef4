"""Searches over a real channel: every row of the language's page, what it does not show, pages of results, and refusals."""

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

import grpc
import pytest
import pytest_asyncio

from drayman.client import DispatchClient, DraymanError, InvalidRequestError
from drayman.client.channel import open_channel
from drayman.dispatch.v1 import project_service_pb2 as pb
from drayman.dispatch.v1 import project_service_pb2_grpc
from drayman.dispatch.v1.project_pb2 import PROJECT_STATE_DONE
from drayman.testing import LocalStack

_PAGE = (Path(__file__).parents[3] / "docs" / "search.md").read_text()
_EXAMPLES = re.findall(r"^\| `(.+?)` \| ([\w ]*?) ?\|", _PAGE, re.MULTILINE)

#: Names of the projects that a query finds, in the order in which they were made.
Find = Callable[[str], Awaitable[str]]


async def _finder(stack: LocalStack, projects: dict[str, dict[str, object]]) -> tuple[Find, DispatchClient, str]:
    """Make projects of a user of their own; arguments of `create_project` are under "with"."""
    user = f"searcher-{uuid4().hex[:8]}"
    stack.add_user(user)
    client = DispatchClient(stack.url, stack.token(user), timeout=30)
    names = {}
    for name, attributes in projects.items():
        options = attributes.pop("with", {})
        assert isinstance(options, dict)
        project = await client.create_project([], attributes=attributes, **options)
        names[project.project_id] = name
        if name == "cosmic":
            await client.cancel_project(project.project_id)

    async def find(query: str) -> str:
        return " ".join([names[project.project_id] async for project in client.search_projects(query, owner=user)])

    return find, client, user


@pytest_asyncio.fixture(scope="module")
async def shown(stack: LocalStack) -> Find:
    """The projects of the page."""
    block = re.search(r"```json\n(.*?)```", _PAGE, re.DOTALL)
    assert block
    projects = json.loads(block[1])
    projects["calib"]["with"] = {"query": "files from dune:all", "worker_timeout": 5400}
    return (await _finder(stack, projects))[0]


def test_the_page_has_examples() -> None:
    assert len(_EXAMPLES) == _PAGE.count("\n| `") >= 50


@pytest.mark.parametrize(("query", "found"), _EXAMPLES)
async def test_what_the_page_shows(shown: Find, query: str, found: str) -> None:
    assert await shown(query) == found


@pytest_asyncio.fixture(scope="module")
async def find(stack: LocalStack) -> Find:
    """Projects for what the page leaves out."""
    projects: dict[str, dict[str, object]] = {
        "five": {"n": 5, "bits": ["on", "off", 3], "v": "1.23", "flag": True, "s": "a%b_c\\d", "with": {"query": "on 5%"}},
        "text": {"n": "5", "bits": "on", "v": 1.23, "flag": "true", "x": None, "with": {"worker_timeout": 30}},
        "big": {"n": 2**53 + 1, "bits": ["on", ["on"], {"on": 1}], "v": "1.9", "d": {"k": [1, 5], "0": "zero"}},
        "odd": {"n": None, "a.b": 1, "x-y": 2, "IN": 3, "len": [1], "é": "Ü", "say \"it's\"": "both", "with": {"idle_timeout": 86400.5}},
        "tricky": {"n": {"5": 5}, "bits": {"on": 1}, "v": "1.230", "flag": False, "s": "a", "present": [], "owner": "x"},
    }  # fmt: skip
    return (await _finder(stack, projects))[0]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        # equality: types agree, values are exact, objects equal nothing
        ("n=5", "five"),
        ("n==5", "five"),
        ("n=5.0", "five"),
        ("n=5e0", "five"),
        ('n="5"', "text"),
        ("n='5'", "text"),
        ("n!=5", "text big odd tricky"),
        ("!(n=5)", "text big odd tricky"),
        ("n != null", "five text big tricky"),
        ("n = null", "odd"),
        ('x = "null"', ""),
        ("x = null", "text"),
        ("x present", "text"),
        ("nothing = null", ""),
        ("nothing != null", ""),
        ("n = 9007199254740993", "big"),
        ("n = 9007199254740992", ""),
        ("n > 9007199254740992", "big"),
        ("bits = on", "five text big"),
        ("bits != on", "tricky"),
        ("flag = TRUE", "five"),
        ('flag = "true"', "text"),
        ("flag != true", "text tricky"),
        # order and ranges
        ('v >= "1.23"', "five big tricky"),
        ("v >= 1.23", "text"),
        ('v < "1.23"', ""),
        ('v in "1.2":"1.23"', "five"),
        ("v in 1:2", "text"),
        ("n in 5:15", "five"),
        ("n not in 5:15", "text big odd tricky"),
        ("n in 15:5", ""),
        ("n in a:z", ""),
        ("nothing in 1:2", ""),
        ("nothing not in 1:2", "five text big odd tricky"),
        ("bits[any] in 1:3", "five"),
        ("len(bits) in 3:3", "five big"),
        ("len(bits) not in 3:3", "text odd tricky"),
        ("bits in 1:3", "five"),
        # lists
        ("n in (5,25)", "five"),
        ("n not in (5,25)", "text big odd tricky"),
        ('n in (5, "5", null)', "five text odd"),
        ("nothing not in (1)", "five text big odd tricky"),
        ("bits in (3, on)", "five text big"),
        ("len(bits) in (1, 3)", "five big"),
        # membership
        ('"on" in bits', "five text big"),
        ('"o" in bits', "text"),
        ('"on" not in bits', "odd tricky"),
        ("5 in n", "five"),
        ("3 in bits", "five"),
        ("null in n", "odd"),
        ('"5" in n', "text"),
        ('"" in bits', "text"),
        ('1 in d["k"]', "big"),
        # elements and keys
        ("bits[any] = on", "five text big"),
        ("bits[any] != on", "five big tricky"),
        ("bits[all] = on", "text odd"),
        ("bits[all] != on", "odd tricky"),
        ("bits[any] ~ ^of", "five"),
        ("bits[any] !~ ^o", "five big tricky"),
        ("bits[all] in (on, off, 3)", "five text odd"),
        ("bits[any] not in (on)", "five big tricky"),
        ("bits[0] = on", "five big"),
        ("bits[1] = on", "big"),
        ("bits[-1] = 3", "five"),
        ("bits[-9] = 3", ""),
        ("bits[7] != on", ""),
        ("bits[1][0] = on", "big"),
        ('bits[2]["on"] = 1', "big"),
        ("v[0] present", ""),
        ("n[0] = 5", ""),
        ("n[-1] = 5", ""),
        ("bits[7] not in (on)", "five text big odd tricky"),
        ('bits["on"] = 1', "tricky"),
        ('d["k"] = 5', "big"),
        ('d["k"][1] = 5', "big"),
        ('d["k"][all] in 1:5', "five text big odd tricky"),
        ('d["k"][any] in 2:9', "big"),
        ('d["0"] = zero', "big"),
        ("d[0] = zero", ""),
        ('bits["0"] = on', ""),
        ('len(d["k"]) = 2', "big"),
        ('d["k"] present', "big"),
        ("len(bits)=3", "five big"),
        ("len(bits) != 3", ""),
        ("len(n) >= 0", ""),
        ("!len(n) >= 0", "five text big odd tricky"),
        # patterns
        ('s ~ "^a%"', "five"),
        ("s ~ A", ""),
        ("s ~* A", "five tricky"),
        ("s !~ %", "tricky"),
        ("s !~* A", ""),
        ("n !~ x", "five text big odd tricky"),
        ('s like "a%"', "five tricky"),
        (r's like "a\%b%"', "five"),
        ("s like _", "tricky"),
        ('bits like "of%"', "five"),
        ("n ~ 5x", ""),
        ('n ~ "5"', "text"),
        # names
        ("a.b", "odd"),
        ("a.b = 1", "odd"),
        ('["x-y"] = 2', "odd"),
        ('["IN"] = 3', "odd"),
        ("IN = 3", "odd"),
        ("len = 1", "odd"),
        ("len(len) = 1", "odd"),
        ("é = Ü", "odd"),
        ("\"it's\" in ['say \"it''s\"']", ""),
        ("['say \"it''s\"'] = both", "odd"),
        ("present present", "tricky"),
        ("owner = x", ""),
        ('["owner"] = x', "tricky"),
        # attributes
        ("query = 'on 5%'", "five"),
        ("query present", "five"),
        ("query", "five"),
        ("query not present", "text big odd tricky"),
        ("query != null", "five"),
        ("query != x", "five"),
        ('"5%" in query', "five"),
        ('"x" not in query', "five"),
        ("! x in query", "five text big odd tricky"),
        ("query ~* ^ON", "five"),
        ("query !~ x", "five"),
        (r"query like '%5\%'", "five"),
        ("query in (x, 'on 5%')", "five"),
        ("query not in (x)", "five"),
        ("query in (null, x)", "text big odd tricky"),
        ("query not in (null, x)", "five"),
        ("query > p", ""),
        ("query in a:z", "five"),
        ("query not in p:z", "five"),
        ("id < 0", ""),
        ("id >= 0.5", "five text big odd tricky"),
        ("id = 1e30", ""),
        ("id in (0.5, 1e30)", ""),
        ("id not in (0.5)", "five text big odd tricky"),
        ("id in 1:9e20", "five text big odd tricky"),
        ("owner = nobody-of-that-name", ""),
        ("owner ~ ^searcher-", "five text big odd tricky"),
        ('"arch" in owner', "five text big odd tricky"),
        ("owner > zzz", ""),
        ("state = active", "five text big odd tricky"),
        ("state = gone", ""),
        ("state != active", ""),
        ("state in (active, done)", "five text big odd tricky"),
        ("state in aa:ad", "five text big odd tricky"),
        ('created_timestamp > "2022-01-01"', "five text big odd tricky"),
        ("created > 2022-01-01", "five text big odd tricky"),
        ("created < 2022-01-01 10:00:00", ""),
        ('created in "2022-01-01 00:00:00 +02:00":"9999-12-31T23:59:59Z"', "five text big odd tricky"),
        ("created not in 0001-01-01:2022-01-01", "five text big odd tricky"),
        ("created in (2022-01-01, 2022-01-02)", ""),
        ("ended_timestamp > 2022-01-01", ""),
        ("ended = null", "five text big odd tricky"),
        ("ended != 2022-01-01", ""),
        ("worker_timeout = 30", "text"),
        ('worker_timeout = "30 seconds"', "text"),
        ('worker_timeout < "72:00:00"', "text"),
        ("worker_timeout in (30s, 1h)", "text"),
        ("worker_timeout in 29.5:1m", "text"),
        ("worker_timeout = null", "five big odd tricky"),
        ("worker_timeout != 30", ""),
        ("worker_timeout not in (30)", ""),
        ("idle_timeout > 1d", "odd"),
        # together
        ("n=5 or n='5' and flag=true", "five"),
        ("(n=5 or n='5') and flag='true'", "text"),
        ("!n=5 and !(bits=on or x)", "odd tricky"),
        ("!!n", "five text big odd tricky"),
        ("n = 5\n\tAND\n v", "five"),
    ],
)
async def test_the_language(find: Find, query: str, found: str) -> None:
    assert await find(query) == found


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("", "line 1, column 1: found the end of the query, expected a condition"),
        ("n = 5 and\n  ((m)", "line 2, column 7: found the end of the query, expected `or`, `and` or `)`"),
        ("5 = n", "expected `not` or `in`"),
        ("created > tomorrow", 'line 1, column 11: found "tomorrow", expected a date'),
        ("created > 10000-01-01", "expected a date"),
        ("n ~ '('", "PostgreSQL does not take it: invalid regular expression"),
        ("nothing ~ '(' and nothing", "PostgreSQL does not take it: invalid regular expression"),
        ("owner ~ '['", "PostgreSQL does not take it: invalid regular expression"),
        ("n ~ '((((a{1,255}){1,255}){1,255}){1,255})'", "PostgreSQL does not take it: invalid regular expression"),
        ("query like 'a\\'", "line 1, column 12: found a pattern that ends in `\\`"),
        ("n = 'a\0'", "character \\x00"),
        ("n" * 10_001, "found 10001 characters, expected at most 10000"),
        ("(" * 5000 + "n", "at most 100 deep"),
        ("!" * 9999 + "n", "at most 100 deep"),
    ],
)
async def test_what_cannot_be_searched_for(find: Find, query: str, message: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        await find(query)
    error = refused.value
    assert message in error.message
    assert (error.reason, error.field) == ("INVALID_FIELD", "query")
    if message.startswith("line"):
        line, column = re.findall(r"\d+", message)[:2]
        assert (error.metadata["line"], error.metadata["column"]) == (line, column)


@pytest.mark.parametrize(
    "query",
    [
        "n or " * 1999 + "n",
        "n=5 or " * 1400 + "n",
        "n" + '["a"]' * 1990 + " = 5 or n = 5",
        "n" + "[0]" * 3300 + " = 5 or n = 5",
        "n in (" + "5," * 4900 + "5)",
        "!" * 100 + "n",
        "(n and " * 90 + "n" + ")" * 90,
        "a[any]~b or " * 800 + "n=5",
    ],
)
async def test_long_queries_are_answered(find: Find, query: str) -> None:
    assert "five" in await find(query)


async def test_owner_state_and_pages(stack: LocalStack) -> None:
    _, client, user = await _finder(stack, {f"p{number}": {"n": number % 2, "all": 1} for number in range(7)})
    ids = [project.project_id async for project in client.search_projects("all = 1", owner=user)]
    await client.cancel_project(ids[0])
    assert [p.project_id async for p in client.search_projects("all=1", owner=user, state="cancelled")] == ids[:1]
    assert [p.project_id async for p in client.search_projects("all=1", owner=user, state="active")] == ids[1:]
    assert [p async for p in client.search_projects("all=1", owner="nobody-of-that-name")] == []

    async with open_channel(stack.url) as channel:  # nobody in particular
        stub = project_service_pb2_grpc.ProjectServiceStub(channel)
        request = pb.SearchProjectsRequest(query="n = 0", owner=user, page_size=2)
        found = []
        while True:
            reply = await stub.SearchProjects(request, timeout=10)
            assert len(reply.projects) <= 2
            found += [project.project_id for project in reply.projects]
            if not reply.next_page_token:
                break
            request.page_token = reply.next_page_token
        assert found == ids[::2]

        last = request.page_token
        wrong = [
            pb.SearchProjectsRequest(query="n = 1", owner=user, page_token=last),
            pb.SearchProjectsRequest(query="n = 0", page_token=last),
            pb.SearchProjectsRequest(query="n = 0", owner=user, state=PROJECT_STATE_DONE, page_token=last),
            *(
                pb.SearchProjectsRequest(query="n = 0", owner=user, page_token=token)
                for token in ("x", "é", "cDE=", "=")
            ),
            pb.SearchProjectsRequest(query="n = 0", owner=user, page_size=-1),
        ]
        for bad in wrong:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.SearchProjects(bad, timeout=10)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, bad
            assert "page" in (refused.value.details() or ""), bad
    await client.close()


async def test_no_text_is_a_defect(find: Find) -> None:
    """Whatever is in quotes: it is found or refused, and never an error of the service."""
    for text in (
        "'",
        '"',
        "\\",
        "%",
        "$1",
        "{0}",
        "::text",
        "\u2028",
        "\U0010ffff",
        "\ufffe",
        "'; --",
        "[[:<:]]",
        "(?=",
        "***",
    ):
        quoted = '"' + text.replace('"', '""') + '"'
        for query in (
            f"n = {quoted}",
            f"[{quoted}][{quoted}] = {quoted}",
            f"n ~ {quoted}",
            f"query like {quoted}",
            f"{quoted} in n",
            f"created < {quoted}",
            f"worker_timeout < {quoted}",
            f"n in {quoted}:{quoted}",
        ):
            assert await _reason(find(query)) in ("", "INVALID_FIELD"), query


async def _reason(search: Awaitable[str]) -> str:
    try:
        await search
    except DraymanError as error:
        return error.reason
    return ""
