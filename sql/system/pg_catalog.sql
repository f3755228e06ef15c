-- The relations of pg_catalog, with PostgreSQL 15's names, types and object numbers. Types that Tidegate does not have stand as
-- the nearest it has: regproc as oid, pg_node_tree as text, aclitem[] as text[].

CREATE TABLE pg_catalog.pg_namespace (
    oid oid NOT NULL, nspname name NOT NULL, nspowner oid NOT NULL, nspacl text[]
) WITH (oid = 2615);

CREATE TABLE pg_catalog.pg_class (
    oid oid NOT NULL, relname name NOT NULL, relnamespace oid NOT NULL, reltype oid NOT NULL, reloftype oid NOT NULL,
    relowner oid NOT NULL, relam oid NOT NULL, relfilenode oid NOT NULL, reltablespace oid NOT NULL,
    relpages integer NOT NULL, reltuples real NOT NULL, relallvisible integer NOT NULL, reltoastrelid oid NOT NULL,
    relhasindex boolean NOT NULL, relisshared boolean NOT NULL, relpersistence "char" NOT NULL, relkind "char" NOT NULL,
    relnatts smallint NOT NULL, relchecks smallint NOT NULL, relhasrules boolean NOT NULL, relhastriggers boolean NOT NULL,
    relhassubclass boolean NOT NULL, relrowsecurity boolean NOT NULL, relforcerowsecurity boolean NOT NULL,
    relispopulated boolean NOT NULL, relreplident "char" NOT NULL, relispartition boolean NOT NULL, relrewrite oid NOT NULL,
    relfrozenxid integer NOT NULL, relminmxid integer NOT NULL, relacl text[], reloptions text[], relpartbound text
) WITH (oid = 1259);

CREATE TABLE pg_catalog.pg_attribute (
    attrelid oid NOT NULL, attname name NOT NULL, atttypid oid NOT NULL, attstattarget integer NOT NULL,
    attlen smallint NOT NULL, attnum smallint NOT NULL, attndims integer NOT NULL, attcacheoff integer NOT NULL,
    atttypmod integer NOT NULL, attbyval boolean NOT NULL, attalign "char" NOT NULL, attstorage "char" NOT NULL,
    attcompression "char" NOT NULL, attnotnull boolean NOT NULL, atthasdef boolean NOT NULL, atthasmissing boolean NOT NULL,
    attidentity "char" NOT NULL, attgenerated "char" NOT NULL, attisdropped boolean NOT NULL, attislocal boolean NOT NULL,
    attinhcount integer NOT NULL, attcollation oid NOT NULL, attacl text[], attoptions text[], attfdwoptions text[],
    attmissingval text
) WITH (oid = 1249);

CREATE TABLE pg_catalog.pg_type (
    oid oid NOT NULL, typname name NOT NULL, typnamespace oid NOT NULL, typowner oid NOT NULL, typlen smallint NOT NULL,
    typbyval boolean NOT NULL, typtype "char" NOT NULL, typcategory "char" NOT NULL, typispreferred boolean NOT NULL,
    typisdefined boolean NOT NULL, typdelim "char" NOT NULL, typrelid oid NOT NULL, typsubscript oid NOT NULL,
    typelem oid NOT NULL, typarray oid NOT NULL, typinput oid NOT NULL, typoutput oid NOT NULL, typreceive oid NOT NULL,
    typsend oid NOT NULL, typmodin oid NOT NULL, typmodout oid NOT NULL, typanalyze oid NOT NULL, typalign "char" NOT NULL,
    typstorage "char" NOT NULL, typnotnull boolean NOT NULL, typbasetype oid NOT NULL, typtypmod integer NOT NULL,
    typndims integer NOT NULL, typcollation oid NOT NULL, typdefaultbin text, typdefault text, typacl text[]
) WITH (oid = 1247);

CREATE TABLE pg_catalog.pg_constraint (
    oid oid NOT NULL, conname name NOT NULL, connamespace oid NOT NULL, contype "char" NOT NULL,
    condeferrable boolean NOT NULL, condeferred boolean NOT NULL, convalidated boolean NOT NULL, conrelid oid NOT NULL,
    contypid oid NOT NULL, conindid oid NOT NULL, conparentid oid NOT NULL, confrelid oid NOT NULL,
    confupdtype "char" NOT NULL, confdeltype "char" NOT NULL, confmatchtype "char" NOT NULL, conislocal boolean NOT NULL,
    coninhcount integer NOT NULL, connoinherit boolean NOT NULL, conkey smallint[], confkey smallint[], conpfeqop oid[],
    conppeqop oid[], conffeqop oid[], confdelsetcols smallint[], conexclop oid[], conbin text
) WITH (oid = 2606);

