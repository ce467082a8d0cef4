"""The client object: URLs, worker ids, tokens, exceptions. No service is needed."""

import base64
import inspect
import json
import os
import pickle
import re
import time
from pathlib import Path

import pytest

import drayman.data_dispatcher as package
from drayman.client.errors import DraymanError, OverloadedError
from drayman.data_dispatcher import api
from drayman.data_dispatcher.api import DataDispatcherClient
from drayman.data_dispatcher.backoff import Backoff
from drayman.data_dispatcher.exceptions import api_error, from_drayman_error

URL = "grpc://127.0.0.1:1"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path))


def token(lifetime: float, name: str = "ann") -> str:
    claims = json.dumps({"sub": name, "exp": time.time() + lifetime}).encode()
    return f"e30.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.c2ln"


# --- 1.1 constructor -------------------------------------------------------------------------------------------------


def test_no_url_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        DataDispatcherClient()


def test_urls_from_arguments_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert DataDispatcherClient(URL).AuthURL == URL + "/auth"
    monkeypatch.setenv("DRAYMAN_URL", "grpc://drayman")
    assert DataDispatcherClient().ServerURL == "grpc://drayman"
    monkeypatch.setenv("DATA_DISPATCHER_URL", "https://dispatch:443")
    assert DataDispatcherClient().ServerURL == "https://dispatch:443"
    monkeypatch.setenv("DATA_DISPATCHER_AUTH_URL", "grpc://auth")
    client = DataDispatcherClient(URL)
    assert (client.ServerURL, client.AuthURL) == (URL, "grpc://auth")


def test_an_auth_url_alone_fails_at_the_first_call() -> None:
    client = DataDispatcherClient(auth_server_url=URL)
    assert client.ServerURL is None
    with pytest.raises(ValueError, match="no server URL"):
        client.version()


@pytest.mark.parametrize(("given", "meant"), [(None, 300), (0, 300), (7, 7)])
def test_timeout(given: float | None, meant: float) -> None:
    assert DataDispatcherClient(URL, timeout=given).Timeout == meant


def test_constants_and_attributes() -> None:
    client = DataDispatcherClient(URL, worker_id="w", cpu_site="FNAL")
    assert (client.DefaultWorkerIDFile, client.DEFAULT_IDLE_TIMEOUT) == (".data_dispatcher_worker_id", 259200)
    assert (client.CPUSite, client.WorkerID, client.Token) == ("FNAL", "w", None)
    assert DataDispatcherClient(URL, worker_id="w").CPUSite == "DEFAULT"


@pytest.mark.parametrize(
    ("method", "signature"),
    [
        ("next_file", "(self, project_id, cpu_site=None, worker_id=None, timeout=None, stagger=10)"),
        ("file_done", "(self, project_id, did, worker_id=None)"),
        ("file_failed", "(self, project_id, did, retry=True, worker_id=None)"),
        ("reserved_handles", "(self, project_id, worker_id=None)"),
        ("new_worker_id", "(self, new_id=None, worker_id_file=None)"),
        ("random_worker_id", "(prefix='')"),
        (
            "create_project",
            (
                "(self, files, common_attributes={}, project_attributes={}, query=None, worker_timeout=None,"
                " idle_timeout=259200, users=[], roles=[])"
            ),
        ),
        (
            "copy_project",
            "(self, project_id, common_attributes={}, project_attributes={}, worker_timeout=None, idle_timeout=None)",
        ),
        ("get_project", "(self, project_id, with_files=True, with_replicas=False)"),
        (
            "list_projects",
            (
                "(self, owner=None, state='active', not_state='abandoned', attributes=None, with_files=True,"
                " with_replicas=False)"
            ),
        ),
        (
            "search_projects",
            "(self, search_query, owner=None, state='active', with_files=True, with_replicas=False)",
        ),
        ("cancel_project", "(self, project_id)"),
        ("activate_project", "(self, project_id)"),
        ("delete_project", "(self, project_id)"),
        (
            "restart_handles",
            "(self, project_id, done=False, failed=False, reserved=False, all=False, handles=[])",
        ),
        ("get_handle", "(self, project_id, namespace, name)"),
        ("list_handles", "(self, project_id, state=None, not_state=None, with_replicas=False)"),
        ("get_file", "(self, namespace, name)"),
        ("list_rses", "(self)"),
        ("get_rse", "(self, name)"),
        ("set_rse_availability", "(self, name, available)"),
        ("delete_rse", "(self, name)"),
        ("login_digest", "(self, username, password, save_token=False)"),
        ("login_ldap", "(self, username, password)"),
        ("login_password", "(self, username, password)"),
        ("login_token", "(self, username, encoded_token)"),
        ("login_x509", "(self, username, cert, key=None)"),
        ("my_x509_dn", "(self, cert, key=None)"),
        ("auth_info", "(self)"),
        ("tokens_saved", "(self)"),
        ("token_update", "(self)"),
        ("token", "(self)"),
        ("version", "(self)"),
        ("retry_request", "(self, method, url, timeout=None, **args)"),
    ],
)
def test_signatures(method: str, signature: str) -> None:
    found = inspect.signature(getattr(DataDispatcherClient, method))
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in found.parameters.values()]
    assert str(found.replace(parameters=bare, return_annotation=inspect.Signature.empty)) == signature


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.retry_request("get", "http://127.0.0.1/version"),
    ],
)
def test_what_is_not_offered_says_so(call: object) -> None:
    with pytest.raises(api.APIError, match="Not offered") as refused:
        call(DataDispatcherClient(URL, worker_id="w"))  # type: ignore[operator]
    assert refused.value.StatusCode == 501


