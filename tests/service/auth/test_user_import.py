"""ImportUsers: all or nothing, with notes on what was left out."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from drayman.auth.v1 import user_service_pb2 as pb
from drayman.server.auth.store import HERE
from drayman.server.platform.database import migrate, open_pool
from drayman.server.platform.errors import Refusal
from service.auth.auth_place import Place, call_of, done

MD5 = "0123456789abcdef" * 2
SHA = "0123456789abcdef" * 4
CREATED = pb.ImportOutcome.RESULT_CREATED
UPDATED = pb.ImportOutcome.RESULT_UPDATED
UNCHANGED = pb.ImportOutcome.RESULT_UNCHANGED


@pytest_asyncio.fixture
async def place(database_url: str) -> AsyncIterator[Place]:
    await migrate(database_url, "auth", HERE / "migrations")
    pool = await open_pool(database_url, 4)
    here = Place(pool)
    await here.user("root", admin=True)
    yield here
    await pool.close()


def secret(realm: str = "drayman", algorithm: str = "MD5", ha1: str = "") -> pb.DigestSecret:
    return pb.DigestSecret(algorithm=algorithm, realm=realm, ha1=ha1 or (MD5 if algorithm == "MD5" else SHA))


def entry(name: str, **fields: Any) -> pb.ImportedUser:
    return pb.ImportedUser(username=name, **fields)


async def run(place: Place, *entries: pb.ImportedUser | pb.Role, **flags: bool) -> list[tuple[str, int, list[str]]]:
    users = [each for each in entries if isinstance(each, pb.ImportedUser)]
    roles = [each for each in entries if isinstance(each, pb.Role)]
    request = pb.ImportUsersRequest(users=users, roles=roles, **flags)
    reply = await place.servicer.ImportUsers(request, call_of("root", admin=True))
    assert [each.WhichOneof("entry") for each in reply.outcomes] == ["username"] * len(users) + ["role"] * len(roles)
    return [(each.username or each.role, each.result, list(each.notes)) for each in reply.outcomes]


async def hashes(place: Place, name: str) -> dict[str, str]:
    rows = await place.pool.fetch("SELECT algorithm, realm, ha1 FROM auth.digest_secret WHERE username = $1", name)
    return {f"{row['algorithm']} {row['realm']}": row["ha1"] for row in rows}


ANN = entry(
    "ann",
    full_name="Ann",
    email="ann@example.org",
    admin=True,
    secrets=[secret("dune"), secret()],
    identities=[
        pb.Identity(x509_dn="/DC=org/O=Site/CN=Ann/CN=12345"),
        pb.Identity(x509_dn="CN=Ann,O=Site,DC=org"),
        pb.Identity(x509_dn="no name at all"),
        pb.Identity(ldap_dn="uid=ann,dc=example"),
        pb.Identity(token_subject=pb.TokenSubject(issuer="https://issuer.example.org", subject="a-b-c")),
    ],
)


async def test_what_is_new_is_created_with_all_it_has(place: Place) -> None:
    outcomes = await run(
        place, ANN, entry("bob", disabled=True), pb.Role(name="role", members=["ann", "root"]), pb.Role(name="empty")
    )
    assert [outcome[:2] for outcome in outcomes] == [
        ("ann", CREATED),
        ("bob", CREATED),
        ("role", CREATED),
        ("empty", CREATED),
    ]
    left_out, malformed = outcomes[0][2]
    assert left_out == "the MD5 hash of realm 'dune' is left out: the realm here is 'drayman'"
    assert malformed.startswith("an identity is left out: ")
    assert [outcome[2] for outcome in outcomes[1:]] == [[], [], []]
    ann = await place.store.user("ann")
    assert ann is not None
    assert (ann.full_name, ann.email, ann.admin, ann.roles) == ("Ann", "ann@example.org", True, ["role"])
    identities = ["ldap uid=ann,dc=example", "token https://issuer.example.org a-b-c", "x509 CN=Ann,O=Site,DC=org"]
    assert [str(identity) for identity in ann.identities] == identities
    assert await hashes(place, "ann") == {"MD5 drayman": MD5}
    events, standing = await place.left()
    assert events == [
        done(
            "USER_CREATED",
            "ann",
            admin=True,
            full_name="Ann",
            email="ann@example.org",
            algorithms=["MD5"],
            identities=identities,
        ),
        done("USER_CREATED", "bob", disabled=True),
        done("ROLE_CREATED", "role", members=["ann", "root"]),
        done("ROLE_CREATED", "empty"),
        done("USERS_IMPORTED", "", users={"created": 2}, roles={"created": 2}),
    ]
    assert MD5 not in str(events)
    assert standing == {"root": False}  # whose tokens do not name the role yet


async def test_a_dry_run_says_the_same_and_changes_nothing(place: Place) -> None:
    role = pb.Role(name="role", members=["ann", "root"])
    planned = await run(place, ANN, role, dry_run=True)
    assert await place.left() == ([], {})
    assert await place.store.user("ann") is None
    assert await place.store.roles() == []
    assert await run(place, ANN, role) == planned


async def test_who_exists_is_left_alone_unless_it_is_asked_for(place: Place) -> None:
    await place.user("ann", roles=("role",))
    outcomes = await run(place, ANN, pb.Role(name="role", members=["root"]))
    assert outcomes == [
        ("ann", UNCHANGED, ["exists and is left as it is"]),
        ("role", UNCHANGED, ["exists and is left as it is"]),
    ]
    assert await place.left() == ([], {})


async def test_an_update_adds_and_takes_nothing_away(place: Place) -> None:
    await place.user("ann", roles=("role", "other"))
    await run(place, ANN, update_existing=True)
    await place.forget()
    session = await place.session("ann")
    bare = entry("ann", identities=[pb.Identity(ldap_dn="uid=ann2,dc=example")])
    assert await run(place, bare, update_existing=True) == [("ann", UPDATED, [])]
    ann = await place.store.user("ann")
    assert ann is not None
    assert (ann.full_name, ann.email, ann.admin, len(ann.identities)) == ("Ann", "ann@example.org", True, 4)
    assert await place.left() == (
        [
            done("USER_CHANGED", "ann", identities_added=["ldap uid=ann2,dc=example"]),
            done("USERS_IMPORTED", "", users={"updated": 1}, roles={}),
        ],
        {},
    )
    assert await run(place, bare, pb.Role(name="role", members=["ann"]), update_existing=True) == [
        ("ann", UNCHANGED, []),
        ("role", UNCHANGED, []),
    ]
    assert await place.left() == ([], {})
    assert await place.sessions("ann") == {session}
    assert await run(place, pb.Role(name="role", members=["root", "ann"]), update_existing=True) == [
        ("role", UPDATED, [])
    ]
    assert await place.left() == (
        [done("ROLE_CHANGED", "role", added=["root"]), done("USERS_IMPORTED", "", users={}, roles={"updated": 1})],
        {"root": False},
    )


async def test_an_imported_password_ends_sessions_of_the_old_one(place: Place) -> None:
    await run(place, entry("ann", secrets=[secret()]))
    await place.forget()
    await place.session("ann")
    certificate = await place.session("ann", "x509")
    again = entry("ann", secrets=[secret(ha1="f" * 32)])
    assert await run(place, again, update_existing=True) == [("ann", UPDATED, [])]
    assert await hashes(place, "ann") == {"MD5 drayman": "f" * 32}
    assert (await place.events())[0] == done("USER_CHANGED", "ann", algorithms=["MD5"], sessions_ended=1)
    assert await place.sessions("ann") == {certificate}
    assert await run(place, again, update_existing=True) == [("ann", UNCHANGED, [])]


async def test_an_old_password_does_not_come_back(place: Place) -> None:
    """Who was imported and has set a password here since has a better hash, and perhaps a reason."""
    await run(place, entry("ann", secrets=[secret(algorithm="SHA-256")]))
    outcome = await run(place, entry("ann", secrets=[secret()]), update_existing=True)
    assert outcome == [("ann", UNCHANGED, ["the MD5 hash is left out: the user has a password here"])]
    assert await hashes(place, "ann") == {"SHA-256 drayman": SHA}


async def test_who_is_disabled_elsewhere_is_out(place: Place) -> None:
    await place.user("ann")
    await place.session("ann")
    await run(place, entry("ann", disabled=True), update_existing=True)
    events, standing = await place.left()
    assert events[0] == done("USER_CHANGED", "ann", disabled={"old": False, "new": True}, sessions_ended=1)
    assert standing == {"ann": True}


async def test_somebody_must_administer_afterwards(place: Place) -> None:
    with pytest.raises(Refusal) as caught:
        await run(place, entry("ann"), entry("root", disabled=True), update_existing=True)
    assert caught.value.reason == "LAST_ADMIN"
    assert await place.left() == ([], {})
    assert await place.store.user("ann") is None
    await run(place, entry("ann", admin=True), entry("root", disabled=True), update_existing=True)
    # and so can an import that cannot be done be tried
    with pytest.raises(Refusal):
        await place.servicer.ImportUsers(
            pb.ImportUsersRequest(users=[entry("ann", disabled=True)], update_existing=True, dry_run=True),
            call_of("ann", admin=True),
        )


MANY = [pb.Identity(ldap_dn=f"cn={number}") for number in range(101)]


@pytest.mark.parametrize(
    ("entries", "field"),
    [
        ([entry("bob"), entry("a:b")], "users[1].username"),
        ([entry("")], "users[0].username"),
        ([entry("bob"), entry("ann"), entry("bob")], "users[2].username"),
        ([entry("bob", email="a\nb")], "users[0].email"),
        ([entry("bob", full_name="x" * 1001)], "users[0].full_name"),
        ([entry("bob", secrets=[secret(ha1="secret")])], "users[0].secrets[0].ha1"),
        ([entry("bob", secrets=[secret(), secret("dune", ha1="secret")])], "users[0].secrets[1].ha1"),
        ([entry("bob", secrets=[secret("dune"), secret(), secret()])], "users[0].secrets[2].algorithm"),
        ([entry("bob", secrets=[secret(algorithm="SHA-1")])], "users[0].secrets[0].algorithm"),
        ([entry("bob", identities=MANY)], "users[0].identities"),
        ([pb.Role(name="a/b")], "roles[0].name"),
        ([pb.Role(name="role"), pb.Role(name="role")], "roles[1].name"),
        ([pb.Role(name="role", members=["root", ""])], "roles[0].members[1]"),
    ],
)
async def test_what_can_never_be_stored_is_named(place: Place, entries: list[Any], field: str) -> None:
    with pytest.raises(Refusal) as caught:
        await run(place, *entries)
    assert (caught.value.reason, caught.value.field) == ("INVALID_FIELD", field)
    assert "secret" not in caught.value.message
    assert await place.left() == ([], {})


async def test_a_member_who_is_nowhere_is_named_and_nothing_is_done(place: Place) -> None:
    with pytest.raises(Refusal) as caught:
        await run(place, entry("ann"), pb.Role(name="one"), pb.Role(name="two", members=["ann", "bob"]))
    assert (caught.value.reason, caught.value.field) == ("UNKNOWN_NAME", "roles[1].members[1]")
    assert await place.store.user("ann") is None
    assert await place.store.roles() == []


async def test_an_update_does_not_exceed_a_users_identities(place: Place) -> None:
    await run(place, entry("ann", identities=MANY[:100]))
    with pytest.raises(Refusal) as caught:
        await run(place, entry("bob"), entry("ann", identities=MANY[100:]), update_existing=True)
    assert caught.value.field == "users[1].identities"
    assert await place.store.user("bob") is None
