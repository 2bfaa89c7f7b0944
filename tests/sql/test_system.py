"""The shipped allow-lists, held against a real server's own catalogue."""

from __future__ import annotations

import re

import pytest

from appliance.sql import system
from tests.scratch_postgres import ScratchPostgres


def words(text: str) -> list[str]:
    return text.split()


MUST_NOT = words(
    """
set_config current_setting nextval currval setval pg_notify query_to_xml query_to_xml_and_xmlschema query_to_xmlschema
table_to_xml table_to_xmlschema table_to_xml_and_xmlschema cursor_to_xml cursor_to_xmlschema schema_to_xml
schema_to_xmlschema schema_to_xml_and_xmlschema database_to_xml database_to_xmlschema database_to_xml_and_xmlschema
ts_stat ts_rewrite dblink dblink_exec dblink_connect lo_import lo_export lo_get lo_put lo_open lo_create lo_creat
lo_unlink lo_from_bytea lo_truncate lo_truncate64 lo_lseek lo_tell lo_close loread lowrite pg_read_file
pg_read_binary_file pg_read_file_old pg_ls_dir pg_ls_logdir pg_ls_waldir pg_ls_tmpdir pg_ls_archive_statusdir
pg_ls_logicalmapdir pg_ls_logicalsnapdir pg_ls_replslotdir pg_ls_summariesdir pg_stat_file pg_current_logfile
pg_file_write pg_backup_start pg_backup_stop pg_start_backup pg_stop_backup pg_reload_conf pg_rotate_logfile
pg_switch_wal pg_create_restore_point pg_promote pg_wal_replay_pause pg_wal_replay_resume
pg_log_backend_memory_contexts pg_log_standby_snapshot pg_terminate_backend pg_cancel_backend pg_logical_emit_message
pg_logical_slot_get_changes pg_logical_slot_peek_changes pg_logical_slot_get_binary_changes
pg_logical_slot_peek_binary_changes pg_create_logical_replication_slot pg_create_physical_replication_slot
pg_drop_replication_slot pg_copy_logical_replication_slot pg_replication_slot_advance pg_replication_origin_create
pg_replication_origin_drop pg_replication_origin_advance pg_replication_origin_session_setup pg_get_replication_slots
pg_sync_replication_slots pg_show_replication_origin_status pg_export_snapshot pg_import_system_collations
pg_stat_get_activity pg_stat_get_backend_activity pg_stat_get_wal_senders pg_stat_get_subscription pg_stat_reset
pg_stat_reset_shared pg_stat_reset_single_table_counters pg_stat_reset_slru pg_stat_statements
pg_stat_statements_reset pg_stat_get_tuples_returned pg_stat_get_xact_tuples_returned pg_show_all_settings
pg_show_all_file_settings pg_hba_file_rules pg_ident_file_mappings pg_config pg_relation_filepath pg_relation_filenode
pg_filenode_relation pg_lock_status pg_prepared_xact pg_mcv_list_items pg_control_system pg_control_checkpoint
pg_control_init pg_control_recovery currtid currtid2 pg_nextoid binary_upgrade_set_next_pg_type_oid
binary_upgrade_create_empty_extension brin_summarize_new_values brin_summarize_range brin_desummarize_range
gin_clean_pending_list pg_event_trigger_ddl_commands pg_event_trigger_dropped_objects fmgr_c_validator
fmgr_sql_validator fmgr_internal_validator plpgsql_validator plpgsql_inline_handler plpgsql_call_handler record_in
array_in domain_in range_in multirange_in enum_in pg_input_is_valid pg_input_error_info pg_get_shmem_allocations
pg_get_backend_memory_contexts pg_get_loaded_modules pg_restore_relation_stats pg_restore_attribute_stats
pg_clear_relation_stats pg_stop_making_pinned_objects pg_extension_config_dump pg_tablespace_databases
"""
)