# --- 1.2 worker id ---------------------------------------------------------------------------------------------------


def test_a_worker_id_is_made_once_and_kept_in_the_working_directory() -> None:
    made = DataDispatcherClient(URL).WorkerID
    assert re.fullmatch(r"[0-9a-f]{8}", made)
    assert Path(".data_dispatcher_worker_id").read_text().strip() == made
    assert DataDispatcherClient(URL).WorkerID == made


def test_a_given_worker_id_is_not_written() -> None:
    assert DataDispatcherClient(URL, worker_id="mine").WorkerID == "mine"
    assert not Path(".data_dispatcher_worker_id").exists()


def test_worker_id_files() -> None:
    Path("own").write_text("  from a file \n")
    assert DataDispatcherClient(URL, worker_id_file="own").WorkerID == "from a file"
    Path("empty").write_text("")
    assert DataDispatcherClient(URL, worker_id_file="empty").WorkerID == ""
    made = DataDispatcherClient(URL, worker_id_file="new").WorkerID
    assert Path("new").read_text().strip() == made
    assert not Path(".data_dispatcher_worker_id").exists()


def test_a_directory_that_cannot_be_written_is_no_obstacle() -> None:
    assert DataDispatcherClient(URL, worker_id_file="no/such/folder/file").WorkerID


def test_new_worker_id_writes_the_default_file_or_the_given_one() -> None:
    client = DataDispatcherClient(URL, worker_id_file="own")
    first = client.WorkerID
    assert client.new_worker_id("chosen") == client.WorkerID == "chosen"
    assert Path(".data_dispatcher_worker_id").read_text().strip() == "chosen"
    assert Path("own").read_text().strip() == first
    made = client.new_worker_id(worker_id_file="other")
    assert re.fullmatch(r"[0-9a-f]{8}", made)
    assert Path("other").read_text().strip() == made == client.WorkerID


def test_random_worker_id_changes_nothing() -> None:
    assert re.fullmatch(r"job-[0-9a-f]{8}", DataDispatcherClient.random_worker_id("job-"))
    assert re.fullmatch(r"[0-9a-f]{8}", DataDispatcherClient.random_worker_id())
    assert not Path(".data_dispatcher_worker_id").exists()


# --- 1.3 tokens ------------------------------------------------------------------------------------------------------


class TokenObject:
    """As the original's token objects."""

    def __init__(self, text: str) -> None:
        self._text = text

    def encode(self) -> str:
        return self._text


def test_token_argument_as_text_bytes_and_object() -> None:
    valid = token(60)
    for given in (valid, valid.encode(), TokenObject(valid)):
        client = DataDispatcherClient(URL, token=given)
        assert client.Token == client.token() == valid


