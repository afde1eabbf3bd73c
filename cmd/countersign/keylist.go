package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/countersign-dev/countersign/api"
)

const listKeysText = `Ask the server when its keys, and those that may upload, stop verifying: the first is on top. TAGS are the
references that a key has signed, ALONE those of them that nodes accept by no other key that lasts
longer, or for ever: from that day on, or without that key, they refuse them.`

// listKeys is "countersign keys", and "countersign keys list".
func listKeys(ctx context.Context, t terminal, args []string) error {
	flags := newFlags("keys list", listKeysText)
	c := clientFlags(flags.FlagSet)
	asJSON := flags.Bool("json", false, "write what the server answers as JSON")
	if err := parse(t, flags, args); err != nil {
		return err
	}
	var answer api.Calendar
	if err := c.do(ctx, http.MethodGet, api.CalendarPath, nil, &answer); err != nil {
		return err
	}
	if *asJSON {
		e := json.NewEncoder(t.stdout)
		e.SetIndent("", "  ")
		return e.Encode(answer)
	}
	return printCalendar(t.stdout, answer)
}

func printCalendar(w io.Writer, c api.Calendar) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "FINGERPRINT\tSTOPS\tDAYS\tTAGS\tALONE\tUSE\tALGORITHM\tUSER ID")
	for _, k := range c.Keys {
		stops, days := "never", ""
		if k.Ends != nil {
			stops, days = k.Ends.UTC().Format(time.DateOnly), strconv.Itoa(int(k.Ends.Sub(c.AsOf)/(24*time.Hour)))
		}
		if k.Spent != "" {
			stops, days = k.Spent, "0"
		}
		use := "uploads"
		switch {
		case k.Own && k.Admitted:
			use = "signs, uploads"
		case k.Own:
			use = "signs"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\n", k.Fingerprint, stops, days, k.References, k.Alone, use, k.Algorithm, k.UserID)
	}
	return table.Flush()
}