# What applications, drivers, psql and pg_dump call. A list that refuses these is as wrong as one that lets too much through.
MUST = words(
    """
lower upper length substring substr position overlay btrim ltrim rtrim trim_array extract date_part date_trunc
timezone age now clock_timestamp to_char to_date to_timestamp count sum avg min max array_agg string_agg json_agg
jsonb_agg json_build_object jsonb_build_object row_to_json to_json to_jsonb jsonb_set jsonb_path_query generate_series
unnest row_number rank lag lead first_value coalesce_not_a_function round ceil floor abs random gen_random_uuid md5
sha256 encode decode convert_from regexp_replace regexp_matches regexp_split_to_table split_part concat concat_ws
format quote_ident quote_literal like_escape similar_to_escape is_normalized normalize pg_collation_for overlaps
xmlexists pg_get_viewdef pg_get_indexdef pg_get_constraintdef pg_get_functiondef pg_get_expr pg_get_ruledef
pg_get_triggerdef pg_get_userbyid format_type pg_table_is_visible pg_type_is_visible pg_function_is_visible
obj_description col_description shobj_description has_table_privilege has_schema_privilege pg_has_role
pg_relation_size pg_total_relation_size pg_table_size pg_size_pretty pg_encoding_to_char pg_backend_pid
pg_is_in_recovery version current_schema current_schemas current_database inet_server_addr pg_postmaster_start_time
pg_get_serial_sequence pg_get_keywords pg_available_extensions pg_timezone_names pg_tablespace_location
pg_sequence_last_value pg_partition_tree txid_current pg_advisory_lock pg_try_advisory_xact_lock pg_sleep
array_to_string string_to_array array_length array_position array_upper to_tsvector to_tsquery plainto_tsquery ts_rank
ts_headline pg_typeof setseed lastval pg_options_to_table acldefault aclexplode pg_relation_is_publishable
pg_get_partkeydef pg_get_statisticsobjdef_columns oidvectortypes textin regclassout bernoulli any_value array_shuffle
random_normal date_add uuidv7 casefold crc32 json_agg_strict information_schema._pg_expandarray
"""
)

# Names and sources by which a function that reads or does more than its arguments say gives itself away.
SUSPICIOUS = re.compile(
    r"_to_xml|_in_file|read_.*file|pg_ls_|^lo_|^be_lo|^loread|^lowrite|slot|backup|replication|reload|rotate|terminate|cancel_backend|"
    r"export|import|upgrade|promote|wal_replay_(pause|resume)$|switch_wal|restore_point|logical|emit_message|stat_(get|reset|clear|force)_|"
    r"event_trigger|validator|call_handler|inline_handler|summarize|pending_list|nextoid|currtid|control_|file_settings|hba_file|"
    r"ident_file|mcv_list|query_to|cursor_to|set_config|notify|promote|current_logfile|file(node|path)|terminate|signal|conf_reload"
)


FUNCTIONS = "select distinct proname::text from pg_proc where pronamespace = 'pg_catalog'::regnamespace"


def names(server: ScratchPostgres, query: str) -> set[str]:
    return {str(name) for (name,) in server.run(query)}


@pytest.mark.parametrize("name", MUST_NOT)
def test_what_reads_or_does_more_than_its_arguments_say_is_not_safe(name: str) -> None:
    assert not system.is_safe_function(name)


@pytest.mark.parametrize("name", sorted(set(MUST) - {"coalesce_not_a_function"}))
def test_what_applications_call_is_safe(name: str) -> None:
    assert system.is_safe_function(name)


def test_a_name_that_is_no_function_is_neither() -> None:
    assert not system.is_safe_function("coalesce_not_a_function")
    assert not system.is_system_function("coalesce_not_a_function")
    assert not system.is_safe_function("")
    assert not system.is_safe_function("LOWER")
    assert not system.is_safe_function("#")


def test_every_function_of_the_server_is_known(scratch_postgres: ScratchPostgres) -> None:
    there = names(
        scratch_postgres, "select distinct proname::text from pg_proc where pronamespace = 'pg_catalog'::regnamespace"
    )
    assert len(there) > 2600
    assert not [name for name in there if not system.is_system_function(name)]


def test_every_safe_function_is_the_servers_or_newer(scratch_postgres: ScratchPostgres) -> None:
    there = names(
        scratch_postgres, "select distinct proname::text from pg_proc where pronamespace = 'pg_catalog'::regnamespace"
    )
    own = names(
        scratch_postgres,
        "select 'information_schema.' || proname from pg_proc where pronamespace = 'information_schema'::regnamespace",
    )
    for words in system._lines("functions.txt"):
        name, *since = words
        if since:
            assert int(since[0]) in (16, 17, 18)
            assert name not in there
            assert system.is_system_function(name)
        else:
            assert name in there | own