def test_precedence_and_expired_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argument, in_file, environment, kept, over = (token(60, name) for name in ("arg", "file", "env", "lib", "old"))
    over = token(-1)
    library = tmp_path / ".token_library"
    library.write_text(f"{URL} {kept}\n{URL}/ {over}\n")
    file = tmp_path / "token"
    file.write_text(in_file + "\n")
    assert DataDispatcherClient(URL).Token == kept
    assert DataDispatcherClient(URL + "/").Token is None, "a trailing slash is another key, and that token is over"
    monkeypatch.setenv("DRAYMAN_TOKEN", environment)
    assert DataDispatcherClient(URL).Token == environment
    assert DataDispatcherClient(URL, token_file=file).Token == in_file
    assert DataDispatcherClient(URL, token=argument, token_file=file).Token == argument
    assert DataDispatcherClient(URL, token=over, token_file=file).Token == in_file
    file.write_text(over)
    assert DataDispatcherClient(URL, token=over, token_file=file).Token == environment
    monkeypatch.setenv("DRAYMAN_TOKEN", over)
    assert DataDispatcherClient(URL, token=over, token_file=file).Token == kept
    library.unlink()
    assert DataDispatcherClient(URL, token=over, token_file=file).Token is None


def test_the_library_is_searched_in_the_documented_places(tmp_path: Path) -> None:
    here, at_home, elsewhere = (token(60, name) for name in ("cwd", "home", "given"))
    Path(".token_library").write_text(f"{URL} {here}\n")
    assert DataDispatcherClient(URL).Token == here
    (tmp_path / ".token_library").write_text(f"{URL} {at_home}\n")
    client = DataDispatcherClient(URL)
    assert (client.Token, client.TokenLib.path, client.tokens_saved()) == (at_home, tmp_path / ".token_library", True)
    (tmp_path / "own").write_text(f"{URL} {elsewhere}\n")
    assert DataDispatcherClient(URL, token_library=tmp_path / "own").Token == elsewhere


def renewed(path: Path, text: str) -> None:
    """Write as another process would, visibly later."""
    before = path.stat().st_mtime_ns
    path.write_text(text)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def test_a_token_refreshed_on_disk_is_noticed(tmp_path: Path) -> None:
    first, second, third = token(60, "a"), token(60, "b"), token(60, "c")
    library, file = tmp_path / ".token_library", tmp_path / "file"
    library.write_text(f"{URL} {first}\n")
    file.write_text(first)
    from_library, from_file = DataDispatcherClient(URL), DataDispatcherClient(URL, token_file=file)
    given = DataDispatcherClient(URL, token=third)
    renewed(library, f"{URL} {second}\n")
    renewed(file, second)
    assert from_library.Token == from_file.Token == second
    assert given.Token == third, "a given token serves until it has expired or token_update is called"
    given.token_update()
    assert given.Token == second


def test_a_held_token_that_expires_is_replaced_or_else_still_sent() -> None:
    short = token(0.3)
    client = DataDispatcherClient(URL, token=short)
    while (
        client.Token == short and json.loads(base64.urlsafe_b64decode(short.split(".")[1] + "=="))["exp"] > time.time()
    ):
        time.sleep(0.05)
    assert client.Token == short, "so that the service says that it has expired"
    Path(".token_library").write_text(f"{URL} {(fresh := token(60))}\n")
    assert client.Token == fresh


def test_a_missing_token_file_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        DataDispatcherClient(URL, token_file="none")


def test_a_client_can_be_pickled() -> None:
    client = pickle.loads(pickle.dumps(DataDispatcherClient(URL, worker_id="w", token=token(60))))
    assert (client.WorkerID, client.ServerURL, client.Token is not None) == ("w", URL, True)


# --- 4 errors --------------------------------------------------------------------------------------------------------


def test_everything_is_importable_from_both_places() -> None:
    for name in api.__all__:
        assert getattr(package, name) is getattr(api, name)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, api.APIError),
        (401, api.AuthenticationError),
        (403, api.APIError),
        (404, api.NotFoundError),
        (409, api.APIError),
        (500, api.ServerError),
        (501, api.ServerError),
        (503, api.ServerError),
        (504, api.TimeoutError),
    ],
)
def test_one_tree(status: int, kind: type[Exception]) -> None:
    error = api_error(URL, status, "why")
    assert type(error) is kind
    assert isinstance(error, api.APIError)
    assert isinstance(error, api.WebAPIError)
    assert isinstance(error, api.MCError)
    assert isinstance(error, api.ServerError) == (status >= 500)
    assert isinstance(error, TimeoutError) == (status == 504)
    assert (error.URL, error.StatusCode, error.Message) == (URL, status, "why")
    assert error.json()["message"] == "why"
    assert "why" in repr(error)


