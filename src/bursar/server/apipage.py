"""A page about the API for people, made from the OpenAPI document; it needs no internet.

The rule that lives here: everything shown is in the document, everything is escaped, and the
page loads nothing from anywhere: no script, no font, no picture.
"""

from __future__ import annotations

import json
from html import escape
from typing import Any

from bursar.server.examples import BODIES, QUERIES

Json = dict[str, Any]
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""The Content-Security-Policy of the page: its own style and nothing else."""

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --mark: #2563eb; }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.55 system-ui, sans-serif; }
main, header { max-width: 62rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; }
h1 { margin: 0 0 .25rem; font-size: 2rem; }
h2 { margin: 3rem 0 .5rem; }
nav { columns: 16rem; margin: 1.5rem 0; padding: 1rem; border: 1px solid var(--line);
  border-radius: .5rem; }
nav a { display: block; text-decoration: none; break-inside: avoid; }
nav b { display: block; margin-top: .5rem; break-after: avoid; }
section { border: 1px solid var(--line); border-radius: .5rem; margin: 1rem 0; padding: 1rem; }
section > h3 { margin: 0; font: 600 1rem/1.6 ui-monospace, monospace; overflow-wrap: anywhere; }
section:target { border-color: var(--mark); }
.method { color: var(--mark); display: inline-block; min-width: 4.2rem; }
.who { float: right; font-size: .85rem; opacity: .75; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; margin: .5rem 0; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0;
  border-top: 1px solid var(--line); overflow-wrap: anywhere; }
code, pre { font-family: ui-monospace, monospace; font-size: .88rem; }
pre { background: var(--soft); padding: .75rem; border-radius: .4rem; overflow-x: auto; }
details { margin: .4rem 0; }
summary { cursor: pointer; font-weight: 600; }
.must { color: #c2410c; }
"""

_WHO = {"ApiKey": "API key", "AdminKey": "admin key"}


def page(document: Json) -> bytes:
    """Return the page for an OpenAPI document."""
    info = document["info"]
    operations = [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    body = [
        f"<header><h1>{escape(info['title'])} API</h1>",
        f"<p>{escape(info['description'])}</p>",
        f"<p>Version {escape(info['version'])}. The same for machines: "
        '<a href="/openapi.json">/openapi.json</a>.</p></header><main>',
        _contents(document, operations),
    ]
    for tag in document["tags"]:
        body.append(f"<h2>{escape(tag['name'])}</h2>")
        body += [
            _operation(document, path, method, operation)
            for path, method, operation in operations
            if tag["name"] in operation["tags"]
        ]
    body.append("<h2>Objects</h2>")
    schemas: Json = document["components"]["schemas"]
    body += [_object(name, schema) for name, schema in schemas.items()]
    head = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(info['title'])} API</title><style>{STYLE}</style>"
    )
    return f"{head}<body>{''.join(body)}</main></body></html>".encode()


def _contents(document: Json, operations: list[tuple[str, str, Json]]) -> str:
    parts = []
    for tag in document["tags"]:
        parts.append(f"<b>{escape(tag['name'])}</b>")
        parts += [
            f'<a href="#{escape(operation["operationId"])}">{escape(operation["operationId"])}</a>'
            for _, _, operation in operations
            if tag["name"] in operation["tags"]
        ]
    return f"<nav>{''.join(parts)}</nav>"


def _operation(document: Json, path: str, method: str, operation: Json) -> str:
    name = operation["operationId"]
    who = " or ".join(_WHO[scheme] for one in operation["security"] for scheme in one) or "anybody"
    parts = [
        f'<section id="{escape(name)}"><span class="who">{escape(who)}</span>',
        f'<h3><span class="method">{method.upper()}</span> {escape(path)}</h3>',
        f"<p>{escape(operation['summary'])}</p>",
    ]
    if operation["parameters"]:
        rows = [
            (one["name"], one["required"], _kind(one["schema"])) for one in operation["parameters"]
        ]
        parts.append(_table("parameter", rows))
    body = _model(operation.get("requestBody"))
    if body is not None:
        parts.append(f"<p>Body: {_link(body)}</p>")
        parts.append(_fields(document["components"]["schemas"][body]))
    parts.append(f"<pre>{escape(_curl(path, method, operation))}</pre>")
    parts.append(_answers(operation))
    return "".join(parts) + "</section>"