def test_no_suspicious_function_is_safe(scratch_postgres: ScratchPostgres) -> None:
    rows = scratch_postgres.run(
        "select proname::text, prosrc from pg_proc where pronamespace = 'pg_catalog'::regnamespace order by 1, 2"
    )
    caught = {
        str(name)
        for name, source in rows
        if SUSPICIOUS.search(str(name)) or (" " not in str(source) and SUSPICIOUS.search(str(source)))
    }
    assert len(caught) > 200
    assert not [name for name in caught if system.is_safe_function(name)]


def test_functions_in_sql_that_are_safe_call_only_what_is_safe(scratch_postgres: ScratchPostgres) -> None:
    rows = scratch_postgres.run(
        "select p.oid::regprocedure::text, coalesce(nullif(prosrc, ''), pg_get_function_sqlbody(p.oid)), proname::text"
        " from pg_proc p"
        " join pg_language l on l.oid = prolang where l.lanname = 'sql' and pronamespace = 'pg_catalog'::regnamespace"
    )
    assert rows
    for signature, source, name in rows:
        if not system.is_safe_function(str(name)):
            continue
        for called in re.findall(r"\b([a-z_][a-z0-9_]*)\(", str(source)):
            assert system.is_safe_function(called) or not system.is_system_function(called), signature


def test_nothing_that_runs_any_types_input_is_safe(scratch_postgres: ScratchPostgres) -> None:
    """With a type's OID as an argument it would run a domain's check."""
    inputs = names(
        scratch_postgres,
        "select proname::text from pg_proc where prorettype in ('record'::regtype, 'pg_catalog.\"any\"'::regtype,"
        " 'anyarray'::regtype,"
        " 'anyrange'::regtype, 'anymultirange'::regtype, 'anyenum'::regtype) and 'cstring'::regtype = any (proargtypes)",
    )
    assert {"record_in", "array_in", "domain_in"} <= inputs
    assert not [name for name in inputs if system.is_safe_function(name)]


def test_volatile_functions_are_safe_one_by_one(scratch_postgres: ScratchPostgres) -> None:
    """A volatile function does something; each that is safe is written down here with open eyes."""
    volatile = names(
        scratch_postgres,
        "select distinct proname::text from pg_proc where pronamespace = 'pg_catalog'::regnamespace and provolatile = 'v'"
        " and 'internal'::regtype <> all (proargtypes)",
    )
    assert {name for name in volatile if system.is_safe_function(name)} == set(
        words(
            """
        clock_timestamp timeofday random setseed gen_random_uuid current_query lastval pg_advisory_lock
        pg_advisory_lock_shared pg_advisory_unlock pg_advisory_unlock_all pg_advisory_unlock_shared
        pg_advisory_xact_lock pg_advisory_xact_lock_shared pg_try_advisory_lock pg_try_advisory_lock_shared
        pg_try_advisory_xact_lock pg_try_advisory_xact_lock_shared pg_sleep pg_sleep_for pg_sleep_until
        pg_collation_actual_version pg_database_collation_actual_version pg_database_size pg_tablespace_size
        pg_relation_size pg_indexes_size pg_table_size pg_total_relation_size pg_partition_ancestors pg_partition_tree
        pg_sequence_last_value pg_is_in_recovery pg_is_wal_replay_paused pg_get_wal_replay_pause_state
        pg_jit_available pg_current_wal_lsn pg_current_wal_insert_lsn pg_current_wal_flush_lsn pg_last_wal_receive_lsn
        pg_last_wal_replay_lsn pg_last_xact_replay_timestamp pg_xact_commit_timestamp pg_xact_commit_timestamp_origin
        pg_xact_status txid_status
        """
        )
    )


def test_every_operator_is_listed_and_backed_by_a_safe_function(scratch_postgres: ScratchPostgres) -> None:
    rows = scratch_postgres.run(
        "select oprname::text, p.proname::text from pg_operator o join pg_proc p on p.oid = oprcode"
        " where oprnamespace = 'pg_catalog'::regnamespace"
    )
    assert {str(name) for name, _ in rows} == {words[0] for words in system._lines("operators.txt")}
    assert not [
        name
        for name, function in rows
        if not (system.is_safe_operator(str(name)) and system.is_safe_function(str(function)))
    ]


