package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/countersign-dev/countersign/store"
)

// Classes and codes of PostgreSQL's errors (its manual, appendix A).
const (
	classConnection    = "08"
	classData          = "22"
	classIntegrity     = "23"
	classAuthorization = "28"
	classDatabase      = "3D" // there is no such database
	classRollback      = "40" // it got in another's way
	classResources     = "53" // memory, disk or connections
	classLimit         = "54" // something is too large
	classState         = "55" // something is not as it has to be, as a lock
	classOperator      = "57" // an operator intervened, the server shuts down
	codeReadOnly       = "25006"
	codePrivilege      = "42501"
	codeNoTable        = "42P01"
	codeSerialization  = "40001"
	codeDeadlock       = "40P01"
	codeCanceled       = "57014" // by a time-out of ours
	codeNoStatement    = "26000" // there is no such prepared statement
	codeNotAsPrepared  = "0A000" // its columns are others by now
)

// errMaybe is around what may have happened although it failed: a commit without an answer.
var errMaybe = errors.New("it is not known whether the change was committed")

// errSlow is around what had no answer in time and may take long by itself.
var errSlow = errors.New("no answer within store.timeout: raise it, or look at what the database waits for")

// slow is what it means that something has no answer in time which may take long by itself: nothing of other
// connections, nor that it had one if it was asked again.
func slow(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", errSlow, err)
	}
	return err
}

// errDecided is around what Take and Records say of what they found: the database is there.
type errDecided struct{ error }

func (e errDecided) Unwrap() error { return e.error }

// unavailable is what an error of the database means to a caller: that it is away, but where the
// caller sent what no database takes; what the contract names passes as it is.
func unavailable(err error) error {
	if err == nil || errors.Is(err, store.ErrUnavailable) {
		return err
	}
	if decided, ok := errors.AsType[errDecided](err); ok {
		return decided.error
	}
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok && strings.HasPrefix(refused.Code, classData) {
		return fmt.Errorf("the database does not take that: %s (SQLSTATE %s)", refused.Message, refused.Code)
	}
	return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
}

// broken tells whether the connection, and with it probably every other, is of no use any more.
func broken(err error) bool {
	if err == nil || errors.As(err, new(errDecided)) {
		return false
	}
	refused, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return true
	}
	return refused.Code == codeReadOnly || strings.HasPrefix(refused.Code, classConnection) ||
		strings.HasPrefix(refused.Code, classOperator) && refused.Code != codeCanceled
}

// left tells that it was not waited for to the end, which says nothing of the database: a connection is closed then,
// and the others are as good as they were.
func left(err error) bool { return errors.Is(err, context.Canceled) || errors.Is(err, errSlow) }

// drawnTwice tells that another process has drawn the same number for an image.
func drawnTwice(err error) bool {
	refused, ok := errors.AsType[*pgconn.PgError](err)
	return ok && refused.ConstraintName == "images_number"
}

// safeToRepeat tells whether something failed that certainly did not happen, and that may succeed.
func safeToRepeat(err error) bool {
	if errors.Is(err, errMaybe) || errors.Is(err, errSchema) || left(err) {
		return false
	}
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok && (refused.Code == codeSerialization || refused.Code == codeDeadlock) {
		return true
	}
	return broken(err) || otherwise(err) || drawnTwice(err) // the connection goes with its transaction
}

// ofOne tells whether what failed for several may be the fault of one of them: certainly nothing happened, and
// alone the others may succeed.
func ofOne(err error) bool {
	if err == nil || errors.Is(err, errMaybe) {
		return false
	}
	refused, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return !errors.Is(err, store.ErrUnavailable) // see unavailable
	}
	if refused.Code == codeCanceled {
		return true // one of them may have waited for a lock
	}
	return slices.Contains([]string{classData, classIntegrity, classRollback, classResources, classLimit, classState}, refused.Code[:min(2, len(refused.Code))])
}

// refusesUs tells a database that is there and does not let us in.
func refusesUs(err error) bool {
	refused, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (strings.HasPrefix(refused.Code, classAuthorization) || strings.HasPrefix(refused.Code, classDatabase) || refused.Code == codePrivilege)
}

// warned is where a connection remembers the server's last warning. While it waits for a standby,
// a commit that is interrupted ends well and with a warning: it is not where it has to be.
const warned = "countersign.warned"

func noteWarning(c *pgconn.PgConn, n *pgconn.Notice) {
	if n.SeverityUnlocalized == "WARNING" {
		c.CustomData()[warned] = n.Message
	}
}
