import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drayman.server.registry import permissions
from drayman.server.registry.permissions import Grant, Permissions, Uploader, changed, may_own, may_upload
from drayman.server.registry.shape import Misshapen

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
REFUSED = Grant(allowed=False)
PROBATION = Grant(allowed=True)
TRUSTED = Grant(allowed=True, trusted=True)
OWNER = Grant(allowed=True, trusted=True, becomes_owner=True)

USER = st.sampled_from(["ada", "bob", "cyd"])
UPLOADER = st.builds(
    Uploader,
    id=USER,
    asset=st.sampled_from([None, "a", "b"]),
    version=st.sampled_from([None, "v1", "v2"]),
    until=st.sampled_from([None, "2026-06-01T12:00:00Z", "2026-06-01T11:59:59Z", "2026-06-01T14:00:01+02:00", "2027"]),
    trusted=st.sampled_from([None, False, True]),
)
PERMISSIONS = st.builds(
    Permissions,
    owners=st.lists(USER, max_size=2).map(tuple),
    uploaders=st.lists(UPLOADER, max_size=4).map(tuple),
    global_write=st.sampled_from([None, False, True]),
)


def ask(
    project: Permissions,
    user: str = "ada",
    asset: str = "a",
    version: str = "v1",
    *,
    admin: bool = False,
    own: Permissions | None = None,
    exists: bool = True,
) -> Grant:
    return may_upload(user, admin, asset, version, project, own, exists, NOW)


def of(*uploaders: Uploader, owners: tuple[str, ...] = (), global_write: bool | None = None) -> Permissions:
    return Permissions(owners=owners, uploaders=uploaders, global_write=global_write)


@pytest.mark.parametrize(
    ("grant", "expected"),
    [
        # nobody
        (ask(of()), REFUSED),
        (ask(of(exists := Uploader("bob"))), REFUSED),
        (ask(of(), exists=False), REFUSED),
        # administrators and owners, whatever else is said of them
        (ask(of(), admin=True), TRUSTED),
        (ask(of(owners=("ada",))), TRUSTED),
        (ask(of(Uploader("ada", trusted=False), owners=("bob", "ada"))), TRUSTED),
        (ask(of(owners=("ada",), global_write=True), exists=False), TRUSTED),
        (ask(of(global_write=True), admin=True, exists=False), TRUSTED),
        # owners and uploaders of the asset
        (ask(of(), own=of(owners=("ada",))), TRUSTED),
        (ask(of(Uploader("ada")), own=of(owners=("ada",))), TRUSTED),
        (ask(of(), own=of(Uploader("ada"))), PROBATION),
        (ask(of(), own=of(Uploader("ada", trusted=True))), TRUSTED),
        (ask(of(), own=of(Uploader("ada", asset="other", trusted=True))), TRUSTED),
        (ask(of(), own=of(Uploader("ada", version="v2"))), REFUSED),
        (ask(of(Uploader("ada")), own=of(Uploader("ada", trusted=True))), PROBATION),
        (ask(of(), own=of(owners=("ada",)), exists=False), REFUSED),
        # anybody, for new assets
        (ask(of(global_write=True), exists=False), OWNER),
        (ask(of(Uploader("ada", trusted=False), global_write=True), exists=False), OWNER),
        (ask(of(global_write=True)), REFUSED),
        (ask(of(global_write=True), own=of(global_write=True)), REFUSED),
        (ask(of(global_write=False), exists=False), REFUSED),
        (ask(of(), own=of(global_write=True), exists=False), REFUSED),
        # uploaders
        (ask(of(Uploader("ada"))), PROBATION),
        (ask(of(Uploader("ada")), exists=False), PROBATION),
        (ask(of(Uploader("ada", trusted=True))), TRUSTED),
        (ask(of(Uploader("ada", asset="a", trusted=True))), TRUSTED),
        (ask(of(Uploader("ada", asset="b", trusted=True))), REFUSED),
        (ask(of(Uploader("ada", asset="", trusted=True))), REFUSED),
        (ask(of(Uploader("ada", version="v1", trusted=True)), exists=False), TRUSTED),
        (ask(of(Uploader("ada", version="v2", trusted=True))), REFUSED),
        # the first one that applies decides
        (ask(of(Uploader("ada"), Uploader("ada", trusted=True))), PROBATION),
        (ask(of(Uploader("ada", trusted=True), Uploader("ada"))), TRUSTED),
        (ask(of(Uploader("ada", asset="b"), Uploader("bob"), Uploader("ada", trusted=True))), TRUSTED),
        (ask(of(Uploader("ada", until="2026-01-01T00:00:00Z"), Uploader("ada", trusted=True))), TRUSTED),
        # until
        (ask(of(Uploader("ada", until="2026-06-01T12:00:00Z"))), PROBATION),
        (ask(of(Uploader("ada", until="2026-06-01T11:59:59.999Z"))), REFUSED),
        (ask(of(Uploader("ada", until="2026-06-01T14:00:00+02:00"))), PROBATION),
        (ask(of(Uploader("ada", until="2026-06-01T13:59:59+02:00"))), REFUSED),
        (ask(of(Uploader("ada", until="9999-12-31T23:59:59-23:59"))), REFUSED),
        (ask(of(Uploader("ada", until="for ever"))), REFUSED),
        (ask(of(Uploader("ada", until="2027-01-01"))), REFUSED),
    ],
)
def test_who_may_upload(grant: Grant, expected: Grant) -> None:
    assert grant == expected


