package repeat

import (
	"bytes"
	"net/http"
	"strconv"
	"time"
)

// A reply is an answer that is sent when it is whole, as net/http would send it.
type reply struct {
	header http.Header
	room   *bytes.Buffer // the headers but for Content-Length, and the body
	status int           // 0: nothing is written
	body   int           // where it begins
	began  time.Time
}

// maxRoom bounds the room that is kept for the next answer.
const maxRoom = 64 << 10

func newReply(room *bytes.Buffer, began time.Time) *reply {
	room.Reset()
	return &reply{header: make(http.Header, 8), room: room, began: began}
}

// Header implements http.ResponseWriter.
func (w *reply) Header() http.Header { return w.header }

// Headers that are not the handler's: the body says itself how long it is, and to a 304 belongs none.
var (
	ofBody      = map[string]bool{"Content-Length": true}
	ofUnchanged = map[string]bool{"Content-Length": true, "Content-Type": true}
)

// WriteHeader implements http.ResponseWriter.
func (w *reply) WriteHeader(status int) {
	if w.status != 0 || status < http.StatusOK {
		return
	}
	w.status = status
	b := append(w.room.AvailableBuffer(), "HTTP/1.1 "...)
	b = append(strconv.AppendInt(b, int64(status), 10), ' ')
	b = append(append(b, http.StatusText(status)...), "\r\n"...)
	w.room.Write(b)
	without := ofBody
	if status == http.StatusNotModified {
		without = ofUnchanged
	}
	_ = w.header.WriteSubset(w.room, without) // into memory
	b = append(w.room.AvailableBuffer(), "Date: "...)
	b = append(w.began.UTC().AppendFormat(b, http.TimeFormat), "\r\n"...)
	w.room.Write(b)
	w.body = w.room.Len()
}

func (w *reply) hasBody() bool {
	return w.status != http.StatusNoContent && w.status != http.StatusNotModified
}

// Write implements http.ResponseWriter.
func (w *reply) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if !w.hasBody() {
		return 0, http.ErrBodyNotAllowed
	}
	return w.room.Write(p)
}

// whole returns all of the answer. It is the room's.
func (w *reply) whole() []byte {
	w.WriteHeader(http.StatusOK)
	var line []byte
	if w.hasBody() {
		line = strconv.AppendInt(append(line, "Content-Length: "...), int64(w.room.Len()-w.body), 10)
		line = append(line, "\r\n"...)
	}
	line = append(line, "\r\n"...)
	w.room.Write(line)
	all := w.room.Bytes()
	copy(all[w.body+len(line):], all[w.body:])
	copy(all[w.body:], line)
	return all
}
