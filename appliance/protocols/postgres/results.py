"""Whether a result is what was judged, by the server's own word on its columns, and what is said of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from appliance.decisions import FieldMask, Mask
from appliance.effects import Column, Effect, Kind, Thing
from appliance.errors import PeerError
from appliance.protocols.postgres.messages import Field, format_at
from appliance.protocols.postgres.parameters import type_name
from appliance.protocols.postgres.rows import TEXT_LIKE_OIDS
from appliance.sql.catalogue import Catalogue
from appliance.sql.reading import Output


def masks_of(outputs: tuple[Output, ...] | None, fields: tuple[FieldMask, ...]) -> dict[int, Mask]:
    """Which positions of a result are masked, from 0, and how. Where one column may show values of two masked fields with
    different masks, everything is hidden."""
    if not outputs or not fields:
        return {}
    wanted = {(field.thing, field.field): field.mask for field in fields}
    found: dict[int, Mask] = {}
    for position, output in enumerate(outputs):
        for source in output.sources:
            mask = wanted.get((source.thing, source.field))
            if mask is not None:
                found[position] = mask if found.get(position, mask) == mask else Mask("redact")
    return found


def is_text_like(outputs: tuple[Output, ...] | None, position: int) -> bool:
    """Whether the values of that column have a binary form like their text form."""
    sources = outputs[position].sources if outputs and position < len(outputs) else frozenset()
    return bool(sources) and all(source.type_oid in TEXT_LIKE_OIDS for source in sources)


def columns_of(fields: tuple[Field, ...], masks: Mapping[int, Mask]) -> tuple[Column, ...]:
    """The columns for the record."""
    return tuple(
        Column(field.name, type_name(field.type_oid), None, position in masks) for position, field in enumerate(fields)
    )


def in_formats(fields: tuple[Field, ...], formats: tuple[int, ...]) -> tuple[Field, ...]:
    """What rows are made of when a statement of these fields was bound with these result formats."""
    if len(formats) > 1 and len(formats) != len(fields):
        raise PeerError("rows from the target in other formats than were asked for")
    return tuple(replace(field, format=format_at(formats, at)) for at, field in enumerate(fields))


def misfit(
    fields: tuple[Field, ...],
    masks: Mapping[int, Mask],
    outputs: tuple[Output, ...] | None,
    effects: Iterable[Effect],
    masked_fields: tuple[FieldMask, ...],
    catalogue: Catalogue,
) -> str | None:
    """A second look, with the server's own word on where each column comes from: it must have been judged, and where it is
    masked the mask must be on it. Answers what is wrong."""
    masked = {(mask.thing, mask.field) for mask in masked_fields}
    judged: set[tuple[Thing, str]] | None = None
    for position, field in enumerate(fields):
        if position in masks and field.format == 1 and field.type_oid not in TEXT_LIKE_OIDS:
            return f"column {position + 1} is masked and came in binary format"
        origin = _origin(field, catalogue)
        if origin is None or position in masks:
            continue
        if origin in masked:
            return "the target gives a masked column where the statement was read to have none"
        if judged is None:
            judged = {(effect.thing, name) for effect in effects for name in effect.fields}
            judged |= {(source.thing, source.field) for output in outputs or () for source in output.sources}
        if origin not in judged:
            return "the target gives a column that the statement was not read to give"
    return None


def _origin(field: Field, catalogue: Catalogue) -> tuple[Thing, str] | None:
    """The table column that the server says a result's column is; None for a computed one, and for those of relations
    that the catalogue does not show or whose columns nothing is said about (sequences, system columns)."""
    relation = catalogue.relation_by_oid.get(field.table) if field.table else None
    if relation is None or relation.kind == "S" or relation.schema.startswith("pg_temp"):
        return None
    for column in relation.columns:
        if column.number == field.column:
            return Thing(Kind.TABLE, (relation.schema, relation.name)), column.name
    return None
