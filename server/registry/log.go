package registry

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"github.com/sirupsen/logrus"
)

// bridge sends what distribution logs to log. Distribution knows only logrus's standard
// logger: there is one for the process, and the last bridge has it.
func bridge(log *slog.Logger) {
	logger := logrus.StandardLogger()
	logger.SetOutput(io.Discard)
	logger.SetFormatter(silent{})
	logger.SetLevel(logrus.InfoLevel)
	hooks := logrus.LevelHooks{}
	hooks.Add(hook{log})
	logger.ReplaceHooks(hooks)
}

type silent struct{}

func (silent) Format(*logrus.Entry) ([]byte, error) { return nil, nil }

type hook struct{ log *slog.Logger }

func (hook) Levels() []logrus.Level { return logrus.AllLevels }

// Fire passes on only the fields it names. The others come from the request, and some carry
// credentials: http.request.uri and http.request.referer have the query.
func (h hook) Fire(e *logrus.Entry) error {
	level := levelOf(e)
	if !h.log.Enabled(e.Context, level) {
		return nil
	}
	var attrs []slog.Attr
	for _, key := range []string{
		"http.request.method", "http.response.status", "vars.name", "vars.reference",
		"vars.digest", "vars.uuid", "err.code", "err.message", "err.detail", logrus.ErrorKey,
	} {
		if value, ok := e.Data[key]; ok {
			attrs = append(attrs, slog.String(key, fmt.Sprint(value)))
		}
	}
	h.log.LogAttrs(e.Context, level, "registry: "+e.Message, attrs...)
	return nil
}

// levelOf lowers what distribution says of every request, and what it calls an error though
// the client made it: somebody who asks for what is not there is no reason to wake anybody. Of
// a request that the server failed, the line with the status says why; until then nobody knows.
func levelOf(e *logrus.Entry) slog.Level {
	status, answered := e.Data["http.response.status"].(int)
	_, request := e.Data["http.request.method"]
	failed := answered && status >= http.StatusInternalServerError
	switch {
	case e.Level >= logrus.InfoLevel, (request || answered) && !failed:
		return slog.LevelDebug
	case e.Level == logrus.WarnLevel:
		return slog.LevelWarn
	}
	return slog.LevelError
}
