"""The asyncio client of auth: logins and sessions as `drayman.client.logins` has them, users and roles as `drayman.client.users` does."""

from __future__ import annotations

from drayman.client.logins import LoginCalls
from drayman.client.users import Role, Secret, User, UserClient

__all__ = ["AuthClient", "Role", "Secret", "User"]


class AuthClient(LoginCalls, UserClient):
    """Logs in, and administers users and roles. Methods raise DraymanError."""