CREATE TABLE pg_catalog.pg_description (
    objoid oid NOT NULL, classoid oid NOT NULL, objsubid integer NOT NULL, description text NOT NULL
) WITH (oid = 2609);

CREATE TABLE pg_catalog.pg_index (
    indexrelid oid NOT NULL, indrelid oid NOT NULL, indnatts smallint NOT NULL, indnkeyatts smallint NOT NULL,
    indisunique boolean NOT NULL, indnullsnotdistinct boolean NOT NULL, indisprimary boolean NOT NULL,
    indisexclusion boolean NOT NULL, indimmediate boolean NOT NULL, indisclustered boolean NOT NULL,
    indisvalid boolean NOT NULL, indcheckxmin boolean NOT NULL, indisready boolean NOT NULL, indislive boolean NOT NULL,
    indisreplident boolean NOT NULL, indkey int2vector NOT NULL, indcollation oidvector NOT NULL,
    indclass oidvector NOT NULL, indoption int2vector NOT NULL, indexprs text, indpred text
) WITH (oid = 2610);

CREATE TABLE pg_catalog.pg_proc (
    oid oid NOT NULL, proname name NOT NULL, pronamespace oid NOT NULL, proowner oid NOT NULL, prolang oid NOT NULL,
    procost real NOT NULL, prorows real NOT NULL, provariadic oid NOT NULL, prosupport oid NOT NULL, prokind "char" NOT NULL,
    prosecdef boolean NOT NULL, proleakproof boolean NOT NULL, proisstrict boolean NOT NULL, proretset boolean NOT NULL,
    provolatile "char" NOT NULL, proparallel "char" NOT NULL, pronargs smallint NOT NULL, pronargdefaults smallint NOT NULL,
    prorettype oid NOT NULL, proargtypes oidvector NOT NULL, proallargtypes oid[], proargmodes "char"[], proargnames text[],
    proargdefaults text, protrftypes oid[], prosrc text NOT NULL, probin text, prosqlbody text, proconfig text[],
    proacl text[]
) WITH (oid = 1255);

CREATE TABLE pg_catalog.pg_attrdef (
    oid oid NOT NULL, adrelid oid NOT NULL, adnum smallint NOT NULL, adbin text NOT NULL
) WITH (oid = 2604);

CREATE TABLE pg_catalog.pg_am (
    oid oid NOT NULL, amname name NOT NULL, amhandler oid NOT NULL, amtype "char" NOT NULL
) WITH (oid = 2601);

CREATE TABLE pg_catalog.pg_depend (
    classid oid NOT NULL, objid oid NOT NULL, objsubid integer NOT NULL, refclassid oid NOT NULL, refobjid oid NOT NULL,
    refobjsubid integer NOT NULL, deptype "char" NOT NULL
) WITH (oid = 2608);

CREATE TABLE pg_catalog.pg_roles (
    rolname name, rolsuper boolean, rolinherit boolean, rolcreaterole boolean, rolcreatedb boolean, rolcanlogin boolean,
    rolreplication boolean, rolconnlimit integer, rolpassword text, rolvaliduntil timestamptz, rolbypassrls boolean,
    rolconfig text[], oid oid
) WITH (oid = 12000, kind = 'v');

CREATE TABLE pg_catalog.pg_enum (
    oid oid NOT NULL, enumtypid oid NOT NULL, enumsortorder real NOT NULL, enumlabel name NOT NULL
) WITH (oid = 3501);

CREATE TABLE pg_catalog.pg_database (
    oid oid NOT NULL, datname name NOT NULL, datdba oid NOT NULL, encoding integer NOT NULL, datlocprovider "char" NOT NULL,
    datistemplate boolean NOT NULL, datallowconn boolean NOT NULL, datconnlimit integer NOT NULL,
    datfrozenxid integer NOT NULL, datminmxid integer NOT NULL, dattablespace oid NOT NULL, datcollate text NOT NULL,
    datctype text NOT NULL, daticulocale text, datcollversion text, datacl text[]
) WITH (oid = 1262);

