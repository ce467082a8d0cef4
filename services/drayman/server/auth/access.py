"""Who may call which RPC of auth. Where it depends on whom a request names (oneself or another), the servicer decides."""

from drayman.server.platform.calls import Access, Rule

_SELF = "oneself; others: administrators"

AUTH_SERVICE = {
    "GetLoginOptions": Rule(Access.PUBLIC),
    "GetChallenge": Rule(Access.PUBLIC),
    "Login": Rule(Access.PUBLIC, "who proves an identity"),
    "RefreshSession": Rule(Access.PUBLIC, "who has the session's refresh token"),
    "Logout": Rule(Access.USER, "one's own session"),
    "GetAuthInfo": Rule(Access.USER),
    "GetKeySet": Rule(Access.PUBLIC),
}

SESSION_SERVICE = {
    "ListSessions": Rule(Access.USER, _SELF),
    "RevokeSessions": Rule(Access.USER, _SELF),
}

TRUST_SERVICE = {
    "WatchTrust": Rule(Access.SERVICE),
}

USER_SERVICE = {
    "CreateUser": Rule(Access.ADMIN),
    "GetUser": Rule(Access.USER, _SELF),
    "ListUsers": Rule(Access.ADMIN),
    "UpdateUser": Rule(Access.ADMIN),
    "DeleteUser": Rule(Access.ADMIN),
    "SetPassword": Rule(Access.USER, _SELF),
    "CreateRole": Rule(Access.ADMIN),
    "ListRoles": Rule(Access.USER),
    "UpdateRole": Rule(Access.ADMIN),
    "DeleteRole": Rule(Access.ADMIN),
    "CheckNames": Rule(Access.USER),
    "UpdateIdentities": Rule(Access.ADMIN),
    "ImportUsers": Rule(Access.ADMIN),
    "IssueToken": Rule(Access.ADMIN),
    "RotateSigningKey": Rule(Access.ADMIN),
}

SECRET_SERVICE = {
    "SetSecret": Rule(Access.USER, "one's own"),
    "DeleteSecrets": Rule(Access.USER, "one's own"),
    "ListSecrets": Rule(Access.USER, "one's own"),
    "ReencryptSecrets": Rule(Access.ADMIN),
    "DeliverSecrets": Rule(Access.SERVICE),
}

AUDIT_SERVICE = {
    "ListAuditEvents": Rule(Access.ADMIN),
}

TABLES = {
    "drayman.auth.v1.AuthService": AUTH_SERVICE,
    "drayman.auth.v1.SessionService": SESSION_SERVICE,
    "drayman.auth.v1.TrustService": TRUST_SERVICE,
    "drayman.auth.v1.UserService": USER_SERVICE,
    "drayman.auth.v1.SecretService": SECRET_SERVICE,
    "drayman.auth.v1.AuditService": AUDIT_SERVICE,
}
