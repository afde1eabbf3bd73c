package main

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/countersign-dev/countersign/lookaside"
	"github.com/countersign-dev/countersign/server/admission"
	"github.com/countersign-dev/countersign/server/readthrough"
)

// A lookasideAt is one that signatures are imported from when an image is asked for.
type lookasideAt struct {
	Host    string `yaml:"host"`    // whose images it has signatures of
	URL     string `yaml:"url"`     // what <repository>@sha256=<hex> is below
	Private bool   `yaml:"private"` // it may be on this machine or in a private network
}

func (s *settings) checkLookasides() error {
	for i, at := range s.Lookasides {
		if !isHost(at.Host) {
			return fmt.Errorf("lookasides: number %d: clients do not read host %q as a registry's host[:port]", i+1, at.Host)
		}
		if _, err := lookaside.NewGuarded(at.URL, at.Private); err != nil {
			return fmt.Errorf("lookasides: url of number %d, for %s: %w", i+1, at.Host, err)
		}
	}
	return nil
}

// lookasides opens what the settings name; nil where they name none.
func (h *house) lookasides(s settings, door *admission.Door, metrics prometheus.Registerer) (*readthrough.Lookasides, error) {
	if len(s.Lookasides) == 0 {
		return nil, nil
	}
	c := readthrough.Config{Door: door, Store: h.store, Clock: time.Now, Log: h.log, Metrics: metrics}
	for _, at := range s.Lookasides {
		remote, err := lookaside.NewGuarded(at.URL, at.Private)
		if err != nil {
			return nil, err
		}
		c.Lookasides = append(c.Lookasides, readthrough.Lookaside{Host: door.Host(at.Host), Remote: remote})
	}
	return readthrough.New(c)
}
