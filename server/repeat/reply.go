package repeat

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"strconv"
	"time"
)

// maxRoom bounds how much of an answer is kept until all of it is there: most have less.
const maxRoom = 64 << 10

// A reply is an answer as net/http would send it, at once where it fits into maxRoom.
type reply struct {
	to      io.Writer
	began   time.Time
	header  http.Header
	status  int           // 0: nothing is written
	room    *bytes.Buffer // what is not sent: the headers but for the body's length, and the body
	body    int           // where the body begins there
	length  int64         // of the body, as the handler says; negative: it does not
	written int64         // of it, and what was too much
	rest    io.Writer     // takes a body that does not fit; nil: it does
}

// maxHeaders is of how many the room is used again: to empty it takes as long as there were ever headers in it.
const maxHeaders = 32

// begin makes w the next reply.
func (w *reply) begin(to io.Writer, room *bytes.Buffer, began time.Time) {
	room.Reset()
	header := w.header
	if header == nil {
		header = make(http.Header, 8)
	}
	*w = reply{to: to, began: began, header: header, room: room}
}

// forget leaves nothing of w but the room that its headers had.
func (w *reply) forget() {
	header := w.header
	if len(header) > maxHeaders {
		header = nil
	}
	clear(header)
	*w = reply{header: header}
}

// Header implements http.ResponseWriter.
func (w *reply) Header() http.Header { return w.header }

// Headers that are not sent as the handler has them: the body says itself how long it is, and to a 304
// belongs none.
var (
	ofBody      = map[string]bool{"Content-Length": true}
	ofUnchanged = map[string]bool{"Content-Length": true, "Content-Type": true}
)

// WriteHeader implements http.ResponseWriter. Of interim answers the client hears nothing. It panics as
// net/http does where that is no status: a registry behind this server may say such a one.
func (w *reply) WriteHeader(status int) {
	if w.status != 0 {
		return
	}
	if status < 100 || status > 999 {
		panic(fmt.Sprintf("%d is no HTTP status", status))
	}
	if status < http.StatusOK {
		return
	}
	w.status, w.length = status, -1
	if length := w.header["Content-Length"]; len(length) > 0 {
		if n, err := strconv.ParseUint(length[0], 10, 63); err == nil {
			w.length = int64(n)
		}
	}
	b := append(w.room.AvailableBuffer(), "HTTP/1.1 "...)
	b = append(strconv.AppendInt(b, int64(status), 10), ' ')
	if text := http.StatusText(status); text != "" {
		b = append(b, text...)
	} else {
		b = fmt.Appendf(b, "status code %d", status)
	}
	w.room.Write(append(b, "\r\n"...))
	without := ofBody
	if status == http.StatusNotModified {
		without = ofUnchanged
	}
	_ = w.header.WriteSubset(w.room, without) // into memory
	if w.header["Date"] == nil {
		b = append(w.room.AvailableBuffer(), "Date: "...)
		b = append(w.began.UTC().AppendFormat(b, http.TimeFormat), "\r\n"...)
		w.room.Write(b)
	}
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
	if w.length >= 0 && w.written+int64(len(p)) > w.length {
		w.written += int64(len(p)) // no more is taken, and end says why
		return 0, http.ErrContentLength
	}
	n, err := w.take(p)
	w.written += int64(n)
	return n, err
}

// take keeps p, or sends it where there is no room.
func (w *reply) take(p []byte) (int, error) {
	if w.rest == nil && w.room.Len()-w.body+len(p) <= maxRoom {
		return w.room.Write(p)
	}
	if w.rest == nil {
		if err := w.overflow(); err != nil {
			return 0, err
		}
	}
	return w.rest.Write(p)
}

// overflow sends what there is. How long the body will be the handler has said, or nobody knows.
func (w *reply) overflow() error {
	begun := bytes.Clone(w.room.Bytes()[w.body:])
	w.room.Truncate(w.body)
	if w.length >= 0 {
		w.rest = w.to
		fmt.Fprintf(w.room, "Content-Length: %d\r\n\r\n", w.length)
	} else {
		w.rest = httputil.NewChunkedWriter(w.to)
		w.room.WriteString("Transfer-Encoding: chunked\r\n\r\n")
	}
	if _, err := w.to.Write(w.room.Bytes()); err != nil {
		return err
	}
	_, err := w.rest.Write(begun)
	return err
}

var errLength = errors.New("the body is not as long as its handler said")

// end sends what is not sent. Behind a body that is not as long as the client was told nothing can follow.
func (w *reply) end() error {
	w.WriteHeader(http.StatusOK)
	if err := w.endBody(); err != nil {
		return err
	}
	if w.hasBody() && w.length >= 0 && w.length != w.written {
		return errLength
	}
	return nil
}

func (w *reply) endBody() error {
	switch {
	case w.rest == nil:
		return w.endWhole()
	case w.length >= 0:
		return nil
	}
	if err := w.rest.(io.Closer).Close(); err != nil {
		return err
	}
	_, err := io.WriteString(w.to, "\r\n") // no trailers
	return err
}

func (w *reply) endWhole() error {
	var line []byte
	if w.hasBody() {
		length := w.length
		if length < 0 {
			length = w.written
		}
		line = strconv.AppendInt(append(line, "Content-Length: "...), length, 10)
		line = append(line, "\r\n"...)
	}
	line = append(line, "\r\n"...)
	w.room.Write(line)
	all := w.room.Bytes()
	copy(all[w.body+len(line):], all[w.body:])
	copy(all[w.body:], line)
	_, err := w.to.Write(all)
	return err
}