CREATE TABLE pg_catalog.pg_collation (
    oid oid NOT NULL, collname name NOT NULL, collnamespace oid NOT NULL, collowner oid NOT NULL,
    collprovider "char" NOT NULL, collisdeterministic boolean NOT NULL, collencoding integer NOT NULL, collcollate text,
    collctype text, colliculocale text, collversion text
) WITH (oid = 3456);

CREATE TABLE pg_catalog.pg_tablespace (
    oid oid NOT NULL, spcname name NOT NULL, spcowner oid NOT NULL, spcacl text[], spcoptions text[]
) WITH (oid = 1213);

CREATE TABLE pg_catalog.pg_inherits (
    inhrelid oid NOT NULL, inhparent oid NOT NULL, inhseqno integer NOT NULL, inhdetachpending boolean NOT NULL
) WITH (oid = 2611);

CREATE TABLE pg_catalog.pg_language (
    oid oid NOT NULL, lanname name NOT NULL, lanowner oid NOT NULL, lanispl boolean NOT NULL, lanpltrusted boolean NOT NULL,
    lanplcallfoid oid NOT NULL, laninline oid NOT NULL, lanvalidator oid NOT NULL, lanacl text[]
) WITH (oid = 2612);

CREATE TABLE pg_catalog.pg_extension (
    oid oid NOT NULL, extname name NOT NULL, extowner oid NOT NULL, extnamespace oid NOT NULL,
    extrelocatable boolean NOT NULL, extversion text NOT NULL, extconfig oid[], extcondition text[]
) WITH (oid = 3079);

CREATE TABLE pg_catalog.pg_trigger (
    oid oid NOT NULL, tgrelid oid NOT NULL, tgparentid oid NOT NULL, tgname name NOT NULL, tgfoid oid NOT NULL,
    tgtype smallint NOT NULL, tgenabled "char" NOT NULL, tgisinternal boolean NOT NULL, tgconstrrelid oid NOT NULL,
    tgconstrindid oid NOT NULL, tgconstraint oid NOT NULL, tgdeferrable boolean NOT NULL, tginitdeferred boolean NOT NULL,
    tgnargs smallint NOT NULL, tgattr int2vector NOT NULL, tgargs bytea NOT NULL, tgqual text, tgoldtable name,
    tgnewtable name
) WITH (oid = 2620);

CREATE TABLE pg_catalog.pg_opclass (
    oid oid NOT NULL, opcmethod oid NOT NULL, opcname name NOT NULL, opcnamespace oid NOT NULL, opcowner oid NOT NULL,
    opcfamily oid NOT NULL, opcintype oid NOT NULL, opcdefault boolean NOT NULL, opckeytype oid NOT NULL
) WITH (oid = 2616);

CREATE TABLE pg_catalog.pg_range (
    rngtypid oid NOT NULL, rngsubtype oid NOT NULL, rngmultitypid oid NOT NULL, rngcollation oid NOT NULL,
    rngsubopc oid NOT NULL, rngcanonical oid NOT NULL, rngsubdiff oid NOT NULL
) WITH (oid = 3541);

CREATE TABLE pg_catalog.pg_policy (
    oid oid NOT NULL, polname name NOT NULL, polrelid oid NOT NULL, polcmd "char" NOT NULL, polpermissive boolean NOT NULL,
    polroles oid[] NOT NULL, polqual text, polwithcheck text
) WITH (oid = 3256);

CREATE TABLE pg_catalog.pg_opfamily (
    oid oid NOT NULL, opfmethod oid NOT NULL, opfname name NOT NULL, opfnamespace oid NOT NULL, opfowner oid NOT NULL
) WITH (oid = 2753);

CREATE TABLE pg_catalog.pg_rewrite (
    oid oid NOT NULL, rulename name NOT NULL, ev_class oid NOT NULL, ev_type "char" NOT NULL, ev_enabled "char" NOT NULL,
    is_instead boolean NOT NULL, ev_qual text NOT NULL, ev_action text NOT NULL
) WITH (oid = 2618);

CREATE TABLE pg_catalog.pg_shdescription (
    objoid oid NOT NULL, classoid oid NOT NULL, description text NOT NULL
) WITH (oid = 2396);

