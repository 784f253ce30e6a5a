"""As much of JSON Schema as the server's own document uses: to hold the server's answers against what it publishes."""

import re
from collections.abc import Iterator
from typing import Any, cast

_KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}
_KNOWN = {
    *("type", "const", "enum", "oneOf", "anyOf", "$ref", "discriminator", "properties", "required", "items", "pattern"),
    *("additionalProperties", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "maxProperties"),
    *("description", "default", "contentMediaType"),
}


class Checker:
    """Holds values against the schemas of a document."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._operations: dict[str, dict[str, Any]] = {
            methods[method]["operationId"]: methods[method]
            for methods in document["paths"].values()
            for method in ("get", "post", "delete")
            if method in methods
        }

    def answer_of(self, operation_id: str) -> dict[str, Any]:
        return self._operations[operation_id]["responses"]["200"]["content"]["application/json"]["schema"]

    def problems(self, value: object, name: str) -> list[str]:
        return list(self.differences(value, {"$ref": f"#/components/schemas/{name}"}))

    def differences(self, value: Any, schema: dict[str, Any], path: str = "") -> Iterator[str]:
        where = path or "it"
        assert schema.keys() <= _KNOWN, schema.keys() - _KNOWN
        if "$ref" in schema:
            found: Any = self._document
            for key in str(schema["$ref"]).removeprefix("#/").split("/"):
                found = found[key]
            yield from self.differences(value, found, path)
        if "oneOf" in schema:
            fitting = sum(not list(self.differences(value, each, path)) for each in schema["oneOf"])
            if fitting != 1:
                yield f"{where} fits {fitting} of {len(schema['oneOf'])}: {value!r:.200}"
        if "anyOf" in schema and all(list(self.differences(value, each, path)) for each in schema["anyOf"]):
            yield f"{where} fits none of {len(schema['anyOf'])}: {value!r:.200}"
        if "type" in schema:
            kinds = cast("list[str]", schema["type"] if isinstance(schema["type"], list) else [schema["type"]])
            fits = any(isinstance(value, _KINDS[kind]) for kind in kinds)
            if not fits or (isinstance(value, bool) and "boolean" not in kinds):
                yield f"{where} is {value!r:.100}, not of type {' or '.join(kinds)}"
                return
        if "const" in schema and value != schema["const"]:
            yield f"{where} is {value!r:.100}, not {schema['const']!r}"
        if "enum" in schema and value not in schema["enum"]:
            yield f"{where} is {value!r:.100}, none of {schema['enum']}"
        if isinstance(value, dict):
            yield from self._in_object(cast("dict[str, Any]", value), schema, path)
        elif isinstance(value, list):
            yield from self._in_array(cast("list[Any]", value), schema, path)
        elif isinstance(value, str):
            if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
                yield f"{where} has {len(value)} characters"
            if "pattern" in schema and not re.search(schema["pattern"], value):
                yield f"{where} is {value!r:.100}, not {schema['pattern']}"
        elif isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get(
            "maximum", value
        ):
            yield f"{where} is {value}"

    def _in_object(self, value: dict[str, Any], schema: dict[str, Any], path: str) -> Iterator[str]:
        properties: dict[str, Any] = schema.get("properties", {})
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{path}.{name} is missing"
        if len(value) > schema.get("maxProperties", len(value)):
            yield f"{path or 'it'} has {len(value)} properties"
        others = schema.get("additionalProperties", {})
        for name, item in value.items():
            if name in properties:
                yield from self.differences(item, properties[name], f"{path}.{name}")
            elif others is False:
                yield f"{path}.{name} is not in the schema"
            else:
                yield from self.differences(item, others, f"{path}.{name}")

    def _in_array(self, value: list[Any], schema: dict[str, Any], path: str) -> Iterator[str]:
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{path or 'it'} has {len(value)} items"
        for index, item in enumerate(value):
            yield from self.differences(item, schema.get("items", {}), f"{path}[{index}]")
