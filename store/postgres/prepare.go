package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// A preparable is a query that is asked so often that it is prepared on connections where that may be: each time
// anew, the database takes longer to read so small a query than to answer it.
//
// What looks up by name is planned once (generic_plans in pg_prepared_statements says so), and each rightly whatever
// is in the tables then. LIMIT or OFFSET behind LATERAL has what is asked for looked up one by one. (SELECT $1) hides
// how long an array is, for which the database would plan anew.
type preparable struct{ name, text string }

var (
	statesStatement     = preparable{"countersign_states", stateQuery}
	placesStatement     = preparable{"countersign_places", placeQuery}
	contentStatement    = preparable{"countersign_content", imageQuery}
	lockStatement       = preparable{"countersign_lock", lockQuery}
	namedStatement      = preparable{"countersign_named", statesQuery}
	imagesStatement     = preparable{"countersign_images", imagesWrite}
	signaturesStatement = preparable{"countersign_signatures", signaturesWrite}
	recordsStatement    = preparable{"countersign_records", recordsWrite}
)

// statements are all of them.
func statements() []preparable {
	return []preparable{statesStatement, placesStatement, contentStatement, lockStatement, namedStatement, imagesStatement, signaturesStatement, recordsStatement}
}

// plainPlans has the database read no table as a whole, which is the least where it is small: what is prepared then is
// planned so, and stays so when it is large, until there are new statistics. Where there are none yet, as after an
// upgrade, queries that read a row would be compiled.
const plainPlans = `SELECT set_config(name, 'off', false) FROM unnest(ARRAY['jit', 'enable_seqscan']) AS name`

// prepared is where a connection remembers that they are.
const prepared = "countersign.prepared"

func isPrepared(c *pgconn.PgConn) bool { return c.CustomData()[prepared] != nil }

// on is what this connection is asked.
func (s preparable) on(conn *pgx.Conn) string {
	if isPrepared(conn.PgConn()) {
		return s.name
	}
	return s.text
}

// queue adds one to a batch for this connection.
func (s preparable) queue(b *pgx.Batch, conn *pgx.Conn, arguments ...any) {
	b.Queue(s.on(conn), arguments...)
}

// prepare prepares the statements on a new connection, and sets what is good for all of its queries, if the process that serves it is the one that it was
// made to. A pooler, which may give each query to another process, has processes of its own for a client
// to know, by which it cancels queries.
//
// Each answer has as long to come as connecting has, and nobody else bounds it: a pooler lets clients in whose
// database is away, and a connection that is being made is one less for others.
func prepare(ctx context.Context, conn *pgx.Conn) error {
	within := func(ask func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, conn.Config().ConnectTimeout)
		defer cancel()
		return ask(ctx)
	}
	var serving uint32
	err := within(func(ctx context.Context) error {
		return conn.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&serving)
	})
	if err != nil {
		return err
	}
	c := conn.PgConn()
	if serving != c.PID() {
		return nil
	}
	err = within(func(ctx context.Context) error {
		_, err := conn.Exec(ctx, plainPlans)
		return err
	})
	if _, refused := errors.AsType[*pgconn.PgError](err); refused {
		return nil
	}
	if err != nil {
		return err
	}
	for _, s := range statements() {
		err := within(func(ctx context.Context) error {
			_, err := conn.Prepare(ctx, s.name, s.text)
			return err
		})
		if _, refused := errors.AsType[*pgconn.PgError](err); refused {
			return nil // there is no such table or column yet
		}
		if err != nil {
			return err
		}
	}
	c.CustomData()[prepared] = true
	return nil
}

// otherwise tells that a statement is not there any more, or is not what it was prepared as.
func otherwise(err error) bool {
	refused, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (refused.Code == codeNoStatement || refused.Code == codeNotAsPrepared)
}

// queryStates asks for the states at these places. Where the database no longer has the statement, or no
// longer answers it as it was prepared, it is asked as if nothing was.
func queryStates(ctx context.Context, c *pgconn.PgConn, ctids []pgtype.TID, read func(*pgconn.ResultReader) error) error {
	places, binary := [][]byte{arrayOf(ctids)}, []int16{pgx.BinaryFormatCode}
	if isPrepared(c) {
		err := read(c.ExecPrepared(ctx, statesStatement.name, places, binary, nil))
		if !otherwise(err) {
			return err
		}
		delete(c.CustomData(), prepared)
	}
	return read(c.ExecParams(ctx, stateQuery, places, []uint32{pgtype.TIDArrayOID}, binary, nil))
}
