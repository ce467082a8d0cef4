"""What gRPC tells of a connection, for connections that no test can have: from another machine, say."""


class Connection:
    """`peer` and `security` as gRPC calls them."""

    def __init__(self, peer: str, security: bytes = b"insecure") -> None:
        self._peer = peer
        self._security = security

    def peer(self) -> str:
        return self._peer

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"transport_security_type": [self._security]}
