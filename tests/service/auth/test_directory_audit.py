"""Every change of users and roles leaves exactly its event, and tells services what they must hear of."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
import pytest_asyncio

from drayman.auth.v1 import user_service_pb2 as pb
from drayman.server.auth.digest import Secret
from drayman.server.auth.identities import Identity
from drayman.server.auth.store import HERE
from drayman.server.platform.calls import Call
from drayman.server.platform.database import migrate, open_pool
from drayman.server.platform.errors import Refusal
from drayman.server.platform.trust import Caller
from service.auth.auth_place import HASH, ROOT, Place, call_of, done

NOBODY = {"admin": None, "disabled": None, "full_name": None, "email": None}


@pytest_asyncio.fixture
async def place(database_url: str) -> AsyncIterator[Place]:
    await migrate(database_url, "auth", HERE / "migrations")
    pool = await open_pool(database_url, 8)
    here = Place(pool)
    await here.user("root", admin=True)
    yield here
    await pool.close()


async def test_who_is_created_leaves_an_event_and_no_hash(place: Place) -> None:
    await place.directory.create_user(
        ROOT,
        "ann",
        [Secret("SHA-256", "drayman", HASH)],
        admin=True,
        roles=["old", "new"],
        create_roles=True,
        full_name="Ann",
        email="ann@example.org",
    )
    events, standing = await place.left()
    assert events == [
        done("ROLE_CREATED", "new"),
        done("ROLE_CREATED", "old"),
        done(
            "USER_CREATED",
            "ann",
            admin=True,
            full_name="Ann",
            email="ann@example.org",
            roles=["new", "old"],
            algorithms=["SHA-256"],
        ),
    ]
    assert HASH not in str(events)
    assert standing == {}  # no token of theirs is out


async def test_what_is_refused_leaves_nothing(place: Place) -> None:
    await place.user("ann")
    for call in (
        place.directory.create_user(ROOT, "ann", [], admin=False, roles=[], create_roles=False, full_name="", email=""),
        place.directory.create_user(
            ROOT, "bob", [], admin=False, roles=["none"], create_roles=False, full_name="", email=""
        ),
        place.directory.update_user(ROOT, "root", **(NOBODY | {"disabled": True})),
        place.directory.delete_user(ROOT, "root"),
        place.directory.delete_user(ROOT, "nobody"),
        place.directory.create_role(ROOT, "role", ["ann", "nobody"]),
        place.directory.set_secrets(ROOT, "nobody", []),
    ):
        with pytest.raises(Refusal):
            await call
    assert await place.left() == ([], {})
    assert await place.store.roles() == []


@pytest.mark.parametrize(
    ("change", "detail", "standing"),
    [
        ({"admin": True}, {"admin": {"old": False, "new": True}}, {"ann": False}),
        ({"full_name": "Ann", "email": ""}, {"full_name": {"old": "", "new": "Ann"}}, {}),
        ({"disabled": True}, {"disabled": {"old": False, "new": True}, "sessions_ended": 2}, {"ann": True}),
    ],
)
async def test_a_changed_user(
    place: Place, change: dict[str, Any], detail: dict[str, Any], standing: dict[str, bool]
) -> None:
    await place.user("ann")
    await place.user("bob")
    theirs = {await place.session("ann"), await place.session("ann", "issued")}
    other = await place.session("bob")
    await place.directory.update_user(ROOT, "ann", **(NOBODY | change))
    assert await place.left() == ([done("USER_CHANGED", "ann", **detail)], standing)
    ended = theirs if change.get("disabled") else set()
    assert await place.sessions("ann") == theirs - ended
    assert await place.revoked() == ended
    assert await place.sessions("bob") == {other}
    # once more it is no change
    await place.directory.update_user(ROOT, "ann", **(NOBODY | change))
    assert await place.left() == ([], {})


async def test_who_is_enabled_again_does_not_get_old_tokens_back(place: Place) -> None:
    await place.user("ann")
    for disabled in (True, False):
        await place.directory.update_user(ROOT, "ann", **(NOBODY | {"disabled": disabled}))
    row = await place.pool.fetchrow("SELECT version, valid_from FROM auth.standing WHERE username = 'ann'")
    assert row["valid_from"] == row["version"] - 1
    assert [event[-1] for event in await place.events()] == [
        {"disabled": {"old": False, "new": True}},
        {"disabled": {"old": True, "new": False}},
    ]


async def test_a_removed_user(place: Place) -> None:
    await place.user("ann", roles=("role",))
    session = await place.session("ann")
    await place.directory.delete_user(ROOT, "ann")
    events = [done("USER_DELETED", "ann", roles=["role"], sessions_ended=1)]
    assert await place.left() == (events, {"ann": True})
    assert await place.revoked() == {session}
    # somebody else may get the name: the tokens of the first stay refused
    await place.user("ann")
    row = await place.pool.fetchrow("SELECT version, valid_from FROM auth.standing WHERE username = 'ann'")
    assert row["valid_from"] == row["version"]


async def test_a_new_password_ends_sessions_of_the_old_one(place: Place) -> None:
    await place.user("ann")
    own, other, certificate = [await place.session("ann", method) for method in ("digest", "digest", "x509")]
    await place.directory.set_secrets(ROOT, "ann", [Secret("SHA-256", "drayman", HASH)], session=own)
    events, standing = await place.left()
    assert events == [done("PASSWORD_SET", "ann", algorithms=["SHA-256"], sessions_ended=1)]
    assert HASH not in str(events)
    assert standing == {}
    assert await place.revoked() == {other}
    assert await place.sessions("ann") == {own, certificate}
    await place.directory.set_secrets(ROOT, "ann", [])
    assert await place.events() == [done("PASSWORD_SET", "ann", algorithms=[], sessions_ended=1)]
    assert await place.sessions("ann") == {certificate}


async def test_identities_come_and_go(place: Place) -> None:
    await place.user("ann")
    sessions = {method: await place.session("ann", method) for method in ("digest", "ldap", "x509", "token")}
    one, two = Identity("x509", "CN=Ann,DC=org"), Identity("token", "https://issuer.example.org a b")
    user = await place.directory.update_identities(ROOT, "ann", [one, two, one], [])
    assert user.identities == [two, one]
    assert await place.left() == ([done("IDENTITIES_CHANGED", "ann", added=[str(two), str(one)])], {})
    user = await place.directory.update_identities(ROOT, "ann", [two], [one, Identity("ldap", "cn=none")])
    assert user.identities == [two]
    assert await place.left() == (
        [done("IDENTITIES_CHANGED", "ann", removed=[str(one)], sessions_ended=1)],
        {},
    )
    assert await place.revoked() == {sessions["x509"]}
    await place.directory.update_identities(ROOT, "ann", [two], [one])
    assert await place.left() == ([], {})


async def test_a_user_has_a_hundred_identities_and_no_more(place: Place) -> None:
    await place.user("ann")
    many = [Identity("ldap", f"cn={number}") for number in range(101)]
    await place.directory.update_identities(ROOT, "ann", many[:100], [])
    with pytest.raises(Refusal, match="at most 100") as caught:
        await place.directory.update_identities(ROOT, "ann", many[100:], [])
    assert (caught.value.reason, caught.value.field) == ("INVALID_FIELD", "add")
    user = await place.directory.update_identities(ROOT, "ann", many[100:], many[:1])
    assert len(user.identities) == 100
    assert len(await place.events()) == 2


async def test_roles_tell_whom_they_concern(place: Place) -> None:
    for name in ("ann", "bob", "cid"):
        await place.user(name)
    await place.directory.create_role(ROOT, "role", ["bob", "ann", "bob"])
    assert await place.left() == ([done("ROLE_CREATED", "role", members=["ann", "bob"])], {"ann": False, "bob": False})
    await place.directory.update_role(ROOT, "role", ["bob", "cid"], ["ann", "nobody"])
    events = [done("ROLE_CHANGED", "role", added=["cid"], removed=["ann"])]
    assert await place.left() == (events, {"ann": False, "cid": False})
    await place.directory.update_role(ROOT, "role", ["bob"], ["ann"])
    assert await place.left() == ([], {})
    await place.directory.delete_role(ROOT, "role")
    assert await place.left() == ([done("ROLE_DELETED", "role", members=["bob", "cid"])], {"bob": False, "cid": False})


async def test_of_many_changes_at_once_none_is_lost_and_versions_follow_the_commits(place: Place) -> None:
    names = [await place.user(f"u{number}") for number in range(20)]
    await place.directory.create_role(ROOT, "role", [])
    await place.forget()
    seen: list[dict[str, int]] = []
    stop = asyncio.Event()

    async def look() -> None:
        while not stop.is_set():
            rows = await place.pool.fetch("SELECT username, version FROM auth.standing")
            seen.append({row["username"]: row["version"] for row in rows})

    looking = asyncio.create_task(look())
    try:
        await asyncio.gather(*(place.directory.update_role(ROOT, "role", [name], []) for name in names))
    finally:
        stop.set()
        await looking
    (role,) = await place.store.roles()
    assert role.members == sorted(names)
    assert sorted(event[-1]["added"] for event in await place.events()) == sorted([name] for name in names)
    rows = await place.pool.fetch("SELECT username, version FROM auth.standing ORDER BY xmin::text::bigint")
    order = [row["version"] for row in rows if row["username"] in names]
    assert len(order) == 20
    assert order == sorted(order)
    # nobody ever sees a version before a lower one: whoever asks "what came after" misses nothing
    for before, after in pairwise(seen):
        fresh = [version for name, version in after.items() if name not in before]
        assert not fresh or min(fresh) > max(before.values(), default=0)


async def test_of_two_administrators_who_demote_each_other_one_stays(place: Place) -> None:
    await place.user("ann", admin=True)
    outcomes = await asyncio.gather(
        *(place.directory.update_user(ROOT, name, **(NOBODY | {"admin": False})) for name in ("ann", "root")),
        return_exceptions=True,
    )
    assert [outcome.reason for outcome in outcomes if isinstance(outcome, Refusal)] == ["LAST_ADMIN"]
    assert len(await place.events()) == 1


# --- refusals, which only the servicer sees -----------------------------------------------------------------------------


REQUESTS = [
    ("CreateUser", pb.CreateUserRequest(username="eve"), "USER_CREATED", "eve"),
    ("UpdateUser", pb.UpdateUserRequest(username="ann", admin=True), "USER_CHANGED", "ann"),
    ("DeleteUser", pb.DeleteUserRequest(username="root"), "USER_DELETED", "root"),
    ("SetPassword", pb.SetPasswordRequest(username="root"), "PASSWORD_SET", "root"),
    ("CreateRole", pb.CreateRoleRequest(name="role"), "ROLE_CREATED", "role"),
    ("UpdateRole", pb.UpdateRoleRequest(name="role", add_members=["ann"]), "ROLE_CHANGED", "role"),
    ("DeleteRole", pb.DeleteRoleRequest(name="role"), "ROLE_DELETED", "role"),
    ("UpdateIdentities", pb.UpdateIdentitiesRequest(username="ann"), "IDENTITIES_CHANGED", "ann"),
    ("ImportUsers", pb.ImportUsersRequest(), "USERS_IMPORTED", ""),
    ("IssueToken", pb.IssueTokenRequest(username="root"), "TOKEN_ISSUED", "root"),
    ("RotateSigningKey", pb.RotateSigningKeyRequest(), "KEY_ROTATED", ""),
]


@pytest.mark.parametrize(("method", "request_", "action", "subject"), REQUESTS)
async def test_who_may_not_is_refused_and_that_is_all_that_is_left(
    place: Place, method: str, request_: Any, action: str, subject: str
) -> None:
    await place.user("ann")
    before = await place.store.users("", 10)
    # a token may say more than its user still may
    for claims in (False, True):
        with pytest.raises(Refusal, match="for administrators"):
            await getattr(place.servicer, method)(request_, call_of("ann", admin=claims))
        assert await place.left() == ([(action, "ann", subject, True, "ADMIN_ONLY", {})], {})
    assert await place.store.users("", 10) == before


async def test_ones_own_password_keeps_ones_own_session(place: Place) -> None:
    await place.user("ann")
    call = call_of("ann")
    own = await place.session("ann")
    other = await place.session("ann")
    mine = Call(call.context, Caller("ann", False, frozenset(), 0.0, "", str(own)))
    await place.servicer.SetPassword(pb.SetPasswordRequest(username="ann"), mine)
    assert await place.revoked() == {other}
    # an administrator's session is not the user's
    root = Call(call.context, Caller("root", True, frozenset(), 0.0, "", str(own)))
    await place.servicer.SetPassword(pb.SetPasswordRequest(username="ann"), root)
    assert await place.revoked() == {other, own}


async def test_who_was_made_administrator_just_now_may_administer(place: Place) -> None:
    """The services hear of it a moment later; auth itself knows."""
    await place.servicer.CreateRole(pb.CreateRoleRequest(name="role"), call_of("root", admin=False))
    assert await place.events() == [done("ROLE_CREATED", "role")]
