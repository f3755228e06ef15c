-- System relations that are queries over others. Their columns are declared beside the other relations of their schema.

CREATE VIEW pg_catalog.pg_tables AS
    SELECT n.nspname, c.relname, r.rolname, CAST(NULL AS name), c.relhasindex, c.relhasrules, c.relhastriggers,
           c.relrowsecurity
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
    WHERE c.relkind IN ('r', 'p');

CREATE VIEW pg_catalog.pg_views AS
    SELECT n.nspname, c.relname, r.rolname, pg_get_viewdef(c.oid)
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
    WHERE c.relkind = 'v';

CREATE VIEW pg_catalog.pg_indexes AS
    SELECT n.nspname, c.relname, i.relname, CAST(NULL AS name), pg_get_indexdef(i.oid)
    FROM pg_catalog.pg_index x
    JOIN pg_catalog.pg_class c ON c.oid = x.indrelid
    JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace;

CREATE VIEW pg_catalog.pg_user AS
    SELECT rolname, oid, rolcreatedb, rolsuper, rolreplication, rolbypassrls, rolpassword, rolvaliduntil, rolconfig
    FROM pg_catalog.pg_roles;

CREATE VIEW information_schema.schemata AS
    SELECT current_database(), n.nspname, r.rolname, CAST(NULL AS text), CAST(NULL AS text), CAST(NULL AS text),
           CAST(NULL AS text)
    FROM pg_catalog.pg_namespace n
    LEFT JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner;

CREATE VIEW information_schema.tables AS
    SELECT current_database(), n.nspname, c.relname,
           CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'f' THEN 'FOREIGN' ELSE 'BASE TABLE' END,
           CAST(NULL AS text), CAST(NULL AS text), CAST(NULL AS text), CAST(NULL AS text), CAST(NULL AS text),
           CASE WHEN c.relkind = 'r' AND n.nspname = 'public' THEN 'YES' ELSE 'NO' END, 'NO', CAST(NULL AS text)
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'v', 'f');

CREATE VIEW information_schema.views AS
    SELECT current_database(), n.nspname, c.relname, pg_get_viewdef(c.oid), 'NONE', 'NO', 'NO', 'NO', 'NO', 'NO'
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'v';

CREATE VIEW information_schema.table_constraints AS
    SELECT current_database(), n.nspname, k.conname, current_database(), n.nspname, c.relname,
           CASE k.contype WHEN 'p' THEN 'PRIMARY KEY' ELSE 'CHECK' END, 'NO', 'NO', 'YES', CAST(NULL AS text)
    FROM pg_catalog.pg_constraint k
    JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace;

CREATE VIEW information_schema.check_constraints AS
    SELECT current_database(), n.nspname, k.conname, k.conbin
    FROM pg_catalog.pg_constraint k
    JOIN pg_catalog.pg_namespace n ON n.oid = k.connamespace
    WHERE k.contype = 'c';

CREATE VIEW information_schema.key_column_usage AS
    SELECT current_database(), n.nspname, k.conname, current_database(), n.nspname, c.relname, a.attname, a.attnum,
           CAST(NULL AS integer)
    FROM pg_catalog.pg_constraint k
    JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conindid
    WHERE k.contype = 'p';

CREATE VIEW information_schema.constraint_column_usage AS
    SELECT current_database(), n.nspname, c.relname, a.attname, current_database(), n.nspname, k.conname
    FROM pg_catalog.pg_constraint k
    JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conindid
    WHERE k.contype = 'p';

CREATE VIEW information_schema.columns AS
    SELECT current_database(), n.nspname, c.relname, a.attname, a.attnum, NULL,
           CASE WHEN a.attnotnull THEN 'NO' ELSE 'YES' END,
           CASE WHEN t.typcategory = 'A' AND t.typelem <> 0 THEN 'ARRAY' ELSE format_type(a.atttypid, NULL) END,
           NULL, CASE WHEN a.atttypid = 25 THEN 1073741824 END,
           CASE a.atttypid WHEN 21 THEN 16 WHEN 23 THEN 32 WHEN 20 THEN 64 WHEN 700 THEN 24 WHEN 701 THEN 53
                WHEN 1700 THEN ((a.atttypmod - 4) >> 16) & 65535 END,
           CASE WHEN a.atttypid IN (20, 21, 23, 700, 701) THEN 2 WHEN a.atttypid = 1700 THEN 10 END,
           CASE WHEN a.atttypid IN (20, 21, 23) THEN 0 WHEN a.atttypid = 1700 THEN (a.atttypmod - 4) & 2047 END,
           CASE WHEN a.atttypid = 1082 THEN 0 WHEN a.atttypid IN (1083, 1114, 1184, 1186) THEN 6 END,
           NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
           current_database(), 'pg_catalog', t.typname, NULL, NULL, NULL, NULL, CAST(a.attnum AS text), 'NO', 'NO', NULL,
           NULL, NULL, NULL, NULL, 'NO', 'NEVER', NULL,
           CASE WHEN c.relkind = 'r' AND n.nspname = 'public' THEN 'YES' ELSE 'NO' END
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'v', 'f');
