package postgres

import (
	"context"
	"math"

	"github.com/jackc/pgx/v5"

	"github.com/countersign-dev/countersign/api"
	"github.com/countersign-dev/countersign/store"
)

// maxImages is how many images a page has the signatures of, at least: many of them may have none any more.
const maxImages = 100

// An imagePlace is an image and its number.
type imagePlace struct {
	image  api.Image
	number int64
}

// imagesPage is rowsPage for signatures in the order of their images. Names are in order in the images' index only, so images are asked for first. To ask for both in one
// query leaves it to the database's statistics whether a page reads all there is.
func imagesPage(ctx context.Context, conn *pgx.Conn, f store.Filter, at position, limit int) (rows []listed, end position, err error) {
	if skips(f) {
		if end, err = lastSkipped(ctx, conn, f, at); err != nil {
			return nil, end, err
		}
	}
	most := max(limit+1, maxImages)
	images, err := readImages(ctx, conn, imagesFrom(f, at, end, most))
	if err != nil {
		return nil, end, err
	}
	if len(images) == most {
		end = behindAll(images[most-1].image)
	}
	if len(images) == 0 {
		return nil, end, nil
	}
	rows, err = readSignatures(ctx, conn, f, at, images, limit)
	return rows, end, err
}

// behindAll is the position behind all that an image has.
func behindAll(i api.Image) position { return behind(inSignatures, i, math.MaxInt64) }

// lastSkipped returns the position behind the last image that a page looks at; none where there are fewer.
func lastSkipped(ctx context.Context, conn *pgx.Conn, f store.Filter, at position) (position, error) {
	s := &statement{}
	s.add(`SELECT x.host, x.repository, x.digest, 0::bigint FROM images x WHERE true`)
	s.within(f, true)
	s.side(">=", at)
	s.add(` ORDER BY x.host, x.repository, x.digest OFFSET ? LIMIT 1`, maxScanned-1)
	last, err := readImages(ctx, conn, s)
	if err != nil || len(last) == 0 {
		return position{}, err
	}
	return behindAll(last[0].image), nil
}

// imagesFrom asks for images from that of a position to that of another.
func imagesFrom(f store.Filter, at, end position, most int) *statement {
	s := &statement{}
	s.add(`SELECT x.host, x.repository, x.digest, x.number FROM images x WHERE true`)
	s.within(f, false)
	s.side(">=", at)
	s.side("<=", end)
	s.add(` ORDER BY x.host, x.repository, x.digest LIMIT ?`, most)
	return s
}

// side leaves the images on one side of a position's, or all where it has none.
func (s *statement) side(side string, p position) {
	if i, ok := p.image(); ok {
		s.add(` AND (x.host, x.repository, x.digest) `+side+` (?, ?, ?)`, i.Host, i.Repository, string(i.Digest))
	}
}

func readImages(ctx context.Context, conn *pgx.Conn, s *statement) ([]imagePlace, error) {
	rows, err := query(ctx, conn, s)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (p imagePlace, err error) {
		var host, repository, digest string
		err = row.Scan(&host, &repository, &digest, &p.number)
		p.image = imageOf(host, repository, digest)
		return p, err
	})
}

// readSignatures reads the signatures of images that the filter wants, behind the position, and one more than the
// limit. OFFSET has those of each image looked for by themselves.
func readSignatures(ctx context.Context, conn *pgx.Conn, f store.Filter, at position, images []imagePlace, limit int) ([]listed, error) {
	first := int64(math.MinInt64) // no image's
	if from, _ := at.image(); images[0].image == from {
		first = images[0].number
	}
	s := &statement{}
	s.add(`SELECT `+columns(store.Signatures)+` FROM unnest(?::bigint[]) WITH ORDINALITY AS o (image, n)
		CROSS JOIN LATERAL (SELECT * FROM signatures s WHERE s.image = o.image`, column(images, func(p imagePlace) int64 { return p.number }))
	if f.Key != "" {
		s.add(` AND s.fingerprint = ?`, text(f.Key))
	}
	s.add(` OFFSET 0) x WHERE (x.image <> ? OR x.serial > ?)`, first, at.serial)
	s.add(` ORDER BY o.n, x.serial LIMIT ?`, limit+1)
	rows, err := query(ctx, conn, s)
	if err != nil {
		return nil, err
	}
	return collect(inSignatures, rows)
}
