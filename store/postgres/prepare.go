package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// preparedStates is what stateQuery is called on a connection on which it is prepared, and where the
// connection remembers that it is. Each time anew, the database takes longer to read so small a query
// than to answer it.
const preparedStates = "countersign_states"

// prepare prepares stateQuery on a new connection, if the process that serves it is the one that it was
// made to. A pooler, which may give each query to another process, has processes of its own for a client
// to know, by which it cancels queries.
//
// It has as long as connecting has, and nobody else bounds it: a pooler lets clients in whose database is
// away, and a connection that is being made is one less for others.
func prepare(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, conn.Config().ConnectTimeout)
	defer cancel()
	var serving uint32
	if err := conn.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&serving); err != nil {
		return err
	}
	c := conn.PgConn()
	if serving != c.PID() {
		return nil
	}
	_, err := c.Prepare(ctx, preparedStates, stateQuery, []uint32{pgtype.TIDArrayOID})
	if _, refused := errors.AsType[*pgconn.PgError](err); refused {
		return nil // there is no such table yet
	}
	if err == nil {
		c.CustomData()[preparedStates] = true
	}
	return err
}

// queryStates asks for the states at these places. Where the database no longer has the statement, or no
// longer answers it as it was prepared, it is asked as if nothing was.
func queryStates(ctx context.Context, c *pgconn.PgConn, ctids []pgtype.TID, read func(*pgconn.ResultReader) error) error {
	places, binary := [][]byte{arrayOf(ctids)}, []int16{pgx.BinaryFormatCode}
	if _, ok := c.CustomData()[preparedStates]; ok {
		err := read(c.ExecPrepared(ctx, preparedStates, places, binary, nil))
		refused, ok := errors.AsType[*pgconn.PgError](err)
		if !ok || refused.Code != codeNoStatement && refused.Code != codeNotAsPrepared {
			return err
		}
		delete(c.CustomData(), preparedStates)
	}
	return read(c.ExecParams(ctx, stateQuery, places, []uint32{pgtype.TIDArrayOID}, binary, nil))
}
