"""The Data Dispatcher mirror: `drayman.data_dispatcher.api.DataDispatcherClient` and what it raises."""

from drayman.data_dispatcher.api import (
    APIError,
    AuthenticationError,
    DataDispatcherClient,
    MCError,
    NotFoundError,
    ServerError,
    TimeoutError,  # noqa: A004 - the documented name
    WebAPIError,
)

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
