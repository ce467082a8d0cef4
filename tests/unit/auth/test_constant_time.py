"""Nothing secret is compared by anything whose time tells how much of it was right."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from drayman.client import challenge
from drayman.server import auth, platform

FILES = [
    *sorted(Path(auth.__file__).parent.glob("*.py")),
    *sorted(Path(platform.__file__).parent.glob("*.py")),
    Path(challenge.__file__),
]

#: A name with one of these among its words is taken for something secret.
SECRET_WORDS = frozenset((
    *("hash", "hashes", "ha1", "digest", "response", "rspauth", "nonce", "cnonce"),
    *("signature", "sig", "mac", "hmac", "expected", "presented", "proved", "proof"),
    *("secret", "secrets", "token", "tokens", "password", "passwords", "bearer", "jwt", "refresh", "key", "keys"),
))  # fmt: skip
#: A name that ends so says something about a secret that anybody may know.
PUBLIC_ENDINGS = frozenset(("id", "ids"))

#: Methods that compare, and stop at the first difference.
STOPPING = frozenset(("startswith", "endswith", "index", "find", "count", "get", "pop", "setdefault", "__eq__"))

#: File and comparison -> why it gives nothing away. Whatever is not here has to use hmac.compare_digest.
ALLOWED: dict[tuple[str, str], str] = {
    ("calls.py", "header[:len(_BEARER)].lower() == _BEARER"): "the scheme that stands before the token",
    ("embedded.py", "found.st_uid != expected"): "the owner of a folder",
    ("tls.py", "_encoded(public) != _encoded(leaf.public_key())"): "public keys",
    (
        "token_proof.py",
        "_claimed_issuer(credential.token) == self._issuer",
    ): "the issuer, which every token names in the clear",
    (
        "tokens.py",
        "self._known.get(token)",
    ): "by a keyed hash of the whole text; only what is found is compared, and was right",
    ("tokens.py", "self._known.pop(token, None)"): "a token that was verified before, no caller's",
    ("trust_feed.py", "keys != self._key_set_told"): "the published keys",
    (
        "user_import.py",
        "stored.get(secret.algorithm) != secret",
    ): "for administrators, who are told the outcome in words",
    ("user_servicer.py", "secret.algorithm in secrets"): "algorithms, by which the hashes are sorted",
}


def names(node: ast.AST) -> Iterator[str]:
    """The names that say what a value is: of `row["ha1"].encode()` that is `ha1`, of `secret.realm` it is `realm`."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            yield name
        case (
            ast.Subscript(slice=ast.Constant(value=str(name)))
            | ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=str(name)), *_])
        ):
            yield name
        case ast.Call(func=ast.Attribute(value=value, attr=name)):
            yield name
            for each in (value, *node.args):
                yield from names(each)
        case _:
            for each in ast.iter_child_nodes(node):
                yield from names(each)


def is_secret(node: ast.expr) -> bool:
    """Whether it is called secret. A mere `key` is one of a mapping; keys of ciphers are called `own_key`, `_key` and the like."""
    return any(
        SECRET_WORDS & set(parts) and parts[-1] not in PUBLIC_ENDINGS and parts not in (["key"], ["keys"])
        for parts in (name.lower().split("_") for name in names(node))
    )


def is_public(node: ast.expr) -> bool:
    """Whether it is a length or a truth value, or a constant that anybody may know: an empty text, None, a number."""
    match node:
        case ast.Call(func=ast.Name(id="len" | "bool")):
            return True
        case ast.Constant(value=value):
            return not isinstance(value, str | bytes) or len(value) < 2
    return False


def comparisons(tree: ast.AST) -> Iterator[str]:
    """Comparisons of values in which a name says that it is secret, and calls that compare likewise."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            for operator, left, right in zip(node.ops, sides[:-1], sides[1:], strict=True):
                telling = isinstance(operator, ast.Eq | ast.NotEq | ast.In | ast.NotIn)
                public = is_public(left) or is_public(right)
                if telling and not public and (is_secret(left) or is_secret(right)):
                    yield ast.unparse(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in STOPPING and any(is_secret(argument) for argument in node.args):
                yield ast.unparse(node)
        elif isinstance(node, ast.Match) and is_secret(node.subject):
            yield f"match {ast.unparse(node.subject)}"


def found() -> dict[tuple[str, str], None]:
    return {(path.name, comparison): None for path in FILES for comparison in comparisons(ast.parse(path.read_text()))}


def test_nothing_secret_is_compared_with_an_operator() -> None:
    telling = [f"{file}: {comparison}" for file, comparison in found() if (file, comparison) not in ALLOWED]
    assert telling == [], "use hmac.compare_digest, or say in ALLOWED why the time of this tells nothing"


def test_what_is_allowed_is_still_there() -> None:
    """An exception that nobody needs any more would let the next comparison through."""
    assert [known for known in ALLOWED if known not in found()] == []


@pytest.mark.parametrize(
    "code",
    [
        "stored.refresh_hash == token.hash",
        "response != expected_response",
        "token in known",
        "a == b == nonce_signature",
        'row["ha1"] == given',
        "not (secret == other)",
        "base64.b64decode(signature) == x",
        "stored.startswith(password)",
    ],
)
def test_the_look_out_sees_such_comparisons(code: str) -> None:
    assert list(comparisons(ast.parse(code))) != []


@pytest.mark.parametrize(
    "code",
    [
        "hmac.compare_digest(a.hash, b.hash)",
        "len(token) == 3",
        'token == ""',
        "secret is None",
        "name == user",
        "for_all[key] == 7",
    ],
)
def test_the_look_out_lets_these_be(code: str) -> None:
    assert list(comparisons(ast.parse(code))) == []
