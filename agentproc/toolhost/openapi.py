"""HTTP API tools from an OpenAPI document (3.x, JSON or YAML): one tool for each operation.

The key goes where the document's security scheme says, and only to the document's server, for which
the caller needs the right ``network.connect``. Redirects are not followed. The agent sees neither
the key nor a parameter for it.
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode, urlsplit

from aios.reference import target
from aios.syscalls import codec
from aios.syscalls.errors import InvalidArgument, ResourceExhausted, ToolFailed
from aios.syscalls.errors import ToolUnavailable as Unusable
from aios.syscalls.types.tool import MAX_JSON_BYTES, ToolSpec

from .document import load
from .reach import Reach, canonical_name
from .schema import compile_check
from .secrets import Secrets

_METHODS = ("get", "put", "post", "delete", "patch", "head", "options")
_TIMEOUT_S = 25.0
_MAX_REFS = 1000
"""Limit on the references of one operation."""
_STYLES = ("form", "simple")
_HEADER_TEXT = re.compile(r"[\x20-\x7e\xa0-\xff]+")


class _Argument(NamedTuple):
    """An argument of an operation. ``place``: path, query, header or body."""

    place: str
    schema: dict[str, Any]
    required: bool


class Operation:
    """A tool that performs one operation."""

    def __init__(self, spec: ToolSpec, method: str, path: str, places: dict[str, str], api: Api):
        self.spec = spec
        self._method, self._path, self._places, self._api = method, path, places, api
        self._check = compile_check(spec.name, json.loads(spec.parameters))

    def run(self, arguments: str) -> str:
        """Make the request. Return the response body as JSON text. Raises AiosError."""
        values = self._check(arguments)
        path, query, headers, body = self._path, [], {}, None
        for name, value in values.items():
            place = self._places[name]
            if place == "path":
                path = path.replace(f"{{{name}}}", quote(_text(value), safe=""))
            elif place == "query":
                items = value if isinstance(value, list) else [value]
                query += [(name, _text(item)) for item in items]
            elif place == "header":
                headers[name] = _text(value)
            else:
                body = json.dumps(value)
        return self._api.request(self.spec.name, self._method, path, query, headers, body)


class Api:
    """The server of an API, and the key for it."""

    def __init__(self, config: dict[str, Any], document: dict[str, Any], reach: Reach) -> None:
        servers = document.get("servers") or [{}]
        url = config.get("base_url") or servers[0].get("url", "")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Unusable(f"{url!r} is not the URL of an API", "give one: aios tool add --url URL")
        self._parts, self._secrets = parts, Secrets()
        self._host, self._reach = canonical_name(parts.hostname), reach
        self._secret = config.get("secret") or ""
        schemes = document.get("components", {}).get("securitySchemes", {})
        scheme = next(iter(schemes.values()), {"type": "http", "scheme": "bearer"})
        self._scheme = _resolved(document, scheme)
        if self._scheme.get("in") == "cookie":
            raise Unusable("its key is a cookie, which is not supported")

    def signs(self, name: str, place: str) -> bool:
        """Return True if the key goes there, so that the agent must not give a value."""
        named = self._scheme.get("type") == "apiKey"
        there = self._scheme.get("in") if named else "header"
        called = self._scheme["name"] if named else "Authorization"
        return bool(self._secret) and place == there and name.lower() == called.lower()

    def request(
        self,
        name: str,
        method: str,
        path: str,
        query: list[tuple[str, str]],
        headers: dict[str, str],
        body: str | None,
    ) -> str:
        """Send a request.

        Raises ToolFailed, ToolUnavailable, ResourceExhausted, PermissionDenied.
        """
        self._reach(self._host)
        headers = {**headers, "Accept": "application/json", "User-Agent": "aios"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._secret:
            self._sign(query, headers)
        target = self._parts.path.rstrip("/") + path + (f"?{urlencode(query)}" if query else "")
        try:
            return self._answer(name, method, target, headers, body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = self._secrets.hide(str(error)) or type(error).__name__
            raise ToolFailed(f"{name}: no response: {reason}") from None

    def _sign(self, query: list[tuple[str, str]], headers: dict[str, str]) -> None:
        key = self._secrets.get(self._secret)
        if self._scheme.get("type") == "apiKey" and self._scheme.get("in") == "query":
            query.append((self._scheme["name"], key))
            return
        if not _HEADER_TEXT.fullmatch(key):
            raise Unusable(
                f"the key {self._secret!r} has characters that cannot be sent in a header",
                f"store it again: aios tool secret {self._secret}",
            )
        if self._scheme.get("type") == "apiKey":
            headers[self._scheme["name"]] = key
        elif self._scheme.get("scheme") == "basic":
            headers["Authorization"] = f"Basic {key}"
        else:
            headers["Authorization"] = f"Bearer {key}"

    def _answer(
        self, name: str, method: str, target: str, headers: dict[str, str], body: str | None
    ) -> str:
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        port = self._parts.port or kind.default_port
        connection = kind(self._host, port, timeout=_TIMEOUT_S)
        try:
            connection.request(method.upper(), target, body, headers)
            response = connection.getresponse()
            data = response.read(MAX_JSON_BYTES + 1)
        finally:
            connection.close()
        text = self._secrets.hide(data.decode("utf-8", "replace"))
        if response.status >= 300:
            raise ToolFailed(f"{name}: HTTP {response.status}: {text[:2000]}")
        if len(data) > MAX_JSON_BYTES:
            raise ResourceExhausted(
                f"{name}: the response is longer than {MAX_JSON_BYTES:,} bytes", "ask for less"
            )
        try:
            return json.dumps(json.loads(text))
        except ValueError:
            return json.dumps(text)


def tools(config: dict[str, Any], reach: Reach) -> dict[str, Operation]:
    """Return the tools of a document. Raises ToolUnavailable with the reason."""
    path = Path(config["path"])
    try:
        document = load(path)
        if not isinstance(document, dict) or not str(document.get("openapi", "")).startswith("3"):
            raise Unusable(f"{path} is not an OpenAPI 3 document", "convert it to OpenAPI 3")
        api = Api(config, document, reach)
        made = list(_operations(document, api, bool(config.get("trust_hints"))))
    except OSError as error:
        raise Unusable(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise Unusable(
            f"{path} is not a valid OpenAPI document: {type(error).__name__}: {error}"
        ) from None
    except InvalidArgument as error:
        raise Unusable(f"{path}: {error.message}", error.hint) from None
    if not made:
        raise Unusable(f"{path} has no operations")
    return {each.spec.name: each for each in made}


def _operations(document: dict[str, Any], api: Api, trusting: bool) -> Iterator[Operation]:
    for path, item in document.get("paths", {}).items():
        item = _resolved(document, item)
        for method in _METHODS:
            operation = item.get(method)
            if operation is not None:
                shared = item.get("parameters", [])
                try:
                    yield _operation(document, api, path, method, operation, shared, trusting)
                except ValueError as error:
                    raise ValueError(f"{method.upper()} {path}: {error}") from None


def _operation(
    document: dict[str, Any],
    api: Api,
    path: str,
    method: str,
    operation: dict[str, Any],
    shared: list[Any],
    trusting: bool,
) -> Operation:
    arguments = _arguments(document, api, [*shared, *operation.get("parameters", [])])
    undeclared = sorted(set(re.findall(r"{([^{}]*)}", path)) - arguments.keys())
    if undeclared:
        raise ValueError(f"the path's parameter {undeclared[0]!r} is not declared")
    if body := _body(document, operation):
        arguments["body"] = body
    parameters = {
        "type": "object", "properties": {name: each.schema for name, each in arguments.items()},
        "required": [name for name, each in arguments.items() if each.required],
        "additionalProperties": False,
    }  # fmt: skip
    reads = trusting and method in ("get", "head", "options")
    spec = codec.convert({
        "name": _name(operation.get("operationId") or f"{method}_{path}"),
        "description": operation.get("summary") or operation.get("description") or "",
        "parameters": json.dumps(
            _with_definitions(document, parameters), allow_nan=False
        ),
        "effect": "read" if reads else "irreversible", "idempotent": reads,
    }, ToolSpec)  # fmt: skip
    places = {name: each.place for name, each in arguments.items()}
    return Operation(spec, method, path, places, api)


def _arguments(document: dict[str, Any], api: Api, declared: list[Any]) -> dict[str, _Argument]:
    """Return the arguments of the declared parameters that the agent gives. Raises ValueError."""
    found: dict[str, _Argument] = {}
    for parameter in (_resolved(document, each) for each in declared):
        name, place = parameter["name"], parameter["in"]
        if place == "cookie" or name.lower() in ("authorization", "host", "cookie"):
            if parameter.get("required") and place == "cookie":
                raise ValueError(f"the parameter {name!r} is a cookie, which is not supported")
            continue
        if api.signs(name, place):
            continue
        if "content" in parameter or parameter.get("style", "form") not in _STYLES:
            raise ValueError(f"the parameter {name!r} has a content or style that is not supported")
        schema = dict(parameter.get("schema") or {"type": "string"})
        if "description" in parameter:
            schema.setdefault("description", parameter["description"])
        required = parameter.get("required") or place == "path"
        required = required or (name in found and found[name].required)
        found[name] = _Argument(place, schema, bool(required))
    return found


def _body(document: dict[str, Any], operation: dict[str, Any]) -> _Argument | None:
    """Return the argument for an operation's body, None if it has no body. Raises ValueError."""
    body = _resolved(document, operation.get("requestBody") or {})
    content = body.get("content", {}).get("application/json")
    if content is not None:
        return _Argument("body", content.get("schema", {}), bool(body.get("required")))
    if body.get("content"):
        kinds = ", ".join(body["content"])
        raise ValueError(f"a body of {kinds[:200]} is not supported, only application/json")
    return None