CREATE TABLE pg_catalog.pg_operator (
    oid oid NOT NULL, oprname name NOT NULL, oprnamespace oid NOT NULL, oprowner oid NOT NULL, oprkind "char" NOT NULL,
    oprcanmerge boolean NOT NULL, oprcanhash boolean NOT NULL, oprleft oid NOT NULL, oprright oid NOT NULL,
    oprresult oid NOT NULL, oprcom oid NOT NULL, oprnegate oid NOT NULL, oprcode oid NOT NULL, oprrest oid NOT NULL,
    oprjoin oid NOT NULL
) WITH (oid = 2617);

CREATE TABLE pg_catalog.pg_sequence (
    seqrelid oid NOT NULL, seqtypid oid NOT NULL, seqstart bigint NOT NULL, seqincrement bigint NOT NULL,
    seqmax bigint NOT NULL, seqmin bigint NOT NULL, seqcache bigint NOT NULL, seqcycle boolean NOT NULL
) WITH (oid = 2224);

CREATE TABLE pg_catalog.pg_settings (
    name text, setting text, unit text, category text, short_desc text, extra_desc text, context text, vartype text,
    source text, min_val text, max_val text, enumvals text[], boot_val text, reset_val text, sourcefile text,
    sourceline integer, pending_restart boolean
) WITH (oid = 12104, kind = 'v');

CREATE TABLE pg_catalog.pg_auth_members (
    roleid oid NOT NULL, member oid NOT NULL, grantor oid NOT NULL, admin_option boolean NOT NULL
) WITH (oid = 1261);

CREATE TABLE pg_catalog.pg_views (
    schemaname name, viewname name, viewowner name, definition text
) WITH (oid = 12028, kind = 'v');

CREATE TABLE pg_catalog.pg_tables (
    schemaname name, tablename name, tableowner name, tablespace name, hasindexes boolean, hasrules boolean,
    hastriggers boolean, rowsecurity boolean
) WITH (oid = 12033, kind = 'v');

CREATE TABLE pg_catalog.pg_foreign_server (
    oid oid NOT NULL, srvname name NOT NULL, srvowner oid NOT NULL, srvfdw oid NOT NULL, srvtype text, srvversion text,
    srvacl text[], srvoptions text[]
) WITH (oid = 1417);

CREATE TABLE pg_catalog.pg_indexes (
    schemaname name, tablename name, indexname name, tablespace name, indexdef text
) WITH (oid = 12043, kind = 'v');

CREATE TABLE pg_catalog.pg_stat_activity (
    datid oid, datname name, pid integer, leader_pid integer, usesysid oid, usename name, application_name text,
    client_addr text, client_hostname text, client_port integer, backend_start timestamptz, xact_start timestamptz,
    query_start timestamptz, state_change timestamptz, wait_event_type text, wait_event text, state text,
    backend_xid integer, backend_xmin integer, query_id bigint, query text, backend_type text
) WITH (oid = 12222, kind = 'v');

CREATE TABLE pg_catalog.pg_seclabels (
    objoid oid, classoid oid, objsubid integer, objtype text, objnamespace oid, objname text, provider text, label text
) WITH (oid = 12099, kind = 'v');

CREATE TABLE pg_catalog.pg_matviews (
    schemaname name, matviewname name, matviewowner name, tablespace name, hasindexes boolean, ispopulated boolean,
    definition text
) WITH (oid = 12038, kind = 'v');

CREATE TABLE pg_catalog.pg_user (
    usename name, usesysid oid, usecreatedb boolean, usesuper boolean, userepl boolean, usebypassrls boolean, passwd text,
    valuntil timestamptz, useconfig text[]
) WITH (oid = 12014, kind = 'v');

CREATE TABLE pg_catalog.pg_default_acl (
    oid oid NOT NULL, defaclrole oid NOT NULL, defaclnamespace oid NOT NULL, defaclobjtype "char" NOT NULL,
    defaclacl text[] NOT NULL
) WITH (oid = 826);

CREATE TABLE pg_catalog.pg_foreign_data_wrapper (
    oid oid NOT NULL, fdwname name NOT NULL, fdwowner oid NOT NULL, fdwhandler oid NOT NULL, fdwvalidator oid NOT NULL,
    fdwacl text[], fdwoptions text[]
) WITH (oid = 2328);

