BEGIN;
DROP TABLE IF EXISTS records, tasks, withdrawals, signatures, images, schema_compatibility;
COMMIT;