@pytest.mark.parametrize("name", ["=", "||", "->>", "#", "##", "#>", "@>", "~~*", "!~~"])
def test_operators_are_known_by_name(name: str) -> None:
    assert system.is_safe_operator(name)


def test_operators_of_extensions_are_not_known() -> None:
    assert not system.is_safe_operator("<%")
    assert not system.is_safe_operator("===")


def test_every_type_is_the_servers(scratch_postgres: ScratchPostgres) -> None:
    there = names(
        scratch_postgres,
        "select typname::text from pg_type where typnamespace = 'pg_catalog'::regnamespace and typtype <> 'c'",
    )
    listed = {words[0] for words in system._lines("types.txt")}
    assert listed <= there
    assert there - listed == set(
        words(
            """
        pg_mcv_list pg_ndistinct pg_dependencies pg_brin_bloom_summary pg_brin_minmax_multi_summary pg_ddl_command
        internal cstring _cstring trigger event_trigger language_handler fdw_handler index_am_handler tsm_handler
        table_am_handler gtsvector _gtsvector
        """
        )
    ) | {name for name in there if name.startswith("_pg_") and not name.startswith(("_pg_lsn", "_pg_snapshot"))}


@pytest.mark.parametrize(
    "name", ["int4", "varchar", "bpchar", "timestamptz", "interval", "bool", "numeric", "_int4", "char", "regclass"]
)
def test_the_grammars_names_of_types_are_safe(name: str) -> None:
    assert system.is_safe_type(name)


@pytest.mark.parametrize("name", ["pg_authid", "citext", "customers", "pg_mcv_list"])
def test_row_types_and_strangers_are_not_safe_types(name: str) -> None:
    assert not system.is_safe_type(name)


def test_every_readable_relation_is_the_servers(scratch_postgres: ScratchPostgres) -> None:
    there = names(
        scratch_postgres,
        "select nspname || '.' || relname from pg_class c join pg_namespace n on n.oid = relnamespace"
        " where relkind in ('r', 'v')",
    )
    listed = {words[0] for words in system._lines("relations.txt")}
    assert listed <= there
    assert len(listed) > 140


@pytest.mark.parametrize(
    "name",
    words(
        """
    pg_authid pg_shadow pg_statistic pg_stats pg_stats_ext pg_stats_ext_exprs pg_statistic_ext_data pg_largeobject
    pg_user_mapping pg_user_mappings pg_hba_file_rules pg_ident_file_mappings pg_file_settings
    pg_stat_activity pg_stat_replication pg_replication_slots pg_replication_origin pg_stat_statements pg_locks
    pg_prepared_xacts pg_config pg_shmem_allocations pg_stat_xact_user_tables pg_backend_memory_contexts
    pg_stat_wal_receiver pg_stat_progress_copy customers
    """
    ),
)
def test_relations_with_values_or_secrets_are_not_readable(name: str) -> None:
    assert not system.is_readable_relation("pg_catalog", name)
    assert not system.is_readable_relation("public", name)


def test_the_secret_of_a_subscription_is_in_a_column_of_its_own() -> None:
    assert system.is_readable_relation("pg_catalog", "pg_subscription")
    assert system.is_readable_column("pg_catalog", "pg_subscription", "subname")
    assert not system.is_readable_column("pg_catalog", "pg_subscription", "subconninfo")


def test_a_relation_is_readable_in_its_own_schema_only() -> None:
    assert system.is_readable_relation("pg_catalog", "pg_class")
    assert not system.is_readable_relation("public", "pg_class")
    assert system.is_readable_relation("information_schema", "columns")
    assert not system.is_readable_relation("information_schema", "user_mapping_options")