def _answers(operation: Json) -> str:
    rows = []
    for status, answer in operation["responses"].items():
        model = _model(answer)
        shown = "" if model is None else _link(model)
        rows.append(
            f"<tr><td><code>{escape(status)}</code><td>{shown}"
            f"<td>{escape(answer['description'])}</tr>"
        )
    return f"<details><summary>Answers</summary><table>{''.join(rows)}</table></details>"


def _object(name: str, schema: Json) -> str:
    about = f"<p>{escape(schema.get('description', ''))}</p>"
    return f'<section id="{escape(name)}"><h3>{escape(name)}</h3>{about}{_fields(schema)}</section>'


def _fields(schema: Json) -> str:
    required = schema.get("required", [])
    rows = [
        (name, name in required, _kind(one)) for name, one in schema.get("properties", {}).items()
    ]
    return _table("field", rows) if rows else f"<p>{_kind(schema)}</p>"


def _table(what: str, rows: list[tuple[str, bool, str]]) -> str:
    shown = "".join(
        f"<tr><td><code>{escape(name)}</code>"
        f"{' <span class=must>required</span>' if must else ''}<td>{kind}</tr>"
        for name, must, kind in rows
    )
    return f"<table><tr><th>{what}<th>value</tr>{shown}</table>"


def _kind(schema: Json) -> str:
    """Return what a value may be, in words, escaped."""
    if "$ref" in schema:
        return _link(schema["$ref"].rpartition("/")[2])
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"] if one != {"type": "null"})
    if "enum" in schema:
        return "one of " + ", ".join(f"<code>{escape(str(one))}</code>" for one in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(str(schema['const']))}</code>"
    words = [escape(schema.get("format") or schema.get("type", "any JSON value"))]
    if schema.get("type") == "array":
        words = [f"list of {_kind(schema.get('items', {}))}"]
    limits = {
        "minLength": "at least {} characters",
        "maxLength": "at most {} characters",
        "minItems": "at least {} items",
        "maxItems": "at most {} items",
        "minimum": "from {}",
        "maximum": "up to {}",
        "pattern": "like {}",
        "default": "by default {}",
    }
    words += [
        escape(text.format(schema[name]))
        for name, text in limits.items()
        if schema.get(name) is not None
    ]
    if "description" in schema:
        words.append(escape(schema["description"]))
    return ", ".join(words)


def _link(model: str) -> str:
    return f'<a href="#{escape(model)}"><code>{escape(model)}</code></a>'


def _model(part: Json | None) -> str | None:
    if part is None or "content" not in part:
        return None
    schema: Json = part["content"].get("application/json", {}).get("schema", {})
    return str(schema.get("$ref", "")).rpartition("/")[2] or None


def _curl(path: str, method: str, operation: Json) -> str:
    """Return a command line that calls the operation as it stands."""
    name = operation["operationId"]
    body = BODIES.get(name)
    by_operator = {"ApiKey": []} not in operation["security"] or "tenant_id" in (body or {})
    by_operator = by_operator or "tenant_id" in QUERIES.get(name, "")
    header, variable = (
        ("X-Admin-API-Key", "BURSAR_ADMIN_KEY")
        if by_operator
        else ("X-Cycles-API-Key", "CYCLES_API_KEY")
    )
    for one in operation["parameters"]:
        if one["in"] == "path":
            path = path.replace(f"{{{one['name']}}}", f"${one['name'].upper()}")
    query = f"?{QUERIES[name]}" if name in QUERIES else ""
    lines = [f'curl -X {method.upper()} "$CYCLES_BASE_URL{path}{query}"']
    lines.append(f'  -H "{header}: ${variable}"')
    if body is not None:
        lines.append('  -H "Content-Type: application/json"')
        lines.append(f"  -d '{json.dumps(body)}'")
    return " \\\n".join(lines)