CREATE TABLE pg_catalog.pg_aggregate (
    aggfnoid oid NOT NULL, aggkind "char" NOT NULL, aggnumdirectargs smallint NOT NULL, aggtransfn oid NOT NULL,
    aggfinalfn oid NOT NULL, aggcombinefn oid NOT NULL, aggserialfn oid NOT NULL, aggdeserialfn oid NOT NULL,
    aggmtransfn oid NOT NULL, aggminvtransfn oid NOT NULL, aggmfinalfn oid NOT NULL, aggfinalextra boolean NOT NULL,
    aggmfinalextra boolean NOT NULL, aggfinalmodify "char" NOT NULL, aggmfinalmodify "char" NOT NULL, aggsortop oid NOT NULL,
    aggtranstype oid NOT NULL, aggtransspace integer NOT NULL, aggmtranstype oid NOT NULL, aggmtransspace integer NOT NULL,
    agginitval text, aggminitval text
) WITH (oid = 2600);

CREATE TABLE pg_catalog.pg_publication (
    oid oid NOT NULL, pubname name NOT NULL, pubowner oid NOT NULL, puballtables boolean NOT NULL,
    pubinsert boolean NOT NULL, pubupdate boolean NOT NULL, pubdelete boolean NOT NULL, pubtruncate boolean NOT NULL,
    pubviaroot boolean NOT NULL
) WITH (oid = 6104);

CREATE TABLE pg_catalog.pg_cast (
    oid oid NOT NULL, castsource oid NOT NULL, casttarget oid NOT NULL, castfunc oid NOT NULL, castcontext "char" NOT NULL,
    castmethod "char" NOT NULL
) WITH (oid = 2605);

CREATE TABLE pg_catalog.pg_foreign_table (
    ftrelid oid NOT NULL, ftserver oid NOT NULL, ftoptions text[]
) WITH (oid = 3118);

CREATE TABLE pg_catalog.pg_policies (
    schemaname name, tablename name, policyname name, permissive text, roles name[], cmd text, qual text, with_check text
) WITH (oid = 12018, kind = 'v');

CREATE TABLE pg_catalog.pg_seclabel (
    objoid oid NOT NULL, classoid oid NOT NULL, objsubid integer NOT NULL, provider text NOT NULL, label text NOT NULL
) WITH (oid = 3596);

CREATE TABLE pg_catalog.pg_statio_all_tables (
    relid oid, schemaname name, relname name, heap_blks_read bigint, heap_blks_hit bigint, idx_blks_read bigint,
    idx_blks_hit bigint, toast_blks_read bigint, toast_blks_hit bigint, tidx_blks_read bigint, tidx_blks_hit bigint
) WITH (oid = 12170, kind = 'v');

CREATE TABLE pg_catalog.pg_publication_rel (
    oid oid NOT NULL, prpubid oid NOT NULL, prrelid oid NOT NULL, prqual text, prattrs int2vector
) WITH (oid = 6106);

CREATE TABLE pg_catalog.pg_stat_user_tables (
    relid oid, schemaname name, relname name, seq_scan bigint, seq_tup_read bigint, idx_scan bigint, idx_tup_fetch bigint,
    n_tup_ins bigint, n_tup_upd bigint, n_tup_del bigint, n_tup_hot_upd bigint, n_live_tup bigint, n_dead_tup bigint,
    n_mod_since_analyze bigint, n_ins_since_vacuum bigint, last_vacuum timestamptz, last_autovacuum timestamptz,
    last_analyze timestamptz, last_autoanalyze timestamptz, vacuum_count bigint, autovacuum_count bigint,
    analyze_count bigint, autoanalyze_count bigint
) WITH (oid = 12161, kind = 'v');

CREATE TABLE pg_catalog.pg_locks (
    locktype text, database oid, relation oid, page integer, tuple smallint, virtualxid text, transactionid integer,
    classid oid, objid oid, objsubid smallint, virtualtransaction text, pid integer, mode text, granted boolean,
    fastpath boolean, waitstart timestamptz
) WITH (oid = 12073, kind = 'v');

CREATE TABLE pg_catalog.pg_event_trigger (
    oid oid NOT NULL, evtname name NOT NULL, evtevent name NOT NULL, evtowner oid NOT NULL, evtfoid oid NOT NULL,
    evtenabled "char" NOT NULL, evttags text[]
) WITH (oid = 3466);

