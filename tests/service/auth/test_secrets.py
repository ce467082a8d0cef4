"""Secrets in a real database: what is stored, what is limited, and what a change of keys does meanwhile."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from drayman.auth.v1 import secret_service_pb2 as pb
from drayman.client import ForbiddenError, InvalidRequestError, OverloadedError
from drayman.client.user_secrets import SecretClient, UserSecret
from drayman.server.auth import sealing
from drayman.server.auth.keys import SigningKey
from drayman.server.auth.sealing import SealingKeys, Tampered, new_key
from drayman.server.auth.secret_rules import LONGEST_VALUE, MOST_BYTES, MOST_KEYS
from drayman.server.auth.secret_store import _SEALING_LOCK, SQL, SecretStore, keys_in_use, open_keys, require_keys
from drayman.server.auth.store import HERE, Store
from drayman.server.platform.database import migrate, open_pool
from drayman.server.platform.errors import Refusal
from drayman.server.platform.settings import SettingsError
from drayman.testing import LocalStack

VALUE = "correct horse battery staple"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "secrets-keys"


@pytest.fixture
def keys(path: Path) -> SealingKeys:
    return SealingKeys.obtain(path)


@pytest_asyncio.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    await migrate(database_url, "auth", HERE / "migrations")
    pool = await open_pool(database_url, 8)
    await pool.execute("INSERT INTO auth.user (name) VALUES ('ann'), ('bob')")
    yield pool
    await pool.close()


@pytest.fixture
def secrets(pool: asyncpg.Pool, keys: SealingKeys) -> SecretStore:
    return SecretStore(pool, Store(pool), keys)


async def all_of(secrets: SecretStore, user: str, keys: list[str] | None = None) -> dict[str, str | None]:
    return {secret.key: secret.value async for secret in secrets.secrets(user, keys)}


async def test_secrets_of_one_user(secrets: SecretStore) -> None:
    assert await all_of(secrets, "ann") == {}
    await secrets.set("ann", "token", VALUE)
    await secrets.set("ann", "empty", "")
    await secrets.set("ann", "Zoë", "日本\n\x1b\U0001f600")
    await secrets.set("bob", "token", "bob's")
    assert await all_of(secrets, "ann") == {"Zoë": "日本\n\x1b\U0001f600", "empty": "", "token": VALUE}
    assert await all_of(secrets, "bob") == {"token": "bob's"}
    assert await all_of(secrets, "ann", ["token", "none", "token"]) == {"token": VALUE}
    assert await all_of(secrets, "ann", []) == {}

    await secrets.set("ann", "token", "other")
    listed = [secret async for secret in secrets.secrets("ann", values=False)]
    assert [(each.key, each.value, each.length) for each in listed] == [
        ("Zoë", None, 5),
        ("empty", None, 0),
        ("token", None, 5),
    ]
    assert await secrets.delete("ann", "token") == 1
    assert await secrets.delete("ann", "token") == 0
    assert await secrets.delete_all("ann") == 2
    assert await secrets.delete_all("ann") == 0
    assert await all_of(secrets, "bob") == {"token": "bob's"}


async def test_a_dump_of_the_table_tells_nothing(
    secrets: SecretStore, pool: asyncpg.Pool, keys: SealingKeys, path: Path
) -> None:
    long = "a very long secret " * 2000
    await secrets.set("ann", "short", VALUE)
    await secrets.set("ann", "long", long)
    key = SigningKey.generate()
    sealed = sealing.sealed_signing_key(keys, key)
    await pool.execute(
        "INSERT INTO auth.signing_key (key_id, private_key, public_key, signs_from, needed_until, sealed_by) "
        "VALUES ($1, $2, $3, now(), now(), $4)",
        *(key.key_id, sealed.data, key.public().raw, sealed.key_id),
    )
    tables = await pool.fetch("SELECT table_name FROM information_schema.tables WHERE table_schema = 'auth'")
    dump = b""
    for table in tables:
        rows = await pool.fetch(f"SELECT * FROM auth.{table['table_name']}")
        dump += b"".join(v if isinstance(v, bytes) else str(v).encode() for row in rows for v in row.values())
    assert b"short" in dump, "keys are no secrets"
    sealing_key = base64.b64decode(path.read_text().split()[1])
    for hidden in (VALUE.encode(), long[:100].encode(), sealing_key, key.to_bytes()):
        for form in (hidden, base64.b64encode(hidden).rstrip(b"="), hidden.hex().encode()):
            assert form not in dump


async def test_values_cannot_be_moved(secrets: SecretStore, pool: asyncpg.Pool) -> None:
    await secrets.set("ann", "token", VALUE)
    await pool.execute(
        "INSERT INTO auth.user_secret SELECT 'bob', key, sealed, sealed_by, length FROM auth.user_secret"
    )
    with pytest.raises(Tampered):
        await all_of(secrets, "bob")
    await pool.execute("UPDATE auth.user_secret SET key = 'other' WHERE username = 'ann'")
    with pytest.raises(Tampered):
        await all_of(secrets, "ann")
    await pool.execute("UPDATE auth.user_secret SET key = 'token' WHERE username = 'ann'")
    assert await all_of(secrets, "ann") == {"token": VALUE}


async def test_many_secrets_come_page_by_page(secrets: SecretStore) -> None:
    names = [f"k{number:03}" for number in range(100)]
    for name in names:
        await secrets.set("ann", name, name)
    assert await all_of(secrets, "ann") == {name: name for name in names}


async def test_a_user_who_is_gone_stores_nothing(secrets: SecretStore, pool: asyncpg.Pool) -> None:
    with pytest.raises(Refusal) as refused:
        await secrets.set("nobody", "key", "value")
    assert refused.value.reason == "TOKEN_INVALID"
    await secrets.set("ann", "key", "value")
    await pool.execute("DELETE FROM auth.user WHERE name = 'ann'")
    assert await pool.fetchval("SELECT count(*) FROM auth.user_secret") == 0


async def test_the_number_of_keys_is_limited_under_concurrency(secrets: SecretStore, pool: asyncpg.Pool) -> None:
    await pool.execute(
        "INSERT INTO auth.user_secret (username, key, sealed, sealed_by, length) "
        "SELECT 'ann', 'k' || n, '', 'x', 0 FROM generate_series(1, $1) AS n",
        MOST_KEYS - 3,
    )
    results = await asyncio.gather(
        *(secrets.set("ann", f"new{number}", "") for number in range(12)), return_exceptions=True
    )
    assert results.count(None) == 3
    assert {each.reason for each in results if isinstance(each, Refusal)} == {"TOO_MANY_SECRETS"}
    assert await pool.fetchval("SELECT count(*) FROM auth.user_secret") == MOST_KEYS
    await secrets.set("ann", "k1", VALUE)  # one that is there may change
    await secrets.set("bob", "key", VALUE)


async def test_the_size_in_all_is_limited_under_concurrency(secrets: SecretStore, pool: asyncpg.Pool) -> None:
    value = "ä" * LONGEST_VALUE  # two bytes each
    fitting = MOST_BYTES // (2 * LONGEST_VALUE)
    for number in range(fitting - 2):
        await secrets.set("ann", f"k{number}", value)
    results = await asyncio.gather(*(secrets.set("ann", f"new{n}", value) for n in range(5)), return_exceptions=True)
    assert results.count(None) == 2
    rest = MOST_BYTES - fitting * 2 * LONGEST_VALUE
    await secrets.set("ann", "last", "ä" * (rest // 2))
    with pytest.raises(Refusal, match=f"at most {MOST_BYTES} bytes"):
        await secrets.set("ann", "k0", value + "x")
    await secrets.set("ann", "k0", value)
    assert await secrets.delete("ann", "k0") == 1
    await secrets.set("ann", "another", value)


async def test_a_rotation(secrets: SecretStore, pool: asyncpg.Pool, keys: SealingKeys, path: Path) -> None:
    old = keys.newest
    await secrets.set("ann", "key", VALUE)
    moments = [secret.changed_at async for secret in secrets.secrets("ann")]
    new = new_key(path)
    assert await all_of(secrets, "ann") == {"key": VALUE}
    await secrets.set("bob", "key", VALUE)
    assert await keys_in_use(pool) == {old, new}
    done = await secrets.reencrypt()
    assert (done.key_id, done.user_secrets, done.own_keys) == (new, 1, 0)
    assert await keys_in_use(pool) == {new}
    # the old key is not needed any more
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    assert keys.ids == {new}
    assert await all_of(secrets, "ann") == await all_of(secrets, "bob") == {"key": VALUE}
    assert [secret.changed_at async for secret in secrets.secrets("ann")] == moments
    assert (await secrets.reencrypt()).user_secrets == 0


async def test_auths_own_keys_are_sealed_anew(
    secrets: SecretStore, pool: asyncpg.Pool, keys: SealingKeys, path: Path
) -> None:
    clear, hidden, nonce_key = SigningKey.generate(), SigningKey.generate(), os.urandom(32)
    sealed = sealing.sealed_signing_key(keys, hidden)
    for key, data, key_id in ((clear, clear.to_bytes(), None), (hidden, sealed.data, sealed.key_id)):
        await pool.execute(
            "INSERT INTO auth.signing_key (key_id, private_key, public_key, signs_from, needed_until, sealed_by) "
            "VALUES ($1, $2, $3, now(), now(), $4)",
            *(key.key_id, data, key.public().raw, key_id),
        )
    await pool.execute("INSERT INTO auth.nonce_key (secret) VALUES ($1)", nonce_key)
    for expected in (3, 0):
        new = new_key(path) if expected else keys.newest
        done = await secrets.reencrypt()
        assert (done.key_id, done.own_keys) == (new, expected)
        assert await keys_in_use(pool) == {new}
    for row in await pool.fetch("SELECT * FROM auth.signing_key"):
        key = sealing.opened_signing_key(keys, row["key_id"], row["private_key"], row["sealed_by"])
        assert key.public().raw == row["public_key"]
    (stored,) = await pool.fetch("SELECT * FROM auth.nonce_key")
    assert stored["secret"] != nonce_key
    assert sealing.opened_nonce_key(keys, stored["secret"], stored["sealed_by"]) == nonce_key


async def test_sets_and_deletions_go_on_during_rotations(
    secrets: SecretStore, pool: asyncpg.Pool, path: Path, keys: SealingKeys
) -> None:
    """Nothing is lost, nothing comes back, and nothing is left under an old key."""
    names = [f"k{number}" for number in range(40)]
    for user in ("ann", "bob"):
        for name in names:
            await secrets.set(user, name, "before")
    wanted: dict[tuple[str, str], str | None] = {(user, name): "before" for user in ("ann", "bob") for name in names}
    rotated, turns = asyncio.Event(), dict.fromkeys(("ann", "bob"), 0)
    # another host with the same file
    elsewhere = SecretStore(pool, Store(pool), SealingKeys(path))

    async def change(user: str, store: SecretStore, step: int) -> None:
        turn = 0
        while not rotated.is_set():
            name = names[turn * step % len(names)]
            if turn % 5 == 4:
                await store.delete(user, name)
                wanted[user, name] = None
            elif turn % 97 == 96:
                await store.delete_all(user)
                wanted.update({(user, each): None for each in names})
            else:
                await store.set(user, name, f"{turn}")
                wanted[user, name] = f"{turn}"
            turns[user] = turn = turn + 1

    async def rotate() -> None:
        try:
            while min(turns.values()) < 250:
                new_key(path)
                done = await asyncio.gather(secrets.reencrypt(), elsewhere.reencrypt())
                assert {each.key_id for each in done} == {keys.newest}
                assert await keys_in_use(pool) <= {keys.newest}  # all may be deleted this moment
        finally:
            rotated.set()

    async with asyncio.TaskGroup() as together:
        together.create_task(change("ann", secrets, 7))
        together.create_task(change("bob", elsewhere, 11))
        together.create_task(rotate())
    for user in ("ann", "bob"):
        expected = {name: value for (owner, name), value in wanted.items() if owner == user and value is not None}
        assert await all_of(secrets, user) == expected


async def somebody_waits(pool: asyncpg.Pool) -> None:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with asyncio.timeout(20):
        while not await pool.fetchval(waiting):
            await asyncio.sleep(0.01)


async def test_a_secret_that_somebody_holds_is_sealed_anew_in_the_end(
    secrets: SecretStore, pool: asyncpg.Pool, path: Path
) -> None:
    for name in ("a", "b", "c"):
        await secrets.set("ann", name, name)
    new = new_key(path)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM auth.user_secret WHERE key = 'b' FOR UPDATE")
        running = asyncio.create_task(secrets.reencrypt())
        await somebody_waits(pool)
        # it waits holding no other row: else this would be a deadlock
        await connection.execute("DELETE FROM auth.user_secret WHERE key <> 'b'")
        assert not running.done()
    assert (await running).user_secrets == 3
    assert await keys_in_use(pool) == {new}


async def test_a_secret_that_is_being_stored_under_the_old_key_is_not_left_behind(
    secrets: SecretStore, pool: asyncpg.Pool, keys: SealingKeys, path: Path
) -> None:
    async with pool.acquire() as connection, connection.transaction():
        # as `set` does it, which has sealed and not committed when the key changes
        await connection.execute(SQL["lock_sealing"], _SEALING_LOCK)
        sealed = keys.seal(("user_secret", "ann", "key"), VALUE.encode())
        await connection.execute(SQL["set_secret"], "ann", "key", sealed.data, sealed.key_id, len(VALUE))
        new = new_key(path)
        running = asyncio.create_task(secrets.reencrypt())
        await somebody_waits(pool)
    assert (await running).user_secrets == 1
    assert await keys_in_use(pool) == {new}
    assert await all_of(secrets, "ann") == {"key": VALUE}


async def test_nothing_is_changed_if_an_older_key_is_missing(
    secrets: SecretStore, pool: asyncpg.Pool, keys: SealingKeys, path: Path
) -> None:
    old = keys.newest
    await secrets.set("ann", "key", VALUE)
    kept = path.read_text()
    path.unlink()
    new = new_key(path)
    await secrets.set("bob", "key", VALUE)
    with pytest.raises(Refusal, match=old) as refused:
        await secrets.reencrypt()
    assert (refused.value.reason, refused.value.metadata) == ("SEALING_KEY_MISSING", {"key_id": old})
    with pytest.raises(Refusal, match=old) as refused:
        await all_of(secrets, "ann")
    assert refused.value.reason == "SEALING_KEY_MISSING"
    assert [secret.key async for secret in secrets.secrets("ann", values=False)] == ["key"]
    assert await all_of(secrets, "bob") == {"key": VALUE}
    assert await keys_in_use(pool) == {old, new}
    path.write_text(path.read_text() + kept)
    assert await all_of(secrets, "ann") == {"key": VALUE}


async def test_a_start_without_the_keys_in_use(
    secrets: SecretStore, pool: asyncpg.Pool, keys: SealingKeys, path: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere" / "secrets-keys"
    await secrets.set("ann", "key", VALUE)
    with pytest.raises(SettingsError) as missing:
        await open_keys(pool, elsewhere)
    for told in (str(elsewhere), keys.newest, "copy the key file", "DRAYMAN_SECRETS_KEY_FILE"):
        assert told in str(missing.value)
    assert not elsewhere.exists(), "a fresh key would only look like the right one"
    other = SealingKeys.obtain(elsewhere)
    with pytest.raises(SettingsError, match=keys.newest):
        await open_keys(pool, elsewhere)
    with pytest.raises(SettingsError, match=keys.newest):
        await require_keys(pool, other)
    elsewhere.write_text(path.read_text())
    assert (await open_keys(pool, elsewhere)).newest == keys.newest


async def test_the_first_start_makes_the_key_file(pool: asyncpg.Pool, path: Path) -> None:
    made = await open_keys(pool, path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert made.ids == SealingKeys(path).ids


@pytest.mark.parametrize("table", ["signing_key", "nonce_key"])
async def test_auths_own_keys_count_as_in_use(pool: asyncpg.Pool, path: Path, table: str) -> None:
    if table == "signing_key":
        await pool.execute(
            "INSERT INTO auth.signing_key (key_id, private_key, public_key, signs_from, needed_until, sealed_by) "
            "VALUES ('k', '', $1, now(), now(), 'lost')",
            bytes(32),
        )
    else:
        await pool.execute("INSERT INTO auth.nonce_key (secret, sealed_by) VALUES ($1, 'lost')", bytes(60))
    with pytest.raises(SettingsError, match="lost"):
        await open_keys(pool, path)


# --- over a real channel ---------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def ann(stack: LocalStack) -> AsyncIterator[SecretClient]:
    name = f"ann-{uuid4().hex[:8]}"
    stack.add_user(name)
    async with SecretClient(stack.url, stack.token(name), timeout=30) as client:
        yield client


async def test_a_client(ann: SecretClient) -> None:
    await ann.set("b", "two")
    await ann.set("a", "")
    assert await ann.get() == {"a": "", "b": "two"}
    assert await ann.get(["b", "c"]) == {"b": "two"}
    assert await ann.get([]) == {}
    assert await ann.keys() == ["a", "b"]
    (secret,) = [each async for each in ann.secrets(["b"], values=False)]
    assert (secret.key, secret.value, secret.length) == ("b", None, 3)
    assert datetime.now(UTC) - secret.changed < timedelta(minutes=5)
    assert (await ann.delete("b"), await ann.delete("b"), await ann.delete_all()) == (True, False, 1)
    assert "two" not in repr([UserSecret("b", "two", 3, secret.changed)])


async def test_keys_that_nothing_can_have(ann: SecretClient) -> None:
    await ann.set("a", "value")
    impossible = ["", "k" * 256, "NUL \0", "a\n"]
    assert await ann.get(impossible) == {}, "not all of them"
    assert await ann.get([*impossible, "a"]) == {"a": "value"}
    assert [await ann.delete(key) for key in impossible[1:]] == [False] * 3
    for key in impossible:
        with pytest.raises(InvalidRequestError) as refused:
            await ann.set(key, "value")
        assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", "key")
    for value in ("\0", "x" * (LONGEST_VALUE + 1)):
        with pytest.raises(InvalidRequestError) as refused:
            await ann.set("a", value)
        assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", "value")
    assert await ann.get() == {"a": "value"}


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.DeleteSecretsRequest(), "target"),
        (pb.DeleteSecretsRequest(all=False), "all"),
        (pb.DeleteSecretsRequest(key=""), "key"),
    ],
)
async def test_a_deletion_says_of_what(ann: SecretClient, request_: pb.DeleteSecretsRequest, field: str) -> None:
    await ann.set("a", "value")
    with pytest.raises(InvalidRequestError) as refused:
        await ann._call(ann._secrets.DeleteSecrets, request_)
    assert (refused.value.reason, refused.value.field) == ("INVALID_FIELD", field)
    assert await ann.keys() == ["a"]


async def test_more_secrets_than_a_user_may_have(ann: SecretClient) -> None:
    value = "ä" * LONGEST_VALUE
    for number in range(32):
        await ann.set(f"k{number}", value)
    with pytest.raises(OverloadedError) as refused:
        await ann.set("one more", value)
    assert refused.value.reason == "TOO_MANY_SECRETS"
    # and all of them can be read: more than would fit into one message
    found = await ann.get()
    assert (len(found), set(found.values())) == (32, {value})
    await ann.delete_all()


async def test_administrators_read_nobody_elses_secrets(stack: LocalStack, ann: SecretClient) -> None:
    await ann.set("a", "value")
    async with SecretClient(stack.url, stack.token(stack.admin[0]), timeout=30) as admin:
        assert "a" not in await admin.get()
        await admin.delete_all()
    assert await ann.get() == {"a": "value"}
    with pytest.raises(ForbiddenError) as refused:
        await ann.reencrypt()
    assert refused.value.reason == "ADMIN_ONLY"