@pytest.mark.parametrize("status", [401, 404, 409, 504])
def test_errors_survive_pickling(status: int) -> None:
    error = api_error(URL, status, "why", '{"reason": "X"}')
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (again.URL, again.StatusCode, again.Message, again.json()) == (URL, status, "why", {"reason": "X"})


def test_statuses_of_refusals() -> None:
    import grpc  # noqa: PLC0415 - the only test that names codes

    expected = {
        "INVALID_ARGUMENT": 400,
        "UNAUTHENTICATED": 401,
        "PERMISSION_DENIED": 403,
        "NOT_FOUND": 404,
        "ALREADY_EXISTS": 409,
        "FAILED_PRECONDITION": 409,
        "RESOURCE_EXHAUSTED": 503,
        "UNAVAILABLE": 503,
        "DEADLINE_EXCEEDED": 504,
        "UNIMPLEMENTED": 501,
        "INTERNAL": 500,
        "UNKNOWN": 500,
    }
    for name, status in expected.items():
        refusal = DraymanError("why", code=grpc.StatusCode[name], reason="R", metadata={"k": "v"})
        error = from_drayman_error(refusal, URL)
        assert error.StatusCode == status
        assert error.json() == {"message": "why", "reason": "R", "metadata": {"k": "v"}}
    too_large = OverloadedError("big", code=grpc.StatusCode.RESOURCE_EXHAUSTED, reason="MESSAGE_TOO_LARGE")
    assert from_drayman_error(too_large, URL).StatusCode == 413


# --- 1.4 retries -----------------------------------------------------------------------------------------------------


def test_a_budget_of_zero_is_one_try() -> None:
    assert not Backoff(0, 1, 1.5).pause()


def test_pauses_end_with_the_budget() -> None:
    backoff, start = Backoff(0.2, 0.05, 1.5), time.monotonic()
    while backoff.pause():
        pass
    assert 0.2 <= time.monotonic() - start < 5


class Impatient(DataDispatcherClient):
    """Gives up soon."""

    RetryBudget = 0.2
    InitialRetry = 0.05


@pytest.mark.parametrize(
    "call",
    [lambda client: client.version(), lambda client: client.next_file(1, timeout=0), lambda c: c.list_handles(1)],
)
def test_an_absent_service_is_a_503_after_the_budget(call: object) -> None:
    client = Impatient(URL, worker_id="w")
    with pytest.raises(api.ServerError) as refused:
        call(client)  # type: ignore[operator]
    assert refused.value.StatusCode == 503
    client.close()


# --- arguments that never reach a service ------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["", None, "x", "1.5", True])
def test_project_ids_that_are_none(bad: object) -> None:
    with pytest.raises(api.APIError) as refused:
        DataDispatcherClient(URL, worker_id="w").get_project(bad)  # type: ignore[arg-type]
    assert refused.value.StatusCode == 400


@pytest.mark.parametrize(
    "item", [{"namespace": "n"}, {"name": "n"}, ("n", "m"), 5, "no colon", {"namespace": 1, "name": "x"}]
)
def test_items_that_are_no_file(item: object) -> None:
    with pytest.raises(ValueError, match=r"expected|needed"):
        DataDispatcherClient(URL, worker_id="w").create_project([item])  # type: ignore[list-item]


@pytest.mark.parametrize("span", ["soon", "5 minutes", ""])
def test_spans_that_are_none(span: str) -> None:
    client = DataDispatcherClient(URL, worker_id="w")
    with pytest.raises(ValueError, match="is no span"):
        client.copy_project(1, worker_timeout=span)
    with pytest.raises(ValueError, match="is no span"):
        client.create_project([], idle_timeout=span)


def test_dids_without_colon() -> None:
    client = DataDispatcherClient(URL, worker_id="w")
    with pytest.raises(ValueError, match="namespace:name"):
        client.file_done(1, "file")


def test_leftovers() -> None:
    client = DataDispatcherClient(URL, worker_id="w")
    client.replica_available("n", "f", "RSE")
    client.get_file("n", "f")
    with pytest.raises(api.NotFoundError):
        client.replica_unavailable("n", "f", "RSE")
