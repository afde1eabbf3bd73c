-- Signatures are found by a number of their image in place of its name: what is added next is beside what was
-- added last, in every index but that of the images themselves.
--
-- What programs for schema 1 would write has no number, so it is refused.
BEGIN;

LOCK TABLE images, signatures IN ACCESS EXCLUSIVE MODE;

-- Drawn when an image is new, more or less in the order of time. Nothing follows from what it is.
ALTER TABLE images ADD COLUMN IF NOT EXISTS number bigint;
UPDATE images i SET number = n.number
	FROM (SELECT host, repository, digest, row_number() OVER (ORDER BY host, repository, digest) AS number FROM images) n
	WHERE i.number IS NULL AND (i.host, i.repository, i.digest) = (n.host, n.repository, n.digest);
ALTER TABLE images ALTER COLUMN number SET NOT NULL;
CREATE UNIQUE INDEX IF NOT EXISTS images_number ON images (number);

-- The image's name stays beside its number, for people and for listings.
ALTER TABLE signatures ADD COLUMN IF NOT EXISTS image bigint;
UPDATE signatures s SET image = i.number FROM images i
	WHERE s.image IS NULL AND (s.host, s.repository, s.digest) = (i.host, i.repository, i.digest);
ALTER TABLE signatures ALTER COLUMN image SET NOT NULL;
ALTER TABLE signatures DROP CONSTRAINT IF EXISTS signatures_pkey;
ALTER TABLE signatures ADD PRIMARY KEY (image, serial);
DROP INDEX IF EXISTS signatures_fingerprint;
CREATE INDEX signatures_fingerprint ON signatures (fingerprint, image, serial);

UPDATE schema_compatibility SET oldest = 2;

-- What is known of the new columns otherwise comes a while later.
ANALYZE images, signatures;

COMMIT;