@given(PERMISSIONS, st.none() | PERMISSIONS, st.booleans(), st.booleans(), USER)
def test_uploading_follows_the_contract(
    project: Permissions, own: Permissions | None, exists: bool, admin: bool, user: str
) -> None:
    grant = ask(project, user, admin=admin, own=own, exists=exists)
    if admin or user in project.owners or (exists and own is not None and user in own.owners):
        assert grant == TRUSTED
    elif not exists and project.global_write:
        assert grant == OWNER
    else:
        of_asset = own.uploaders if exists and own is not None else ()
        candidates = [entry for entry in project.uploaders if entry.asset in (None, "a")] + list(of_asset)
        good = [
            entry
            for entry in candidates
            if entry.id == user
            and entry.version in (None, "v1")
            and entry.until not in ("2026-06-01T11:59:59Z", "2027")
        ]
        assert grant == (Grant(allowed=True, trusted=good[0].trusted is True) if good else REFUSED)


@given(USER, st.booleans(), PERMISSIONS, st.none() | PERMISSIONS)
def test_who_owns(user: str, admin: bool, project: Permissions, own: Permissions | None) -> None:
    assert may_own(user, admin, project) is (admin or user in project.owners)
    owners = project.owners + (own.owners if own else ())
    assert may_own(user, admin, project, own) is (admin or user in owners)


def test_what_is_not_said_stays() -> None:
    before = of(Uploader("ada", until="not checked again"), owners=("", "bob", "bob"), global_write=False)
    assert changed(before) == before
    assert changed(before, global_write=True).global_write is True
    assert changed(of(), replace_owners=[]).global_write is None


@given(PERMISSIONS, st.lists(USER, max_size=4), st.lists(USER, max_size=2), st.none() | st.lists(USER, max_size=3))
def test_owners_are_replaced_removed_and_added(
    before: Permissions, add: list[str], remove: list[str], replace: list[str] | None
) -> None:
    after = changed(before, add_owners=add, remove_owners=remove, replace_owners=replace)
    base = [owner for owner in (before.owners if replace is None else replace) if owner not in remove]
    assert list(after.owners[: len(base)]) == base
    added = after.owners[len(base) :]
    assert len(set(added)) == len(added)
    assert not set(added) & set(base)
    assert set(after.owners) == set(base) | set(add)
    assert after.uploaders == before.uploaders


GOOD_UPLOADER = UPLOADER.filter(lambda entry: entry.until != "2027")


@given(PERMISSIONS, st.lists(GOOD_UPLOADER, max_size=4), st.lists(USER, max_size=2))
def test_uploaders_are_removed_by_user_and_appended_once(
    before: Permissions, add: list[Uploader], remove: list[str]
) -> None:
    after = changed(before, add_uploaders=add, remove_uploaders=remove)
    kept = tuple(entry for entry in before.uploaders if entry.id not in remove)
    assert after.uploaders[: len(kept)] == kept
    assert set(after.uploaders) == set(kept) | set(add)
    assert changed(after, add_uploaders=add) == after
    assert after.owners == before.owners


def test_an_uploaders_entry_is_exchanged_in_one_change() -> None:
    before = of(Uploader("ada"), Uploader("bob"))
    after = changed(before, remove_uploaders=["ada"], add_uploaders=[Uploader("ada", trusted=True)])
    assert after.uploaders == (Uploader("bob"), Uploader("ada", trusted=True))


