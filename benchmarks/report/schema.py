"""Reports that were written before: read, and checked against `report.schema.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

from ssmt_edge.errors import DataError

VERSION = 2
_PYTHON: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
}


@cache
def schema() -> dict[str, Any]:
    """The schema of reports as JSON values (JSON Schema, draft 2020-12)."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("report.schema.json").read_text(encoding="utf-8"))
    return found


def read_report(path: Path) -> dict[str, Any]:
    """A report of this version.

    Args:
        path: report.json, or the folder that holds one.

    Raises:
        DataError: it cannot be read, is of another version, or is not as the schema says.
    """
    file = path / "report.json" if path.is_dir() else path
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}; give a report.json that bench wrote") from None
    except (ValueError, RecursionError):  # JSON, UTF-8, brackets in brackets
        raise DataError(f"{file} is not JSON; give a report.json that bench wrote") from None
    version = report.get("schema") if isinstance(report, dict) else None
    if version != VERSION:
        came = "is no report of bench" if version is None else f"is a report of schema {version}"
        raise DataError(f"{file} {came}, expected schema {VERSION}; run `ssmt-edge bench` of this version again")
    wrong = next(violations(report, schema()), None)
    if wrong:
        raise DataError(f"{file} is damaged: {wrong}; run `ssmt-edge bench` again")
    return report


def violations(value: Any, rule: dict[str, Any], where: str = "the report") -> Iterator[str]:
    """Where `value` breaks `rule`, by those words of JSON Schema that `report.schema.json` uses."""
    if "$ref" in rule:
        yield from violations(value, schema()["$defs"][rule["$ref"].rpartition("/")[2]], where)
        return
    if "anyOf" in rule:
        found = [list(violations(value, choice, where)) for choice in rule["anyOf"]]
        if all(found):
            yield found[0][0]
        return
    names = rule.get("type", [])
    if names and not any(_is(value, name) for name in ([names] if isinstance(names, str) else names)):
        yield f"{where} is {_short(value)}, expected {names if isinstance(names, str) else ' or '.join(names)}"
        return
    if "const" in rule and value != rule["const"]:
        yield f"{where} is {_short(value)}, expected {rule['const']}"
    if "enum" in rule and value not in rule["enum"]:
        yield f"{where} is {_short(value)}, expected one of {', '.join(rule['enum'])}"
    if isinstance(value, dict):
        yield from _object(value, rule, where)
    elif isinstance(value, list):
        yield from _array(value, rule, where)
    elif isinstance(value, str):
        if len(value) < rule.get("minLength", 0):
            yield f"{where} is empty"
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        low, above, high = rule.get("minimum"), rule.get("exclusiveMinimum"), rule.get("maximum")
        if (
            (low is not None and value < low)
            or (above is not None and value <= above)
            or (high is not None and value > high)
        ):
            yield f"{where} is {_short(value)}, which is out of range"


def _object(value: dict[str, Any], rule: dict[str, Any], where: str) -> Iterator[str]:
    yield from (f"{where} lacks {name!r}" for name in rule.get("required", ()) if name not in value)
    for name, inner in value.items():
        expected = rule.get("properties", {}).get(name) or rule.get("additionalProperties")
        if expected:
            yield from violations(inner, expected, f"{where}: {name}" if where == "the report" else f"{where}.{name}")


def _array(value: list[Any], rule: dict[str, Any], where: str) -> Iterator[str]:
    least, most = rule.get("minItems", 0), rule.get("maxItems", len(value))
    if not least <= len(value) <= most:
        yield (
            f"{where} holds {len(value)} values, expected {least} or more"
            if len(value) < least
            else (f"{where} holds {len(value)} values, expected at most {most}")
        )
    for i, inner in enumerate(value):
        yield from violations(inner, rule.get("items", {}), f"{where}[{i}]")


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    if isinstance(value, float) and not isfinite(value):  # Python reads NaN, JSON does not know it
        return False
    return isinstance(value, _PYTHON[name]) or (name == "integer" and isinstance(value, float) and value.is_integer())


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
