from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import status_pb2

from drayman.client import errors
from drayman.client.errors import (
    DeadlineError,
    DraymanError,
    InvalidRequestError,
    OverloadedError,
    ServiceDefectError,
    UnavailableError,
    from_rpc_error,
)
from drayman.server.platform.errors import Refusal


def failed(code: grpc.StatusCode, details: str | None = "no", trailer: bytes | None = None) -> grpc.aio.AioRpcError:
    fields = [("grpc-status-details-bin", trailer)] if trailer is not None else []
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(("x", "y"), *fields), details)


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_code_has_its_class(code: grpc.StatusCode) -> None:
    error = from_rpc_error(failed(code))
    assert isinstance(error, DraymanError)
    assert type(error) is errors._CLASSES[code]
    assert (error.code, error.message, str(error), error.reason) == (code, "no", "no", "")
    assert (error.metadata, error.retry_after, error.field) == ({}, None, "")


def test_the_details_are_read() -> None:
    refusal = Refusal("OVERLOADED", "later", metadata={"a": "b"}, retry_after=2.25)
    error = from_rpc_error(failed(refusal.code, "later", refusal.details()))
    assert isinstance(error, OverloadedError)
    assert (error.reason, error.metadata, error.retry_after) == ("OVERLOADED", {"a": "b"}, 2.25)


def test_the_field_at_fault_is_read() -> None:
    refusal = Refusal("INVALID_FIELD", "bad", "a.b[2]")
    error = from_rpc_error(failed(refusal.code, "bad", refusal.details()))
    assert isinstance(error, InvalidRequestError)
    assert error.field == "a.b[2]"


@pytest.mark.parametrize(
    "trailer",
    [
        b"",
        b"\xff\xff",
        status_pb2.Status(details=[AnyMessage(type_url="type.googleapis.com/nobody.Knows", value=b"1")]),
        status_pb2.Status(details=[AnyMessage(type_url="type.googleapis.com/google.rpc.ErrorInfo", value=b"\xff")]),
        status_pb2.Status(details=[AnyMessage(type_url="rubbish")]),
    ],
)
def test_details_that_cannot_be_read_do_not_hide_the_error(trailer: Any) -> None:
    data = trailer if isinstance(trailer, bytes) else trailer.SerializeToString()
    error = from_rpc_error(failed(grpc.StatusCode.UNAVAILABLE, "away", data))
    assert isinstance(error, UnavailableError)
    assert (error.message, error.reason) == ("away", "")


def test_an_error_without_a_text_is_called_by_its_code() -> None:
    assert from_rpc_error(failed(grpc.StatusCode.DEADLINE_EXCEEDED, None)).message == "DEADLINE_EXCEEDED"


def test_an_error_without_trailers_is_read() -> None:
    error = grpc.aio.AioRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, None, None, "slow")
    assert isinstance(from_rpc_error(error), DeadlineError)


def test_what_threads_get_is_read_the_same_way() -> None:
    with (
        grpc.insecure_channel("127.0.0.1:1", options=[("grpc.enable_retries", 0)]) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        channel.unary_unary("/a.B/C")(b"", timeout=10)
    error = from_rpc_error(caught.value)
    assert isinstance(error, UnavailableError)
    assert error.message


def test_a_defect_of_the_service_is_told_from_a_failed_connection() -> None:
    assert isinstance(from_rpc_error(failed(grpc.StatusCode.INTERNAL)), ServiceDefectError)
