BEGIN;
UPDATE schema_compatibility SET oldest = 1;
DROP INDEX IF EXISTS signatures_fingerprint;
ALTER TABLE signatures DROP CONSTRAINT IF EXISTS signatures_pkey;
ALTER TABLE signatures DROP COLUMN IF EXISTS image;
ALTER TABLE images DROP COLUMN IF EXISTS number;
ALTER TABLE signatures ADD PRIMARY KEY (host, repository, digest, serial);
CREATE INDEX signatures_fingerprint ON signatures (fingerprint, host, repository, digest);
COMMIT;