CREATE TABLE pg_catalog.pg_amop (
    oid oid NOT NULL, amopfamily oid NOT NULL, amoplefttype oid NOT NULL, amoprighttype oid NOT NULL,
    amopstrategy smallint NOT NULL, amoppurpose "char" NOT NULL, amopopr oid NOT NULL, amopmethod oid NOT NULL,
    amopsortfamily oid NOT NULL
) WITH (oid = 2602);

CREATE TABLE pg_catalog.pg_amproc (
    oid oid NOT NULL, amprocfamily oid NOT NULL, amproclefttype oid NOT NULL, amprocrighttype oid NOT NULL,
    amprocnum smallint NOT NULL, amproc oid NOT NULL
) WITH (oid = 2603);

CREATE TABLE pg_catalog.pg_stat_all_tables (
    relid oid, schemaname name, relname name, seq_scan bigint, seq_tup_read bigint, idx_scan bigint, idx_tup_fetch bigint,
    n_tup_ins bigint, n_tup_upd bigint, n_tup_del bigint, n_tup_hot_upd bigint, n_live_tup bigint, n_dead_tup bigint,
    n_mod_since_analyze bigint, n_ins_since_vacuum bigint, last_vacuum timestamptz, last_autovacuum timestamptz,
    last_analyze timestamptz, last_autoanalyze timestamptz, vacuum_count bigint, autovacuum_count bigint,
    analyze_count bigint, autoanalyze_count bigint
) WITH (oid = 12142, kind = 'v');

CREATE TABLE pg_catalog.pg_ts_config (
    oid oid NOT NULL, cfgname name NOT NULL, cfgnamespace oid NOT NULL, cfgowner oid NOT NULL, cfgparser oid NOT NULL
) WITH (oid = 3602);

CREATE TABLE pg_catalog.pg_statistic_ext (
    oid oid NOT NULL, stxrelid oid NOT NULL, stxname name NOT NULL, stxnamespace oid NOT NULL, stxowner oid NOT NULL,
    stxstattarget integer NOT NULL, stxkeys int2vector NOT NULL, stxkind "char"[] NOT NULL, stxexprs text
) WITH (oid = 3381);

CREATE TABLE pg_catalog.pg_available_extensions (
    name name, default_version text, installed_version text, comment text
) WITH (oid = 12081, kind = 'v');

CREATE TABLE pg_catalog.pg_partitioned_table (
    partrelid oid NOT NULL, partstrat "char" NOT NULL, partnatts smallint NOT NULL, partdefid oid NOT NULL,
    partattrs int2vector NOT NULL, partclass oidvector NOT NULL, partcollation oidvector NOT NULL, partexprs text
) WITH (oid = 3350);

CREATE TABLE pg_catalog.pg_stat_user_indexes (
    relid oid, indexrelid oid, schemaname name, relname name, indexrelname name, idx_scan bigint, idx_tup_read bigint,
    idx_tup_fetch bigint
) WITH (oid = 12192, kind = 'v');

CREATE TABLE pg_catalog.pg_stat_database (
    datid oid, datname name, numbackends integer, xact_commit bigint, xact_rollback bigint, blks_read bigint,
    blks_hit bigint, tup_returned bigint, tup_fetched bigint, tup_inserted bigint, tup_updated bigint, tup_deleted bigint,
    conflicts bigint, temp_files bigint, temp_bytes bigint, deadlocks bigint, checksum_failures bigint,
    checksum_last_failure timestamptz, blk_read_time double precision, blk_write_time double precision,
    session_time double precision, active_time double precision, idle_in_transaction_time double precision, sessions bigint,
    sessions_abandoned bigint, sessions_fatal bigint, sessions_killed bigint, stats_reset timestamptz
) WITH (oid = 12266, kind = 'v');

CREATE TABLE pg_catalog.pg_statio_all_indexes (
    relid oid, indexrelid oid, schemaname name, relname name, indexrelname name, idx_blks_read bigint, idx_blks_hit bigint
) WITH (oid = 12196, kind = 'v');

CREATE TABLE pg_catalog.pg_stat_all_indexes (
    relid oid, indexrelid oid, schemaname name, relname name, indexrelname name, idx_scan bigint, idx_tup_read bigint,
    idx_tup_fetch bigint
) WITH (oid = 12183, kind = 'v');

