"""Who may call what. Where it depends on whom a request names (oneself or another), the servicer decides."""

from __future__ import annotations

from drayman.server.platform.calls import Access

AUTH_SERVICE: dict[str, Access] = {
    "GetChallenge": Access.PUBLIC,
    "Login": Access.PUBLIC,
    "GetAuthInfo": Access.USER,
    "GetKeySet": Access.PUBLIC,
}

USER_SERVICE: dict[str, Access] = {
    "CreateUser": Access.ADMIN,
    "GetUser": Access.USER,  # oneself; others: administrators
    "ListUsers": Access.ADMIN,
    "UpdateUser": Access.ADMIN,
    "DeleteUser": Access.ADMIN,
    "SetPassword": Access.USER,  # oneself; others: administrators
    "CreateRole": Access.ADMIN,
    "ListRoles": Access.USER,
    "UpdateRole": Access.ADMIN,
    "DeleteRole": Access.ADMIN,
    "CheckNames": Access.USER,
    "IssueToken": Access.ADMIN,
    "RotateSigningKey": Access.ADMIN,
}
