-- Never edited after release. `{p}` is the prefix of all tables.

-- Triggers are kept in SQLite and PostgreSQL; here the number of the schema moves on alone.
DO 0;
