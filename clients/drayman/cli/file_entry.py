"""A file of a new project, as JSON has it. Needs nothing that a worker does not install."""

from __future__ import annotations

from drayman.cli.json_values import json_value
from drayman.client.files import File

_OBJECT = '{"namespace": text, "name": text, "attributes": object}'


def file_object(item: object) -> File:
    """Read an object with `namespace`, `name` and perhaps `attributes`. Raises ValueError that says what is expected."""
    record = item if isinstance(item, dict) else {}
    namespace, name, attributes = record.get("namespace"), record.get("name"), record.get("attributes") or {}
    if not isinstance(namespace, str) or not isinstance(name, str) or not isinstance(attributes, dict):
        raise ValueError(f"expected {_OBJECT}")  # noqa: TRY004 - a wrong value for the user
    return File(namespace, name, attributes)


def file_array(text: str) -> list[File]:
    """Read a JSON array of such objects and of `"namespace:name"`. Raises ValueError that names the entry."""
    found = json_value(text)
    if not isinstance(found, list):
        raise ValueError("expected a JSON array of files")  # noqa: TRY004 - a wrong value for the user
    files = []
    for number, item in enumerate(found, 1):
        try:
            files.append(File.of(item) if isinstance(item, str) else file_object(item))
        except ValueError as error:
            raise ValueError(f"entry {number}: {error}") from error
    return files