def _name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-")[:64] or "operation"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _resolved(document: dict[str, Any], node: Any) -> Any:
    """Return the node, or the node that it refers to."""
    for _ in range(16):
        reference = node.get("$ref")
        if reference is None:
            return node
        node = target(reference, document)
    raise ValueError("references form a cycle")


def _with_definitions(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return a self-contained schema: referenced nodes are copied into ``$defs``."""
    definitions: dict[str, Any] = {}
    names: dict[str, str] = {}
    todo: list[str] = []

    def rewrite(node: Any) -> Any:
        if isinstance(node, list):
            return [rewrite(each) for each in node]
        if not isinstance(node, dict):
            return node
        reference = node.get("$ref")
        if isinstance(reference, str):
            if reference not in names:
                names[reference] = f"{_name(reference.rpartition('/')[2])}-{len(names)}"
                todo.append(reference)
            return {"$ref": f"#/$defs/{names[reference]}"}
        return {key: rewrite(value) for key, value in node.items()}

    made: dict[str, Any] = rewrite(schema)
    while todo:
        if len(names) > _MAX_REFS:
            raise ValueError(f"more than {_MAX_REFS} references")
        reference = todo.pop()
        definitions[names[reference]] = rewrite(target(reference, document))
    return {**made, "$defs": definitions} if definitions else made
