"""What Postgres itself says about a schema, for comparing two of them."""

from sqlalchemy import Connection, text

OUR_TABLES = """
    FROM pg_class AS c
    WHERE c.relnamespace = 'spotify_pipeline'::regnamespace
      AND c.relkind = 'r' AND c.relname <> 'alembic_version'
"""

QUESTIONS = {
    "tables": f"SELECT c.relname, obj_description(c.oid, 'pg_class') {OUR_TABLES} ORDER BY 1",
    "columns": f"""
        SELECT c.relname, row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum), a.attname,
               format_type(a.atttypid, a.atttypmod),
               a.attnotnull, a.attidentity, pg_get_expr(d.adbin, d.adrelid),
               col_description(c.oid, a.attnum)
        FROM ({"SELECT c.oid, c.relname" + OUR_TABLES}) AS c
        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_attrdef AS d ON d.adrelid = c.oid AND d.adnum = a.attnum
        ORDER BY 1, 2
    """,
    # NOT NULL is asked of the columns: as a constraint it exists from Postgres 18 on, under a name
    # that stays what it was when the column is renamed.
    "constraints": f"""
        SELECT c.relname, k.conname, pg_get_constraintdef(k.oid)
        FROM ({"SELECT c.oid, c.relname" + OUR_TABLES}) AS c
        JOIN pg_constraint AS k ON k.conrelid = c.oid AND k.contype <> 'n'
        ORDER BY 1, 2
    """,
    "indexes": f"""
        SELECT c.relname, pg_get_indexdef(i.indexrelid)
        FROM ({"SELECT c.oid, c.relname" + OUR_TABLES}) AS c
        JOIN pg_index AS i ON i.indrelid = c.oid
        ORDER BY 1, 2
    """,
    "triggers": f"""
        SELECT c.relname, g.tgname, pg_get_triggerdef(g.oid), g.tgenabled::text
        FROM ({"SELECT c.oid, c.relname" + OUR_TABLES}) AS c
        JOIN pg_trigger AS g ON g.tgrelid = c.oid AND NOT g.tgisinternal
        ORDER BY 1, 2
    """,
    "range types": """
        SELECT t.typname, format_type(r.rngsubtype, NULL), o.collname
        FROM pg_range AS r
        JOIN pg_type AS t ON t.oid = r.rngtypid
        JOIN pg_collation AS o ON o.oid = r.rngcollation
        WHERE t.typnamespace = 'spotify_pipeline'::regnamespace
    """,
}


def describe(connection: Connection) -> dict[str, list[tuple[object, ...]]]:
    """Tables, columns, constraints, indexes, triggers and types, with comments and defaults."""
    return {
        what: [tuple(row) for row in connection.execute(text(question))]
        for what, question in QUESTIONS.items()
    }