def test_of_an_asset_uploaders_have_no_asset_and_global_write_means_nothing() -> None:
    after = changed(
        of(Uploader("bob")),
        replace_uploaders=[Uploader("ada", asset="x")],
        add_uploaders=[Uploader("bob", asset="y")],
        global_write=True,
        of_asset=True,
    )
    assert after == of(Uploader("ada"), Uploader("bob"))


@pytest.mark.parametrize(
    ("uploader", "reason"),
    [
        (Uploader(""), "empty"),
        (Uploader("a\x00"), "control"),
        (Uploader("a\ud800"), "UTF-8"),
        (Uploader("x" * 256), "at most 255"),
        (Uploader("ada", asset=""), "asset of uploader 'ada'"),
        (Uploader("ada", version=".."), "version of uploader 'ada'"),
        (Uploader("ada", until=""), "until of uploader 'ada'.*RFC 3339"),
        (Uploader("ada", until="2026-02-30T00:00:00Z"), "RFC 3339"),
        (Uploader("ada", until="2026-02-03 00:00:00Z"), "RFC 3339"),
        (Uploader("ada", until="2026-02-03T24:00:00Z"), "RFC 3339"),
        (Uploader("ada", until="2026-02-03T00:00:00"), "RFC 3339"),
        (Uploader("ada", until="2026-02-03t00:00:00z"), "RFC 3339"),
        (Uploader("ada", until="2026-02-03T00:00:00+0100"), "RFC 3339"),
        (Uploader("ada", until="٢026-02-03T00:00:00Z"), "RFC 3339"),
    ],
)
def test_a_new_uploader_that_cannot_be_is_refused(uploader: Uploader, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        changed(of(), add_uploaders=[uploader])
    with pytest.raises(ValueError, match=reason):
        changed(of(Uploader("bob")), replace_uploaders=[Uploader("bob"), uploader])


def test_a_new_owner_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="user name"):
        changed(of(), add_owners=["a\nb"])
    with pytest.raises(ValueError, match="user name"):
        changed(of(), replace_owners=[""])


@given(
    st.datetimes(timezones=st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))).filter(
        lambda at: 2 < at.year < 9998
    )
)
def test_until_takes_any_offset_and_fraction(at: datetime) -> None:
    permissions.check_uploader(Uploader("ada", until=at.isoformat()))
    assert Uploader("ada", until=at.isoformat()).applies("ada", "a", "v", at)
    assert not Uploader("ada", until=at.isoformat()).applies("ada", "a", "v", at + timedelta(microseconds=1))


@given(PERMISSIONS)
def test_json_is_read_as_it_was_written(value: Permissions) -> None:
    assert permissions.from_json(json.loads(json.dumps(permissions.to_json(value)))) == value


def test_what_was_never_said_is_left_out_and_false_is_not() -> None:
    value = of(Uploader("ada"), Uploader("bob", "a", "v", "u", False), owners=("ada",), global_write=False)
    assert list(permissions.to_json(of())) == ["owners", "uploaders"]
    written = permissions.to_json(value)
    assert list(written) == ["owners", "uploaders", "global_write"]
    assert written["uploaders"][0] == {"id": "ada"}
    assert list(written["uploaders"][1].items()) == [
        ("id", "bob"),
        ("asset", "a"),
        ("version", "v"),
        ("until", "u"),
        ("trusted", False),
    ]


def test_null_is_read_as_not_there() -> None:
    assert permissions.from_json({"owners": ["ada"], "uploaders": None}) == of(owners=("ada",))
    assert permissions.from_json({"global_write": None, "more": 1}) == of()
    entry = {"id": "ada", "asset": None, "version": None, "until": None, "trusted": None, "more": []}
    assert permissions.uploader_from_json(entry) == Uploader("ada")


@pytest.mark.parametrize(
    "value",
    [
        [],
        None,
        {"owners": "ada"},
        {"owners": [1]},
        {"owners": [None]},
        {"uploaders": {}},
        {"uploaders": [{}]},
        {"uploaders": ["ada"]},
        {"uploaders": [{"id": None}]},
        {"uploaders": [{"id": "a", "trusted": 1}]},
        {"uploaders": [{"id": "a", "until": 1}]},
        {"global_write": "true"},
    ],
)
def test_what_are_no_permissions_is_refused(value: object) -> None:
    with pytest.raises(Misshapen):
        permissions.from_json(value)
