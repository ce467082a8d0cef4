"""Data Dispatcher's client, speaking to Drayman: the same class, methods, arguments, defaults and results.

    from drayman.data_dispatcher.api import DataDispatcherClient

    client = DataDispatcherClient("grpc://dispatch.example.org:8600")
    client.login_digest("ann", password)
    project = client.create_project(["run7:a.root", "run7:b.root"], project_attributes={"virtual": True})
    while isinstance(file := client.next_file(project["project_id"]), dict):
        client.file_done(project["project_id"], f"{file['namespace']}:{file['name']}")

Section numbers in docstrings are those of Data Dispatcher's description of behaviour.
"""

from __future__ import annotations

from drayman.data_dispatcher.exceptions import (
    APIError,
    AuthenticationError,
    MCError,
    NotFoundError,
    ServerError,
    TimeoutError,  # noqa: A004 - the documented name
    WebAPIError,
)
from drayman.data_dispatcher.histories import HistoryCalls
from drayman.data_dispatcher.logins import LoginCalls
from drayman.data_dispatcher.projects import ProjectCalls
from drayman.data_dispatcher.storage import StorageCalls
from drayman.data_dispatcher.workers import WorkerCalls

__all__ = [
    "APIError",
    "AuthenticationError",
    "DataDispatcherClient",
    "MCError",
    "NotFoundError",
    "ServerError",
    "TimeoutError",
    "WebAPIError",
]


class DataDispatcherClient(ProjectCalls, WorkerCalls, StorageCalls, HistoryCalls, LoginCalls):
    """A client of the dispatch service. Threads may share it; a forked process connects anew; it can be pickled.

    Arguments (section 1.1):

    * server_url - `grpc://host:port`, `grpcs://` for TLS (`http` and `https` are taken for these); None = `DATA_DISPATCHER_URL`,
      else `DRAYMAN_URL`.
    * auth_server_url - where logins go; None = `DATA_DISPATCHER_AUTH_URL`, else server_url + `/auth`, which is the same server.
    * worker_id - None = what the worker-id file holds, else a generated id, which is then written to that file (section 1.2).
    * worker_id_file - None = `.data_dispatcher_worker_id` in the working directory.
    * token - encoded session token (str or bytes) or an object that encodes to one; dropped if it has expired.
    * token_file - file whose content is an encoded token. A newer one is noticed.
    * token_library - path of the token library; None = the search of section 1.3. The key is server_url literally. Before it
      `DRAYMAN_TOKEN` is looked at. A newer token in the library is noticed.
    * cpu_site - site sent by next_file if that gets none.
    * timeout - how long a call waits for its answer, in seconds; 0 or None = 300.

    Attributes: `ServerURL`, `AuthURL`, `WorkerID`, `CPUSite`, `Timeout`, `Token` (encoded, or None) and `TokenLib`; of the class
    `DefaultWorkerIDFile`, `DEFAULT_IDLE_TIMEOUT` (s), `RetryBudget` (s), `InitialRetry` (s) and `RetryExponent`.

    Raises TypeError if no URL is known, OSError if a needed token file cannot be read. Nothing is connected before the first call.

    Calls are sent again, and logins begun anew, while no service answers or all are overloaded, after random growing pauses, for up to
    `RetryBudget` seconds; then ServerError with status 503 is raised, and TimeoutError if an answer takes longer
    than `timeout`. Everything that the client raises about a call is an APIError, with `StatusCode`, `Message` and `URL` (section 4).
    """