CREATE TABLE pg_catalog.pg_shseclabel (
    objoid oid NOT NULL, classoid oid NOT NULL, provider text NOT NULL, label text NOT NULL
) WITH (oid = 3592);

CREATE TABLE pg_catalog.pg_ts_parser (
    oid oid NOT NULL, prsname name NOT NULL, prsnamespace oid NOT NULL, prsstart oid NOT NULL, prstoken oid NOT NULL,
    prsend oid NOT NULL, prsheadline oid NOT NULL, prslextype oid NOT NULL
) WITH (oid = 3601);

CREATE TABLE pg_catalog.pg_ts_dict (
    oid oid NOT NULL, dictname name NOT NULL, dictnamespace oid NOT NULL, dictowner oid NOT NULL, dicttemplate oid NOT NULL,
    dictinitoption text
) WITH (oid = 3600);

CREATE TABLE pg_catalog.pg_ts_template (
    oid oid NOT NULL, tmplname name NOT NULL, tmplnamespace oid NOT NULL, tmplinit oid NOT NULL, tmpllexize oid NOT NULL
) WITH (oid = 3764);

CREATE TABLE pg_catalog.pg_authid (
    oid oid NOT NULL, rolname name NOT NULL, rolsuper boolean NOT NULL, rolinherit boolean NOT NULL,
    rolcreaterole boolean NOT NULL, rolcreatedb boolean NOT NULL, rolcanlogin boolean NOT NULL,
    rolreplication boolean NOT NULL, rolbypassrls boolean NOT NULL, rolconnlimit integer NOT NULL, rolpassword text,
    rolvaliduntil timestamptz
) WITH (oid = 1260);

CREATE TABLE pg_catalog.pg_db_role_setting (
    setdatabase oid NOT NULL, setrole oid NOT NULL, setconfig text[]
) WITH (oid = 2964);

CREATE TABLE pg_catalog.pg_publication_namespace (
    oid oid NOT NULL, pnpubid oid NOT NULL, pnnspid oid NOT NULL
) WITH (oid = 6237);

CREATE TABLE pg_catalog.pg_publication_tables (
    pubname name, schemaname name, tablename name, attnames name[], rowfilter text
) WITH (oid = 12068, kind = 'v');

CREATE TABLE pg_catalog.pg_timezone_names (
    name text, abbrev text, utc_offset interval, is_dst boolean
) WITH (oid = 12126, kind = 'v');

CREATE TABLE pg_catalog.pg_stat_ssl (
    pid integer, ssl boolean, version text, cipher text, bits integer, client_dn text, client_serial numeric, issuer_dn text
) WITH (oid = 12249, kind = 'v');

CREATE TABLE pg_catalog.pg_user_mapping (
    oid oid NOT NULL, umuser oid NOT NULL, umserver oid NOT NULL, umoptions text[]
) WITH (oid = 1418);

CREATE TABLE pg_catalog.pg_sequences (
    schemaname name, sequencename name, sequenceowner name, data_type oid, start_value bigint, min_value bigint,
    max_value bigint, increment_by bigint, cycle boolean, cache_size bigint, last_value bigint
) WITH (oid = 12048, kind = 'v');

CREATE TABLE pg_catalog.pg_replication_slots (
    slot_name name, plugin name, slot_type text, datoid oid, database name, temporary boolean, active boolean,
    active_pid integer, xmin integer, catalog_xmin integer, restart_lsn text, confirmed_flush_lsn text, wal_status text,
    safe_wal_size bigint, two_phase boolean
) WITH (oid = 12257, kind = 'v');

CREATE TABLE pg_catalog.pg_stat_gssapi (
    pid integer, gss_authenticated boolean, principal text, encrypted boolean
) WITH (oid = 12253, kind = 'v');

CREATE TABLE pg_catalog.pg_stats (
    schemaname name, tablename name, attname name, inherited boolean, null_frac real, avg_width integer, n_distinct real,
    most_common_vals text, most_common_freqs real[], histogram_bounds text, correlation real, most_common_elems text,
    most_common_elem_freqs real[], elem_count_histogram real[]
) WITH (oid = 12053, kind = 'v');

CREATE TABLE pg_catalog.pg_shdepend (
    dbid oid NOT NULL, classid oid NOT NULL, objid oid NOT NULL, objsubid integer NOT NULL, refclassid oid NOT NULL,
    refobjid oid NOT NULL, deptype "char" NOT NULL
) WITH (oid = 1214);

