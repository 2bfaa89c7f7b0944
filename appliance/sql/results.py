"""What columns a call in FROM to one of the system's functions shows.

Of those that policy may let pass at all: from pg_proc of PostgreSQL 15 (proargnames of OUT and TABLE arguments), and of 16
to 18 for what is newer. A system function that is not here shows one column of its own name, but for those in OPEN,
whose columns depend on their arguments.
"""

from __future__ import annotations

COLUMNS: dict[str, tuple[str, ...]] = {
    "pg_split_walfile_name": ("segment_number", "timeline_id"),
    "aclexplode": (
        "grantor",
        "grantee",
        "privilege_type",
        "is_grantable",
    ),
    "json_array_elements": ("value",),
    "json_array_elements_text": ("value",),
    "json_each": (
        "key",
        "value",
    ),
    "json_each_text": (
        "key",
        "value",
    ),
    "jsonb_array_elements": ("value",),
    "jsonb_array_elements_text": ("value",),
    "jsonb_each": (
        "key",
        "value",
    ),
    "jsonb_each_text": (
        "key",
        "value",
    ),
    "pg_available_extension_versions": (
        "name",
        "version",
        "superuser",
        "trusted",
        "relocatable",
        "schema",
        "requires",
        "comment",
    ),
    "pg_available_extensions": (
        "name",
        "default_version",
        "comment",
    ),
    "pg_cursor": (
        "name",
        "statement",
        "is_holdable",
        "is_binary",
        "is_scrollable",
        "creation_time",
    ),
    "pg_get_catalog_foreign_keys": (
        "fktable",
        "fkcols",
        "pktable",
        "pkcols",
        "is_array",
        "is_opt",
    ),
    "pg_get_keywords": (
        "word",
        "catcode",
        "barelabel",
        "catdesc",
        "baredesc",
    ),
    "pg_get_object_address": (
        "classid",
        "objid",
        "objsubid",
    ),
    "pg_get_publication_tables": (
        "relid",
        "attrs",
        "qual",
    ),
    "pg_identify_object": (
        "type",
        "schema",
        "name",
        "identity",
    ),
    "pg_identify_object_as_address": (
        "type",
        "object_names",
        "object_args",
    ),
    "pg_options_to_table": (
        "option_name",
        "option_value",
    ),
    "pg_partition_ancestors": ("relid",),
    "pg_partition_tree": (
        "relid",
        "parentrelid",
        "isleaf",
        "level",
    ),
    "pg_prepared_statement": (
        "name",
        "statement",
        "prepare_time",
        "parameter_types",
        "from_sql",
        "generic_plans",
        "custom_plans",
    ),
    "pg_sequence_parameters": (
        "start_value",
        "minimum_value",
        "maximum_value",
        "increment",
        "cycle_option",
        "cache_size",
        "data_type",
    ),
    "pg_timezone_abbrevs": (
        "abbrev",
        "utc_offset",
        "is_dst",
    ),
    "pg_timezone_names": (
        "name",
        "abbrev",
        "utc_offset",
        "is_dst",
    ),
    "pg_walfile_name_offset": (
        "file_name",
        "file_offset",
    ),
    "pg_xact_commit_timestamp_origin": (
        "timestamp",
        "roident",
    ),
    "ts_debug": (
        "alias",
        "description",
        "token",
        "dictionaries",
        "dictionary",
        "lexemes",
    ),
    "ts_parse": (
        "tokid",
        "token",
    ),
    "ts_token_type": (
        "tokid",
        "alias",
        "description",
    ),
    "unnest": (
        "lexeme",
        "positions",
        "weights",
    ),
}

# The columns are those of a composite argument, or of a column definition list.
OPEN = frozenset(
    {
        "json_populate_record",
        "json_populate_recordset",
        "json_to_record",
        "json_to_recordset",
        "jsonb_populate_record",
        "jsonb_populate_recordset",
        "jsonb_to_record",
        "jsonb_to_recordset",
        "pg_get_sequence_data",
    }
)

# What they show is of their argument's element type: where that may be a composite one, its fields are the columns.
OF_ELEMENTS = frozenset({"lower", "unnest", "upper"})