def test_no_readable_view_shows_what_is_not_readable(scratch_postgres: ScratchPostgres) -> None:
    """A view of the system's reads tables of the system's: which of the hidden ones, is written down here."""
    rows = scratch_postgres.run(
        "select distinct vn.nspname || '.' || v.relname, tn.nspname || '.' || t.relname from pg_rewrite w"
        " join pg_class v on v.oid = w.ev_class join pg_namespace vn on vn.oid = v.relnamespace"
        " join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid and d.refclassid = 'pg_class'::regclass"
        " join pg_class t on t.oid = d.refobjid and t.oid <> v.oid join pg_namespace tn on tn.oid = t.relnamespace"
        " where v.oid < 16384"
    )
    shown = {
        (str(view), str(table).removeprefix("pg_catalog."))
        for view, table in rows
        if system.is_readable_relation(*str(view).split(".")) and not system.is_readable_relation(*str(table).split("."))
    }
    # Roles without their passwords; foreign objects without their users' options.
    assert {table for _, table in shown} <= {
        "pg_authid",
        "pg_shadow",
        "information_schema._pg_foreign_data_wrappers",
        "information_schema._pg_foreign_servers",
        "information_schema._pg_foreign_tables",
        "information_schema._pg_foreign_table_columns",
    }
    for view in {view for view, table in shown if table in ("pg_authid", "pg_shadow")}:
        ((definition,),) = scratch_postgres.run(f"select pg_get_viewdef('{view}'::regclass)")
        assert "rolpassword" not in str(definition), view
        assert "passwd" not in str(definition) or "'********'" in str(definition), view


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("application_name", "harmless"),
        ("TimeZone", "harmless"),
        ("statement_timeout", "harmless"),
        ("default_transaction_read_only", "harmless"),
        ("row_security", "harmless"),
        ("search_path", "search_path"),
        ("SEARCH_PATH", "search_path"),
        ("role", "role"),
        ("session_authorization", "role"),
        ("standard_conforming_strings", "pinned"),
        ("client_encoding", "pinned"),
        ("client_min_messages", "pinned"),
        ("transform_null_equals", "pinned"),
        ("session_replication_role", "other"),
        ("log_statement", "other"),
        ("log_min_duration_statement", "other"),
        ("debug_print_plan", "other"),
        ("auto_explain.log_analyze", "other"),
        ("my.x", "other"),
        ("track_activities", "other"),
        ("local_preload_libraries", "other"),
        ("dynamic_library_path", "other"),
        ("zero_damaged_pages", "other"),
        ("allow_system_table_mods", "other"),
        ("ignore_system_indexes", "other"),
        ("event_triggers", "other"),
        ("exit_on_error", "other"),
        ("nonsense", "other"),
        ("", "other"),
    ],
)
def test_settings_are_classed(name: str, kind: str) -> None:
    assert system.setting_class(name) == kind


def test_what_only_a_superuser_may_set_is_never_harmless(scratch_postgres: ScratchPostgres) -> None:
    settable = names(scratch_postgres, "select lower(name) from pg_settings where context = 'user'")
    every = names(scratch_postgres, "select lower(name) from pg_settings")
    for words in system._lines("settings.txt"):
        assert words[1] in settable or words[1] not in every


@pytest.mark.parametrize("name", sorted(system.PINNED))
def test_the_server_takes_each_pinned_value_and_means_the_same_by_all(scratch_postgres: ScratchPostgres, name: str) -> None:
    meant = {
        scratch_postgres.run(f"begin; set {name} = '{value}'; select current_setting('{name}')")[0][0]
        for value in system.PINNED[name]
    }
    assert len(meant) == (3 if name == "client_min_messages" else 1)


def test_pinned_is_a_mapping_of_the_pinned_alone() -> None:
    assert "on" in system.PINNED["standard_conforming_strings"]
    assert "off" not in system.PINNED["standard_conforming_strings"]
    assert "application_name" not in system.PINNED
    assert "nonsense" not in system.PINNED
    assert set(system.PINNED) == {name for name in system.PINNED if system.setting_class(name) == "pinned"}
    assert len(system.PINNED) == 5


def test_settings_that_hold_secrets_are_not_shown() -> None:
    for name in ("primary_conninfo", "ssl_passphrase_command", "archive_command", "data_directory", "my.secret"):
        assert not system.is_readable_setting(name)
    for name in ("server_version", "TimeZone", "transaction_isolation", "search_path", "max_index_keys", "is_superuser"):
        assert system.is_readable_setting(name)