CREATE TABLE pg_catalog.pg_stat_replication (
    pid integer, usesysid oid, usename name, application_name text, client_addr text, client_hostname text,
    client_port integer, backend_start timestamptz, backend_xmin integer, state text, sent_lsn text, write_lsn text,
    flush_lsn text, replay_lsn text, write_lag interval, flush_lag interval, replay_lag interval, sync_priority integer,
    sync_state text, reply_time timestamptz
) WITH (oid = 12227, kind = 'v');

CREATE TABLE pg_catalog.pg_conversion (
    oid oid NOT NULL, conname name NOT NULL, connamespace oid NOT NULL, conowner oid NOT NULL,
    conforencoding integer NOT NULL, contoencoding integer NOT NULL, conproc oid NOT NULL, condefault boolean NOT NULL
) WITH (oid = 2607);

CREATE TABLE pg_catalog.pg_subscription (
    oid oid NOT NULL, subdbid oid NOT NULL, subskiplsn text NOT NULL, subname name NOT NULL, subowner oid NOT NULL,
    subenabled boolean NOT NULL, subbinary boolean NOT NULL, substream boolean NOT NULL, subtwophasestate "char" NOT NULL,
    subdisableonerr boolean NOT NULL, subconninfo text NOT NULL, subslotname name, subsynccommit text NOT NULL,
    subpublications text[] NOT NULL
) WITH (oid = 6100);

CREATE TABLE pg_catalog.pg_user_mappings (
    umid oid, srvid oid, srvname name, umuser oid, usename name, umoptions text[]
) WITH (oid = 12327, kind = 'v');

CREATE TABLE pg_catalog.pg_largeobject_metadata (
    oid oid NOT NULL, lomowner oid NOT NULL, lomacl text[]
) WITH (oid = 2995);

CREATE TABLE pg_catalog.pg_statistic_ext_data (
    stxoid oid NOT NULL, stxdinherit boolean NOT NULL, stxdndistinct text, stxddependencies text, stxdmcv text,
    stxdexpr text
) WITH (oid = 3429);

CREATE TABLE pg_catalog.pg_group (
    groname name, grosysid oid, grolist oid[]
) WITH (oid = 12010, kind = 'v');

CREATE TABLE pg_catalog.pg_shadow (
    usename name, usesysid oid, usecreatedb boolean, usesuper boolean, userepl boolean, usebypassrls boolean, passwd text,
    valuntil timestamptz, useconfig text[]
) WITH (oid = 12005, kind = 'v');

CREATE TABLE pg_catalog.pg_rules (
    schemaname name, tablename name, rulename name, definition text
) WITH (oid = 12023, kind = 'v');

CREATE TABLE pg_catalog.pg_prepared_statements (
    name text, statement text, prepare_time timestamptz, parameter_types oid[], from_sql boolean, generic_plans bigint,
    custom_plans bigint
) WITH (oid = 12095, kind = 'v');

CREATE TABLE pg_catalog.pg_cursors (
    name text, statement text, is_holdable boolean, is_binary boolean, is_scrollable boolean, creation_time timestamptz
) WITH (oid = 12077, kind = 'v');

CREATE TABLE pg_catalog.pg_transform (
    oid oid NOT NULL, trftype oid NOT NULL, trflang oid NOT NULL, trffromsql oid NOT NULL, trftosql oid NOT NULL
) WITH (oid = 3576);

CREATE TABLE pg_catalog.pg_statio_user_tables (
    relid oid, schemaname name, relname name, heap_blks_read bigint, heap_blks_hit bigint, idx_blks_read bigint,
    idx_blks_hit bigint, toast_blks_read bigint, toast_blks_hit bigint, tidx_blks_read bigint, tidx_blks_hit bigint
) WITH (oid = 12179, kind = 'v');

CREATE TABLE pg_catalog.pg_prepared_xacts (
    transaction integer, gid text, prepared timestamptz, owner name, database name
) WITH (oid = 12090, kind = 'v');

CREATE TABLE pg_catalog.pg_init_privs (
    objoid oid NOT NULL, classoid oid NOT NULL, objsubid integer NOT NULL, privtype "char" NOT NULL,
    initprivs text[] NOT NULL
) WITH (oid = 3394);
